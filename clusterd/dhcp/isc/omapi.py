"""OMAPI, the protocol over which a running dhcpd is changed: one connection as a Twisted protocol.

The messages are pypureomapi's; see omapi(3) and dhcpd(8). What this adds: HMAC-SHA256, every answer's signature is
checked and matched to its question, and messages are written and read at the pace that 100,000 of them need.
"""

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pypureomapi
from pypureomapi import OmapiAuthenticatorBase, OmapiMessage, OmapiStartupMessage
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from clusterd.dhcp.isc.key import OmapiKey

MAX_MESSAGE_BYTES = 65_536
NOT_FOUND = 0x17
EXISTS = 0x12
KEY_CONFLICT = 0x60007

_SUCCESS = 0
_NUMBERS = struct.Struct("!IIIII")
_HEAD = struct.Struct("!IIIIII")
_GREETING = struct.Struct("!II")
_NAME_LENGTH = struct.Struct("!H")
_VALUE_LENGTH = struct.Struct("!I")
_RESULT_TEXTS = {  # isc_result_t and dhcpd's own results, where dhcpd's message does not already say it
    0x01: "out of memory",
    0x06: "permission denied",
    EXISTS: "it exists already",
    0x13: "no space left",
    NOT_FOUND: "not found",
    0x1A: "it could not write its leases file",
    0x22: "unexpected error",
    0x60003: "invalid argument",
    0x60007: "key conflict",
    0x60008: "it could not parse the statements",
    0x6000A: "it does not know this key",
    0x6000B: "invalid key",
    0x60015: "not authorized",
    0x60020: "unknown attribute",
}


class OmapiRefused(Exception):
    """dhcpd answered an operation with an error. `str()` is in its own words."""

    def __init__(self, code: int, text: str) -> None:
        meaning = _RESULT_TEXTS.get(code, f"result {code:#x}")
        super().__init__(f"{text}: {meaning}" if text else meaning)
        self.code = code


class OmapiBroken(Exception):
    """What came over the connection was not an answer of the dhcpd that shares our key."""


@dataclass(frozen=True, slots=True)
class OmapiObject:
    """An object of dhcpd as it was answered: its handle on this server, and its values."""

    handle: int
    values: Mapping[bytes, bytes]

    def number(self, name: bytes) -> int:
        """A value that is an integer; 0 where there is none."""
        return int.from_bytes(self.values.get(name, b""))


def open_message(kind: bytes, values: Mapping[bytes, bytes], *, create: bool = False) -> OmapiMessage:
    """Look an object up by these values; with `create` make it, which is refused when it exists."""
    message = OmapiMessage.open(kind)
    if create:
        message.message += [(b"create", b"\0\0\0\1"), (b"exclusive", b"\0\0\0\1")]
    message.update_object(dict(values))
    return message


def update_message(handle: int, values: Mapping[bytes, bytes]) -> OmapiMessage:
    """Change values of an object."""
    message = OmapiMessage.update(handle)
    message.update_object(dict(values))
    return message


def encode(message: OmapiMessage, *, for_signing: bool = False) -> bytes:
    """A message as octets, or what of it is signed: as pypureomapi's `as_string`, in a fifth of the time."""
    head = b"" if for_signing else message.authid.to_bytes(4)
    numbers = (len(message.signature), message.opcode, message.handle, message.tid, message.rid)
    parts = [head, _NUMBERS.pack(*numbers)]
    for values in (message.message, message.obj):
        for name, value in values:
            parts += (len(name).to_bytes(2), name, len(value).to_bytes(4), value)
        parts.append(b"\0\0")
    return b"".join(parts if for_signing else [*parts, message.signature])


class Received(NamedTuple):
    """A message as it came; `signed` are the octets of which it has the signature, `length` is that of all of it."""

    message: OmapiMessage
    signed: bytes
    length: int


def decode(octets: bytes) -> Received | None:
    """The message that the octets begin with, None while it is not complete: as pypureomapi's parser, ten times faster.

    Raises OmapiBroken for one that is too long.
    """
    found = _decode(octets)
    if (len(octets) if found is None else found.length) > MAX_MESSAGE_BYTES:
        raise OmapiBroken(f"a message of more than {MAX_MESSAGE_BYTES} octets")
    return found


def _decode(octets: bytes) -> Received | None:
    if len(octets) < _HEAD.size:
        return None
    authid, signature_length, opcode, handle, tid, rid = _HEAD.unpack_from(octets)
    said = _decode_values(octets, _HEAD.size)
    if said is None:
        return None
    values = _decode_values(octets, said[1])
    if values is None or len(octets) < values[1] + signature_length:
        return None
    end = values[1] + signature_length
    message = OmapiMessage(authid, opcode, handle, tid, rid, said[0], values[0], octets[values[1] : end])
    return Received(message, octets[4 : values[1]], end)


def _decode_values(octets: bytes, position: int) -> tuple[list[tuple[bytes, bytes]], int] | None:
    """Names and values up to the empty name that ends them, and where it ends."""
    found: list[tuple[bytes, bytes]] = []
    while position + 2 <= len(octets):
        name_end = position + 2 + _NAME_LENGTH.unpack_from(octets, position)[0]
        if name_end == position + 2:
            return found, name_end
        if name_end + 4 > len(octets):
            break
        value_end = name_end + 4 + _VALUE_LENGTH.unpack_from(octets, name_end)[0]
        if value_end > len(octets):
            break
        found.append((octets[position + 2 : name_end], octets[name_end + 4 : value_end]))
        position = value_end
    return None


def delete_message(handle: int) -> OmapiMessage:
    """Delete an object."""
    return OmapiMessage.delete(handle)


def answer_of(message: OmapiMessage) -> OmapiObject:
    """What an answer says. Raises OmapiRefused."""
    if message.opcode == pypureomapi.OMAPI_OP_UPDATE:
        return OmapiObject(message.handle, dict(message.obj))
    said = dict(message.message)
    code = int.from_bytes(said.get(b"result", b"\xff\xff\xff\xff"))
    if message.opcode != pypureomapi.OMAPI_OP_STATUS or code != _SUCCESS:
        raise OmapiRefused(code, said.get(b"message", b"").decode("ascii", "replace"))
    return OmapiObject(message.handle, {})


class HmacSha256(OmapiAuthenticatorBase):
    """Signs with a shared secret. dhcpd names algorithms as DNS does (RFC 4635)."""

    authlen = 32
    algorithm = b"hmac-sha256.SIG-ALG.REG.INT."

    def __init__(self, key: OmapiKey) -> None:
        super().__init__()
        self._key = key

    def auth_object(self) -> dict[bytes, bytes]:
        return {b"name": self._key.name.encode("ascii"), b"algorithm": self.algorithm}

    def sign(self, message: bytes) -> bytes:
        return hmac.digest(self._key.secret, message, "sha256")


class OmapiConnection(Protocol):
    """One connection. `greeted` fires when dhcpd speaks the same version; `authenticate` before anything else."""

    def __init__(self) -> None:
        self.greeted: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self._authenticator: HmacSha256 | None = None
        self._waiting: dict[int, Deferred[OmapiMessage]] = {}
        self._broken: OmapiBroken | None = None
        self._received = b""

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        transport.write(OmapiStartupMessage().as_string())

    async def authenticate(self, key: OmapiKey) -> None:
        """Sign all that follows. Raises OmapiRefused when dhcpd does not know a key of this name, OmapiBroken."""
        await self.greeted
        authenticator = HmacSha256(key)
        answer = answer_of(await self._ask(open_message(b"authenticator", authenticator.auth_object())))
        authenticator.authid = answer.handle
        self._authenticator = authenticator

    async def call(self, message: OmapiMessage) -> OmapiObject:
        """Ask, and return what dhcpd answered. Raises OmapiRefused, OmapiBroken, or what ended the connection."""
        return answer_of(await self._ask(message))

    def abandon(self) -> None:
        """End the connection at once: what is waited for fails."""
        transport: Any = self.transport
        transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        try:
            if not self.greeted.called and not self._greet():
                return
            while self._broken is None and (received := decode(self._received)) is not None:
                self._received = self._received[received.length :]
                self._receive(received)
        except (pypureomapi.OmapiError, OmapiBroken) as error:
            self._break(f"dhcpd's OMAPI port sent what is not OMAPI: {error}")

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008  Twisted's signature
        failure = reason if self._broken is None else Failure(self._broken)
        waiting, self._waiting = self._waiting, {}
        for deferred in waiting.values():
            deferred.errback(failure)
        if not self.greeted.called:
            self.greeted.errback(failure)
        self.lost.callback(None)

    async def _ask(self, message: OmapiMessage) -> OmapiMessage:
        while message.tid in self._waiting or message.tid == 0:
            message.generate_tid()
        waiting: Deferred[OmapiMessage] = Deferred()
        self._waiting[message.tid] = waiting
        if self._authenticator is not None:
            self._sign(message, self._authenticator)
        transport: Any = self.transport
        transport.write(encode(message))
        return await waiting

    @staticmethod
    def _sign(message: OmapiMessage, authenticator: HmacSha256) -> None:
        message.authid = authenticator.authid
        message.signature = bytes(authenticator.authlen)  # its length is signed too
        message.signature = authenticator.sign(encode(message, for_signing=True))

    def _greet(self) -> bool:
        """Whether dhcpd has said by now which OMAPI it speaks. Raises OmapiError when it is another one than ours."""
        if len(self._received) < _GREETING.size:
            return False
        OmapiStartupMessage(*_GREETING.unpack_from(self._received)).validate()
        self._received = self._received[_GREETING.size :]
        self.greeted.callback(None)
        return True

    def _receive(self, received: Received) -> None:
        message = received.message
        waiting = self._waiting.pop(message.rid, None)
        if waiting is None:
            self._break("dhcpd answered a question that was not asked")
        elif self._is_signed(received):
            waiting.callback(message)
        else:
            self._waiting[message.rid] = waiting  # fails with the connection
            self._break("an answer over OMAPI is not signed with our key: does dhcpd have the same secret?")

    def _is_signed(self, received: Received) -> bool:
        if self._authenticator is None:  # only the answer to `authenticate` itself
            return True
        if received.message.authid != self._authenticator.authid:
            return False
        return hmac.compare_digest(self._authenticator.sign(received.signed), received.message.signature)

    def _break(self, words: str) -> None:
        self._broken = OmapiBroken(words)
        self.abandon()
