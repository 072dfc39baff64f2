"""Removals are forgotten when every holder has accepted them; who comes from before them is sent the whole set."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.domain.mutations import Acknowledge
from regiond.storage.deliveries import DeliveryReads
from tests.regiond.storage.region import Region, region_on

reactor: Any = global_reactor
NET = "192.0.2.0/24"


def mac(number: int) -> Identifier:
    return Identifier.mac(f"00:16:3e:00:00:{number:02x}")


async def tombstones(region: Region) -> int:
    return int((await region.pool.query("SELECT count(*) FROM host_map WHERE removed"))[0][0])


async def accept(region: Region, cluster: int, subnet: int, generation: int) -> None:
    await region.do(Acknowledge(cluster, subnet, accepted_generation=generation, applied_generation=generation))


@pytest_twisted.ensureDeferred
async def test_a_removal_is_forgotten_when_all_holders_have_it_and_its_address_is_free(database: str) -> None:
    async with region_on(database, reactor) as region:
        reads = DeliveryReads(region.pool)
        cluster, (subnet,) = await region.cluster("rack-7", NET)
        held = (await region.do(region.device(subnet, mac(1)))).reservations[0]
        await region.do(region.device(subnet, mac(2)))
        await region.release(held, force=True)
        await accept(region, cluster, subnet, 2)
        await reads.prune_tombstones()
        assert await tombstones(region) == 1, "the cluster has not accepted the removal"
        late = await reads.difference(cluster, subnet, 2, 500)
        assert late is not None and (late.beyond_horizon, list(late.removals)) == (False, [mac(1)])
        await accept(region, cluster, subnet, 3)
        await reads.prune_tombstones()
        assert await tombstones(region) == 0
        assert await region.digest_is_right(subnet)

        # An old disk comes back: what it would have to remove is not known any more.
        beyond = await reads.difference(cluster, subnet, 2, 500)
        assert beyond is not None and beyond.beyond_horizon
        assert (list(beyond.upserts), list(beyond.removals)) == ([], [])
        at_it = await reads.difference(cluster, subnet, 3, 500)
        assert at_it is not None and not at_it.beyond_horizon


@pytest_twisted.ensureDeferred
async def test_the_slowest_holder_decides_and_a_resting_address_keeps_its_removal(database: str) -> None:
    async with region_on(database, reactor) as region:
        reads = DeliveryReads(region.pool)
        cluster, (subnet,) = await region.cluster("rack-7", NET)
        other, _ = await region.cluster("rack-8", "198.51.100.0/24")
        held = (await region.do(region.device(subnet, mac(1)))).reservations[0]
        await region.release(held)
        await accept(region, cluster, subnet, 2)
        await reads.prune_tombstones()
        assert await tombstones(region) == 1, "its client may have the address back while it rests"
        await region.release(held, force=True)
        await region.pool.execute(
            "INSERT INTO delivery (subnet, cluster, role, accepted_generation) VALUES (%s, %s, 'draining', 1)",
            (subnet, other),
        )
        await reads.prune_tombstones()
        assert await tombstones(region) == 1, "a draining holder is one, too"
        await region.pool.execute("UPDATE subnet SET recovering_since = now()")
        await region.pool.execute("UPDATE delivery SET accepted_generation = 9 WHERE cluster = %s", (other,))
        await reads.prune_tombstones()
        assert await tombstones(region) == 1, "evidence is compared with it"
        await region.pool.execute("UPDATE subnet SET recovering_since = NULL")
        await reads.prune_tombstones()
        assert await tombstones(region) == 0


@pytest_twisted.ensureDeferred
async def test_however_many_removals_there_are_one_sweep_forgets_them_all(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at a time, so that claims on the subnet do not wait for all of them."""
    monkeypatch.setattr("regiond.storage.deliveries.MAX_PRUNED", 3)
    async with region_on(database, reactor) as region:
        cluster, subnets = await region.cluster("rack-7", NET, "198.51.100.0/24")
        for subnet in subnets:
            held = (await region.do(*[region.device(subnet, mac(n)) for n in range(8)])).reservations
            for each in held:
                await region.release(each, force=True)
            await accept(region, cluster, subnet, 9)
        assert await tombstones(region) == 16
        await DeliveryReads(region.pool).prune_tombstones()
        assert await tombstones(region) == 0
        assert await region.pool.query("SELECT DISTINCT horizon FROM subnet") == [(9,)]
