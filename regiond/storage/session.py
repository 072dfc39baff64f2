"""What a function that was lent a connection of the pool does with it."""

from psycopg2 import extensions

from regiond.storage.connection import Arguments, Connection, Row


class Session:
    """One connection, lent for the length of one function call."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection
        self.used = False

    async def run(self, sql: str, args: Arguments = None) -> list[Row]:
        """Send one string of one or more statements; the rows of the last one, [] when it has none.

        Without `args` a percent sign is a percent sign. Raises psycopg2.Error for what the server says about the
        statement and ConnectionLost when the connection died on the way.
        """
        rows, _ = await self._send(sql, args)
        return rows

    async def execute(self, sql: str, args: Arguments = None) -> int:
        """As `run`, but returns how many rows the last statement changed."""
        _, count = await self._send(sql, args)
        return count

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, failed or not, or a statement is in flight that may have begun one."""
        return self._live().transaction_status != extensions.TRANSACTION_STATUS_IDLE

    async def _send(self, sql: str, args: Arguments) -> tuple[list[Row], int]:
        connection = self._live()
        self.used = self.used or connection.lost is None
        return await connection.execute(sql, args)

    def _live(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("the session is over: its function has returned")
        return self._connection

    def end(self) -> None:
        """The function it was lent to has returned."""
        self._connection = None
