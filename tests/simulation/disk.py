"""The disk of a cluster controller: a real SQLite database, whose process may end at any statement."""

import sqlite3
from typing import Any

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.host_maps.schema import MIGRATIONS, STAGING
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.values import HostMap


class Killed(BaseException):
    """The process ends here: nothing catches it."""


class DyingConnection(sqlite3.Connection):
    """Counts statements down to the process's end, and refuses writing while the disk is full."""

    statements_left: int | None = None
    full = False
    looked_at = False  # by the simulation: this counts for nothing

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self._before(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        self._before(sql)
        return super().executemany(sql, parameters)

    def _before(self, sql: str) -> None:
        if self.looked_at or sql == "ROLLBACK":
            return
        if self.statements_left is not None:
            self.statements_left -= 1
            if self.statements_left < 0:
                raise Killed
        if self.full and sql.startswith(("INSERT", "DELETE")):
            raise sqlite3.OperationalError("database or disk is full")


class Disk:
    """Durable content: what was committed. A store is opened once per process."""

    def __init__(self) -> None:
        connection = _connect()
        for statements in MIGRATIONS:
            for statement in statements:
                connection.execute(statement)
        self._content = connection.serialize()
        self._connection: DyingConnection | None = None
        connection.close()

    def open(self) -> HostMapStore:
        """The store as the next process finds it."""
        self._connection = _connect()
        self._connection.deserialize(self._content)
        self._connection.execute(STAGING)
        return HostMapStore(self._connection)

    def kill_after(self, statements: int) -> None:
        """The process ends when it is about to do one more statement than these."""
        if self._connection is not None:
            self._connection.statements_left = statements

    def fill(self, full: bool) -> None:
        if self._connection is not None:
            self._connection.full = full

    def process_ended(self) -> None:
        """Keep what was committed and nothing else."""
        if self._connection is not None:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._content = self._connection.serialize()
            self._connection.close()
            self._connection = None

    def image(self) -> bytes:
        """What an image of the disk would keep."""
        return self._content if self._connection is None else self._connection.serialize()

    def restore(self, image: bytes) -> None:
        """An older disk is put in. No process has it open."""
        assert self._connection is None
        self._content = image

    def contents(self) -> tuple[tuple[SubnetRecord, frozenset[HostMap]], ...]:
        """What is committed, without disturbing the process."""
        connection = self._connection
        if connection is None:
            connection = _connect()
            connection.deserialize(self._content)
        try:
            connection.looked_at = True
            return tuple((record, frozenset(maps)) for record, maps in HostMapStore(connection).contents())
        finally:
            connection.looked_at = False
            if connection is not self._connection:
                connection.close()


def _connect() -> DyingConnection:
    # Autocommit: transactions begin where the store says so.
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=DyingConnection)
