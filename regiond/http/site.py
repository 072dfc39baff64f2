"""The HTTP API on sockets: who is connected, who is waited for, and who has said nothing for too long."""

import heapq
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall

from regiond.config import MAX_CONNECTIONS
from regiond.http.application import Application
from regiond.http.connection import HttpConnection, LargeBodies

TIMEOUT_SECONDS: Final = 60.0
LOOKS_PER_TIMEOUT: Final = 10
SHARE_HUNG_UP_ON: Final = 64  # one of so many at a time: looking for the most silent ones costs a look at all


class ApiSite(ServerFactory):
    """Serves the application. `local` only for the UNIX socket that nobody but its owner can open.

    A client that sends nothing for `timeout` seconds, in a request or between two, or does not read its answers, is
    hung up on: one look at all connections now and then, since a timer for each would cost every request its share.
    Of more than `most` clients those are hung up on that have been silent the longest, some at a time.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        application: Application,
        *,
        local: bool,
        timeout: float = TIMEOUT_SECONDS,
        most: int = MAX_CONNECTIONS,
    ) -> None:
        self._reactor = reactor
        self._application = application
        self._local = local
        self._timeout = timeout
        self._most = most
        self._closing = False
        self._large = LargeBodies()
        self._connections: set[HttpConnection] = set()
        self._in_flight = 0
        self._all_answered = 0
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
            large=self._large,
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

    @property
    def answered(self) -> int:
        """How many requests have been answered since the start."""
        return self._all_answered

    async def finished(self) -> None:
        """Returns when no request is being answered."""
        if self._in_flight:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    def close(self) -> None:
        """Answer what has come, and hang up on everybody. New connections are not made any more by now."""
        self._closing = True
        for connection in list(self._connections):
            connection.finish()

    def _make_room(self) -> None:
        silent = (each for each in self._connections if each.deadline < float("inf"))
        for each in heapq.nsmallest(1 + self._most // SHARE_HUNG_UP_ON, silent, key=lambda each: each.deadline):
            each.abort()

    def _opened(self, connection: HttpConnection) -> None:
        self._connections.add(connection)
        if len(self._connections) > self._most:
            self._make_room()
        if self._closing:
            connection.finish()
        if not self._looks.running:
            self._looks.start(self._timeout / LOOKS_PER_TIMEOUT, now=False)

    def _hang_up_on_the_silent(self) -> None:
        now = self._reactor.seconds()
        for connection in [each for each in self._connections if each.deadline <= now]:
            connection.abort()

    def _arrived(self) -> None:
        self._in_flight += 1

    def _answered(self) -> None:
        self._in_flight -= 1
        self._all_answered += 1
        if not self._in_flight:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)
