"""The stories of the planner on a real PostgreSQL: the same outcomes and the same rows as on the tables in memory."""

from typing import Any

import pytest_twisted
from hypothesis import HealthCheck, given, settings
from twisted.internet import reactor as global_reactor

from tests.fakes.tables_world import TablesWorld
from tests.regiond.domain.player import Player
from tests.regiond.domain.stories import Story, stories
from tests.regiond.storage.postgres_world import PostgresWorld
from tests.regiond.storage.region import region_on

reactor: Any = global_reactor


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@pytest_twisted.ensureDeferred
async def test_a_story_goes_the_same_way_on_postgresql_and_in_memory(database: str, story: Story) -> None:
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
