"""The stories of the planner on a real PostgreSQL: the same outcomes and the same rows as on the tables in memory."""

from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from twisted.internet import reactor as global_reactor

from clusterd.protocol.arguments import HOST_MAPS, IDENTIFIERS
from regiond.storage.deliveries import DeliveryReads, Difference, Transfer
from tests.fakes.storage import FakeStorage
from tests.fakes.tables_world import TablesWorld
from tests.regiond.domain.player import Player
from tests.regiond.domain.stories import Story, stories
from tests.regiond.storage.postgres_world import PostgresWorld
from tests.regiond.storage.region import region_on
from tests.upgrades.later_schema import migrate_further

reactor: Any = global_reactor


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@pytest_twisted.ensureDeferred
async def test_a_story_goes_the_same_way_on_postgresql_and_in_memory(database: str, story: Story) -> None:
    await same_way(database, story)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@pytest_twisted.ensureDeferred
async def test_so_it_does_on_the_schema_of_a_newer_regiond(newer_database: str, story: Story) -> None:
    """While regionds are upgraded one by one, this one claims in tables that have more in them than it knows."""
    await same_way(newer_database, story)


@pytest.fixture
def newer_database(database: str) -> str:
    migrate_further(database)
    return database


async def same_way(database: str, story: Story) -> None:
    async with region_on(database, reactor) as region:
        world = PostgresWorld(region.pool, region.writer)
        await world.prepare(story)
        twin = TablesWorld(story, world.subnets, world.clusters, world.owners)
        outcomes = await (await Player.on(world, story, first_id=world.base + 1000)).play()
        assert outcomes == await (await Player.on(twin, story, first_id=world.base + 1000)).play()
        assert await world.rows() == await twin.rows()
        for subnet in world.subnets:
            assert await region.digest_is_right(subnet)
        assert await region.tiles(world.subnets)
        await compare_reads(DeliveryReads(region.pool), FakeStorage(twin.tables), world)


async def compare_reads(real: DeliveryReads, fake: FakeStorage, world: PostgresWorld) -> None:
    """The fake of what the dispatcher reads answers as the real one, whatever the order of rows."""
    for question in ("held_by", "stragglers"):
        answers = [await getattr(reads, question)(world.clusters) for reads in (real, fake)]
        assert sorted(map(str, answers[0])) == sorted(map(str, answers[1]))
    for subnet in world.subnets:
        for accepted in (None, *range(5)):
            assert unpacked(await real.transfer(0, subnet, accepted)) == unpacked(
                await fake.transfer(0, subnet, accepted)
            )
            for at_most in (1, 500):
                one = await real.difference(0, subnet, accepted or 0, at_most)
                assert _content(one) == _content(await fake.difference(0, subnet, accepted or 0, at_most))
    assert await real.difference(0, 0, 0, 1) is await fake.difference(0, 0, 0, 1) is None


def unpacked(transfer: Transfer | None) -> object:
    assert transfer is not None
    upserts = [one for page in transfer.upsert_pages for one in HOST_MAPS.fromString(page)]
    removals = [one for page in transfer.removal_pages for one in IDENTIFIERS.fromString(page)]
    assert (len(upserts), len(removals)) == (transfer.upserts, transfer.removals)
    whole = (transfer.cidr, transfer.from_generation, transfer.to_generation, transfer.digest)
    return *whole, sorted(upserts), sorted(removals)


def _content(change: Difference | None) -> object:
    assert change is not None
    assert len(change.request_ids) == len(change.upserts) + len(change.removals)
    changes = [*change.upserts, *change.removals]
    named = sorted(zip(map(str, changes), change.request_ids, strict=True))
    return change.cidr, change.from_generation, change.to_generation, change.digest, named, change.too_long
