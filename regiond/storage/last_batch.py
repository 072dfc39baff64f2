"""Notices on each new connection that the database has lost what this regiond committed last.

With asynchronous replication a standby that is promoted may lack the last commits of the primary. The witness notices
by its next beat, if a beat is among them, and clusters notice when they are ahead; until then addresses that were given
to somebody would be given once more. So no connection is lent before the batch that was committed last was seen on it.
Where it is missing a recovery is begun first (Note [Recovery] in `domain/recovery.py`); the connection is refused, and
the next one finds that this is done: the history that this regiond has seen is a former one.

What only another regiond committed is that one's to miss.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.storage.connection import Connection, Vet
from regiond.storage.errors import DatabaseUnavailable

# The sweeps forget which batches were committed after an hour: a regiond that was idle for so long has lost none.
REMEMBERED_SECONDS: Final = 1800.0

_LOOK: Final = """
SELECT pg_is_in_recovery(), r.history::text, EXISTS (SELECT FROM batch WHERE id = %s::uuid),
       EXISTS (SELECT FROM former_history f WHERE f.history = %s::uuid)
FROM region r
"""

Begin = Callable[[str, str], Awaitable[None]]
"""Begin a recovery for this reason, as long as the database has this history. Raises DatabaseUnavailable."""


class LastBatch:
    """What this regiond committed last, and in which history. `first` looks at each connection before."""

    _log = Logger(namespace="region.recovery")

    def __init__(self, clock: Any, begin: Begin, first: Vet | None = None) -> None:
        self._clock = clock
        self._begin = begin
        self._first = first
        self._batch: tuple[str, float] | None = None
        self._history: str | None = None
        self._beginning = False

    def committed(self, batch: str) -> None:
        """The database has told that this batch is committed."""
        self._batch = batch, self._clock.seconds()

    def seen(self, history: str) -> None:
        """The database has this history."""
        self._history = history

    async def vet(self, connection: Connection) -> None:
        """Raises DatabaseUnavailable while commits are lost and no recovery has begun since."""
        if self._first is not None:
            await self._first(connection)
        if self._batch is None or self._history is None:
            return
        batch, since = self._batch
        if self._clock.seconds() - since > REMEMBERED_SECONDS:
            return
        [(is_standby, history, is_there, is_recovered)] = await connection.run(_LOOK, (batch, self._history))
        if is_standby:
            return  # it takes no writes, which readiness tells
        if is_there or is_recovered:
            if is_recovered:
                self._batch = None
            self._history = history
            return
        reason = f"the database lost the last commit of a regiond (batch {batch}): a standby that lagged was promoted"
        if not self._beginning:
            self._beginning = True
            Deferred.fromCoroutine(self._recover(reason, history)).addErrback(self._failed)
        raise DatabaseUnavailable(reason)

    async def _recover(self, reason: str, history: str) -> None:
        try:
            await self._begin(reason, history)
        finally:
            self._beginning = False

    def _failed(self, failure: Failure) -> None:
        if not failure.check(DatabaseUnavailable):  # else the next connection tries again
            self._log.failure("a recovery could not begin", failure, event="recovery.bug")
