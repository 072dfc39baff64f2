"""A region with recoveries and a clusterd that knows nothing of them, on real PostgreSQL and a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import LogEvent

from clusterd.protocol import commands
from clusterd.protocol.connection import Link
from clusterd.protocol.values import HostMap, InterfaceReport
from regiond.domain import errors
from regiond.storage.changes import Change
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster
from tests.fakes.older import LessOldCluster, OlderCluster
from tests.regiond.office import Office, office
from tests.regiond.use_cases.test_recovery import NET, copied, is_over, mac
from tests.waiting import until

reactor: Any = global_reactor


@asynccontextmanager
async def linked(at: Office, cluster: FakeCluster) -> AsyncIterator[None]:
    """The cluster connected and registered, and gone for the region at the end."""
    cluster.link = Link(reactor, cluster)
    await UNIXClientEndpoint(reactor, str(at.socket)).connect(Factory.forProtocol(lambda: cluster.link))
    await cluster.register()
    try:
        yield
    finally:
        cluster.link.abort()
        await cluster.link.lost


async def report(cluster: FakeCluster) -> None:
    assert cluster.link is not None
    interfaces = (InterfaceReport("eth0", NET, ("192.0.2.1",)),)
    await cluster.link.call(commands.ReportTopology, sequence=1, page=0, pages=1, interfaces=interfaces)


def maps_of(cluster: FakeCluster) -> set[HostMap]:
    return {host_map for stored in cluster.subnets.values() for host_map in stored.host_maps.values()}


async def with_one_map(at: Office, cluster: FakeCluster) -> int:
    """The cluster's only subnet, of which it has the only host map."""
    await report(cluster)
    subnet = await at.subnet(NET)
    await at.region.do(at.region.device(subnet, mac(1)))
    await until(lambda: is_delivered(at, cluster, 1))
    return subnet


async def is_delivered(at: Office, cluster: FakeCluster, *numbers: int) -> bool:
    await at.sweep()
    return {host_map.identifier for host_map in maps_of(cluster)} == {mac(number) for number in numbers}


@pytest_twisted.ensureDeferred
async def test_it_is_delivered_to_before_and_after_a_reconnect(database: str, tmp_path: Any) -> None:
    cluster = OlderCluster("rack-7")
    async with office(database, tmp_path) as at:
        async with linked(at, cluster):
            await report(cluster)
            subnet = await at.subnet(NET)
            held = (await at.region.do(at.region.device(subnet, mac(1)))).reservations[0]
            await until(lambda: is_delivered(at, cluster, 1))
        await at.region.do(at.region.device(subnet, mac(2)))
        async with linked(at, cluster):
            await until(lambda: is_delivered(at, cluster, 1, 2))
            await at.region.release(held)
            await until(lambda: is_delivered(at, cluster, 2))
        assert "UploadHostMaps" not in cluster.names()


@pytest_twisted.ensureDeferred
async def test_what_it_cannot_show_is_not_overwritten_and_is_no_bug(
    database: str, tmp_path: Any, logged_failures: list[LogEvent]
) -> None:
    """Its host maps are not those of the region, so one of both is of another past; nobody can tell which."""
    cluster = OlderCluster("rack-7")
    async with office(database, tmp_path) as at, linked(at, cluster):
        subnet = await with_one_map(at, cluster)
        (stored,) = cluster.subnets.values()
        stored.host_maps[mac(9)] = HostMap(mac(9), "192.0.2.99")
        await at.region.do(at.region.device(subnet, mac(2)))

        async def is_told() -> bool:
            ((error,),) = await at.region.pool.query("SELECT error FROM delivery WHERE subnet = %s", (subnet,))
            return error is not None and "older version" in error and "UploadHostMaps" in error

        await until(is_told)
        assert {host_map.identifier for host_map in maps_of(cluster)} == {mac(1), mac(9)}
        assert logged_failures == []


@pytest_twisted.ensureDeferred
async def test_a_recovery_waits_for_it_until_an_admin_ends_it_and_then_it_is_served_again(
    postgres: Any, database: str, tmp_path: Any, logged_failures: list[LogEvent]
) -> None:
    cluster = OlderCluster("rack-7")
    async with office(database, tmp_path) as at, linked(at, cluster):
        subnet = await with_one_map(at, cluster)
    async with copied(postgres, database) as backup, office(backup, tmp_path) as at:
        change = Change(at.region.actor, "test-request")
        assert await at.recoveries.begin(change, "a backup was restored") is not None
        with logged() as events:
            async with linked(at, cluster):

                def is_asked_in_vain() -> bool:
                    return any(event.get("event") == "recovery.not-heard" for event in events)

                await until(is_asked_in_vain)
                told = next(event for event in events if event.get("event") == "recovery.not-heard")
                assert "too old" in told["reason"] and "upgrade" in told["reason"]
                with pytest.raises(errors.SubnetRecovering, match=r"rack-7 \(connected\)"):
                    await at.region.do(at.region.device(subnet, mac(2)))
                assert await at.recoveries.end_waiting(change, force=True) == ("rack-7",)
                await until(lambda: is_over(at))
                cluster.subnets.clear()  # as clusterd does: another history counts as nothing
                await at.region.do(at.region.device(subnet, mac(2)))
                await until(lambda: is_delivered(at, cluster, 1, 2))
        assert logged_failures == []


@pytest_twisted.ensureDeferred
async def test_one_that_does_not_know_what_it_is_removing_is_heard_without_that(
    postgres: Any, database: str, tmp_path: Any, logged_failures: list[LogEvent]
) -> None:
    cluster = LessOldCluster("rack-7")
    async with office(database, tmp_path) as at, linked(at, cluster):
        await with_one_map(at, cluster)
        (stored,) = cluster.subnets.values()
        stored.cidr = NET
    async with copied(postgres, database) as backup, office(backup, tmp_path) as at:
        assert await at.recoveries.begin(Change(at.region.actor, "test-request"), "a backup was restored") is not None
        with logged() as events:
            async with linked(at, cluster):
                await until(lambda: is_over(at))
        told = [event for event in events if event.get("event") == "recovery.former-unheard"]
        assert [(event["cluster"], event["cidr"]) for event in told] == [("rack-7", NET)]
        assert logged_failures == []
