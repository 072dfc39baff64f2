"""A small pool of connections to PostgreSQL: it heals, it never lends a doubtful connection, it never waits for ever.

* A connection is idle in the pool only while it is known to be alive and out of any transaction; one that is
  neither when it comes back is thrown away and replaced.
* Every call has a deadline, waiting and further attempts included. At the deadline the socket is closed; the server
  notices (`client_connection_check_interval`), and `statement_timeout` ends what it does not.
* Serialization failures and deadlocks (40001, 40P01) are tried again by themselves in `query`, `execute` and
  `transaction`: the server has undone everything; so it has when a transaction's connection is lost before COMMIT was
  sent. When the answer is lost, the work is tried again only if the caller says `retry=True`: it is idempotent, or
  only reads. In `session`, which may hold several transactions, nothing is tried again without that.
* What no statement is to blame for (limits of time and resources, conflicts that do not end) is DatabaseUnavailable in
  those three; `session` passes on what the server says, for whoever has to know what was undone.
* The functions that are lent a session may therefore run more than once and should touch nothing but the database.
* While there is no connection one attempt at a time is made, with a growing and random delay; callers wait for it,
  at most `patience` seconds and at most `max_waiting` of them, and then get DatabaseUnavailable. Once an outage has
  lasted for that long, they hear of it almost at once.

# Note [Settle]
With synchronous replication a COMMIT is answered when the standby has it. No statement_timeout cuts that short, only
our own deadline does, which ends in "unknown". But a commit whose session is ended while it waits is seen by others
although the standby may not have it. So who finds a commit and acknowledges it, instead of making one, waits as well:
for a record of its own, which comes later in the log (`SETTLE`).

What a session sets with `SET` (not `SET LOCAL`), locks with session-level advisory locks or listens to stays with the
connection that it was lent: do not.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg2
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.storage.connection import (
    Arguments,
    Connection,
    ConnectionLost,
    Row,
    Vet,
    first_line,
    is_nobodys_fault,
)
from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable, TransactionLeftOpen
from regiond.storage.session import Session

__all__ = ["ConnectionLost", "DatabaseUnavailable", "Pool", "PoolStats", "Row", "Session", "TransactionLeftOpen"]

T = TypeVar("T")

ATTEMPTS: Final = 6
CONFLICT_CODES: Final = frozenset({"40001", "40P01"})
ISOLATION_LEVELS: Final = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})
FIRST_BACK_OFF_SECONDS: Final = 0.05
LONGEST_BACK_OFF_SECONDS: Final = 0.5  # an outage is over for callers half a second after it is over
ROLLBACK_DEADLINE_SECONDS: Final = 5.0
YOUNG_SECONDS: Final = 1.0
LEAST_PATIENCE_SECONDS: Final = 0.5
SETTLE: Final = "SELECT pg_logical_emit_message(true, 'hostmap', '')"
"""Before what was found committed is acknowledged: see Note [Settle]."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Counters since the start (connects … deadlines) and the present (size … waiting)."""

    connects: int
    connect_failures: int
    deaths: int
    retries: int
    deadlines: int
    size: int
    idle: int
    lent: int
    waiting: int


Work = Callable[[Session], Awaitable[T]]


class Pool:
    """`size` connections to `dsn`. See the module for what is guaranteed.

    `deadline` is the default for each call, `patience` how long one waits for a connection, both in seconds.
    `jitter` returns a number in [0, 1).
    """

    _log = Logger(namespace="storage")

    def __init__(
        self,
        reactor: Any,
        dsn: str,
        size: int = 8,
        *,
        deadline: float = 15.0,
        patience: float = 5.0,
        max_waiting: int = 1000,
        connector: Connector | None = None,
        vet: Vet | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._reactor = reactor
        self._connector = connector or Connector(reactor, dsn, vet=vet)
        self._size = size
        self._deadline = deadline
        self._patience = patience
        self._max_waiting = max_waiting
        self._jitter = jitter
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiting: deque[Deferred[Connection]] = deque()
        self._attempts: set[Deferred[None]] = set()
        self._refilling: IDelayedCall | None = None
        self._open = False
        self._emptied: Deferred[None] | None = None
        self._failures = 0
        self._away_since: float | None = None
        self._trouble = "not connected yet"
        self._connects = self._connect_failures = self._deaths = self._retries = self._deadlines = 0

    # Life

    def start(self) -> None:
        """Begin to connect. Calls may be made at once; they wait for the first connection."""
        self._open = True
        self._refill()

    async def close(self, grace: float = 5.0) -> None:
        """Refuse new calls, give running ones `grace` seconds, then close everything."""
        self._open = False
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
        for attempt in tuple(self._attempts):
            attempt.cancel()
        while self._waiting:
            self._waiting.popleft().errback(DatabaseUnavailable("the connections to the database are being closed"))
        while self._idle:
            self._forget(self._idle.pop()).close()
        if self._all:
            self._emptied = Deferred()
            timer = self._reactor.callLater(grace, self._abort_all)
            try:
                await self._emptied
            finally:
                if timer.active():
                    timer.cancel()

    @property
    def stats(self) -> PoolStats:
        """For metrics."""
        return PoolStats(
            connects=self._connects,
            connect_failures=self._connect_failures,
            deaths=self._deaths,
            retries=self._retries,
            deadlines=self._deadlines,
            size=len(self._all),
            idle=len(self._idle),
            lent=len(self._all) - len(self._idle),
            waiting=len(self._waiting),
        )

    # Calls

    async def query(
        self, sql: str, args: Arguments = None, *, retry: bool = False, deadline: float | None = None
    ) -> list[Row]:
        """Run one string outside of any other transaction; the rows of its last statement."""
        return await self._call(lambda session: session.run(sql, args), deadline, on_conflict=True, on_loss=retry)

    async def execute(
        self, sql: str, args: Arguments = None, *, retry: bool = False, deadline: float | None = None
    ) -> None:
        """As `query`, without rows."""
        await self.query(sql, args, retry=retry, deadline=deadline)

    async def transaction(
        self, fn: Work[T], *, retry: bool = False, isolation: str | None = None, deadline: float | None = None
    ) -> T:
        """Run `fn` between BEGIN and COMMIT, or ROLLBACK when it raises. `isolation`: see ISOLATION_LEVELS."""
        if isolation is not None and isolation not in ISOLATION_LEVELS:
            raise ValueError(f"no such isolation level: {isolation}")
        begin = "BEGIN" if isolation is None else f"BEGIN ISOLATION LEVEL {isolation}"

        async def work(session: Session) -> T:
            try:
                await session.run(begin)
                result = await fn(session)
            except ConnectionLost as error:
                error.outcome_unknown = False
                raise
            if not session.in_transaction:
                raise RuntimeError("the transaction's function ended the transaction by itself")
            await session.run("COMMIT")
            return result

        return await self._call(work, deadline, on_conflict=True, on_loss=retry)

    async def session(self, fn: Work[T], *, retry: bool = False, deadline: float | None = None) -> T:
        """Lend one connection to `fn`, which begins and commits by itself.

        Raises TransactionLeftOpen when it returns in the middle of a transaction (which is undone).
        """

        async def work(session: Session) -> T:
            try:
                return await fn(session)
            except ConnectionLost as error:
                error.outcome_unknown = session.used
                raise

        return await self._call(work, deadline, on_conflict=retry, on_loss=retry, translated=False)

    async def _call(
        self, work: Work[T], deadline: float | None, *, on_conflict: bool, on_loss: bool, translated: bool = True
    ) -> T:
        end = self._reactor.seconds() + (self._deadline if deadline is None else deadline)
        unknown = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                connection = await self._borrow(end)
            except DatabaseUnavailable as error:
                error.outcome_unknown = unknown
                raise
            try:
                return await self._lend(connection, work, end)
            except psycopg2.Error as error:
                if not on_conflict or error.pgcode not in CONFLICT_CODES or not self._again(attempt, end):
                    if translated and is_nobodys_fault(error):  # this attempt is undone, an earlier one may not be
                        raise DatabaseUnavailable(first_line(error), outcome_unknown=unknown) from error
                    raise
            except ConnectionLost as error:
                # what was never sent, undone, or refused by a server that cannot write, is safe to send again
                unknown = error.outcome_unknown = unknown or error.outcome_unknown
                if (unknown and not on_loss) or not self._again(attempt, end):
                    raise
            self._retries += 1
            await deferLater(self._reactor, 0.01 * 2**attempt * self._jitter())
        raise AssertionError("the last attempt returns or raises")

    def _again(self, attempt: int, end: float) -> bool:
        return attempt < ATTEMPTS and self._reactor.seconds() < end and self._open

    async def _lend(self, connection: Connection, work: Work[T], end: float) -> T:
        """Run `work` on a borrowed connection until `end`, and take the connection back in any case."""
        session = Session(connection)
        # the one place where a caller's coroutine becomes a Deferred, so that it can be cancelled
        running = Deferred.fromCoroutine(_awaited(work, session))
        expired: list[bool] = []

        def expire() -> None:
            expired.append(True)
            self._deadlines += 1
            connection.abort("no answer within the deadline")
            running.cancel()

        timer = self._reactor.callLater(max(0.0, end - self._reactor.seconds()), expire)
        try:
            result = await running
        except (CancelledError, ConnectionLost) as error:
            if not expired:
                raise
            raise DatabaseUnavailable("no answer within the deadline", outcome_unknown=True) from error
        else:
            if not connection.clean and connection.lost is None:
                raise TransactionLeftOpen("a function returned its connection in the middle of a transaction")
            return result
        finally:
            session.end()
            if timer.active():
                timer.cancel()
            await self._take_back(connection)

    # Connections

    async def _borrow(self, end: float) -> Connection:
        if not self._open:
            raise DatabaseUnavailable("the connections to the database are closed")
        while self._idle:
            connection = self._idle.pop()
            if connection.check() and connection.clean:
                return connection
            connection.abort("came back in doubt")
        if len(self._waiting) >= self._max_waiting:
            raise DatabaseUnavailable(f"{len(self._waiting)} calls wait for the database already")
        waiter: Deferred[Connection] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        patience = max(0.0, min(self._present_patience(), end - self._reactor.seconds()))
        timer = self._reactor.callLater(patience, self._give_up, waiter, patience)
        try:
            return await waiter
        finally:
            if timer.active():
                timer.cancel()

    def _present_patience(self) -> float:
        if self._away_since is None:
            return self._patience
        left: float = self._away_since + self._patience - self._reactor.seconds()
        return min(self._patience, max(LEAST_PATIENCE_SECONDS, left))

    def _note_outage(self) -> None:
        if self._away_since is None and not self._all:
            self._away_since = self._reactor.seconds()

    def _give_up(self, waiter: Deferred[Connection], patience: float) -> None:
        self._waiting.remove(waiter)
        if self._all:
            message = f"all {len(self._all)} connections to the database were busy for {patience:.1f} s"
        else:
            message = f"no connection to the database for {patience:.1f} s: {self._trouble}"
        waiter.errback(DatabaseUnavailable(message))

    async def _take_back(self, connection: Connection) -> None:
        """Lend the connection to the next one, after a rollback where one is needed, or throw it away."""
        if not connection.clean and not connection.busy and connection.lost is None:
            timer = self._reactor.callLater(ROLLBACK_DEADLINE_SECONDS, connection.abort, "no answer to ROLLBACK")
            try:
                await connection.run("ROLLBACK")
            except (psycopg2.Error, ConnectionLost) as error:
                connection.abort(f"ROLLBACK failed: {first_line(error)}")
            finally:
                if timer.active():
                    timer.cancel()
        if not connection.clean:
            connection.abort("came back in the middle of a statement")
        elif not self._open:
            self._forget(connection).close()
            self._tell_if_empty()
        else:
            self._offer(connection)

    def _offer(self, connection: Connection) -> None:
        if self._waiting:
            self._waiting.popleft().callback(connection)
        else:
            self._idle.append(connection)

    def _forget(self, connection: Connection) -> Connection:
        connection.on_lost = None
        self._all.discard(connection)
        return connection

    def _lost(self, connection: Connection, reason: str) -> None:
        self._forget(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._open:
            self._tell_if_empty()
            return
        self._deaths += 1
        self._trouble = reason
        self._note_outage()
        self._log.warn("a connection to the database died: {reason}", event="database.connection-lost", reason=reason)
        if self._reactor.seconds() - connection.born < YOUNG_SECONDS:
            self._back_off()
        else:
            self._refill_in(FIRST_BACK_OFF_SECONDS * self._jitter())

    def _tell_if_empty(self) -> None:
        if self._emptied is not None and not self._all and not self._emptied.called:
            self._emptied.callback(None)

    def _abort_all(self) -> None:
        for connection in tuple(self._all):
            connection.abort("the connections to the database are being closed")

    def _refill(self) -> None:
        self._refilling = None
        while self._open and self._refilling is None:
            missing = self._size - len(self._all) - len(self._attempts)
            if missing <= 0 or (self._failures and self._attempts):
                return
            attempt = Deferred.fromCoroutine(self._connector.connect())
            done = attempt.addCallbacks(self._connected, self._not_connected)
            self._attempts.add(done)
            done.addErrback(self._bug)
            done.addCallback(self._attempt_over, done)

    def _refill_in(self, seconds: float) -> None:
        if self._refilling is None and self._open:
            self._refilling = self._reactor.callLater(seconds, self._refill)

    def _back_off(self) -> None:
        if self._refilling is None:
            self._failures += 1
            ceiling = min(LONGEST_BACK_OFF_SECONDS, FIRST_BACK_OFF_SECONDS * 2.0 ** min(self._failures, 10))
            self._refill_in(ceiling * (1 + self._jitter()) / 2)

    def _connected(self, connection: Connection) -> None:
        self._connects += 1
        if self._failures or self._connects == 1:
            self._log.info("connected to the database", event="database.connected", failures=self._failures)
        self._failures = 0
        self._away_since = None
        self._all.add(connection)
        connection.on_lost = self._lost
        self._offer(connection)

    def _not_connected(self, failure: Failure) -> None:
        if not self._open:
            return
        if not failure.check(DatabaseUnavailable):
            self._bug(failure)
        self._connect_failures += 1
        self._note_outage()
        reason = str(failure.value)
        if not self._failures or reason != self._trouble:
            self._log.warn("the database cannot be reached: {reason}", event="database.unreachable", reason=reason)
        self._trouble = reason
        self._back_off()

    def _attempt_over(self, _: None, attempt: Deferred[None]) -> None:
        self._attempts.discard(attempt)
        if self._refilling is None:
            self._refill_in(0.0)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("a connection attempt broke", failure, event="database.connect-bug")


async def _awaited(work: Work[T], session: Session) -> T:
    return await work(session)
