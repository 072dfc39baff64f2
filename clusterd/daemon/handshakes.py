"""TLS connections that begin with their handshake: the protocol above sees nothing, and exists not, before it is over.

On the listening side a bounded number of handshakes is under way at a time. Each is some milliseconds of work during
which nothing else happens in the daemon: after an outage a thousand clusters come at once, and wait here.
A connection asks for a turn when its first bytes are there, so that silent ones cost none.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.daemon.mutual_tls import TlsConnections, words_of
from clusterd.protocol.connection import peer_name

HANDSHAKES_AT_ONCE: Final = 16
MAX_WAITING: Final = 4096
HANDSHAKE_SECONDS: Final = 10.0
WAITING_SECONDS: Final = 30.0
MAX_HELLO_BYTES: Final = 1 << 14


class HandshakeFailed(ConnectError):
    """The other end was reached, and no TLS connection came of it; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(string=reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Admission:
    """Gives turns: at most `at_once` at a time, and no more than `most_waiting` wait for one."""

    def __init__(self, at_once: int = HANDSHAKES_AT_ONCE, most_waiting: int = MAX_WAITING) -> None:
        self._free = at_once
        self._most_waiting = most_waiting
        self._waiting: deque[Callable[[], bool]] = deque()

    def ask(self, begin: Callable[[], bool]) -> bool:
        """`begin` is called when it is its turn, and answers whether it still wants it; False: too many wait.

        Who has begun calls `leave` once.
        """
        if self._free:
            self._free -= 1
            if not begin():
                self.leave()
            return True
        if len(self._waiting) >= self._most_waiting:
            return False
        self._waiting.append(begin)
        return True

    def leave(self) -> None:
        """The turn is over: the next one's begins."""
        while self._waiting:
            if self._waiting.popleft()():
                return
        self._free += 1


@implementer(IHandshakeListener)
class _AboveTls(Protocol):
    """What TLS speaks with: nobody until the handshake is over, then the real protocol."""

    def __init__(self, address: IAddress, factory: IProtocolFactory, over: Callable[[str | None], None]) -> None:
        """`over` is called once: with None, or with why there was no handshake."""
        self._address = address
        self._factory = factory
        self._over: Callable[[str | None], None] | None = over
        self.protocol: IProtocol | None = None

    def handshakeCompleted(self) -> None:
        self.protocol = self._factory.buildProtocol(self._address)
        if self.protocol is None:
            self._end("nobody takes it")
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        transport: Any = self.transport
        self.protocol.makeConnection(transport)
        self._end(None)

    def dataReceived(self, data: bytes) -> None:
        if self.protocol is not None:
            self.protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.protocol is not None:
            self.protocol.connectionLost(reason)
        else:
            error: Any = reason.value
            self._end("it closed the connection" if isinstance(error, ConnectionClosed) else words_of(error))

    def _end(self, problem: str | None) -> None:
        over, self._over = self._over, None
        if over is not None:
            over(problem)


class _OneFactory(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


# ---- connecting ----


@implementer(IStreamClientEndpoint)
class TlsClientEndpoint:
    """Connects with TLS over another endpoint. The Deferred fires when the handshake is over, as far as this side can
    tell: with TLS 1.3 the other side judges our certificate after that. Fails with HandshakeFailed.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        connections: TlsConnections,
        seconds: float = HANDSHAKE_SECONDS + WAITING_SECONDS,
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._connections = connections
        self._seconds = seconds

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        over: Deferred[str | None] = Deferred()
        above = _AboveTls(_NOWHERE, factory, lambda problem: None if over.called else over.callback(problem))
        tls: Any = TLSMemoryBIOFactory(self._connections, True, _OneFactory(above), self._clock)
        connected: Any = await self._endpoint.connect(tls)
        timer = self._clock.callLater(self._seconds, lambda: None if over.called else over.callback("no answer"))
        try:
            problem = await over
        except BaseException:
            connected.abortConnection()
            raise
        finally:
            if timer.active():
                timer.cancel()
        if problem is not None or above.protocol is None:
            connected.abortConnection()
            raise HandshakeFailed(problem or "no handshake")
        return above.protocol


# ---- listening ----


@implementer(IStreamServerEndpoint)
class TlsServerEndpoint:
    """Listens with TLS on another endpoint; logs who was turned away, and why."""

    def __init__(
        self, clock: IReactorTime, endpoint: IStreamServerEndpoint, connections: TlsConnections, admission: Admission
    ) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._connections = connections
        self._admission = admission

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        return self._endpoint.listen(_ServerFactory(self._clock, self._connections, self._admission, protocolFactory))


class _ServerFactory(Factory):
    noisy = False

    def __init__(
        self, clock: IReactorTime, connections: TlsConnections, admission: Admission, factory: IProtocolFactory
    ) -> None:
        self.clock = clock
        self.connections = connections
        self.admission = admission
        self.factory = factory

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Newcomer(self, addr or _NOWHERE)


class _Newcomer(Protocol):
    """A connection from its first byte on: waits for its turn, shakes hands, and from then on only passes bytes."""

    _log = Logger(namespace="link")

    def __init__(self, owner: _ServerFactory, address: IAddress) -> None:
        self._owner = owner
        self._address = address
        self._early = b""  # what came before its turn
        self._asked = False
        self._in_turn = False
        self._over = False
        self._gone = False
        self._tls: Any = None

    def connectionMade(self) -> None:
        self._timer = self._owner.clock.callLater(HANDSHAKE_SECONDS, self._too_slow)

    def dataReceived(self, data: bytes) -> None:
        if self._tls is not None:
            self._tls.dataReceived(data)
            return
        self._early += data
        if self._asked:
            return
        self._asked = True
        transport: Any = self.transport
        transport.pauseProducing()  # what it has to say now fits into the kernel's buffers
        self._timer.reset(WAITING_SECONDS)
        if len(data) > MAX_HELLO_BYTES:
            self._turn_away("it does not begin with a TLS handshake")
        elif not self._owner.admission.ask(self._begin):
            self._turn_away("too many others wait for their turn")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        if self._tls is not None:
            self._tls.connectionLost(reason)
        if self._asked:
            self._end("it closed the connection")
        else:
            self._over = True  # whoever sends nothing is not worth a line
            self._stop_timer()

    def _begin(self) -> bool:
        if self._gone or self._over:
            return False
        self._in_turn = True
        self._timer.reset(HANDSHAKE_SECONDS)
        above = _AboveTls(self._address, self._owner.factory, self._end)
        factory: Any = TLSMemoryBIOFactory(self._owner.connections, False, _OneFactory(above), self._owner.clock)
        self._tls = factory.buildProtocol(self._address)
        transport: Any = self.transport
        self._tls.makeConnection(transport)
        early, self._early = self._early, b""
        transport.resumeProducing()
        self._tls.dataReceived(early)
        return True

    def _too_slow(self) -> None:
        waited = WAITING_SECONDS if self._asked and not self._in_turn else HANDSHAKE_SECONDS
        self._turn_away(f"no handshake within {waited:g} s")

    def _turn_away(self, problem: str) -> None:
        transport: Any = self.transport
        self._end(problem)
        transport.abortConnection()

    def _end(self, problem: str | None) -> None:
        if self._over:
            return
        self._over = True
        self._stop_timer()
        if problem is not None:
            self._log.warn(
                "no TLS with {peer}: {reason}",
                event="link.handshake-failed",
                peer=peer_name(self._address),
                reason=problem,
            )
        if self._in_turn:
            self._in_turn = False
            self._owner.admission.leave()

    def _stop_timer(self) -> None:
        if self._timer.active():
            self._timer.cancel()


@implementer(IAddress)
class _Nowhere:
    """The address of a connection whose address nobody asks for."""


_NOWHERE: Final = _Nowhere()
