"""Events as they are committed, in an order in which nothing comes later before something that was told already."""

from datetime import datetime
from typing import Any, Final

from regiond.domain.events import ChangedMap, Event, EventKind, EventPage
from regiond.domain.reservations import Kind
from regiond.storage.pool import Pool

KEEP_HOURS: Final = 24
KEEP_MOST: Final = 1_000_000
NUMBERED_AT_ONCE: Final = 10_000  # as in number_events() and prune_events()
MAX_ROUNDS: Final = 1_000
MAX_MAPS: Final = 256

_FEED = "SELECT r.history::text, f.last, f.gone, {fact} FROM region r CROSS JOIN event_feed f"
_TAIL = f"SELECT number_events(); {_FEED.format(fact='NULL')}"
_READ = f"""
SELECT number_events();
{_FEED.format(fact="e.fact")} LEFT JOIN LATERAL (
    SELECT v.position, jsonb_build_object(
        'position', v.position, 'at', v.at, 'kind', v.kind, 'action', v.action,
        'subnet', v.subnet, 'cidr', s.cidr, 'vrf', w.name,
        'cluster', v.cluster, 'cluster_name', coalesce(v.cluster_name, c.name),
        'reservation', v.reservation, 'reservation_kind', v.reservation_kind, 'address', host(v.address),
        'owner', v.owner, 'owner_name', a.name, 'device', v.device, 'node', v.node,
        'generation', v.to_generation, 'error', v.error,
        'maps', CASE WHEN v.kind = 'host-map' THEN (
            SELECT coalesce(jsonb_agg(jsonb_build_array(m.reservation, r.owner, m.refused)), '[]'::jsonb) FROM (
                SELECT h.reservation, bool_or(EXISTS (
                    SELECT FROM rejected_map j WHERE j.subnet = h.subnet AND j.cluster = v.cluster
                        AND j.kind = h.kind AND j.identifier = h.identifier)) AS refused
                FROM (SELECT * FROM host_map g WHERE g.subnet + 0 = v.subnet
                          AND g.generation > v.from_generation AND g.generation <= v.to_generation
                      ORDER BY g.generation LIMIT {MAX_MAPS + 1}) h
                GROUP BY h.reservation) m
            LEFT JOIN reservation r ON r.id = m.reservation) END) AS fact
    FROM event v
    LEFT JOIN subnet s ON s.id = v.subnet LEFT JOIN vrf w ON w.id = s.vrf
    LEFT JOIN cluster c ON c.id = v.cluster LEFT JOIN account a ON a.id = v.owner
    WHERE v.position > %s ORDER BY v.position LIMIT %s
) e ON true ORDER BY e.position"""  # noqa: S608 (constants only)
_NUMBER = "SELECT number_events()"
_PRUNE = "SELECT prune_events(make_interval(hours => %s), %s)"


class EventReads:
    """What was committed. Reading gives positions to what has none yet, so it sees all that is committed by now."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tail(self) -> EventPage:
        """How far events reach now, without any of them."""
        for _ in range(MAX_ROUNDS):
            numbered = await self._pool.query(_NUMBER, retry=True)
            if numbered[0][0] < NUMBERED_AT_ONCE:
                break
        ((history, last, gone, _),) = await self._pool.query(_TAIL, retry=True)
        return EventPage(history, last, gone)

    async def after(self, position: int, limit: int) -> EventPage:
        """The events that follow this position. Whether they are all that followed it, `reaches_back_to` tells."""
        rows = await self._pool.query(_READ, (position, limit), retry=True)
        history, last, gone, _ = rows[0]
        return EventPage(history, last, gone, [_event(row[3]) for row in rows if row[3] is not None])

    async def prune(self) -> None:
        """Forget what is old, and the oldest of what is too much."""
        for _ in range(MAX_ROUNDS):
            pruned = await self._pool.query(_PRUNE, (KEEP_HOURS, KEEP_MOST), retry=True)
            if pruned[0][0] < NUMBERED_AT_ONCE:
                return


def _event(fact: dict[str, Any]) -> Event:
    maps = fact.pop("maps") or ()
    fact["at"] = datetime.fromisoformat(fact["at"])
    fact["kind"] = EventKind(fact["kind"])
    if fact["reservation_kind"] is not None:
        fact["reservation_kind"] = Kind(fact["reservation_kind"])
    changed = tuple(ChangedMap(*each) for each in maps[:MAX_MAPS])
    return Event(**fact, maps=changed, more=len(maps) > MAX_MAPS)
