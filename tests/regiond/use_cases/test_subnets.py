"""One subnet: how full it is, what is free, how long released addresses rest."""

from datetime import timedelta
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.mutations import Acknowledge
from tests.regiond.storage.region import addresses
from tests.regiond.subnet_world import subnet_world

reactor: Any = global_reactor

MAC = Identifier.mac("00:16:3e:00:00:01")
OTHER_MAC = Identifier.mac("00:16:3e:00:00:02")


@pytest_twisted.ensureDeferred
async def test_utilisation_counts_every_address(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("192.0.2.0/24")
        region = world.region
        await region.do(region.device(number, MAC), region.user(number), region.user(number))
        (resting,) = (await region.do(region.device(number, OTHER_MAC))).reservations
        await region.release(resting)
        await world.add(subnet, "192.0.2.100", "192.0.2.149")
        await world.add(subnet, "192.0.2.250", "192.0.2.255", "reserved")
        use = await world.subnets.utilisation(subnet)
        assert (use.cidr, use.usable, use.free) == ("192.0.2.0/24", 254, 254 - 1 - 4 - 50 - 5)
        assert use.active == {"device": 1, "node": 0, "user": 2} and use.releasing == 1
        assert use.in_ranges == {"dynamic": 50, "reserved": 5} and use.infrastructure == 1


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("cidr", "usable"),
    [("10.0.0.0/8", 2**24 - 2), ("192.0.2.0/31", 2), ("2001:db8::/48", 2**80 - 1), ("2001:db8::/127", 2)],
)
async def test_numbers_of_any_size_are_exact(database: str, cidr: str, usable: int) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet(cidr)
        use = await world.subnets.utilisation(subnet)
        assert (use.usable, use.free) == (usable, usable - 1)
        await world.region.do(world.region.user(number))
        use = await world.subnets.utilisation(subnet)
        assert use.free == usable - 2
        assert await world.sound(subnet)


@pytest_twisted.ensureDeferred
async def test_ranges_of_ipv6_are_counted(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, subnet = await world.subnet("2001:db8::/32")
        await world.add(subnet, "2001:db8:8000::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")
        await world.add(subnet, "2001:db8::", "2001:db8::ff", "reserved")
        use = await world.subnets.utilisation(subnet)
        assert use.in_ranges == {"dynamic": 2**95, "reserved": 255}
        assert use.free == 2**95 - 256


@pytest_twisted.ensureDeferred
async def test_the_lowest_free_addresses(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("192.0.2.0/28")
        await world.region.do(world.region.user(number, address="192.0.2.4"))
        await world.add(subnet, "192.0.2.6", "192.0.2.7")
        assert await world.subnets.available(subnet, 1) == ["192.0.2.2"]
        assert await world.subnets.available(subnet, 3) == ["192.0.2.2", "192.0.2.3", "192.0.2.5"]
        everything = await world.subnets.available(subnet, 1000)
        assert everything == [f"192.0.2.{n}" for n in (2, 3, 5, 8, 9, 10, 11, 12, 13, 14)]
        claimed = [addresses(await world.region.do(world.region.user(number)))[0] for _ in everything]
        assert claimed == everything
        assert await world.subnets.available(subnet, 5) == []
        _, large = await world.subnet("2001:db8::/64")
        assert await world.subnets.available(large, 2) == ["2001:db8::2", "2001:db8::3"]


@pytest_twisted.ensureDeferred
async def test_the_release_hold_is_set_also_for_what_is_resting(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        cluster, (number,) = await world.region.cluster("rack-a", "192.0.2.0/24")
        region = world.region
        held = (await region.do(region.device(number, MAC), region.device(number, OTHER_MAC))).reservations
        for each in held:
            await region.release(each)
        await region.do(Acknowledge(cluster, number, 3, 3, rejected=()))
        changed = await world.subnets.change_subnet(world.admin, "192.0.2.0/24", release_hold_seconds=30)
        assert changed.release_hold_seconds == 30
        view = await region.reads.reservation(held[0].id)
        assert view is not None and view.reservation.free_at is not None and view.reservation.confirmed_at is not None
        assert view.reservation.free_at - view.reservation.confirmed_at == timedelta(seconds=30)
        assert not (await region.reclaim(held[0])).created
        for _ in range(2):
            await world.subnets.change_subnet(world.admin, "192.0.2.0/24", release_hold_seconds=0)
        assert (await region.reclaim(held[0])).created
        assert [(before, after) for _, before, after in await world.actions("subnet.")] == [
            ({"release_hold_seconds": 600}, {"release_hold_seconds": 30}),
            ({"release_hold_seconds": 30}, {"release_hold_seconds": 0}),
        ]
        with pytest.raises(errors.NotPermitted):
            await world.subnets.change_subnet(world.user, "192.0.2.0/24", release_hold_seconds=0)
        with pytest.raises(errors.InvalidRequest):
            await world.subnets.change_subnet(world.admin, "192.0.2.0/24", release_hold_seconds=-1)


@pytest_twisted.ensureDeferred
async def test_what_is_not_there(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        for nothing in (
            world.subnets.utilisation("sn-0000000000"),
            world.subnets.available("sn-0000000000", 3),
            world.subnets.list_ranges("no such thing"),
            world.subnets.change_subnet(world.admin, "sn-0000000000", release_hold_seconds=1),
        ):
            with pytest.raises(errors.NotFound):
                await nothing
