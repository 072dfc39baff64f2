"""Topology reports on a real PostgreSQL: what they make of subnets, serving and the addresses that nobody may claim."""

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import capturedLogs

from clusterd.protocol.values import InterfaceReport
from regiond.domain import errors
from regiond.domain.identity import ByName, Introduction
from regiond.domain.mutations import Acknowledge, Forgotten
from tests.regiond.storage.region import Region, addresses, region_on

reactor: Any = global_reactor

NET = "192.0.2.0/29"
OWN = "192.0.2.1"


def report(nic: str = "eth0", cidr: str = NET, own: str = OWN, gateways: tuple[str, ...] = ()) -> InterfaceReport:
    return InterfaceReport(nic, cidr, (own,), gateways)


async def registered(region: Region, name: str) -> int:
    return (await region.clusters.register(ByName(name), Introduction(name, "file", "0"))).cluster


async def subnet_of(region: Region, cidr: str) -> int:
    (found,) = [view.id for view in await region.reads.subnets() if view.cidr == cidr]
    return found


async def interfaces(region: Region) -> dict[tuple[str, str, str], tuple[str, bool, bool]]:
    """(cluster, nic, cidr) → serving, whether on a subnet, present."""
    return {
        (view.cluster_name, view.nic, view.cidr): (view.serving, view.subnet is not None, view.present)
        for view in await region.reads.interfaces()
    }


async def free(region: Region, subnet: int) -> list[tuple[str, str]]:
    assert await region.tiles([subnet])
    return await region.pool.query(
        "SELECT host(low), host(high) FROM free_range WHERE subnet = %s ORDER BY low", (subnet,)
    )


async def roles(region: Region, subnet: int) -> dict[int, str]:
    rows = await region.pool.query("SELECT cluster, role FROM delivery WHERE subnet = %s", (subnet,))
    return dict(rows)


async def an_hour_passes(region: Region) -> None:
    await region.pool.execute("UPDATE cluster_interface SET last_changed = last_changed - interval '1 hour'")


@pytest_twisted.ensureDeferred
async def test_a_new_network_becomes_a_subnet_without_gateway_and_controller(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        plan = await region.clusters.apply_topology(rack, [report(gateways=("192.0.2.6",))])
        assert [new.network.cidr for new in plan.new_subnets.values()] == [NET]
        subnet = await subnet_of(region, NET)
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.5")]
        assert await roles(region, subnet) == {rack: "serving"}
        assert await interfaces(region) == {("rack-a", "eth0", NET): ("serving", True, True)}
        again = await region.clusters.apply_topology(rack, [report(gateways=("192.0.2.6",))])
        assert [row.change for row in again.interfaces] == [None]


@pytest_twisted.ensureDeferred
async def test_the_log_tells_of_it_with_the_name_of_the_cluster(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        with capturedLogs() as lines:
            await region.clusters.apply_topology(rack, [report()])
            await region.clusters.apply_topology(rack, [replace(report(), up=False)])
        told = {line["event"]: line for line in lines if line.get("event")}
        assert list(told) == ["subnet.created", "interface.appeared", "interface.changed"]
        assert {line["cluster"] for line in told.values()} == {"rack-a"}
        assert (told["interface.changed"]["before"], told["interface.changed"]["after"]) == ("up: yes", "up: no")


@pytest_twisted.ensureDeferred
async def test_what_was_reported_on_a_former_connection_does_not_replace_what_is_reported_now(database: str) -> None:
    async with region_on(database, reactor) as region:
        said = Introduction("rack-a", "file", "0")
        former = await region.clusters.register(ByName("rack-a"), said)
        latest = await region.clusters.register(ByName("rack-a"), said)
        await region.clusters.apply_topology(latest.cluster, [report()], latest.epoch)
        late = await region.clusters.apply_topology(former.cluster, [report(cidr="198.51.100.0/24")], former.epoch)
        assert not late.interfaces
        assert await interfaces(region) == {("rack-a", "eth0", NET): ("serving", True, True)}


@pytest_twisted.ensureDeferred
async def test_addresses_of_the_infrastructure_leave_the_free_space_and_come_back(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        await region.clusters.apply_topology(rack, [report()])
        subnet = await subnet_of(region, NET)
        assert addresses(await region.do(region.user(subnet, address="192.0.2.4"))) == ["192.0.2.4"]
        await region.clusters.apply_topology(rack, [report(own="192.0.2.3", gateways=("192.0.2.5",))])
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.2"), ("192.0.2.6", "192.0.2.6")]
        with pytest.raises(errors.AddressOfInfrastructure):
            await region.do(region.user(subnet, address="192.0.2.5"))
        # A link that goes down takes its routes along: what was the gateway's is not handed out meanwhile.
        await region.clusters.apply_topology(rack, [replace(report(own="192.0.2.3"), up=False)])
        await region.clusters.drain_absent()
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.2"), ("192.0.2.6", "192.0.2.6")]
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        assert await free(region, subnet) == [("192.0.2.1", "192.0.2.2"), ("192.0.2.5", "192.0.2.6")]
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_controller_on_a_reserved_address_is_noted_and_its_release_frees_nothing(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        await region.clusters.apply_topology(rack, [report()])
        subnet = await subnet_of(region, NET)
        (held,) = (await region.do(region.user(subnet, address="192.0.2.4"))).reservations
        await region.clusters.apply_topology(rack, [report(own="192.0.2.4")])
        await region.release(held)
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.3"), ("192.0.2.5", "192.0.2.6")]


@pytest_twisted.ensureDeferred
async def test_a_second_cluster_waits_as_shared_subnet_and_its_address_is_taken_all_the_same(database: str) -> None:
    async with region_on(database, reactor) as region:
        first, second = await registered(region, "rack-a"), await registered(region, "rack-b")
        await region.clusters.apply_topology(first, [report()])
        await region.clusters.apply_topology(second, [report(own="192.0.2.2")])
        subnet = await subnet_of(region, NET)
        assert await roles(region, subnet) == {first: "serving"}
        assert (await interfaces(region))["rack-b", "eth0", NET] == ("shared-subnet", True, True)
        assert await free(region, subnet) == [("192.0.2.3", "192.0.2.6")]


@pytest_twisted.ensureDeferred
async def test_a_third_cluster_waits_too_when_only_an_unserved_one_is_there(database: str) -> None:
    async with region_on(database, reactor) as region:
        racks = [await registered(region, f"rack-{name}") for name in "abc"]
        for rack, own in zip(racks[:2], ("192.0.2.1", "192.0.2.2"), strict=True):
            await region.clusters.apply_topology(rack, [report(own=own)])
        subnet = await subnet_of(region, NET)
        await region.clusters.apply_topology(racks[0], [])
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        await region.do(Forgotten(racks[0], subnet))
        assert await roles(region, subnet) == {racks[0]: "former"}
        await region.clusters.apply_topology(racks[2], [report(own="192.0.2.3")])
        assert (await interfaces(region))["rack-c", "eth0", NET][0] == "shared-subnet"


@pytest_twisted.ensureDeferred
async def test_an_overlapping_network_is_kept_as_a_conflict_and_serves_nothing(database: str) -> None:
    async with region_on(database, reactor) as region:
        first, second = await registered(region, "rack-a"), await registered(region, "rack-b")
        await region.clusters.apply_topology(first, [report()])
        await region.clusters.apply_topology(second, [report(cidr="192.0.2.0/24", own="192.0.2.200")])
        assert (await interfaces(region))["rack-b", "eth0", "192.0.2.0/24"] == ("conflict", False, True)
        assert [view.cidr for view in await region.reads.subnets()] == [NET]
        # The subnet in the way goes, as an admin would have it: the next report, the same, finds room.
        for table in ("cluster_interface", "subnet"):
            await region.pool.execute(f"DELETE FROM {table} WHERE cidr = %s", (NET,))
        await region.clusters.apply_topology(second, [report(cidr="192.0.2.0/24", own="192.0.2.200")])
        assert (await interfaces(region))["rack-b", "eth0", "192.0.2.0/24"] == ("serving", True, True)


@pytest_twisted.ensureDeferred
async def test_an_interface_that_comes_back_in_time_never_stopped_serving(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        await region.clusters.apply_topology(rack, [report()])
        before = (await region.reads.interfaces())[0].id
        subnet = await subnet_of(region, NET)
        plan = await region.clusters.apply_topology(rack, [])
        assert [gone.report.nic for gone in plan.vanished] == ["eth0"]
        await region.clusters.drain_absent()
        assert await roles(region, subnet) == {rack: "serving"}
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.6")]
        plan = await region.clusters.apply_topology(rack, [report()])
        assert [(row.id, row.change) for row in plan.interfaces] == [(before, "returned")]


@pytest_twisted.ensureDeferred
async def test_what_stays_absent_is_drained_and_still_a_holder_until_it_has_forgotten(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        await region.clusters.apply_topology(rack, [report()])
        subnet = await subnet_of(region, NET)
        await region.do(Acknowledge(rack, subnet, 0, 0))
        await region.clusters.apply_topology(rack, [])
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        assert await roles(region, subnet) == {rack: "draining"}
        assert await free(region, subnet) == [("192.0.2.1", "192.0.2.6")]
        plan = await region.clusters.apply_topology(rack, [report()])
        assert [row.change for row in plan.interfaces] == ["returned"]
        assert await roles(region, subnet) == {rack: "serving"}
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.6")]


@pytest_twisted.ensureDeferred
async def test_addresses_of_an_absent_nic_beside_a_present_one_come_back(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        pair = [report(), report(nic="eth1", own="192.0.2.2")]
        await region.clusters.apply_topology(rack, pair)
        subnet = await subnet_of(region, NET)
        await region.clusters.apply_topology(rack, pair[:1])
        assert await free(region, subnet) == [("192.0.2.3", "192.0.2.6")]
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.6")]
        assert await roles(region, subnet) == {rack: "serving"}


@pytest_twisted.ensureDeferred
async def test_addresses_of_an_unserved_cluster_that_left_come_back(database: str) -> None:
    async with region_on(database, reactor) as region:
        first, second = await registered(region, "rack-a"), await registered(region, "rack-b")
        await region.clusters.apply_topology(first, [report()])
        await region.clusters.apply_topology(second, [report(own="192.0.2.2")])
        await region.clusters.apply_topology(second, [])
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        subnet = await subnet_of(region, NET)
        assert await free(region, subnet) == [("192.0.2.2", "192.0.2.6")]


@pytest_twisted.ensureDeferred
async def test_two_clusters_that_report_the_same_new_network_at_once_share_one_subnet(database: str) -> None:
    async with region_on(database, reactor) as region:
        racks = [await registered(region, f"rack-{n}") for n in range(4)]
        cidrs = [f"10.{n}.0.0/16" for n in range(5)]
        working: list[Deferred[Any]] = []
        for host, rack in enumerate(racks, start=1):
            reports = [report(f"eth{n}", cidr, f"10.{n}.0.{host}") for n, cidr in enumerate(cidrs)]
            working.append(Deferred.fromCoroutine(region.clusters.apply_topology(rack, reports)))
        await gatherResults(working, consumeErrors=True)
        assert sorted(view.cidr for view in await region.reads.subnets()) == cidrs
        for cidr in cidrs:
            assert list((await roles(region, await subnet_of(region, cidr))).values()) == ["serving"]


@pytest_twisted.ensureDeferred
async def test_claims_and_reports_on_one_subnet_at_the_same_time_keep_it_tiled(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        cidr = "10.0.0.0/24"
        await region.clusters.apply_topology(rack, [report(cidr=cidr, own="10.0.0.1")])
        subnet = await subnet_of(region, cidr)
        work: list[Deferred[Any]] = []
        for n in range(20):
            work += [Deferred.fromCoroutine(region.do(region.user(subnet))) for _ in range(5)]
            own = [report(cidr=cidr, own=f"10.0.0.{100 + n}")]
            work.append(Deferred.fromCoroutine(region.clusters.apply_topology(rack, own)))
        await gatherResults(work, consumeErrors=True)
        assert await region.tiles([subnet])
        rows = await region.pool.query("SELECT count(*) FROM reservation")
        assert rows == [(100,)]


@pytest_twisted.ensureDeferred
async def test_a_report_that_changes_nothing_locks_no_subnet(database: str) -> None:
    async with region_on(database, reactor) as region:
        rack = await registered(region, "rack-a")
        await region.clusters.apply_topology(rack, [report()])
        subnet = await subnet_of(region, NET)

        async def while_locked(session: Any) -> None:
            await session.run("SELECT pg_advisory_xact_lock(%s)", (subnet,))
            await region.clusters.apply_topology(rack, [report()])

        await region.pool.transaction(while_locked)


@pytest_twisted.ensureDeferred
async def test_registrations_count_and_only_the_latest_connection_ends_it(database: str) -> None:
    async with region_on(database, reactor) as region:
        first = await region.clusters.register(ByName("rack-a"), Introduction("host", "file", "0"))
        second = await region.clusters.register(ByName("rack-a"), Introduction("host-2", "dnsmasq", "1"))
        assert (second.cluster, second.epoch) == (first.cluster, first.epoch + 1)
        await region.clusters.disconnected(first.cluster, first.epoch)
        (view,) = await region.reads.clusters()
        assert (view.connected, view.hostname, view.backend, view.software_version) == (True, "host-2", "dnsmasq", "1")
        await region.clusters.disconnected(second.cluster, second.epoch)
        assert not (await region.reads.clusters())[0].connected
        third = await region.clusters.register(ByName("rack-a"), Introduction("host", "file", "0"))
        await region.pool.execute("UPDATE cluster SET last_heard = now() - interval '2 minutes'")
        assert not (await region.reads.clusters())[0].connected, "its regiond was killed"
        await region.clusters.heard([third.cluster])
        assert (await region.reads.clusters())[0].connected


@pytest_twisted.ensureDeferred
async def test_who_comes_while_the_first_cluster_is_away_is_no_pair_with_it_when_it_is_back(database: str) -> None:
    async with region_on(database, reactor) as region:
        first, second = await registered(region, "rack-a"), await registered(region, "rack-b")
        await region.clusters.apply_topology(first, [report()])
        subnet = await subnet_of(region, NET)
        await region.clusters.apply_topology(first, [])
        await an_hour_passes(region)
        await region.clusters.drain_absent()
        await region.do(Forgotten(first, subnet))
        assert await roles(region, subnet) == {first: "former"}
        await region.clusters.apply_topology(second, [report(own="192.0.2.2")])
        await region.clusters.apply_topology(first, [report()])
        assert await roles(region, subnet) == {first: "serving"}
        assert (await interfaces(region))["rack-b", "eth0", NET] == ("shared-subnet", True, True)
