"""dhcpd's end of OMAPI in memory: greets, authenticates, signs, and answers when it is told to."""

from collections.abc import Callable
from typing import Any

import pypureomapi
from pypureomapi import InBuffer, OmapiMessage, OmapiStartupMessage
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.dhcp.isc.key import OmapiKey
from clusterd.dhcp.isc.omapi import HmacSha256

_HANDLE = 77


@implementer(IStreamClientEndpoint)
class FakeOmapi:
    """An endpoint and the server behind it. `held` are questions that were not answered yet."""

    def __init__(self, key: OmapiKey) -> None:
        self.key = key
        self.refuses = False
        self.attempts = 0
        self.deliver: Callable[[bytes], None] = lambda octets: self._protocol.dataReceived(octets)
        self.greeting = OmapiStartupMessage().as_string()
        self.held: list[OmapiMessage] = []
        self.open_connections = 0
        self._protocol: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        self.attempts += 1
        if self.refuses:
            return fail(ConnectError(111))
        self._buffer = InBuffer()
        self._greeted = False
        protocol = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        self._protocol = protocol
        self.open_connections += 1
        protocol.makeConnection(_Transport(self, protocol))  # type: ignore[arg-type]
        return succeed(protocol)

    def receive(self, octets: bytes) -> None:
        """What the client wrote."""
        if not self._greeted:
            self._greeted = True
            self.deliver(self.greeting)
            return
        self._buffer.feed(octets)
        message = next(self._buffer.parse_message())
        assert isinstance(message, OmapiMessage)
        if (b"type", b"authenticator") in message.message:
            self.answer(message, OmapiMessage(opcode=pypureomapi.OMAPI_OP_UPDATE, handle=_HANDLE), signed=False)
        elif (b"name", b"hostmap-") in message.obj:  # whether the secret fits
            self.answer(message, refusal(0x17, b"no object matches specification"))
        else:
            self.held.append(message)

    def answer(self, question: OmapiMessage, answer: OmapiMessage, *, signed: bool = True) -> None:
        """Answer one question."""
        self.deliver(self.encoded(question, answer, signed=signed))

    def encoded(self, question: OmapiMessage, answer: OmapiMessage, *, signed: bool = True) -> bytes:
        """An answer as octets."""
        answer.rid = question.tid
        if signed:
            authenticator = HmacSha256(self.key)
            authenticator.authid = _HANDLE
            answer.sign(authenticator)
        return answer.as_string()

    def hang_up(self) -> None:
        """End the connection from the server's side."""
        self.open_connections -= 1
        self._protocol.connectionLost(Failure(ConnectionAborted()))


class _Transport:
    """What the client's protocol writes to."""

    def __init__(self, server: FakeOmapi, protocol: Any) -> None:
        self._server = server
        self._protocol = protocol
        self._open = True

    def write(self, octets: bytes) -> None:
        self._server.receive(octets)

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        if self._open:
            self._open = False
            self._server.open_connections -= 1
            self._protocol.connectionLost(Failure(ConnectionAborted()))


def refusal(code: int, words: bytes) -> OmapiMessage:
    """dhcpd says no."""
    return OmapiMessage(
        opcode=pypureomapi.OMAPI_OP_STATUS, message=[(b"result", code.to_bytes(4)), (b"message", words)]
    )


def found(values: dict[bytes, bytes], handle: int = 5) -> OmapiMessage:
    """dhcpd answers with an object."""
    return OmapiMessage(opcode=pypureomapi.OMAPI_OP_UPDATE, handle=handle, obj=list(values.items()))
