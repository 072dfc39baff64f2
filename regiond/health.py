"""Whether this regiond can serve: is the database there, is its schema ours, is its replication what was asked for."""

from collections.abc import Sequence

from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, Pool
from regiond.storage.schema import current

_DEADLINE_SECONDS = 3.0

# A standby that is not streaming protects nothing. The setting tells everybody whether one is wanted; how the standbys
# are only whoever may read all statistics (pg_monitor, superusers). To others every one of them looks lost.
_REPLICATION = """
SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names') <> '',
       (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')),
       pg_has_role('pg_read_all_stats', 'USAGE')
"""


class Health:
    """The answer to /readyz."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def shortcomings(self) -> Sequence[str]:
        """What keeps this regiond from serving, one sentence each; empty when it is ready."""
        try:
            if not await current(self._pool, deadline=_DEADLINE_SECONDS):
                return ["the database's schema is not the one of this regiond"]
            rows = await self._pool.query(_REPLICATION, retry=True, deadline=_DEADLINE_SECONDS)
        except (DatabaseUnavailable, ConnectionLost) as error:
            return [f"the database is not reachable: {error}"]
        in_recovery, wants_standby, streaming, sees_standbys = rows[0]
        if in_recovery:
            return ["the database is a standby and takes no writes"]
        if wants_standby and sees_standbys and not streaming:
            return ["synchronous replication is configured and no synchronous standby is streaming"]
        return []
