"""A DHCPv4 client that can be any MAC address on a cable, on a packet socket."""

import secrets
import select
import socket
import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from clusterd.protocol.values import parse_mac
from tests.lab.dhcp_messages import Answer, Kind, Message, Option, decode
from tests.lab.namespaces import Network, in_namespace
from tests.slowness import slowness

_ETHERNET_IPV4, _ETHERNET_ARP = 0x0800, 0x0806
_UDP, _CLIENT_PORT, _SERVER_PORT = 17, 68, 67
_TO_ALL = b"\xff" * 6
_WANTED = bytes([Option.SUBNET_MASK, 3, 6, Option.HOST_NAME, 15])
SURE_OF_SILENCE_SECONDS = 0.4  # a server of ours answers within a millisecond when it answers
_LAST_LOOK_SECONDS = 0.02


class RawClient4:
    """Plays any number of machines on one cable. Not for use by two threads at a time; make one for each.

    Every question waits at most `timeout` seconds and is answered None when nothing came.
    """

    def __init__(self, network: Network, nic: str = "c0") -> None:
        self._arp_names: dict[bytes, bytes] = {}
        self._ip, self._arp = in_namespace(
            network.client, lambda: (_open(nic, _ETHERNET_IPV4), _open(nic, _ETHERNET_ARP))
        )

    def __enter__(self) -> "RawClient4":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip.close()
        self._arp.close()

    def discover(
        self, mac: str, *, client_id: bytes | None = None, timeout: float = SURE_OF_SILENCE_SECONDS
    ) -> Answer | None:
        """Ask who would give this machine an address."""
        return self._ask(Kind.DISCOVER, mac, {}, client_id, timeout)

    def request(
        self,
        mac: str,
        address: str,
        server_id: str | None = None,
        *,
        client_id: bytes | None = None,
        timeout: float = SURE_OF_SILENCE_SECONDS,
    ) -> Answer | None:
        """Take an offer; without `server_id`: come back after a reboot with the address of before."""
        options = {int(Option.REQUESTED_ADDRESS): socket.inet_aton(address)}
        if server_id is not None:
            options[Option.SERVER_ID] = socket.inet_aton(server_id)
        return self._ask(Kind.REQUEST, mac, options, client_id, timeout)

    def obtain(
        self, mac: str, *, client_id: bytes | None = None, timeout: float = SURE_OF_SILENCE_SECONDS
    ) -> Answer | None:
        """Discover and request: what a machine does that comes up."""
        offer = self.discover(mac, client_id=client_id, timeout=timeout)
        if offer is None or offer.kind is not Kind.OFFER:
            return offer
        return self.request(mac, offer.address, offer.server_id, client_id=client_id, timeout=timeout)

    def renew(
        self, mac: str, address: str, *, client_id: bytes | None = None, timeout: float = SURE_OF_SILENCE_SECONDS
    ) -> Answer | None:
        """Ask to keep the address, as a machine that uses it; ARP questions for it are answered from now on."""
        self._arp_names[socket.inet_aton(address)] = parse_mac(mac)
        return self._ask(Kind.REQUEST, mac, {}, client_id, timeout, own_address=address)

    def release(self, mac: str, address: str, server_id: str, *, client_id: bytes | None = None) -> None:
        """Give the address back. There is no answer to it (RFC 2131, 4.4.6)."""
        self._arp_names.pop(socket.inet_aton(address), None)
        options = _with_client_id({int(Option.SERVER_ID): socket.inet_aton(server_id)}, client_id)
        message = Message(Kind.RELEASE, secrets.randbits(32), parse_mac(mac), client_address=address, options=options)
        self._ip.send(_frame(message))

    def offers(self, macs: Iterable[str], servers: int, timeout: float = 20.0) -> dict[str, dict[str, str]]:
        """Which address each server would give to each of these machines: by MAC address, by server.

        Asks until so many servers have offered something to each of them, or the time is up.
        """
        found: dict[str, dict[str, str]] = {mac: {} for mac in macs}
        deadline = time.monotonic() + timeout
        while (left := [mac for mac, by in found.items() if len(by) < servers]) and time.monotonic() < deadline:
            asked = {}
            for mac in left:
                message = _question(Kind.DISCOVER, mac, {}, None)
                asked[message.transaction] = mac
                self._ip.send(_frame(message))
            for message in self._heard(SURE_OF_SILENCE_SECONDS):
                answer = Answer.of(message)
                if message.transaction in asked and answer.kind is Kind.OFFER and answer.server_id is not None:
                    found[asked[message.transaction]][answer.server_id] = answer.address
        return found

    def _heard(self, silence: float) -> Iterator[Message]:
        """Every reply until there is none for so many seconds."""
        while select.select([self._ip], [], [], silence)[0]:
            message = _message_in(self._ip.recv(4096))
            if message is not None and message.is_reply:
                yield message

    def _ask(
        self,
        kind: Kind,
        mac: str,
        options: dict[int, bytes],
        client_id: bytes | None,
        timeout: float,
        own_address: str = "0.0.0.0",
    ) -> Answer | None:
        message = _question(kind, mac, options, client_id, own_address)
        self._ip.send(_frame(message))
        answer = self._wait(message.transaction, timeout)
        if answer is None and timeout >= SURE_OF_SILENCE_SECONDS:
            # Where everything takes longer an answer does, too; and it may be there already, with nobody to take it.
            answer = self._wait(message.transaction, timeout * (slowness() - 1.0) + _LAST_LOOK_SECONDS)
        return answer

    def _wait(self, transaction: int, timeout: float) -> Answer | None:
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self._ip, self._arp], [], [], left)
            if self._arp in readable:
                self._answer_arp(self._arp.recv(2048))
            if self._ip in readable:
                message = _message_in(self._ip.recv(4096))
                if message is not None and message.transaction == transaction and message.is_reply:
                    return Answer.of(message)
        return None

    def _answer_arp(self, frame: bytes) -> None:
        """A server that answers to an address in use asks for its MAC address first."""
        question, asker, wanted = frame[20:22], frame[22:32], frame[38:42]
        mac = self._arp_names.get(wanted)
        if question == b"\0\1" and mac is not None:
            head = frame[6:12] + mac + _ETHERNET_ARP.to_bytes(2)
            self._arp.send(head + b"\0\1\x08\0\6\4\0\2" + mac + wanted + asker)


def _question(
    kind: Kind, mac: str, options: dict[int, bytes], client_id: bytes | None, own_address: str = "0.0.0.0"
) -> Message:
    return Message(
        kind,
        secrets.randbits(32),
        parse_mac(mac),
        client_address=own_address,
        broadcast=True,
        options=_with_client_id({**options, Option.PARAMETERS: _WANTED}, client_id),
    )


def _with_client_id(options: dict[int, bytes], client_id: bytes | None) -> dict[int, bytes]:
    return options if client_id is None else {**options, Option.CLIENT_ID: client_id}


def _open(nic: str, protocol: int) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    packets.bind((nic, 0))
    packets.setblocking(False)
    return packets


def _frame(message: Message) -> bytes:
    payload = message.encode()
    ports = _CLIENT_PORT.to_bytes(2) + _SERVER_PORT.to_bytes(2)
    datagram = ports + (8 + len(payload)).to_bytes(2) + bytes(2) + payload  # no UDP checksum (RFC 768)
    head = bytes([0x45, 0]) + (20 + len(datagram)).to_bytes(2) + bytes(4) + bytes([64, _UDP, 0, 0])
    head += socket.inet_aton(message.client_address) + b"\xff" * 4
    head = head[:10] + _checksum(head).to_bytes(2) + head[12:]
    return _TO_ALL + message.mac + _ETHERNET_IPV4.to_bytes(2) + head + datagram


def _checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of octets."""
    total = sum(int.from_bytes(octets[position : position + 2]) for position in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _message_in(frame: bytes) -> Message | None:
    packet = frame[14:]
    if len(packet) < 28 or packet[9] != _UDP:
        return None
    datagram = packet[(packet[0] & 15) * 4 :]
    if datagram[:4] != _SERVER_PORT.to_bytes(2) + _CLIENT_PORT.to_bytes(2):
        return None
    try:
        return decode(datagram[8:])
    except ValueError:
        return None
