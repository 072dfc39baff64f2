"""Two regionds on one real database: what a cluster says on a connection that is not its latest changes nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory

from clusterd.protocol import commands
from clusterd.protocol.connection import Link
from clusterd.protocol.values import Identifier, InterfaceReport, ServerPool
from regiond.domain.ids import Prefix, format_id
from tests.fakes.cluster import FakeCluster
from tests.regiond.office import Office, office
from tests.waiting import until

reactor: Any = global_reactor
NET, OTHER_NET = "192.0.2.0/24", "198.51.100.0/24"


@dataclass
class Pair:
    """Two regionds and the connections of one cluster to them."""

    here: Office
    there: Office
    links: list[Link] = field(default_factory=list)

    async def register(self, at: Office) -> FakeCluster:
        """A connection of rack-7 that is never noticed to be over unless a sweep looks."""
        cluster = FakeCluster("rack-7")
        cluster.link = Link(reactor, cluster)
        self.links.append(cluster.link)
        factory: Any = Factory.forProtocol(lambda: cluster.link)
        await UNIXClientEndpoint(reactor, str(at.socket)).connect(factory)
        await cluster.register()
        return cluster

    async def one(self, statement: str) -> tuple[Any, ...]:
        (row,) = await self.here.region.pool.query(statement)
        return tuple(row)


@asynccontextmanager
async def two_regionds(dsn: str, directory: Path) -> AsyncIterator[Pair]:
    for name in ("here", "there"):
        (directory / name).mkdir()
    async with office(dsn, directory / "here") as here, office(dsn, directory / "there") as there:
        pair = Pair(here, there)
        try:
            yield pair
        finally:
            for link in pair.links:
                link.abort()


async def topology(cluster: FakeCluster, *cidrs: str) -> None:
    assert cluster.link is not None
    rows = tuple(InterfaceReport("eth0", cidr, (cidr.replace(".0/24", ".1"),)) for cidr in cidrs)
    await cluster.link.call(commands.ReportTopology, sequence=1, page=0, pages=1, interfaces=rows)


async def dhcp_server(cluster: FakeCluster, *pools: ServerPool, error: str | None = None) -> None:
    assert cluster.link is not None
    more: dict[str, Any] = {} if error is None else {"error": error}
    await cluster.link.call(
        commands.ReportDhcpServer, sequence=1, page=0, pages=1, pools=pools, entries=(), remarks=(), **more
    )


@pytest_twisted.ensureDeferred
async def test_late_reports_of_a_former_connection_change_nothing(database: str, tmp_path: Path) -> None:
    async with two_regionds(database, tmp_path) as pair:
        former = await pair.register(pair.here)
        await topology(former, NET)
        latest = await pair.register(pair.there)
        await topology(latest, NET, OTHER_NET)
        await dhcp_server(latest, ServerPool("192.0.2.10", "192.0.2.20"))
        await topology(former)
        await dhcp_server(former, ServerPool("192.0.2.30", "192.0.2.40"))
        await dhcp_server(former, error="permission denied")
        assert await pair.one("SELECT count(*), bool_and(present) FROM cluster_interface") == (2, True)
        assert await pair.one("SELECT host(low), host(high) FROM server_pool") == ("192.0.2.10", "192.0.2.20")
        assert await pair.one("SELECT contact, contact_error FROM cluster") == ("reported", None)


@pytest_twisted.ensureDeferred
async def test_a_late_state_of_a_former_connection_confirms_nothing_and_it_is_cut(
    database: str, tmp_path: Path
) -> None:
    async with two_regionds(database, tmp_path) as pair:
        former = await pair.register(pair.here)
        await topology(former, NET)
        await dhcp_server(former)
        subnet = await pair.here.subnet(NET)
        name = format_id(Prefix.SUBNET, subnet)
        await pair.here.region.do(pair.here.region.device(subnet, Identifier.mac("00:16:3e:00:00:01")))
        await until(lambda: name in former.subnets)
        # Another disk: it has nothing of this.
        latest = await pair.register(pair.there)
        assert former.link is not None and latest.link is not None
        assert former.history is not None
        await former.report(name, 1, former.history)
        state = "SELECT applied_generation FROM delivery"
        assert await pair.one(state) == (0,)
        await until(lambda: name in latest.subnets)
        await latest.report(name, 1, former.history)
        assert await pair.one(state) == (1,)
        await pair.there.sweep()
        assert former.link.connected_now and latest.link.connected_now
        await pair.here.sweep()
        await until(lambda: former.link is not None and not former.link.connected_now)
        assert latest.link.connected_now


@pytest_twisted.ensureDeferred
async def test_the_last_drift_is_kept_and_a_former_connection_tells_of_none(database: str, tmp_path: Path) -> None:
    async with two_regionds(database, tmp_path) as pair:
        former = await pair.register(pair.here)
        await topology(former, NET)
        name = format_id(Prefix.SUBNET, await pair.here.subnet(NET))
        assert former.history is not None
        await former.report(name, 0, former.history, drift_repaired=3)
        (view,) = await pair.there.region.reads.clusters()
        assert view.subnets[0].drift_count == 3 and view.subnets[0].drift_at is not None
        await pair.register(pair.there)
        await former.report(name, 0, former.history, drift_repaired=7)
        (view,) = await pair.there.region.reads.clusters()
        assert view.subnets[0].drift_count == 3
