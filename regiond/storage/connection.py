"""One connection to PostgreSQL over `txpostgres.Connection`, which knows when it is dead.

What txpostgres and libpq leave to their user, and what happens here:

* `connect_timeout` counts only in libpq's synchronous calls: there is our own deadline.
* A connection that dies while idle raises out of the reactor's read callback (a traceback in the log): reported.
* Closing a connection with a query in flight leaves its cursor in the reactor's table under a file number that the
  next socket gets: that socket is then never polled. Cursors are taken out first.
* Cancelling asks the server over a second, blocking connection: here cancelling closes the socket.
* Statements without rows make `runQuery` fail after they were executed: here they have no rows.
"""

import contextlib
import os
import select
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from txpostgres import txpostgres

from regiond.storage.errors import DatabaseUnavailable

Row = tuple[Any, ...]
Arguments = Sequence[Any] | Mapping[str, Any] | None

# crash, shutdown, "starting up", and the servers own time limits on sessions; 25006: this server became a standby
_CODES_OF_DEATH: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "25006"})


class ConnectionLost(DatabaseUnavailable):
    """The connection died with a statement in flight."""

    def __init__(self, message: str, *, outcome_unknown: bool = True) -> None:
        super().__init__(message, outcome_unknown=outcome_unknown)


_CLOSED_BY_LIBPQ: Final = "server closed the connection unexpectedly"


class _Cursor(txpostgres.Cursor):  # type: ignore[misc]
    """txpostgres' cursor, without its reading of every cancelled statement (a timeout, say) as our cancelling it."""

    def _handleCancellation(self, failure: Failure) -> Failure:
        return failure


class _Wire(txpostgres.Connection):  # type: ignore[misc]
    """txpostgres' connection, telling of its death and of notifications by calls instead of by the log."""

    cursorFactory = _Cursor

    def __init__(self, reactor: IReactorTime, on_dead: Callable[[Exception], None]) -> None:
        super().__init__(reactor, cooperator=_NEVER)
        self._on_dead = on_dead
        self.on_notify: Callable[[str, str], None] | None = None

    def doRead(self) -> None:
        self._guarded(super().doRead)

    def doWrite(self) -> None:
        self._guarded(super().doWrite)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except psycopg2.Error as error:
            self._on_dead(error)
        except ValueError:
            if self.has_socket:
                raise
            self._on_dead(psycopg2.OperationalError(_CLOSED_BY_LIBPQ))

    @property
    def has_socket(self) -> bool:
        """Whether there is a socket to watch. libpq closes a broken one by itself, and psycopg2 may not know."""
        return not self.pollable().closed and self.pollable().fileno() >= 0

    def cursorFinished(self, cursor: _Cursor) -> None:
        """Watching the socket again is up to `Connection`, which knows whether there still is one."""
        self._cursors.remove(cursor)
        self.checkForNotifies()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor only knows that the socket is over; libpq knows the host and what the system said of it."""
        died = reason.value if isinstance(reason.value, Exception) else RuntimeError(str(reason.value))
        try:
            self._connection.poll()
        except psycopg2.OperationalError as error:
            died = error
        except psycopg2.Error:
            pass  # closed on this side
        super().connectionLost(reason)
        self._on_dead(died)

    def checkForNotifies(self) -> None:
        pending = self._connection.notifies[:]
        del self._connection.notifies[:]
        if self.on_notify is not None:
            for notify in pending:
                self.on_notify(notify.channel, notify.payload)


_NEVER: Final = object()  # no cooperator is needed: `checkForNotifies` is ours


class Connection:
    """A live connection: one statement at a time, and `on_lost` called exactly once when it is over."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._wire = _Wire(reactor, self._dead)
        self._busy = False
        self._reason: str | None = None
        self.on_lost: Callable[[Connection, str], None] | None = None
        self.born = 0.0

    async def open(self, dsn: str, settings: Mapping[str, str], deadline: float, vet: "Vet | None") -> None:
        """Connect to the one host of `dsn`, apply the settings and let `vet` look. Raises DatabaseUnavailable."""
        timer = self._reactor.callLater(
            deadline, self.abort, f"the server did not accept the connection within {deadline:g} s"
        )
        try:
            await self._guarded(self._wire.connect(dsn))
            await self.run(
                "SELECT " + ", ".join(["set_config(%s, %s, false)"] * len(settings)),
                [word for setting in settings.items() for word in setting],
            )
            if vet is not None:
                await vet(self)
        except (psycopg2.Error, ConnectionClosed, DatabaseUnavailable) as error:
            self.abort(first_line(error))
            raise DatabaseUnavailable(self._reason or first_line(error)) from error
        except BaseException:
            self.abort("never finished connecting")
            raise
        finally:
            if timer.active():
                timer.cancel()
        self.born = self._reactor.seconds()

    @property
    def lost(self) -> str | None:
        """Why the connection is over, or None while it lives."""
        return self._reason

    @property
    def transaction_status(self) -> int:
        """One of psycopg2.extensions.TRANSACTION_STATUS_*, as the server last said."""
        if self._reason is not None:
            return extensions.TRANSACTION_STATUS_UNKNOWN
        return int(self._wire.pollable().info.transaction_status)

    @property
    def busy(self) -> bool:
        """Whether a statement is in flight."""
        return self._busy

    @property
    def clean(self) -> bool:
        """Alive, nothing in flight, and out of any transaction."""
        return not self._busy and self.transaction_status == extensions.TRANSACTION_STATUS_IDLE

    @property
    def backend_pid(self) -> int:
        """The server process that serves this connection."""
        return int(self._wire.pollable().info.backend_pid)

    def duplicate_descriptor(self) -> int:
        """A file descriptor of the same socket, the caller's to close."""
        return os.dup(self._wire.fileno())

    def check(self) -> bool:
        """Whether an idle connection still lives, reading what the kernel already has: one system call mostly."""
        if self._reason is not None:
            return False
        poller = select.poll()
        poller.register(self._wire.fileno(), select.POLLIN | select.POLLRDHUP)
        while self._reason is None and poller.poll(0):
            # the server's last words come first, the end of the stream after them
            self._unwatch()
            try:
                self._wire.pollable().poll()
            except psycopg2.Error as error:
                self._dead(error)
            else:
                self._watch()
                self._wire.checkForNotifies()
        return self._reason is None

    async def run(self, sql: str, args: Arguments = None) -> list[Row]:
        """Send one string of one or more statements; the rows of the last one, [] when it has none.

        Raises psycopg2.Error for what the server says about the statement, ConnectionLost when the connection died.
        Cancelling closes the connection.
        """
        rows, _ = await self.execute(sql, args)
        return rows

    async def execute(self, sql: str, args: Arguments = None) -> tuple[list[Row], int]:
        """As `run`, with the number of rows that the last statement returned or changed."""
        if self._reason is not None:
            raise ConnectionLost(self._reason, outcome_unknown=False)
        if self._busy:
            raise RuntimeError("a connection runs one statement at a time")
        cursor = self._wire.cursor()
        self._busy = True
        self._unwatch()
        try:
            await self._guarded(cursor.execute(sql, args))
            rows = cursor.fetchall() if cursor.description is not None else []
            count = int(cursor.rowcount)
            cursor.close()
        except (psycopg2.Error, ConnectionClosed) as error:
            if self._reason is None and not is_fatal(error):
                raise
            self.abort(first_line(error))
            code = getattr(error, "pgcode", None)
            raise ConnectionLost(self._reason or "", outcome_unknown=code != "25006") from error
        finally:
            self._busy = False
            self._watch()
        return rows, count

    def on_notify(self, receive: Callable[[str, str], None]) -> None:
        """Call `receive(channel, payload)` for every notification from now on."""
        self._wire.on_notify = receive

    def close(self) -> None:
        """Say goodbye and close."""
        self._end("closed", abruptly=False)

    def abort(self, reason: str) -> None:
        """Close the socket at once. A statement in flight fails with ConnectionLost; never blocks."""
        self._end(reason, abruptly=True)

    def _dead(self, error: Exception) -> None:
        self.abort(first_line(error))

    def _end(self, reason: str, *, abruptly: bool) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        native = self._wire.pollable()
        if native is not None:
            for cursor in tuple(self._wire._cursors):
                self._reactor.removeReader(cursor)
                self._reactor.removeWriter(cursor)
            if abruptly and self._wire.has_socket:
                _shut_down(native.fileno())
            self._reactor.removeReader(self._wire)
            self._reactor.removeWriter(self._wire)
            native.close()
            self._wire.close()
        if self.on_lost is not None:
            self.on_lost(self, reason)

    def _unwatch(self) -> None:
        """Take the socket from the reactor before libpq touches it.

        libpq closes it by itself when it finds it broken. The reactor would still have its number then, fail to remove
        it (epoll refuses closed ones) and be left with tables that contradict each other.
        """
        self._reactor.removeReader(self._wire)

    def _watch(self) -> None:
        """Give the socket back: an end, a notice or a notification may come at any time."""
        if self._reason is not None:
            return
        if self._wire.has_socket:
            self._reactor.addReader(self._wire)
        else:
            self.abort(_CLOSED_BY_LIBPQ)

    async def _guarded(self, inner: "Deferred[Any]") -> None:
        """Wait for txpostgres without ever letting a cancellation reach it."""

        def cancel(_: "Deferred[None]") -> None:
            cancelled.append(True)
            self.abort("the caller gave up")

        def succeed(_: Any) -> None:
            if not cancelled:
                outer.callback(None)

        def fail(failure: Failure) -> None:
            if not cancelled:
                outer.errback(failure)

        cancelled: list[bool] = []
        outer: Deferred[None] = Deferred(cancel)
        inner.addCallbacks(succeed, fail)
        await outer


Vet = Callable[[Connection], Awaitable[None]]


def is_fatal(error: Exception) -> bool:
    """Whether an error is about the connection, not about the statement."""
    if not isinstance(error, psycopg2.Error):
        return isinstance(error, ConnectionClosed)
    if error.pgcode is not None:
        return error.pgcode in _CODES_OF_DEATH or error.pgcode.startswith("08")
    return type(error) in (psycopg2.OperationalError, psycopg2.InterfaceError, psycopg2.DatabaseError)


def is_nobodys_fault(error: psycopg2.Error) -> bool:
    """Conflicts with other transactions, limits of time and resources: no statement caused them, and all is undone."""
    return error.pgcode is not None and error.pgcode[:2] in ("40", "53", "55", "57", "58")


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _shut_down(descriptor: int) -> None:
    """Make both ends see the end of the stream now, so that no goodbye waits for room in a full buffer."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate, contextlib.suppress(OSError):
        duplicate.shutdown(socket.SHUT_RDWR)
