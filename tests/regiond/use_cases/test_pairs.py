"""Two clusters on one subnet, on a real PostgreSQL with the real parts of clusterd at the other end of real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.dhcp.first_contact import ServerPicture
from clusterd.protocol.values import Identifier, InterfaceReport
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.reservations import MapState, Reservation
from regiond.storage.pairs import PairStore
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.pairs import Pairs
from regiond.use_cases.requests import Caller, RequestContext
from tests.fakes.backend import FakeBackend
from tests.regiond.office import Office, Site, office, site
from tests.waiting import until

reactor: Any = global_reactor

NET = "192.0.2.0/24"
MAC, OTHER = Identifier.mac("00:16:3e:00:00:01"), Identifier.mac("00:16:3e:00:00:02")


@dataclass
class Wire:
    """A region, and two clusters on one network, of which the second is not confirmed yet."""

    at: Office
    pairs: Pairs
    first: Site
    second: Site
    subnet: int

    @property
    def admin(self) -> RequestContext:
        return RequestContext(Caller(self.at.region.owner, "tester", is_admin=True, read_only=False), "test-request")

    async def roles(self) -> dict[str, str]:
        return {found.name: found.role for found in await self.pairs.clusters_on(NET)}

    async def serving_states(self, nic: str = "eth0") -> dict[str, str]:
        views = await self.at.region.reads.interfaces()
        return {view.cluster_name: view.serving for view in views if view.nic == nic and view.present}

    async def is_confirmed(self, held: Reservation) -> bool:
        view = await self.at.region.reads.reservation(held.id)
        return view is not None and view.reservation.confirmed_at is not None

    async def actions(self) -> list[tuple[str, Any]]:
        rows = await self.at.region.pool.query("SELECT action, after FROM audit ORDER BY id")
        return [(action, after) for action, after in rows if action.startswith("subnet.")]


async def report(of: Site, own: str, nic: str = "eth0") -> None:
    await until(lambda: bool(of.registrations))
    await of.connection.report_topology((InterfaceReport(nic, NET, (own,)),))
    await of.connection.report_dhcp_server(ServerPicture(), None)


@asynccontextmanager
async def wire(dsn: str, directory: Path) -> AsyncIterator[Wire]:
    disks = [directory / "one", directory / "two"]
    for disk in disks:
        disk.mkdir()
    async with office(dsn, directory) as at:
        inventory = Inventory(at.region.reads, Catalogue(reactor, at.region.reads))
        pairs = Pairs(inventory, PairStore(at.region.pool), at.dispatch.holdings_changed)
        async with (
            site(disks[0], at.socket, FakeBackend(), "rack-a") as first,
            site(disks[1], at.socket, FakeBackend(), "rack-b") as second,
        ):
            await report(first, "192.0.2.1")
            await report(second, "192.0.2.2")
            yield Wire(at, pairs, first, second, await at.subnet(NET))


@pytest_twisted.ensureDeferred
async def test_a_second_cluster_gets_no_host_map_until_an_admin_confirms_it(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        region = on.at.region
        assert await on.roles() == {"rack-a": "serving", "rack-b": "shared-subnet"}
        claimed = await region.do(region.device(on.subnet, MAC))
        assert await on.at.settled(claimed) == (MapState.APPLIED, None)
        assert not on.second.backend.maps and not on.second.backend.changes

        found = await on.pairs.confirm(on.admin, NET, "rack-b")
        assert (found.role, found.nics, found.desired_generation) == ("serving", ("eth0",), 1)
        await until(lambda: on.second.backend.maps == on.first.backend.maps)
        assert await on.at.settled(claimed) == (MapState.APPLIED, None)
        assert await on.serving_states() == {"rack-a": "serving", "rack-b": "serving"}
        again = await on.pairs.confirm(on.admin, NET, "rack-b")
        assert again.role == "serving"
        assert await on.actions() == [("subnet.confirm-pair", {"cluster": "rack-b"})], "once, though told twice"

        await report(on.second, "192.0.2.2")
        assert await on.roles() == {"rack-a": "serving", "rack-b": "serving"}, "a report changes nothing of it"


@pytest_twisted.ensureDeferred
async def test_it_is_applied_when_both_have_it_and_free_when_both_have_confirmed(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        region = on.at.region
        await on.pairs.confirm(on.admin, NET, "rack-b")
        on.second.backend.refuse_all("no more memory")
        claimed = await region.do(region.device(on.subnet, MAC))
        assert await on.at.settled(claimed) == (MapState.FAILED, "no more memory")
        await until(lambda: len(on.first.backend.maps) == 1)
        on.second.backend.accept_all()

        async def is_applied() -> bool:
            return (await on.at.settled(claimed))[0] is MapState.APPLIED

        await until(is_applied)
        on.second.backend.refuse_all("no more memory")
        (held,) = claimed.reservations
        await region.release(held)
        await until(lambda: not on.first.backend.maps)

        async def waits_for_the_second() -> bool:
            view = await region.reads.reservation(held.id)
            assert view is not None
            return len(view.waits_for) == 1 and view.waits_for[0].startswith("cluster rack-b")

        await until(waits_for_the_second)
        assert not await on.is_confirmed(held)
        on.second.backend.accept_all()
        await until(lambda: on.is_confirmed(held))
        assert not on.second.backend.maps


@pytest_twisted.ensureDeferred
async def test_a_pair_ends_and_nothing_is_freed_before_the_one_that_goes_has_confirmed(
    database: str, tmp_path: Path
) -> None:
    async with wire(database, tmp_path) as on:
        region = on.at.region
        await on.pairs.confirm(on.admin, NET, "rack-b")
        claimed = await region.do(region.device(on.subnet, MAC))
        assert await on.at.settled(claimed) == (MapState.APPLIED, None)
        on.second.backend.refuse_all("it is asleep")
        assert (await on.pairs.end(on.admin, NET, "rack-b")).role == "draining"
        assert (await on.pairs.end(on.admin, NET, "rack-b")).role == "draining"
        assert await on.serving_states() == {"rack-a": "serving", "rack-b": "shared-subnet"}
        (held,) = claimed.reservations
        await region.release(held)
        await until(lambda: not on.first.backend.maps)
        assert not await on.is_confirmed(held)
        assert on.second.backend.maps, "it would still answer the machine"
        on.second.backend.accept_all()
        await until(lambda: on.is_confirmed(held), 90.0)
        assert not on.second.backend.maps

        async def is_former() -> bool:
            return await on.roles() == {"rack-a": "serving", "rack-b": "former"}

        await until(is_former)
        await report(on.second, "192.0.2.2")
        assert await on.roles() == {"rack-a": "serving", "rack-b": "former"}, "it does not come back by itself"
        later = await region.do(region.device(on.subnet, OTHER))
        assert await on.at.settled(later) == (MapState.APPLIED, None)
        assert not on.second.backend.maps
        await on.pairs.confirm(on.admin, NET, "rack-b")
        await until(lambda: len(on.second.backend.maps) == 1)


@pytest_twisted.ensureDeferred
async def test_either_of_two_can_go_but_not_the_last(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        with pytest.raises(errors.LastServing):
            await on.pairs.end(on.admin, NET, "rack-a")
        with pytest.raises(errors.NotOnSubnet):
            await on.pairs.end(on.admin, NET, "rack-b")
        await on.pairs.confirm(on.admin, NET, "rack-b")
        await on.pairs.end(on.admin, NET, "rack-a")

        async def rack_b_alone() -> bool:
            return await on.roles() == {"rack-a": "former", "rack-b": "serving"}

        await until(rack_b_alone)
        with pytest.raises(errors.LastServing):
            await on.pairs.end(on.admin, NET, "rack-b")


@pytest_twisted.ensureDeferred
async def test_who_and_what_can_be_paired(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        user = RequestContext(Caller(1, "alice", is_admin=False, read_only=False), "test-request")
        for change in (on.pairs.confirm, on.pairs.end):
            with pytest.raises(errors.NotPermitted):
                await change(user, NET, "rack-b")
            with pytest.raises(errors.NotFound):
                await change(on.admin, NET, "rack-z")
            with pytest.raises(errors.NotFound):
                await change(on.admin, format_id(Prefix.SUBNET, 4711), "rack-b")
        region = on.at.region
        _, (elsewhere,) = await region.cluster("rack-c", "198.51.100.0/24")
        with pytest.raises(errors.NotOnSubnet):
            await on.pairs.confirm(on.admin, NET, "rack-c")
        with pytest.raises(errors.NotOnSubnet):
            await on.pairs.confirm(on.admin, format_id(Prefix.SUBNET, elsewhere), "rack-b")
        await region.pool.execute("UPDATE cluster SET revoked = now() WHERE name = 'rack-b'")
        with pytest.raises(errors.NotOnSubnet, match="revoked"):
            await on.pairs.confirm(on.admin, NET, "rack-b")
        assert await on.actions() == []


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_wants_to_be_asked_is_confirmed_in_the_same_way(database: str, tmp_path: Path) -> None:
    async with wire(database, tmp_path) as on:
        network = "198.51.100.0/24"
        interfaces = (
            InterfaceReport("eth0", NET, ("192.0.2.1",)),
            InterfaceReport("eth1", network, ("198.51.100.1",), serve=False),
        )
        await on.first.connection.report_topology(interfaces)
        assert [(each.name, each.role) for each in await on.pairs.clusters_on(network)] == [("rack-a", "unserved")]
        assert (await on.pairs.confirm(on.admin, network, "rack-a")).role == "serving"
        claimed = await on.at.region.do(on.at.region.device(await on.at.subnet(network), MAC))
        assert await on.at.settled(claimed) == (MapState.APPLIED, None)
