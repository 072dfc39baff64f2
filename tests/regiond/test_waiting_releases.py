"""What a releasing address waits for, in words that name the way out; and the way out works."""

from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge
from tests.regiond.storage.region import region_on

reactor: Any = global_reactor

MAC = Identifier.mac("00:16:3e:00:00:01")


@pytest_twisted.ensureDeferred
async def test_each_thing_that_blocks_a_release_says_what_ends_it(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.device(subnet, MAC))).reservations
        force = f"regionctl reservations release {format_id(Prefix.RESERVATION, held.id)} --force"

        async def told() -> str:
            view = await region.reads.reservation(held.id)
            assert view is not None
            return "; ".join(view.waits_for)

        assert await told() == ""
        await region.release(held)
        connected = await told()
        assert connected.startswith("cluster rack-a to confirm the removal (connected, at generation 0 of 2 since ")
        assert connected.endswith(f"); it is being told, or {force}")
        await region.do(Acknowledge(cluster, subnet, error="no space left on device"))
        failing = await told()
        assert "no space left on device" in failing
        assert failing.endswith(f"; see what its DHCP server lacks, or {force}")
        await region.pool.execute("UPDATE cluster SET connected_since = NULL")
        away = await told()
        assert "(not connected, " in away
        assert away.endswith(f"; bring its clusterd back, or {force}")
        await region.do(Acknowledge(cluster, subnet, 2, 2, rejected=()))
        resting = await told()
        assert resting.startswith("the release hold, until ")
        assert resting.endswith(f"({force} ends it)")
        await region.release(held, force=True)
        assert await region.reads.reservation(held.id) is None
        assert await region.tiles([subnet])
