"""What has to be delivered to a cluster: host map differences and whole sets, each read in one snapshot of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from twisted.internet.defer import DeferredSemaphore

from clusterd.protocol.arguments import HOST_MAPS, IDENTIFIERS, MAX_PAGE_ROWS, Packed
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.storage.batch import from_signed
from regiond.storage.changes import lock_subnet
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session

MAX_TRANSFERS_READ: Final = 3
READ_SECONDS: Final = 60.0
MAX_PRUNED: Final = 20_000
MAX_ROUNDS: Final = 100

_HEADER: Final = "s.cidr::text, s.generation, s.digest, s.horizon, coalesce(c.epoch, 0)"

# A tombstone is needed as long as a holder may ask for the difference from before it, and as long as its address rests:
# its client may have it back.
_PRUNABLE: Final = """
FROM host_map m WHERE m.subnet = s.id AND m.removed
  AND m.generation <= least(s.generation, (
      SELECT min(d.accepted_generation) FROM delivery d WHERE d.subnet = s.id AND d.role IN ('serving', 'draining')))
  AND NOT EXISTS (SELECT FROM reservation r WHERE r.id = m.reservation)
"""
_TO_PRUNE: Final = f"""
SELECT s.id FROM subnet s WHERE s.recovering_since IS NULL AND EXISTS (SELECT {_PRUNABLE})
"""  # noqa: S608 (constants only)
_PRUNE: Final = f"""
WITH old AS (
    SELECT m.subnet, m.kind, m.identifier, m.generation FROM subnet s CROSS JOIN LATERAL (
        SELECT m.* {_PRUNABLE} ORDER BY m.generation LIMIT %s) m
    WHERE s.id = %s AND s.recovering_since IS NULL
), gone AS (
    DELETE FROM host_map h USING old o
    WHERE h.subnet = o.subnet AND h.kind = o.kind AND h.identifier = o.identifier
    RETURNING h.subnet, h.generation
)
UPDATE subnet s SET horizon = greatest(s.horizon, g.highest)
FROM (SELECT subnet, max(generation) AS highest FROM gone GROUP BY subnet) g WHERE s.id = g.subnet
"""  # noqa: S608 (constants only)


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """One holder of one subnet, as it is recorded; `generation` and `digest` are what is desired.

    While the subnet is `recovering` nothing is delivered.
    """

    cluster: int
    subnet: int
    cidr: str
    role: str
    accepted_generation: int
    generation: int
    digest: int
    recovering: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns the host maps of `from_generation` into those of `to_generation`.

    `upserts` and `removals` are empty where `too_long` (there are more than was asked for) or `beyond_horizon` (what
    was removed since is not known any more: only the whole set helps) is set. `request_ids` are those of the requests
    behind it, one for each upsert and then for each removal. `epoch` is the number of the cluster's latest connection.
    """

    cidr: str
    from_generation: int
    to_generation: int
    digest: int
    upserts: Sequence[HostMap]
    removals: Sequence[Identifier]
    request_ids: Sequence[str]
    too_long: bool
    beyond_horizon: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A difference that does not fit in one call, or with `from_generation` None the whole set, in pages to be sent.

    Its pages are packed as they are read, so that a hundred thousand host maps never stall the reactor, nor take the
    memory that so many values would.
    """

    cidr: str
    from_generation: int | None
    to_generation: int
    digest: int
    upserts: int
    removals: int
    upsert_pages: Sequence[Packed]
    removal_pages: Sequence[Packed]
    epoch: int


class DeliveryReads:
    """Read-only questions of the dispatcher, and the one that keeps them short: which tombstones nobody needs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # When a thousand clusters are given everything, others still get a connection of the pool.
        self._turns = DeferredSemaphore(MAX_TRANSFERS_READ)

    async def held_by(self, clusters: Sequence[int]) -> list[DeliveryState]:
        """Every subnet that these clusters hold, serving or draining."""
        rows = await self._pool.query(
            """SELECT d.cluster, d.subnet, s.cidr::text, d.role, d.accepted_generation, s.generation, s.digest,
                      s.recovering_since IS NOT NULL
               FROM delivery d JOIN subnet s ON s.id = d.subnet
               WHERE d.cluster = ANY(%s) AND d.role <> 'former'""",
            (list(clusters),),
            retry=True,
        )
        return [_state(*row) for row in rows]

    async def stragglers(self, clusters: Sequence[int]) -> list[DeliveryState]:
        """Those of `held_by` that have not accepted what is desired, or have to forget it."""
        rows = await self._pool.query(
            """SELECT d.cluster, d.subnet, s.cidr::text, d.role, d.accepted_generation, s.generation, s.digest,
                      s.recovering_since IS NOT NULL
               FROM delivery d JOIN subnet s ON s.id = d.subnet
               WHERE d.cluster = ANY(%s)
                 AND s.recovering_since IS NULL
                 AND (d.role = 'draining' OR d.role = 'serving' AND d.accepted_generation <> s.generation)""",
            (list(clusters),),
            retry=True,
        )
        return [_state(*row) for row in rows]

    async def prune_tombstones(self) -> None:
        """Forget removals that every holder has accepted; a difference from before them is the whole set then.

        Some at a time, in turns of the subnets: claims wait meanwhile.
        """
        for _ in range(MAX_ROUNDS):
            subnets = await self._pool.query(_TO_PRUNE, retry=True)
            if not subnets:
                return
            for (subnet,) in subnets:
                await self._pool.transaction(partial(_prune, subnet=subnet), retry=True)

    async def superseded(self, connections: Mapping[int, int]) -> list[int]:
        """Those of these clusters, given with the number of their connection here, that have a later connection."""
        rows = await self._pool.query(
            """SELECT c.id FROM unnest(%s::bigint[], %s::bigint[]) AS q(id, epoch)
               JOIN cluster c ON c.id = q.id WHERE c.epoch > q.epoch""",
            (list(connections), list(connections.values())),
            retry=True,
        )
        return [row[0] for row in rows]

    async def below(self, generations: Mapping[int, int]) -> dict[int, int]:
        """The generations of those of these subnets that have not reached the one that is given with them."""
        rows = await self._pool.query(
            """SELECT s.id, s.generation FROM unnest(%s::bigint[], %s::bigint[]) AS q(id, generation)
               JOIN subnet s ON s.id = q.id WHERE s.generation < q.generation""",
            (list(generations), list(generations.values())),
            retry=True,
        )
        return dict(rows)

    async def difference(self, cluster: int, subnet: int, accepted: int, at_most: int) -> Difference | None:
        """From a known generation to the desired one; None when the subnet is gone."""
        rows = await self._pool.query(
            f"""SELECT {_HEADER}, m.kind, m.identifier, host(m.address), m.hostname, m.removed, m.request_id
               FROM subnet s LEFT JOIN cluster c ON c.id = %s LEFT JOIN LATERAL (
                   SELECT * FROM host_map h WHERE h.subnet + 0 = s.id AND h.generation > %s
                   ORDER BY h.generation LIMIT %s
               ) m ON true WHERE s.id = %s""",  # noqa: S608 (constants only)
            (cluster, accepted, at_most + 1, subnet),
            retry=True,
        )
        return _difference(rows, accepted, at_most) if rows else None

    async def transfer(self, cluster: int, subnet: int, accepted: int | None) -> Transfer | None:
        """The same in pages, or the whole set where `accepted` is None; read in one snapshot of the data."""

        async def read(session: Session) -> Transfer | None:
            rows = await session.run(
                f"SELECT {_HEADER} FROM subnet s LEFT JOIN cluster c ON c.id = %s WHERE s.id = %s",  # noqa: S608 (constants only)
                (cluster, subnet),
            )
            if not rows:
                return None
            cidr, generation, digest, _, epoch = rows[0]
            condition, args = "subnet = %s AND NOT removed", [subnet]
            if accepted is not None:
                condition, args = "subnet + 0 = %s AND generation > %s", [subnet, accepted]
            await session.run(
                f"""DECLARE maps NO SCROLL CURSOR FOR SELECT kind, identifier, host(address), hostname, removed
                    FROM host_map WHERE {condition}""",  # noqa: S608 (constants only)
                args,
            )
            packing = _Packing()
            while rows := await session.run(f"FETCH {MAX_PAGE_ROWS} FROM maps"):
                packing.add(rows)
            packing.close()
            counted = (packing.upserts, packing.removals, packing.upsert_pages, packing.removal_pages)
            return Transfer(cidr, accepted, generation, from_signed(digest), *counted, epoch)

        await self._turns.acquire()
        try:
            return await self._pool.transaction(read, retry=True, isolation="REPEATABLE READ", deadline=READ_SECONDS)
        finally:
            self._turns.release()


async def _prune(session: Session, subnet: int) -> None:
    await lock_subnet(session, subnet)
    await session.execute(_PRUNE, (MAX_PRUNED, subnet))


class _Packing:
    """Rows on their way into pages."""

    def __init__(self) -> None:
        self.upserts = self.removals = 0
        self.upsert_pages: list[Packed] = []
        self.removal_pages: list[Packed] = []
        self._removals: list[Identifier] = []

    def add(self, rows: Sequence[Row]) -> None:
        upserts = []
        for kind, value, address, hostname, removed in rows:
            identifier = Identifier(IdentifierKind(kind), bytes(value))
            if removed:
                self._removals.append(identifier)
            else:
                upserts.append(HostMap(identifier, address, hostname))
        self.upserts += len(upserts)
        self.upsert_pages.extend(HOST_MAPS.packed(upserts))
        if len(self._removals) >= MAX_PAGE_ROWS:
            self.close()

    def close(self) -> None:
        self.removals += len(self._removals)
        self.removal_pages.extend(IDENTIFIERS.packed(self._removals))
        self._removals.clear()


def _state(
    cluster: int, subnet: int, cidr: str, role: str, accepted: int, generation: int, digest: int, recovering: bool
) -> DeliveryState:
    return DeliveryState(cluster, subnet, cidr, role, accepted, generation, from_signed(digest), recovering)


def _difference(rows: Sequence[Row], accepted: int, at_most: int) -> Difference:
    cidr, generation, digest, horizon, epoch = rows[0][:5]
    maps = [row[5:] for row in rows if row[5] is not None]
    too_long, beyond = len(maps) > at_most, accepted < horizon
    upserts: list[HostMap] = []
    removals: list[Identifier] = []
    upserted_by: list[str] = []
    removed_by: list[str] = []
    for kind, value, address, hostname, removed, request_id in [] if too_long or beyond else maps:
        identifier = Identifier(IdentifierKind(kind), bytes(value))
        if removed:
            removals.append(identifier)
            removed_by.append(request_id)
        else:
            upserts.append(HostMap(identifier, address, hostname))
            upserted_by.append(request_id)
    return Difference(
        cidr,
        accepted,
        generation,
        from_signed(digest),
        upserts,
        removals,
        upserted_by + removed_by,
        too_long,
        beyond,
        epoch,
    )
