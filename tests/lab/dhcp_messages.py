"""DHCPv4 messages as octets (RFC 2131, RFC 2132), as far as the laboratory's clients and responder need them."""

from dataclasses import dataclass, field
from enum import IntEnum
from socket import inet_aton, inet_ntoa

_COOKIE = b"\x63\x82\x53\x63"
_FIXED_LENGTH = 236
_SMALLEST_MESSAGE = 300  # BOOTP relays drop shorter ones (RFC 1542, 2.1)
_BROADCAST_FLAG = 0x8000
_PAD, _END = 0, 255
NO_ADDRESS = "0.0.0.0"


class Option(IntEnum):
    """Option codes (RFC 2132)."""

    SUBNET_MASK = 1
    HOST_NAME = 12
    REQUESTED_ADDRESS = 50
    LEASE_SECONDS = 51
    MESSAGE_KIND = 53
    SERVER_ID = 54
    PARAMETERS = 55
    CLIENT_ID = 61


class Kind(IntEnum):
    """Message kinds (option 53)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


@dataclass(frozen=True, slots=True)
class Message:
    """One DHCPv4 message. Addresses are text, `0.0.0.0` where there is none; `mac` has 6 octets."""

    kind: Kind
    transaction: int
    mac: bytes
    client_address: str = NO_ADDRESS  # ciaddr: the client has it
    your_address: str = NO_ADDRESS  # yiaddr: the client is given it
    relay_address: str = NO_ADDRESS  # giaddr
    broadcast: bool = False
    options: dict[int, bytes] = field(default_factory=dict)

    @property
    def is_reply(self) -> bool:
        return self.kind in (Kind.OFFER, Kind.ACK, Kind.NAK)

    @property
    def server_id(self) -> str | None:
        value = self.options.get(Option.SERVER_ID)
        return inet_ntoa(value) if value is not None and len(value) == 4 else None

    @property
    def requested_address(self) -> str | None:
        value = self.options.get(Option.REQUESTED_ADDRESS)
        return inet_ntoa(value) if value is not None and len(value) == 4 else None

    @property
    def host_name(self) -> str | None:
        value = self.options.get(Option.HOST_NAME)
        return value.decode(errors="replace") if value else None

    def encode(self) -> bytes:
        """The message as it travels in UDP."""
        head = bytes([2 if self.is_reply else 1, 1, 6, 0]) + self.transaction.to_bytes(4) + bytes(2)
        head += (_BROADCAST_FLAG if self.broadcast else 0).to_bytes(2)
        head += inet_aton(self.client_address) + inet_aton(self.your_address) + bytes(4)
        head += inet_aton(self.relay_address) + self.mac.ljust(16, b"\0")
        options = bytes([Option.MESSAGE_KIND, 1, self.kind])
        for code, value in self.options.items():
            options += bytes([code, len(value)]) + value
        packet = head.ljust(_FIXED_LENGTH, b"\0") + _COOKIE + options + bytes([_END])
        return packet.ljust(_SMALLEST_MESSAGE, b"\0")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: an offer, an ACK or a NAK."""

    kind: Kind
    address: str
    server_id: str | None
    host_name: str | None
    lease_seconds: int | None

    @classmethod
    def of(cls, message: Message) -> "Answer":
        lease = message.options.get(Option.LEASE_SECONDS)
        seconds = int.from_bytes(lease) if lease else None
        return cls(message.kind, message.your_address, message.server_id, message.host_name, seconds)


def decode(packet: bytes) -> Message:
    """The message in a UDP payload. Raises ValueError for what is none."""
    if len(packet) < _FIXED_LENGTH + len(_COOKIE) or packet[_FIXED_LENGTH : _FIXED_LENGTH + 4] != _COOKIE:
        raise ValueError("not a DHCPv4 message")
    if packet[1:3] != b"\x01\x06":
        raise ValueError("not from an Ethernet client")
    options = _decode_options(packet[_FIXED_LENGTH + 4 :])
    kind = options.pop(Option.MESSAGE_KIND, b"")
    if len(kind) != 1:
        raise ValueError("a BOOTP message without a kind")
    return Message(
        kind=Kind(kind[0]),
        transaction=int.from_bytes(packet[4:8]),
        mac=packet[28:34],
        client_address=inet_ntoa(packet[12:16]),
        your_address=inet_ntoa(packet[16:20]),
        relay_address=inet_ntoa(packet[24:28]),
        broadcast=bool(packet[10] & 0x80),
        options=options,
    )


def _decode_options(octets: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    position = 0
    while position < len(octets) and octets[position] != _END:
        code = octets[position]
        if code == _PAD:
            position += 1
            continue
        if position + 1 >= len(octets) or position + 2 + octets[position + 1] > len(octets):
            raise ValueError("an option runs beyond the end of the message")
        length = octets[position + 1]
        options[code] = octets[position + 2 : position + 2 + length]
        position += 2 + length
    return options
