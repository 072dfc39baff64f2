"""TLS connections that begin with their handshake: the protocol above sees nothing, and exists not, before it is over.

On the listening side the work is rationed. A step of a handshake is some milliseconds during which nothing else happens
in the daemon, and after an outage a thousand clusters come at once: what they have sent waits until its turn has come.
Who has to wait for its peer takes no turn from others. How many may be on their way in is bounded; when there are too
many, the one that has been at it longest makes room, since who is honest is in after a round trip.
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

STEPS_AT_ONCE: Final = 4
MAX_NEWCOMERS: Final = 2048
FIRST_BYTES_SECONDS: Final = 10.0
HANDSHAKE_SECONDS: Final = 30.0  # from the first bytes on, with the time spent waiting here
MAX_HELLO_BYTES: Final = 1 << 14


class HandshakeFailed(ConnectError):
    """The other end was reached, and no TLS connection came of it; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(string=reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Admission:
    """Who is on the way in: no more than `most`, and `at_once` steps of their handshakes in one turn of the reactor."""

    def __init__(self, clock: IReactorTime, at_once: int = STEPS_AT_ONCE, most: int = MAX_NEWCOMERS) -> None:
        self._clock = clock
        self._at_once = at_once
        self._most = most
        self._inside: dict[object, Callable[[], None]] = {}  # in the order of their arrival
        self._steps: deque[Callable[[], None]] = deque()
        self._has_a_turn = False

    def enter(self, who: object, make_room: Callable[[], None]) -> None:
        """`make_room` is called when there are too many and it has been here longest. Ends with `leave`."""
        if len(self._inside) >= self._most:
            oldest = next(iter(self._inside))
            self._inside.pop(oldest)()
        self._inside[who] = make_room

    def leave(self, who: object) -> None:
        """It is let in or gone."""
        self._inside.pop(who, None)

    def ask(self, step: Callable[[], None]) -> None:
        """`step` is called when its turn has come."""
        self._steps.append(step)
        self._want_a_turn()

    def _want_a_turn(self) -> None:
        if self._steps and not self._has_a_turn:
            self._has_a_turn = True
            self._clock.callLater(0, self._take)

    def _take(self) -> None:
        self._has_a_turn = False
        try:
            for _ in range(min(self._at_once, len(self._steps))):
                self._steps.popleft()()
        finally:
            self._want_a_turn()  # also after a step that failed, which the reactor logs


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
        seconds: float = FIRST_BYTES_SECONDS + HANDSHAKE_SECONDS,
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
    """A connection from its first byte on: shakes hands a step at a time, and from then on only passes bytes."""

    _log = Logger(namespace="link")

    def __init__(self, owner: _ServerFactory, address: IAddress) -> None:
        self._owner = owner
        self._address = address
        self._waiting = b""  # for a turn
        self._has_spoken = False
        self._over = False  # the handshake is, one way or the other
        self._gone = False
        self._tls: Any = None

    def connectionMade(self) -> None:
        self._timer = self._owner.clock.callLater(FIRST_BYTES_SECONDS, self._too_slow)
        self._owner.admission.enter(self, lambda: self._turn_away("it made room for others"))

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            if self._tls is not None:
                self._tls.dataReceived(data)
            return
        if not self._has_spoken:
            self._has_spoken = True
            self._timer.reset(HANDSHAKE_SECONDS)
            if len(data) > MAX_HELLO_BYTES:
                self._turn_away("it does not begin with a TLS handshake")
                return
        if not self._waiting:
            self._owner.admission.ask(self._step)
        self._waiting += data
        transport: Any = self.transport
        transport.pauseProducing()  # what more it has to say now fits into the kernel's buffers

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        if self._tls is not None:
            self._tls.connectionLost(reason)
        # Whoever never said anything is not worth a line.
        self._end("it closed the connection" if self._has_spoken else None)

    def _step(self) -> None:
        data, self._waiting = self._waiting, b""
        if self._gone or self._over:
            return
        transport: Any = self.transport
        if self._tls is None:
            above = _AboveTls(self._address, self._owner.factory, self._end)
            factory: Any = TLSMemoryBIOFactory(self._owner.connections, False, _OneFactory(above), self._owner.clock)
            self._tls = factory.buildProtocol(self._address)
            self._tls.makeConnection(transport)
        transport.resumeProducing()
        self._tls.dataReceived(data)

    def _too_slow(self) -> None:
        if self._has_spoken:
            self._turn_away(f"no handshake within {HANDSHAKE_SECONDS:g} s")
        else:
            self._turn_away(f"nothing said within {FIRST_BYTES_SECONDS:g} s")

    def _turn_away(self, problem: str) -> None:
        transport: Any = self.transport
        self._end(problem)
        transport.abortConnection()

    def _end(self, problem: str | None) -> None:
        if self._over:
            return
        self._over = True
        self._owner.admission.leave(self)
        if self._timer.active():
            self._timer.cancel()
        if problem is not None:
            self._log.warn(
                "no TLS with {peer}: {reason}",
                event="link.handshake-failed",
                peer=peer_name(self._address),
                reason=problem,
            )


@implementer(IAddress)
class _Nowhere:
    """The address of a connection whose address nobody asks for."""


_NOWHERE: Final = _Nowhere()
