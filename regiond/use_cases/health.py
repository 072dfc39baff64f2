"""Whether this regiond can serve: is the database there, is its schema ours, is its replication what was asked for."""

from regiond.domain.readiness import DatabaseRole, DatabaseState, Readiness, ReplicationState, SchemaState
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, Pool
from regiond.storage.schema import current

_DEADLINE_SECONDS = 3.0

# A standby that is not streaming protects nothing. The setting tells everybody whether one is wanted; how the standbys
# are only whoever may read all statistics (pg_monitor, superusers). To others every one of them looks lost.
_REPLICATION = """
SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names') <> '',
       pg_has_role('pg_read_all_stats', 'USAGE'), count(r.pid), count(r.pid) FILTER (WHERE r.state = 'streaming'),
       count(r.pid) FILTER (WHERE r.state = 'streaming' AND r.sync_state IN ('sync', 'quorum')),
       max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                ELSE pg_current_wal_flush_lsn() END, r.replay_lsn))
           FILTER (WHERE r.state = 'streaming')::bigint
FROM pg_stat_replication r
"""


class Health:
    """The answer to /readyz."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def readiness(self) -> Readiness:
        """How things are now; never raises for a database that is away."""
        try:
            schema = SchemaState.CURRENT if await self._is_current() else SchemaState.OTHER
            (row,) = await self._pool.query(_REPLICATION, retry=True, deadline=_DEADLINE_SECONDS)
        except (DatabaseUnavailable, ConnectionLost) as error:
            return Readiness((f"the database is not reachable: {error}",), DatabaseState(False), None)
        in_recovery, synchronous, sees, standbys, streaming, synchronous_streaming, lag = row
        role = DatabaseRole.STANDBY if in_recovery else DatabaseRole.PRIMARY
        replication = (
            ReplicationState(
                synchronous, standbys, streaming, synchronous_streaming, None if lag is None else max(lag, 0)
            )
            if sees
            else ReplicationState(synchronous, None, None, None, None)
        )
        return Readiness(
            tuple(_shortcomings(schema, role, replication)), DatabaseState(True, role, schema), replication
        )

    async def _is_current(self) -> bool:
        return await current(self._pool, deadline=_DEADLINE_SECONDS)


def _shortcomings(schema: SchemaState, role: DatabaseRole, replication: ReplicationState) -> list[str]:
    found = []
    if schema is SchemaState.OTHER:
        found.append("the database's schema is not the one of this regiond")
    if role is DatabaseRole.STANDBY:
        found.append("the database is a standby and takes no writes")
    elif replication.synchronous and replication.synchronous_streaming == 0:
        found.append("synchronous replication is configured and no synchronous standby is streaming")
    return found
