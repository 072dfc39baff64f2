"""One connection to the hosts database, used from a thread, with a deadline that is kept whatever the server does.

Not over the reactor: most of what is done here is turning 100,000 rows into host maps and back, which belongs into
a thread anyhow, and one transaction at a time is all that is ever wanted.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import DeferredLock

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import RunInThread

T = TypeVar("T")

CONNECT_SECONDS = 5
TRANSACTION_SECONDS = 120.0  # replacing 100,000 rows takes some 10 s on a slow disk

_CONNECTION = {
    "application_name": "clusterd",
    "connect_timeout": str(CONNECT_SECONDS),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    # Other writers of the table are people and tools: who locks it for longer is told of, not waited for.
    "options": "-c lock_timeout=5s -c idle_in_transaction_session_timeout=60s -c timezone=UTC",
}


class Database:
    """The hosts database. `parameters` are libpq's."""

    def __init__(self, parameters: Mapping[str, str], reactor: Any, run_in_thread: RunInThread) -> None:
        self._parameters = dict(parameters)
        self._reactor = reactor
        self._run_in_thread = run_in_thread
        self._one_at_a_time = DeferredLock()
        self._connection: extensions.connection | None = None

    @property
    def place(self) -> str:
        """Which database, for people; never the password."""
        wanted = ("host", "port", "dbname", "user")
        return " ".join(f"{name}={self._parameters[name]}" for name in wanted if name in self._parameters)

    async def transact(self, work: Callable[[extensions.cursor], T], *, keep: bool = True) -> T:
        """Do the work in a transaction, in a thread; it may be done twice, when a connection turns out to be dead.

        Without `keep` the transaction is rolled back in the end. Raises BackendError with PostgreSQL's words.
        """
        await self._one_at_a_time.acquire()
        timer = self._reactor.callLater(TRANSACTION_SECONDS, self._cut)
        try:
            return await self._run_in_thread(lambda: self._transact(work, keep))
        finally:
            if timer.active():
                timer.cancel()
            self._one_at_a_time.release()

    async def close(self) -> None:
        """End the connection, after what is under way."""
        await self._one_at_a_time.acquire()
        self._drop()
        self._one_at_a_time.release()

    def _transact(self, work: Callable[[extensions.cursor], T], keep: bool) -> T:
        had_one = self._connection is not None
        try:
            return self._attempt(work, keep)
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self._drop()
            if not had_one:
                raise self._error(error) from error
        except psycopg2.Error as error:
            self._drop()
            raise self._error(error) from error
        try:  # what was connected had ended meanwhile: a restart, say
            return self._attempt(work, keep)
        except psycopg2.Error as error:
            self._drop()
            raise self._error(error) from error

    def _connect(self) -> extensions.connection:
        parameters: dict[str, Any] = {**_CONNECTION, **self._parameters}
        connection: extensions.connection = psycopg2.connect(**parameters)
        return connection

    def _attempt(self, work: Callable[[extensions.cursor], T], keep: bool) -> T:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        with connection.cursor() as cursor:
            result = work(cursor)
        if keep:
            connection.commit()
        else:
            connection.rollback()
        return result

    def _error(self, error: psycopg2.Error) -> BackendError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return BackendError(f"the hosts database ({self.place}): {lines[0] if lines else type(error).__name__}")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg2.Error):
                connection.close()

    def _cut(self) -> None:
        """Make the thread's call fail, from outside of it: the server neither answers nor goes away."""
        connection = self._connection
        with contextlib.suppress(OSError, psycopg2.Error, ValueError):
            if connection is not None:
                with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)
