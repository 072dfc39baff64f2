"""A region's storage on a fresh database, for tests: pools, writer, a cluster with its subnets, an account."""

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from clusterd.protocol.values import Identifier, InterfaceReport
from regiond.domain.identity import ByName, Introduction
from regiond.domain.ids import ID_BITS
from regiond.domain.mutations import Actor, Claim, Idempotency, Mutation, NewDevice, Outcome, Reclaim, Release
from regiond.domain.reservations import Kind, Reservation
from regiond.storage.pool import Pool
from regiond.storage.reads import Reads
from regiond.storage.topology import ClusterStore
from regiond.storage.writer import Writer

TILES = """
    SELECT (SELECT coalesce(array_agg((host(low), host(high)) ORDER BY high), '{}') FROM free_range WHERE subnet = %s)
         = (SELECT coalesce(array_agg((host(low), host(high)) ORDER BY high), '{}') FROM expected_free_ranges(%s))
"""


_random = random.SystemRandom()  # hypothesis repeats what the default one says


def new_id() -> int:
    return _random.getrandbits(ID_BITS)


@dataclass(slots=True)
class Region:
    """The storage of one region, with one account and what it takes to claim."""

    pool: Pool
    writer: Writer
    reads: Reads
    clusters: ClusterStore
    owner: int
    committed: list[frozenset[int]] = field(default_factory=list)

    @property
    def actor(self) -> Actor:
        return Actor(self.owner, "tester", is_admin=True)

    async def cluster(self, name: str, *cidrs: str) -> tuple[int, list[int]]:
        """A cluster whose eth0 is on these networks with their first address; its id and the subnets' ids."""
        registered = await self.clusters.register(ByName(name), Introduction(name, "file", "0"))
        reports = [InterfaceReport("eth0", cidr, (first_address(cidr),)) for cidr in cidrs]
        await self.clusters.apply_topology(registered.cluster, reports)
        known = {view.cidr: view.id for view in await self.reads.subnets()}
        return registered.cluster, [known[cidr] for cidr in cidrs]

    def device(self, subnet: int, *identifiers: Identifier, **values: Any) -> Claim:
        return Claim(
            new_id(),
            Kind.DEVICE,
            subnet,
            self.owner,
            "tester",
            identifiers=identifiers,
            device=NewDevice(new_id(), None, None),
            **values,
        )

    def user(self, subnet: int, **values: Any) -> Claim:
        return Claim(new_id(), Kind.USER, subnet, self.owner, "tester", **values)

    async def do(self, *steps: Any, key: str | None = None, fingerprint: str = "f") -> Outcome:
        idempotency = None if key is None else Idempotency(self.owner, key, fingerprint)
        return await self.writer.submit(Mutation(self.actor, steps, "test-request", idempotency))

    async def release(self, reservation: Reservation, *, force: bool = False) -> Outcome:
        return await self.do(Release(reservation.id, reservation.subnet, reservation.address, force))

    async def reclaim(self, reservation: Reservation) -> Outcome:
        return await self.do(Reclaim(reservation.id, reservation.subnet, reservation.address))

    async def tiles(self, subnets: Iterable[int]) -> bool:
        """Whether the index of free space is exactly what it has to be."""
        for subnet in subnets:
            rows = await self.pool.query(TILES, (subnet, subnet))
            if not rows[0][0]:
                return False
        return True

    async def digest_is_right(self, subnet: int) -> bool:
        """Whether the digest that is kept equals the one recomputed from the rows."""
        rows = await self.pool.query("SELECT digest, host_map_digest(id) FROM subnet WHERE id = %s", (subnet,))
        return bool(rows[0][0] == rows[0][1])


def first_address(cidr: str) -> str:
    base, _, _ = cidr.partition("/")
    return base.rsplit(".", 1)[0] + ".1" if "." in base else f"{base.removesuffix('::')}::1"


@asynccontextmanager
async def region_on(dsn: str, reactor: Any) -> AsyncIterator[Region]:
    pool = Pool(reactor, dsn, size=4)
    pool.start()
    committed: list[frozenset[int]] = []
    writer = Writer(reactor, pool, committed.append)
    owner = new_id()
    try:
        await pool.execute("INSERT INTO account (id, name, role) VALUES (%s, %s, 'admin')", (owner, f"tester-{owner}"))
        yield Region(pool, writer, Reads(pool), ClusterStore(pool, new_id), owner, committed)
    finally:
        await writer.stop()
        await pool.close()


def addresses(outcome: Outcome) -> Sequence[str]:
    return [reservation.address for reservation in outcome.reservations]
