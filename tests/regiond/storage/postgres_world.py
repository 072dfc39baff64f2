"""The world of a story on a real PostgreSQL: the writer, with batches of exactly the members that the story says."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from clusterd.protocol.addresses import address_to_int
from regiond.domain.errors import DomainError
from regiond.domain.mutations import Acknowledge, Actor, Mutation, Outcome
from regiond.domain.networks import network
from regiond.storage.pool import Pool
from regiond.storage.writer import Writer
from tests.fakes.tables_world import comparable
from tests.regiond.domain.stories import Rows, Story

# Does nothing, and keeps the writer busy while a batch gathers behind it.
NOTHING = Mutation(Actor(None, "region", is_admin=True), (Acknowledge(0, 0, accepted_generation=0),), "nothing")


class PostgresWorld:
    """See `stories.World`. Many stories share a database: each has a VRF, subnets, clusters and accounts of its own."""

    _bases: Iterator[int] = count(1_000_000_000, 1_000_000_000)

    def __init__(self, pool: Pool, writer: Writer) -> None:
        self._pool = pool
        self._writer = writer
        base = next(self._bases)
        self.base = base
        self.subnets = (base + 101, base + 102)
        self.clusters = (base + 201, base + 202)
        self.accounts = (base + 1, base + 2)
        self.owners = {account: f"account-{account}" for account in self.accounts}

    async def prepare(self, story: Story) -> None:
        run = self._pool.execute
        await run("INSERT INTO vrf VALUES (%s, %s)", (self.base, f"vrf-{self.base}"))
        for account in self.owners.items():
            await run("INSERT INTO account (id, name, role) VALUES (%s, %s, 'user')", account)
        node = """INSERT INTO node (id, hostname, owner) VALUES (1, 'node-1', %s)
                  ON CONFLICT (id) DO UPDATE SET owner = excluded.owner"""
        await run(node, self.accounts[:1])
        for cluster in self.clusters:
            await run("INSERT INTO cluster (id, name) VALUES (%s, %s)", (cluster, f"rack-{cluster}"))
        for subnet, ground, served in zip(self.subnets, story.grounds, story.served, strict=True):
            net = network(ground.cidr)
            await run(
                """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, release_hold_seconds)
                   VALUES (%s, %s, %s, %s, %s, %s)""",
                (subnet, self.base, net.cidr, net.text(net.first_usable), net.text(net.last_usable), story.hold),
            )
            for index, (kind, low, high) in enumerate(ground.ranges):
                await run(
                    "INSERT INTO address_range (id, subnet, low, high, kind) VALUES (%s, %s, %s, %s, %s)",
                    (subnet + 1000 * (index + 1), subnet, low, high, kind),
                )
            for kind, address in ground.infrastructure:
                await run(
                    "INSERT INTO infrastructure_address (subnet, address, cluster, kind) VALUES (%s, %s, %s, %s)",
                    (subnet, address, self.clusters[0], kind),
                )
            for cluster in self.clusters if served else ():
                await self.set_role(subnet, cluster, "serving")
            await run("SELECT rebuild_free_ranges(%s)", (subnet,))

    async def batch(self, mutations: Sequence[Mutation]) -> list[Outcome | DomainError]:
        # The first is a batch by itself, the others are the half of what waits then: the members are the next half.
        busy = [Deferred.fromCoroutine(self._writer.submit(NOTHING)) for _ in range(len(mutations) + 2)]
        waiting = [Deferred.fromCoroutine(self._writer.submit(mutation)) for mutation in mutations]
        await DeferredList(busy, fireOnOneErrback=True)
        outcomes: list[Outcome | DomainError] = []
        results: list[tuple[bool, Any]] = await DeferredList(waiting, consumeErrors=True)
        for _, result in results:
            if isinstance(result, Failure):
                if not isinstance(result.value, DomainError):
                    result.raiseException()
                outcomes.append(result.value)
            else:
                outcomes.append(result)
        return outcomes

    async def sooner(self, seconds: float) -> None:
        await self._pool.execute(
            """UPDATE reservation SET confirmed_at = confirmed_at - make_interval(secs => %s),
               free_at = free_at - make_interval(secs => %s) WHERE subnet = ANY(%s)""",
            (seconds, seconds, list(self.subnets)),
        )

    async def set_role(self, subnet: int, cluster: int, role: str) -> None:
        await self._pool.execute(
            """INSERT INTO delivery (subnet, cluster, role) VALUES (%s, %s, %s)
               ON CONFLICT (subnet, cluster) DO UPDATE SET role = excluded.role""",
            (subnet, cluster, role),
        )

    async def rows(self) -> Rows:
        query, subnets = self._pool.query, list(self.subnets)
        free = await query("SELECT subnet, host(low), host(high) FROM free_range WHERE subnet = ANY(%s)", (subnets,))
        reservations = await query(
            """SELECT to_jsonb(r) || jsonb_build_object('address', host(r.address), 'owner_name', a.name)
               FROM reservation r JOIN account a ON a.id = r.owner WHERE subnet = ANY(%s)""",
            (subnets,),
        )
        maps = await query(
            """SELECT to_jsonb(m) - 'later'  -- what a newer regiond's schema adds
                      || jsonb_build_object('address', host(address), 'identifier', encode(identifier, 'hex'))
               FROM host_map m WHERE subnet = ANY(%s)""",
            (subnets,),
        )
        devices = await query("SELECT id FROM device WHERE owner = ANY(%s)", (list(self.accounts),))
        answers = await query(
            "SELECT account, key, fingerprint FROM idempotency WHERE account = ANY(%s)", (list(self.accounts),)
        )
        return Rows(
            subnets={
                row[0]: (row[1], row[2])
                for row in await query("SELECT id, generation, digest FROM subnet WHERE id = ANY(%s)", (subnets,))
            },
            free={
                s: sorted((address_to_int(low)[1], address_to_int(high)[1]) for of, low, high in free if of == s)
                for s in subnets
            },
            reservations={(row["subnet"], row["address"]): comparable(row) for (row,) in reservations},
            maps={(row["subnet"], row["kind"], row["identifier"]): row for (row,) in maps},
            deliveries={
                (row[0], row[1]): row[2:]
                for row in await query(
                    """SELECT subnet, cluster, role, accepted_generation, applied_generation, error FROM delivery
                       WHERE subnet = ANY(%s)""",
                    (subnets,),
                )
            },
            rejected={
                row[:4]: row[4]
                for row in await query(
                    """SELECT subnet, cluster, kind, encode(identifier, 'hex'), reason FROM rejected_map
                       WHERE subnet = ANY(%s)""",
                    (subnets,),
                )
            },
            devices={row[0] for row in devices},
            answers={(account, key): fingerprint for account, key, fingerprint in answers},
            audit=await query("SELECT action, object FROM audit WHERE account = %s ORDER BY id", (self.accounts[0],)),
        )


def _int(text: str) -> int:
    return address_to_int(text)[1]
