"""With 100,000 reservations no batch of mutations reads a whole table.

The counters are the server's own: with generic plans a look-up of a few keys once became a sequential scan of all
reservations, 30 ms a batch.
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier, RejectedMap
from regiond.domain.mutations import Acknowledge, Idempotency, Mutation, Outcome, Reclaim, Release, Step
from regiond.domain.plan import plan
from regiond.storage.batch import facts_request, read_facts, subnets_of
from regiond.storage.batch_changes import changes_document
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.pool import Pool, Session
from tests.regiond.storage.crowd import crowd
from tests.regiond.storage.region import Region, region_on

reactor: Any = global_reactor

TAKEN = 100_000
TABLES = ("reservation", "host_map", "free_range")


async def scans(pool: Pool) -> dict[str, tuple[int, int]]:
    """Per table: sequential scans, and look-ups in an index."""
    rows = await pool.query(
        "SELECT relname, seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = ANY(%s)", (list(TABLES),)
    )
    return {name: (sequential, by_index) for name, sequential, by_index in rows}


async def committed(pool: Pool, mutations: Sequence[Mutation]) -> Sequence[Any]:
    """As the writer does it, with the counters told at once."""

    async def batch(session: Session) -> Sequence[Any]:
        await session.run(
            "SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", (subnets_of(mutations),)
        )
        facts = read_facts(await session.run("SELECT tag, fact FROM batch_facts(%s)", (facts_request(mutations),)))
        decided = plan(facts, mutations)
        await session.run("SELECT batch_write(%s)", (changes_document(str(uuid4()), decided.changes, facts.subnets),))
        await session.run("SELECT pg_stat_force_next_flush()")
        return decided.outcomes

    return await pool.transaction(batch)


def every_sort(region: Region, subnet: int, cluster: int, turn: int) -> list[Mutation]:
    """Mutations of every sort: each looks up something of its own."""
    far = 50_000 + 10 * turn
    mac = Identifier.mac(f"00:16:3e:00:00:{turn:02x}")
    known = Identifier.mac(f"02:00:00:00:10:{turn + 1:02x}")
    steps: list[tuple[Step, ...]] = [
        (region.user(subnet),),
        (region.user(subnet, address=f"10.3.{turn}.1"),),
        (region.device(subnet, mac),),
        (region.device(subnet, known),),
        (Reclaim(1, subnet, f"10.2.{turn}.8"),),
        (Release(1, subnet, f"10.2.{turn}.10"),),
        (Acknowledge(cluster, subnet, 1, 1, rejected=(RejectedMap(known, f"no {far}"),)),),
    ]
    return [
        Mutation(region.actor, each, "request", Idempotency(region.owner, f"key-{turn}-{index}", "f"))
        for index, each in enumerate(steps)
    ]


@pytest_twisted.ensureDeferred
async def test_no_batch_scans_a_table(database: str) -> None:
    async with region_on(database, reactor) as region:
        subnet, cluster = await crowd(region, TAKEN)
        pool = Pool(reactor, database, size=1)
        pool.start()
        try:
            before = await scans(pool)
            for turn in range(8):
                outcomes = await committed(pool, every_sort(region, subnet, cluster, turn))
                made = [outcome.reservations[0] for outcome in outcomes[:3] if isinstance(outcome, Outcome)]
                assert len(made) == 3, outcomes
                releases = [Release(one.id, one.subnet, one.address) for one in made]
                await committed(pool, [Mutation(region.actor, (step,), "request") for step in releases])
            after = await scans(pool)
            for table in TABLES:
                assert after[table][0] == before[table][0], f"{table} was read from end to end"
                assert after[table][1] > before[table][1] + 8, f"the counters of {table} do not count"
            assert await region.tiles([subnet])
            assert await region.digest_is_right(subnet)
        finally:
            await pool.close()


async def rows_read(pool: Pool) -> dict[str, int]:
    """Per table, entries that were read of its indexes, and rows of the table itself without one."""
    rows = await pool.query(
        """SELECT t.relname, t.seq_tup_read + (SELECT sum(i.idx_tup_read) FROM pg_stat_user_indexes i
               WHERE i.relid = t.relid) FROM pg_stat_user_tables t WHERE t.relname = ANY(%s)""",
        (list(TABLES),),
    )
    return {name: int(count) for name, count in rows}


@pytest_twisted.ensureDeferred
async def test_without_statistics_a_batch_reads_no_more_than_it_needs(database: str) -> None:
    """As after a restore, or where very much came in the minute before autovacuum looked."""
    async with region_on(database, reactor) as region:
        subnet, cluster = await crowd(region, 5000, analyzed=False)
        pool = Pool(reactor, database, size=1)
        pool.start()
        try:
            before = await rows_read(pool)
            batches = [every_sort(region, subnet, cluster, turn) for turn in range(4)]
            for batch in batches:
                await committed(pool, batch)
            after = await rows_read(pool)
            mutations = sum(map(len, batches))
            for table in TABLES:
                assert after[table] - before[table] < 20 * mutations, (table, after, before)
            difference = await DeliveryReads(pool).difference(cluster, subnet, 1, 500)
            assert difference is not None
            assert difference.upserts
            await pool.query("SELECT pg_stat_force_next_flush()")
            assert (await rows_read(pool))["host_map"] - after["host_map"] < 1000
        finally:
            await pool.close()


@pytest_twisted.ensureDeferred
async def test_the_counters_would_show_a_scan(database: str) -> None:
    async with region_on(database, reactor) as region:
        await crowd(region, 1000)
        before = await scans(region.pool)

        async def scan(session: Session) -> None:
            await session.run("SELECT count(*) FROM reservation WHERE hostname = 'nobody'")
            await session.run("SELECT pg_stat_force_next_flush()")

        await region.pool.transaction(scan)
        assert (await scans(region.pool))["reservation"][0] == before["reservation"][0] + 1
