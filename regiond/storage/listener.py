"""LISTEN that stays: a connection of its own, made again whenever it is lost."""

import random
from collections.abc import Callable
from typing import Any, Final

import psycopg2
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from regiond.storage.connection import Connection, first_line
from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import FIRST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS

HEARTBEAT_SECONDS: Final = 30.0
HEARTBEAT_DEADLINE_SECONDS: Final = 10.0


class Listener:
    """Listens on `channel` of the database at `dsn`.

    `on_notify(payload)` is called for each notification. `on_reconnect()` is called each time that listening has
    begun, the first time included: what was notified before is lost, so look. Neither is called after `stop`.
    Notifications are a doorbell: between the loss of a connection and `on_reconnect` they go unheard. The DSN must
    lead to PostgreSQL itself or to a session pooler; a transaction pooler forgets LISTEN.
    """

    _log = Logger(namespace="storage")

    def __init__(
        self,
        reactor: Any,
        dsn: str,
        channel: str,
        on_notify: Callable[[str], None],
        on_reconnect: Callable[[], None],
        *,
        connector: Connector | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._reactor = reactor
        self._connector = connector or Connector(reactor, dsn)
        self._channel = channel
        self._on_notify = on_notify
        self._on_reconnect = on_reconnect
        self._heartbeat = heartbeat
        self._jitter = jitter
        self._running: Deferred[None] | None = None
        self._stopped = False
        self.listening = False
        self.failures = 0
        """Attempts and losses in a row; 0 again once it listens."""

    def start(self) -> None:
        """Begin to connect and listen, and to do so again for ever."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._over)

    async def stop(self) -> None:
        """Stop listening and close the connection."""
        self._stopped = True
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await running

    def _over(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("listening broke", failure, event="listener.bug", channel=self._channel)

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._connector.connect()
            except DatabaseUnavailable as error:
                if self.failures == 0:
                    self._log.warn(
                        "cannot listen on {channel}: {reason}",
                        event="listener.unreachable",
                        channel=self._channel,
                        reason=str(error),
                    )
            else:
                try:
                    reason = await self._listen(connection)
                finally:
                    self.listening = False
                    connection.close()
                self._log.warn(
                    "stopped hearing {channel}: {reason}",
                    event="listener.lost",
                    channel=self._channel,
                    reason=reason,
                )
            self.failures += 1
            ceiling = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(self.failures, 10))
            await deferLater(self._reactor, ceiling * (1 + self._jitter()) / 2)

    async def _listen(self, connection: Connection) -> str:
        """Listen until the connection is lost; why it was."""
        connection.on_notify(self._hear)
        quoted = '"' + self._channel.replace('"', '""') + '"'
        try:
            await connection.run(f"LISTEN {quoted}")
            self.listening, self.failures = True, 0
            self._call(self._on_reconnect)
            while connection.lost is None:
                await self._lost_within(connection, self._heartbeat)
                await self._prove_alive(connection)
        except (psycopg2.Error, DatabaseUnavailable) as error:
            return first_line(error)
        return connection.lost or "closed"

    async def _lost_within(self, connection: Connection, seconds: float) -> None:
        over: Deferred[None] = Deferred()

        def end(*_: object) -> None:
            if not over.called:
                over.callback(None)

        connection.on_lost = end
        timer: IDelayedCall = self._reactor.callLater(seconds, end)
        try:
            if connection.lost is None:
                await over
        finally:
            connection.on_lost = None
            if timer.active():
                timer.cancel()

    async def _prove_alive(self, connection: Connection) -> None:
        """A peer that vanished without a word is found out here rather than never."""
        if connection.lost is not None:
            return
        timer = self._reactor.callLater(HEARTBEAT_DEADLINE_SECONDS, connection.abort, "no answer to the heartbeat")
        try:
            await connection.run("SELECT 1")
        finally:
            if timer.active():
                timer.cancel()

    def _hear(self, channel: str, payload: str) -> None:
        if channel == self._channel and not self._stopped:
            self._call(self._on_notify, payload)

    def _call(self, function: Callable[..., None], *arguments: str) -> None:
        try:
            function(*arguments)
        except Exception:
            self._log.failure("an answer to a notification broke", event="listener.bug", channel=self._channel)
