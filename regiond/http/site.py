"""The HTTP API on sockets: who is connected, who is waited for, and who has said nothing for too long."""

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall

from regiond.http.application import Application
from regiond.http.connection import HttpConnection

TIMEOUT_SECONDS: Final = 60.0
LOOKS_PER_TIMEOUT: Final = 10


class ApiSite(ServerFactory):
    """Serves the application. `local` only for the UNIX socket that nobody but its owner can open.

    A client that sends nothing for `timeout` seconds, in a request or between two, is hung up on: one look at all
    connections now and then, since a timer for each would cost every request its share.
    """

    noisy = False

    def __init__(
        self, reactor: Any, application: Application, *, local: bool, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self._reactor = reactor
        self._application = application
        self._local = local
        self._timeout = timeout
        self._connections: set[HttpConnection] = set()
        self._in_flight = 0
        self._idle: list[Deferred[None]] = []
        self._looks = LoopingCall(self._hang_up_on_the_silent)
        self._looks.clock = reactor

    def buildProtocol(self, addr: IAddress | None) -> HttpConnection:
        return HttpConnection(
            self._application,
            local=self._local,
            now=self._reactor.seconds,
            timeout=self._timeout,
            opened=self._opened,
            closed=self._connections.discard,
            arrived=self._arrived,
            answered=self._answered,
        )

    def stopFactory(self) -> None:
        if self._looks.running:
            self._looks.stop()

    @property
    def connections(self) -> frozenset[HttpConnection]:
        """The clients that are connected."""
        return frozenset(self._connections)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        return self._in_flight

    async def finished(self) -> None:
        """Returns when no request is being answered."""
        if self._in_flight:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    def _opened(self, connection: HttpConnection) -> None:
        self._connections.add(connection)
        if not self._looks.running:
            self._looks.start(self._timeout / LOOKS_PER_TIMEOUT, now=False)

    def _hang_up_on_the_silent(self) -> None:
        now = self._reactor.seconds()
        for connection in [each for each in self._connections if each.deadline <= now]:
            transport: Any = connection.transport
            transport.abortConnection()

    def _arrived(self) -> None:
        self._in_flight += 1

    def _answered(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)
