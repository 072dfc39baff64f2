"""What has to be delivered to a cluster: host map differences and snapshots, each read in one snapshot of the data."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.storage.batch import from_signed
from regiond.storage.connection import Row
from regiond.storage.pool import Pool


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """One holder of one subnet, as it is recorded; `generation` and `digest` are what is desired."""

    cluster: int
    subnet: int
    cidr: str
    role: str
    accepted_generation: int
    generation: int
    digest: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns the host maps of `from_generation` into those of `to_generation`.

    `upserts` and `removals` are empty and `too_long` is set when there are more than was asked for. `request_ids` are
    those of the requests behind it, one for each upsert and then for each removal.
    """

    cidr: str
    from_generation: int
    to_generation: int
    digest: int
    upserts: Sequence[HostMap]
    removals: Sequence[Identifier]
    request_ids: Sequence[str]
    too_long: bool


class DeliveryReads:
    """Read-only questions of the dispatcher."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]:
        """Every subnet that these clusters hold, serving or draining."""
        rows = await self._pool.query(
            """SELECT d.cluster, d.subnet, s.cidr::text, d.role, d.accepted_generation, s.generation, s.digest
               FROM delivery d JOIN subnet s ON s.id = d.subnet
               WHERE d.cluster = ANY(%s) AND d.role <> 'former'""",
            (list(clusters),),
            retry=True,
        )
        return [_state(*row) for row in rows]

    async def stragglers(self, clusters: Sequence[int]) -> list[DeliveryState]:
        """Those of `held_by` that have not accepted what is desired, or have to forget it."""
        rows = await self._pool.query(
            """SELECT d.cluster, d.subnet, s.cidr::text, d.role, d.accepted_generation, s.generation, s.digest
               FROM delivery d JOIN subnet s ON s.id = d.subnet
               WHERE d.cluster = ANY(%s)
                 AND (d.role = 'draining' OR d.role = 'serving' AND d.accepted_generation <> s.generation)""",
            (list(clusters),),
            retry=True,
        )
        return [_state(*row) for row in rows]

    async def difference(self, subnet: int, accepted: int, at_most: int) -> Difference | None:
        """From a known generation to the desired one; None when the subnet is gone."""
        rows = await self._pool.query(
            """SELECT s.cidr::text, s.generation, s.digest, m.kind, m.identifier, host(m.address), m.hostname,
                      m.removed, m.request_id
               FROM subnet s LEFT JOIN LATERAL (
                   SELECT * FROM host_map h WHERE h.subnet = s.id AND h.generation > %s ORDER BY h.generation LIMIT %s
               ) m ON true WHERE s.id = %s""",
            (accepted, at_most + 1, subnet),
            retry=True,
        )
        return _difference(rows, accepted, at_most) if rows else None

    async def snapshot(self, subnet: int) -> Difference | None:
        """The whole set, as a difference from nothing."""
        rows = await self._pool.query(
            """SELECT s.cidr::text, s.generation, s.digest, m.kind, m.identifier, host(m.address), m.hostname,
                      m.removed, m.request_id
               FROM subnet s LEFT JOIN host_map m ON m.subnet = s.id AND NOT m.removed WHERE s.id = %s""",
            (subnet,),
            retry=True,
        )
        return _difference(rows, 0, len(rows)) if rows else None


def _state(
    cluster: int, subnet: int, cidr: str, role: str, accepted: int, generation: int, digest: int
) -> DeliveryState:
    return DeliveryState(cluster, subnet, cidr, role, accepted, generation, from_signed(digest))


def _difference(rows: Sequence[Row], accepted: int, at_most: int) -> Difference:
    cidr, generation, digest = rows[0][:3]
    maps = [row[3:] for row in rows if row[3] is not None]
    too_long = len(maps) > at_most
    upserts: list[HostMap] = []
    removals: list[Identifier] = []
    upserted_by: list[str] = []
    removed_by: list[str] = []
    for kind, value, address, hostname, removed, request_id in [] if too_long else maps:
        identifier = Identifier(IdentifierKind(kind), bytes(value))
        if removed:
            removals.append(identifier)
            removed_by.append(request_id)
        else:
            upserts.append(HostMap(identifier, address, hostname))
            upserted_by.append(request_id)
    request_ids = upserted_by + removed_by
    return Difference(cidr, accepted, generation, from_signed(digest), upserts, removals, request_ids, too_long)
