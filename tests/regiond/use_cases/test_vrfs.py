"""Routing domains on a real PostgreSQL: one network at two sites, what goes along to another VRF, and what stays."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier, InterfaceReport
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.identity import ByName, Introduction
from regiond.domain.ids import Prefix, format_id
from regiond.domain.networks import network
from regiond.domain.topology_changes import Happened
from regiond.storage.cluster_edits import ClusterEditStore
from regiond.storage.networks import NetworkStore
from regiond.storage.pairs import PairStore
from regiond.storage.topology_history import KEPT_PER_CLUSTER, TopologyHistory
from regiond.storage.vrfs import VrfStore
from regiond.use_cases.cluster_edits import ClusterEdits
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.topologies import Topologies
from regiond.use_cases.vrfs import Vrfs
from tests.clusterd.log_events import logged
from tests.regiond.storage.region import Region, addresses, new_id, region_on

reactor: Any = global_reactor

NET = "10.0.0.0/24"
MAC = Identifier.mac("00:16:3e:00:00:01")


@dataclass
class World:
    """A region with the use cases, and what they told to look at."""

    region: Region
    vrfs: Vrfs
    edits: ClusterEdits
    topologies: Topologies
    inventory: Inventory
    told: list[Sequence[int]] = field(default_factory=list)

    @property
    def admin(self) -> RequestContext:
        return RequestContext(Caller(self.region.owner, "tester", is_admin=True, read_only=False), "test-request")

    async def move(self, name: str, vrf: str, *, pairs: bool = False) -> None:
        await self.edits.change_cluster(self.admin, name, vrf=vrf, pairs=pairs, force=False)

    async def cluster(self, name: str) -> int:
        return (await self.region.clusters.register(ByName(name), Introduction(name, "file", "0"))).cluster

    async def report(self, cluster: int, *reports: InterfaceReport) -> None:
        await self.region.clusters.apply_topology(cluster, reports)

    async def serving(self) -> set[tuple[str, str, str, str]]:
        """Cluster, NIC, VRF and state of what is present."""
        found = await self.inventory.interfaces(None)
        return {(each.cluster_name, each.nic, each.vrf, each.serving) for each in found if each.present}

    async def subnets(self) -> set[tuple[str, str, tuple[str, ...], int]]:
        """VRF, CIDR, who serves it, how many reservations."""
        found = await self.inventory.subnets()
        return {(each.vrf, each.cidr, each.clusters, each.reservations) for each in found}

    async def happened(self, cluster: str) -> list[tuple[str, str, str]]:
        """Change, NIC and VRF, the oldest first."""
        found = await self.topologies.changes(cluster, filters={}, limit=100, after=None)
        return [(each.change.happened.value, each.change.nic, each.change.vrf) for each in reversed(found)]

    async def actions(self) -> list[str]:
        return [row[0] for row in await self.region.pool.query("SELECT action FROM audit ORDER BY id")]


@asynccontextmanager
async def world(database: str) -> AsyncIterator[World]:
    async with region_on(database, reactor) as region:
        told: list[Sequence[int]] = []

        async def changed(clusters: Iterable[int]) -> None:
            told.append(tuple(clusters))

        inventory = Inventory(region.reads, Catalogue(reactor, region.reads))
        vrfs = Vrfs(inventory, VrfStore(region.pool, new_id), NetworkStore(region.pool, new_id), changed)
        edits = ClusterEdits(inventory, vrfs, ClusterEditStore(region.pool, new_id), PairStore(region.pool), changed)
        yield World(region, vrfs, edits, Topologies(inventory, TopologyHistory(region.pool)), inventory, told)


def eth(nic: str, own: str = "10.0.0.1", cidr: str = NET, **more: Any) -> InterfaceReport:
    return InterfaceReport(nic, cidr, (own,), **more)


@pytest_twisted.ensureDeferred
async def test_the_second_site_with_the_same_network_is_moved_to_a_vrf_of_its_own(database: str) -> None:
    async with world(database) as here:
        first, second = await here.cluster("rack-a"), await here.cluster("rack-b")
        await here.report(first, eth("eth0"))
        await here.report(second, eth("eth0", "10.0.0.2"))
        assert ("rack-b", "eth0", "default", "shared-subnet") in await here.serving()
        made = await here.vrfs.add_vrf(here.admin, name="Site-2", comment="the other one")
        assert (made.name, made.comment, made.subnets, made.clusters) == ("site-2", "the other one", 0, 0)
        moved = await here.edits.change_cluster(here.admin, "rack-b", vrf="site-2", pairs=False, force=False)
        assert (moved.vrf, [each.role for each in moved.subnets]) == ("site-2", ["serving"])
        assert here.told == [(), (second,)]
        assert await here.subnets() == {("default", NET, ("rack-a",), 0), ("site-2", NET, ("rack-b",), 0)}
        await here.region.clusters.drain_absent()  # rack-b's own address is free at the first site, after a while
        subnets = {view.vrf: view.id for view in await here.inventory.subnets()}
        outcomes = [await here.region.do(here.region.device(subnets[vrf], MAC)) for vrf in ("default", "site-2")]
        assert [addresses(outcome) for outcome in outcomes] == [["10.0.0.2"], ["10.0.0.1"]]
        assert await here.region.tiles(subnets.values())
        assert await here.happened("rack-b") == [("appeared", "eth0", "default"), ("moved", "eth0", "site-2")]
        assert {"vrf.create", "cluster.change"} <= set(await here.actions())


@pytest_twisted.ensureDeferred
async def test_a_cluster_takes_its_own_subnets_along_with_their_reservations(database: str) -> None:
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0"))
        (subnet,) = await here.inventory.subnets()
        before = (await here.inventory.interfaces(None))[0].id
        await here.region.do(here.region.device(subnet.id, MAC))
        blue = await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        await here.edits.change_cluster(
            here.admin, "rack-a", vrf=format_id(Prefix.VRF, blue.id), pairs=False, force=False
        )
        assert await here.subnets() == {("blue", NET, ("rack-a",), 1)}
        assert (await here.inventory.subnet(f"vrf:blue,cidr:{NET}")).id == subnet.id
        assert (await here.inventory.interfaces(None))[0].id == before
        with pytest.raises(errors.VrfInUse):
            await here.vrfs.remove_vrf(here.admin, "blue")
        await here.edits.change_cluster(here.admin, "rack-a", vrf="default", pairs=False, force=False)
        await here.vrfs.remove_vrf(here.admin, "blue")
        assert [view.name for view in await here.vrfs.vrfs()] == ["default"]
        assert await here.happened("rack-a") == [
            ("appeared", "eth0", "default"),
            ("changed", "eth0", "blue"),
            ("changed", "eth0", "default"),
        ]


@pytest_twisted.ensureDeferred
async def test_a_subnet_whose_link_flaps_goes_along_too(database: str) -> None:
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        both = [eth("eth0"), eth("eth0", "2001:db8::9", "2001:db8::/64")]
        await here.report(rack, *both)
        await here.report(rack, both[0])
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        await here.edits.change_cluster(here.admin, "rack-a", vrf="blue", pairs=False, force=False)
        await here.report(rack, *both)
        assert await here.subnets() == {("blue", NET, ("rack-a",), 0), ("blue", "2001:db8::/64", ("rack-a",), 0)}


@pytest_twisted.ensureDeferred
async def test_a_subnet_that_cannot_go_along_while_its_link_flaps_is_named(database: str) -> None:
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0"))
        await here.report(rack)
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        await here.vrfs.add_subnet(here.admin, cidr="10.0.0.0/16", vrf="blue", release_hold_seconds=None)
        with pytest.raises(errors.SubnetsLeftBehind) as refused:
            await here.edits.change_cluster(here.admin, "rack-a", vrf="blue", pairs=False, force=False)
        assert refused.value.members["subnets"] == [NET]


@pytest_twisted.ensureDeferred
async def test_what_cannot_go_along_is_left_behind_only_by_force(database: str) -> None:
    async with world(database) as here:
        first, second = await here.cluster("rack-a"), await here.cluster("rack-b")
        await here.report(first, eth("eth0"))
        await here.report(second, eth("eth0", "10.0.0.2"))
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        with pytest.raises(errors.SubnetsLeftBehind) as refused:
            await here.edits.change_cluster(here.admin, "rack-a", vrf="blue", pairs=False, force=False)
        assert refused.value.members["subnets"] == [NET]
        assert await here.subnets() == {("default", NET, ("rack-a",), 0)}, "nothing has changed"
        await here.edits.change_cluster(here.admin, "rack-a", vrf="blue", pairs=False, force=True)
        assert await here.subnets() == {("default", NET, ("rack-a",), 0), ("blue", NET, ("rack-a",), 0)}
        await here.region.clusters.drain_absent()
        (old,) = [view for view in await here.inventory.subnets() if view.vrf == "default"]
        rows = await here.region.pool.query("SELECT role FROM delivery WHERE subnet = %s", (old.id,))
        assert rows == [("draining",)], "a holder until it has confirmed that it forgot the host maps"


async def a_pair(here: World, *also: InterfaceReport, second: InterfaceReport | None = None) -> int:
    """rack-a and rack-b serve NET together, with a reservation; rack-b is on other networks, too. The subnet's id."""
    one, other = await here.cluster("rack-a"), await here.cluster("rack-b")
    await here.report(one, eth("eth0"))
    await here.report(other, second or eth("eth0", "10.0.0.2"), *also)
    (subnet,) = [view.id for view in await here.inventory.subnets() if view.cidr == NET]
    assert await PairStore(here.region.pool).confirm(here.admin.change, subnet, other)
    await here.region.do(here.region.device(subnet, MAC))
    await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
    return subnet


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("named", ["rack-a", "rack-b"])
async def test_a_pair_goes_together_with_its_subnets_and_what_each_of_them_has(database: str, named: str) -> None:
    async with world(database) as here:
        subnet = await a_pair(here, eth("eth1", "10.1.0.1", "10.1.0.0/24"))
        before = {(each.cluster_name, each.nic): each.id for each in await here.inventory.interfaces(None)}
        with pytest.raises(errors.SubnetsLeftBehind, match="takes along what serves it, too: rack-") as refused:
            await here.move(named, "blue")
        assert refused.value.members["subnets"] == [NET]
        with logged() as events:
            await here.move(named, "blue", pairs=True)
        told = [event["event"] for event in events]
        assert (told.count("subnet.moved"), told.count("cluster.vrf-changed")) == (2, 2), "one line for each"
        assert await here.subnets() == {
            ("blue", NET, ("rack-a", "rack-b"), 1),
            ("blue", "10.1.0.0/24", ("rack-b",), 0),
        }
        assert (await here.inventory.subnet(f"vrf:blue,cidr:{NET}")).id == subnet
        assert before == {(each.cluster_name, each.nic): each.id for each in await here.inventory.interfaces(None)}
        assert {serving for *_, serving in await here.serving()} == {"serving"}
        for name in ("rack-a", "rack-b"):
            assert ("changed", "eth0", "blue") in await here.happened(name)
        assert len(here.told[-1]) == 2 and (await here.actions()).count("cluster.change") == 2
        await here.region.clusters.drain_absent()
        rows = await here.region.pool.query("SELECT DISTINCT role FROM delivery")
        assert rows == [("serving",)] and await here.region.tiles([subnet])
        await here.move(named, "default", pairs=True)
        assert {vrf for vrf, *_ in await here.subnets()} == {"default"}


@pytest_twisted.ensureDeferred
async def test_a_pair_stays_where_somebody_else_is_on_its_subnet(database: str) -> None:
    async with world(database) as here:
        await a_pair(here)
        third = await here.cluster("rack-c")
        await here.report(third, eth("eth0", "10.0.0.3"))
        with pytest.raises(errors.SubnetsLeftBehind, match="such a network already; with force=true"):
            await here.move("rack-a", "blue", pairs=True)
        assert await here.subnets() == {("default", NET, ("rack-a", "rack-b"), 1)}, "nothing has changed"


@pytest_twisted.ensureDeferred
async def test_a_pair_stays_where_a_configuration_keeps_one_of_them(database: str) -> None:
    async with world(database) as here:
        await a_pair(here, second=eth("eth0", "10.0.0.2", vrf="default"))
        with pytest.raises(errors.SubnetsLeftBehind):
            await here.move("rack-a", "blue", pairs=True)
        assert await here.subnets() == {("default", NET, ("rack-a", "rack-b"), 1)}


@pytest_twisted.ensureDeferred
async def test_a_pair_that_one_of_their_configurations_splits_is_seen(database: str) -> None:
    async with world(database) as here:
        subnet = await a_pair(here)
        second = (await here.inventory.cluster("rack-b")).id
        with logged() as events:
            await here.report(second, eth("eth0", "10.0.0.2", vrf="blue"))
        (event,) = [event for event in events if event["event"] == "subnet.left-behind"]
        assert (event["cluster"], event["nic"], event["cidr"], event["vrf"]) == ("rack-b", "eth0", NET, "blue")
        assert event["subnet"] == format_id(Prefix.SUBNET, subnet)
        found = await PairStore(here.region.pool).clusters_on(subnet)
        assert {each.name: (each.nics, each.other_vrfs) for each in found} == {
            "rack-a": (("eth0",), ()),
            "rack-b": ((), ("blue",)),
        }


@pytest_twisted.ensureDeferred
async def test_one_of_a_pair_leaves_by_being_unpaired_first(database: str) -> None:
    async with world(database) as here:
        subnet = await a_pair(here)
        second = (await here.inventory.cluster("rack-b")).id
        assert await PairStore(here.region.pool).end(here.admin.change, subnet, second)
        await here.move("rack-b", "blue")
        assert await here.subnets() == {("default", NET, ("rack-a",), 1), ("blue", NET, ("rack-b",), 0)}


@pytest_twisted.ensureDeferred
async def test_a_nic_of_an_unknown_vrf_waits_for_it(database: str) -> None:
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0"), eth("eth1", vrf="blue"))
        (conflict,) = [each for each in await here.inventory.interfaces(None) if each.nic == "eth1"]
        assert (conflict.serving, conflict.vrf) == ("conflict", "blue")
        assert "regionctl vrfs add blue" in str(conflict.conflict)
        with pytest.raises(errors.NoSuchClusterInterface, match="there is no VRF blue"):
            await here.inventory.subnet("rack-a:eth1")
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        assert here.told == [(rack,)]
        assert await here.serving() == {("rack-a", "eth0", "default", "serving"), ("rack-a", "eth1", "blue", "serving")}


@pytest_twisted.ensureDeferred
async def test_each_form_of_a_selector_tells_two_vrfs_apart_or_says_what_is_missing(database: str) -> None:
    async with world(database) as here:
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        first, second = await here.cluster("rack-a"), await here.cluster("rack-b")
        await here.edits.change_cluster(here.admin, "rack-b", vrf="blue", pairs=False, force=False)
        await here.report(first, eth("eth0", vlan=7))
        await here.report(second, eth("eth0", "10.0.0.2", vlan=7))
        vrf_of = {
            selector: (await here.inventory.subnet(selector)).vrf
            for selector in (
                *(
                    "rack-a:eth0",
                    "rack-b:eth0",
                    f"cluster:rack-b,cidr:{NET}",
                    f"{NET},vrf:blue",
                    "ip:10.0.0.9,vrf:default",
                ),
                *("vrf:blue", "vlan:7,vrf:blue", "cluster:rack-a,vlan:7", "family:4,vrf:default"),
                *(format_id(Prefix.CLUSTER_INTERFACE, each.id) for each in await here.inventory.interfaces(None)),
            )
        }
        assert list(vrf_of.values()) == [
            *("default", "blue", "blue", "blue", "default", "blue", "blue", "default", "default"),
            *("default", "blue"),
        ]
        for selector in (NET, "ip:10.0.0.9", "vlan:7", "nic:eth0", "family:4"):
            with pytest.raises(errors.AmbiguousSelector, match="2 subnets: add a term") as refused:
                await here.inventory.subnet(selector)
            found = {(each.cluster, each.vrf) for each in refused.value.members["candidates"]}
            assert found == {("rack-a", "default"), ("rack-b", "blue")}
        with pytest.raises(errors.NoSuchClusterInterface):
            await here.inventory.subnet("rack-a:eth0,vrf:blue")


@pytest_twisted.ensureDeferred
async def test_five_networks_on_one_nic_are_five_interfaces_and_the_nic_alone_is_ambiguous(database: str) -> None:
    cidrs = ("192.0.2.0/24", "198.51.100.0/25", "2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64")
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        await here.report(rack, *(eth("eth1", network(cidr).text(network(cidr).first + 9), cidr) for cidr in cidrs))
        views = await here.inventory.interfaces("rack-a:eth1")
        assert {view.cidr for view in views} == set(cidrs)
        assert len({view.id for view in views}) == len({view.subnet for view in views}) == 5
        with pytest.raises(errors.AmbiguousSelector) as refused:
            await here.inventory.subnet("rack-a:eth1")
        candidates = refused.value.members["candidates"]
        assert {each.cidr for each in candidates} == set(cidrs)
        for each in candidates:
            for selector in (each.id, f"rack-a:eth1,cidr:{each.cidr}", each.cidr):
                assert (await here.inventory.subnet(selector)).cidr == each.cidr


@pytest_twisted.ensureDeferred
async def test_subnets_that_an_admin_makes_and_removes(database: str) -> None:
    async with world(database) as here:
        made = await here.vrfs.add_subnet(here.admin, cidr=NET, vrf=None, release_hold_seconds=0)
        assert (made.vrf, made.cidr, made.clusters, made.release_hold_seconds) == ("default", NET, (), 0)
        assert await here.region.tiles([made.id])
        with pytest.raises(errors.SubnetOverlap):
            await here.vrfs.add_subnet(here.admin, cidr="10.0.0.0/16", vrf=None, release_hold_seconds=None)
        (held,) = (await here.region.do(here.region.user(made.id))).reservations
        with pytest.raises(errors.SubnetInUse, match="1 addresses are reserved"):
            await here.vrfs.remove_subnet(here.admin, NET)
        await here.region.release(held)
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0", "10.0.255.1", "10.0.0.0/16"))
        assert await here.serving() == {("rack-a", "eth0", "default", "conflict")}
        await here.vrfs.remove_subnet(here.admin, NET)
        assert await here.serving() == {("rack-a", "eth0", "default", "serving")}, "what was in the way is gone"
        with pytest.raises(errors.SubnetInUse, match="it is a network of rack-a"):
            await here.vrfs.remove_subnet(here.admin, "10.0.0.0/16")
        assert [action for action in await here.actions() if action.startswith("subnet.")] == [
            *("subnet.create", "subnet.remove")
        ]


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_comes_to_a_subnet_that_was_made_for_it_serves_it(database: str) -> None:
    async with world(database) as here:
        made = await here.vrfs.add_subnet(here.admin, cidr=NET, vrf=None, release_hold_seconds=None)
        await here.region.do(here.region.device(made.id, MAC))
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0", "10.0.0.200"))
        assert await here.subnets() == {("default", NET, ("rack-a",), 1)}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "127.0.0.0/8", "169.254.0.0/16", "fe80::/64", "ff02::/16", "10.0.0.1/24", "x"]
)
async def test_a_network_that_nobody_can_claim_from_is_refused(database: str, cidr: str) -> None:
    async with world(database) as here:
        with pytest.raises(errors.InvalidRequest):
            await here.vrfs.add_subnet(here.admin, cidr=cidr, vrf=None, release_hold_seconds=None)


@pytest_twisted.ensureDeferred
async def test_mistakes_are_told_and_a_repeated_request_makes_one_vrf(database: str) -> None:
    async with world(database) as here:
        context = replace(here.admin, idempotency_key="k", fingerprint="f")
        made = [await here.vrfs.add_vrf(context, name="blue", comment=None) for _ in range(2)]
        assert made[0].id == made[1].id
        with pytest.raises(errors.NameTaken):
            await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        with pytest.raises(errors.VrfInUse, match="always there"):
            await here.vrfs.remove_vrf(here.admin, "default")
        with pytest.raises(errors.NotFound, match="there is no VRF green"):
            await here.vrfs.add_subnet(here.admin, cidr=NET, vrf="green", release_hold_seconds=None)
        await here.cluster("rack-a")
        with pytest.raises(errors.NotFound, match="there is no VRF green"):
            await here.edits.change_cluster(here.admin, "rack-a", vrf="green", pairs=False, force=False)
        stale = replace(here.admin, if_match=frozenset({'"0000000000000000"'}))
        for act in (
            lambda: here.vrfs.change_vrf(stale, "blue", comment="x"),
            lambda: here.vrfs.remove_vrf(stale, "blue"),
            lambda: here.edits.change_cluster(stale, "rack-a", vrf="blue", pairs=False, force=False),
        ):
            with pytest.raises(errors.StaleVersion):
                await act()
        assert (await here.vrfs.change_vrf(here.admin, "blue", comment="the sea")).comment == "the sea"
        for name in ("green", "vr-0000000000"):
            with pytest.raises(errors.NotFound):
                await here.vrfs.vrf(name)
        nobody = replace(here.admin, caller=replace(here.admin.caller, is_admin=False))
        with pytest.raises(errors.NotPermitted):
            await here.vrfs.add_vrf(nobody, name="red", comment=None)


@pytest_twisted.ensureDeferred
async def test_a_removal_whose_answer_got_lost_is_answered_as_the_first_time(database: str) -> None:
    async with world(database) as here:
        keyed = [replace(here.admin, idempotency_key=key, fingerprint=key) for key in ("by-id", "by-network", "vrf")]
        for key, name in zip(keyed, ("id", NET), strict=False):
            made = await here.vrfs.add_subnet(here.admin, cidr=NET, vrf=None, release_hold_seconds=None)
            named = format_id(Prefix.SUBNET, made.id) if name == "id" else name
            for _ in range(2):
                await here.vrfs.remove_subnet(key, named)
            with pytest.raises((errors.NotFound, errors.NoSuchClusterInterface)):
                await here.vrfs.remove_subnet(here.admin, named)
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        for _ in range(2):
            await here.vrfs.remove_vrf(keyed[2], "blue")
        with pytest.raises(errors.NotFound):
            await here.vrfs.remove_vrf(here.admin, "blue")
        with pytest.raises(errors.IdempotencyKeyReused):
            await here.vrfs.remove_vrf(replace(keyed[2], fingerprint="another"), "blue")
        # a namesake that was made since is not what the repeated request means
        await here.vrfs.add_vrf(here.admin, name="blue", comment=None)
        await here.vrfs.remove_vrf(keyed[2], "blue")
        assert "blue" in [view.name for view in await here.vrfs.vrfs()]
        assert (await here.actions()).count("subnet.remove") == 2
        assert (await here.actions()).count("vrf.remove") == 1


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_wants_to_be_asked_serves_when_an_admin_says_so(database: str) -> None:
    async with world(database) as here:
        rack = await here.cluster("rack-a")
        await here.report(rack, eth("eth0", serve=False))
        assert await here.serving() == {("rack-a", "eth0", "default", "unserved")}
        assert await here.subnets() == {("default", NET, (), 0)}
        (subnet,) = await here.inventory.subnets()
        assert await PairStore(here.region.pool).confirm(here.admin.change, subnet.id, rack)
        assert await here.serving() == {("rack-a", "eth0", "default", "serving")}
        await here.report(rack, eth("eth0", serve=False), eth("eth1", "10.0.0.2", serve=False))
        assert await here.subnets() == {("default", NET, ("rack-a",), 0)}
        assert ("rack-a", "eth1", "default", "serving") in await here.serving(), "by another NIC, too"


# ---- the history ----


@pytest_twisted.ensureDeferred
async def test_the_history_is_filtered_and_paged_and_tells_what_was_before(database: str) -> None:
    async with world(database) as here:
        rack, other = await here.cluster("rack-a"), await here.cluster("rack-b")
        await here.report(other, eth("eth0", cidr="192.0.2.0/24", own="192.0.2.1"))
        await here.report(rack, eth("eth0"), eth("eth1", "10.1.0.1", "10.1.0.0/24"))
        await here.report(rack, eth("eth0", up=False), eth("eth1", "10.2.0.1", "10.2.0.0/24"))
        await here.report(rack, eth("eth0", up=False))
        assert await here.happened("rack-a") == [
            *(("appeared", "eth0", "default"), ("appeared", "eth1", "default")),
            *(("changed", "eth0", "default"), ("moved", "eth1", "default"), ("vanished", "eth1", "default")),
        ]

        async def found(limit: int = 100, after: str | None = None, **filters: Any) -> list[Any]:
            return list(await here.topologies.changes("rack-a", filters=filters, limit=limit, after=after))

        (changed,) = await found(change=["changed"])
        assert (changed.change.before, changed.change.after) == ({"up": True}, {"up": False})
        (moved,) = await found(change=["moved"])
        assert moved.change.before["cidr"] == "10.1.0.0/24"
        assert len(await found(nic=["eth1"])) == 3
        assert len(await found(cidr=[NET, "10.2.0.0/24"], vrf=["default"])) == 4
        interface = format_id(Prefix.CLUSTER_INTERFACE, changed.change.interface)
        assert {each.change.nic for each in await found(interface=[interface])} == {"eth0"}
        pages, after = [], None
        while page := await found(limit=2, after=after):
            pages.append([each.change.happened for each in page])
            after = format_id(Prefix.INTERFACE_CHANGE, page[-1].id)
        assert pages == [
            [Happened.VANISHED, Happened.MOVED],
            [Happened.CHANGED, Happened.APPEARED],
            [Happened.APPEARED],
        ]
        wrongs: list[dict[str, Any]] = [
            {"change": ["exploded"]},
            {"cidr": ["10.0.0.1/24"]},
            {"interface": ["eth0"]},
            {"nick": ["x"]},
        ]
        for wrong in wrongs:
            with pytest.raises(errors.InvalidRequest):
                await found(**wrong)
        with pytest.raises(errors.InvalidRequest):
            await found(after="sn-0000000000")


@pytest_twisted.ensureDeferred
async def test_the_history_is_pruned_by_age_and_by_number(database: str) -> None:
    async with world(database) as here:
        rack, quiet = await here.cluster("rack-a"), await here.cluster("rack-b")
        await here.report(quiet, eth("eth0"), eth("eth1", "10.1.0.1", "10.1.0.0/24"))
        await here.region.pool.execute("UPDATE interface_change SET at = now() - interval '91 days' WHERE nic = 'eth1'")
        await here.region.pool.execute(
            """INSERT INTO interface_change (cluster, interface, happened, nic, cidr, vrf, serving, before, after)
               SELECT %s, 1, 'changed', 'flap' || n, '10.0.0.0/24', 'default', 'serving', '{}', '{}'
               FROM generate_series(1, %s) n""",
            (rack, KEPT_PER_CLUSTER + 3),
        )
        await TopologyHistory(here.region.pool).prune()
        assert await here.happened("rack-b") == [("appeared", "eth0", "default")]
        rows = await here.region.pool.query(
            "SELECT count(*), min(nic) FROM interface_change WHERE cluster = %s AND nic IN ('flap3', 'flap4')", (rack,)
        )
        assert rows == [(1, "flap4")]
        ((count,),) = await here.region.pool.query("SELECT count(*) FROM interface_change WHERE cluster = %s", (rack,))
        assert count == KEPT_PER_CLUSTER
