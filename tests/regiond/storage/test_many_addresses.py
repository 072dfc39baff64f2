"""Devices and nodes with very many addresses: lists are complete, nothing is planned or made in one long turn."""

from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Claim, NewDevice
from regiond.domain.reservations import Kind
from regiond.storage.nodes import NodeStore
from regiond.storage.reads import AT_ONCE
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases.batches import MAX_STEPS
from regiond.use_cases.steps import MAX_NODE_ADDRESSES, DeviceRelease, NodeAddressClaim
from tests.regiond.storage.region import Region, new_id, region_on
from tests.regiond.storage.test_reads import change
from tests.regiond.test_repeated_requests import Requests, requests_on
from tests.regiond.use_cases.test_batches import Asking

reactor: Any = global_reactor

NET = "10.0.0.0/16"
PART = 250


async def claims(region: Region, subnet: int, count: int, **of: Any) -> None:
    """So many addresses of a device or node, some at a time."""
    for start in range(0, count, PART):
        steps = []
        for _ in range(start, min(start + PART, count)):
            identifier = Identifier.mac(f"02{new_id() % 2**40:010x}")
            kind = Kind.NODE if "node" in of else Kind.DEVICE
            steps.append(Claim(new_id(), kind, subnet, region.owner, "tester", identifiers=(identifier,), **of))
            if isinstance(of.get("device"), NewDevice):
                of["device"] = of["device"].id
        await region.do(*steps)


async def device(region: Region, subnet: int, addresses: int) -> int:
    made = new_id()
    await claims(region, subnet, addresses, device=NewDevice(made, None, None))
    return made


@pytest_twisted.ensureDeferred
async def test_a_page_of_devices_has_all_their_addresses_and_fewer_devices_instead(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, [subnet] = await region.cluster("rack-a", NET)
        sizes = {await device(region, subnet, size): size for size in (AT_ONCE + 1, 600, 500, 1, 2)}
        after: int | None = None
        seen: dict[int, int] = {}
        pages: list[int] = []
        more = True
        while more:
            page, more = await region.reads.device_page(None, 3, after)
            after = page[-1].id
            seen |= {view.id: len(view.reservations) for view in page}
            together = sum(len(view.reservations) for view in page)
            assert together <= AT_ONCE or len(page) == 1
            pages.append(len(page))
        assert seen == sizes and list(seen) == sorted(sizes)
        assert max(pages) <= 3
        assert await region.reads.device_page(new_id(), 3) == ([], False)
        whole = await region.reads.all_reservations(ReservationFilter(subnets=[subnet]))
        assert len({view.reservation.id for view in whole}) == len(whole) == sum(sizes.values())


async def node_with(requests: Requests, addresses: int) -> str:
    region = requests.region
    _, [subnet] = await region.cluster("rack-b", NET)
    node = await NodeStore(region.pool, new_id).create(change(region), "n1", [], region.owner, None)
    await claims(region, subnet, addresses, node=node)
    return format_id(Prefix.NODE, node)


async def give_back(requests: Requests, node: str, addresses: int) -> None:
    claims, context = requests.claims, requests.context()
    for view in (await claims.list_node_addresses(context, node))[:addresses]:
        reservation = format_id(Prefix.RESERVATION, view.reservation.id)
        await claims.release_node_address(context, node, reservation, force=True)


@pytest_twisted.ensureDeferred
async def test_a_node_has_only_so_many_addresses_and_gives_all_of_them_back(database: str) -> None:
    async with requests_on(database) as here:
        node = await node_with(here, MAX_NODE_ADDRESSES - 1)
        nothing: dict[str, Any] = dict.fromkeys(("alias", "client_id", "duid", "address", "hostname"))

        async def claimed(mac: str, key: str | None = None) -> tuple[str, bool]:
            view, new = await here.claims.claim_node_address(
                here.context(key, 0.0), node, interface=NET, mac=mac, **nothing
            )
            return view.reservation.address, new

        last = await claimed("00:16:3e:00:00:01", "k")
        with pytest.raises(errors.NodeFull) as full:
            await claimed("00:16:3e:00:00:02")
        assert full.value.members == {"limit": MAX_NODE_ADDRESSES}
        assert await claimed("00:16:3e:00:00:01") == (last[0], False), "what it has already it is told"
        assert await claimed("00:16:3e:00:00:01", "k") == last
        await give_back(here, node, 2)
        asking = Asking(here)
        members = [NodeAddressClaim(node, NET, mac=f"00:16:3e:00:01:{n:02x}") for n in range(3)]
        with pytest.raises(errors.BatchRefused) as refused:
            await asking.run(*members)
        assert [(position, type(why)) for position, why in refused.value.refused] == [(2, errors.NodeFull)]
        await asking.run(*members[:2])
        listed: Sequence[Any] = await here.claims.list_node_addresses(here.context(), node)
        assert len(listed) == MAX_NODE_ADDRESSES
        releasing = await here.claims.delete_node(here.context(), node, force=False)
        assert len(releasing) == MAX_NODE_ADDRESSES


@pytest_twisted.ensureDeferred
async def test_a_batch_gives_only_so_many_addresses_back(database: str) -> None:
    async with requests_on(database) as here:
        _, [subnet] = await here.region.cluster("rack-b", NET)
        devices = [await device(here.region, subnet, MAX_STEPS // 2) for _ in range(3)]
        members = [DeviceRelease(format_id(Prefix.DEVICE, each), force=True) for each in devices]
        asking = Asking(here)
        with pytest.raises(errors.BatchRefused) as refused:
            await asking.run(*members)
        [(position, why)] = refused.value.refused
        assert (position, f"{MAX_STEPS} changes" in why.detail) == (1, True)
        assert await asking.count("device") == 3
        await asking.run(members[0])
        assert await asking.count("device") == 2
