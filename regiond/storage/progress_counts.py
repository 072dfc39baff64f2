"""How the region as a whole is doing, in a few numbers."""

from dataclasses import dataclass

from regiond.storage.pool import Pool

DEADLINE_SECONDS = 5.0

# Of host maps only those are counted that some cluster has yet to apply.
_COUNTS = """
SELECT (SELECT count(*) FROM cluster),
       (SELECT count(*) FROM cluster c WHERE c.connected_since IS NOT NULL AND c.last_heard > now() - interval '60 s'),
       count(DISTINCT d.cluster) FILTER (WHERE d.applied_generation < d.generation),
       count(*) FILTER (WHERE d.applied_generation >= d.generation AND d.error IS NULL),
       count(*) FILTER (WHERE d.applied_generation < d.generation AND d.error IS NULL),
       count(*) FILTER (WHERE d.error IS NOT NULL),
       coalesce(extract(epoch FROM now() - min(d.since) FILTER (WHERE d.applied_generation < d.generation)), 0)::float8,
       coalesce(sum((SELECT count(*) FROM host_map m
                     WHERE m.subnet + 0 = d.subnet AND m.generation > d.applied_generation))
                FILTER (WHERE d.applied_generation < d.generation), 0)::bigint,
       (SELECT count(*) FROM rejected_map)
FROM (SELECT d.*, s.generation FROM delivery d JOIN subnet s ON s.id = d.subnet
      WHERE d.role IN ('serving', 'draining')) d
"""


@dataclass(frozen=True, slots=True)
class ProgressCounts:
    """A delivery is what one cluster has of one subnet. `oldest_pending_seconds`: since the most behind one moved."""

    clusters: int
    clusters_connected: int
    clusters_pending: int
    deliveries_applied: int
    deliveries_pending: int
    deliveries_failed: int
    oldest_pending_seconds: float
    host_maps_pending: int
    host_maps_failed: int


async def progress_counts(pool: Pool) -> ProgressCounts:
    """Raises DatabaseUnavailable and ConnectionLost."""
    rows = await pool.query(_COUNTS, retry=True, deadline=DEADLINE_SECONDS)
    return ProgressCounts(*rows[0])
