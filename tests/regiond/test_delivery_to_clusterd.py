"""The real dispatcher on a real PostgreSQL, and the real parts of clusterd at the other end of a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint

from clusterd.accepted_host_maps import AcceptedHostMaps
from clusterd.convergence import Convergence
from clusterd.dhcp.first_contact import ServerPicture
from clusterd.host_map_store import HostMapStore
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, InterfaceReport
from clusterd.region_connection import Introduction, RegionConnection
from clusterd.region_connection import Region as Place
from clusterd.store_thread import StoreThread
from regiond.cluster_rpc import ClusterLinkFactory, Connections, identify_plain
from regiond.domain.mutations import Outcome
from regiond.domain.reservations import MapState, overall_state
from regiond.first_contact import FirstContacts
from regiond.host_map_dispatch import HostMapDispatch
from regiond.progress import Progress
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.first_contact import FirstContactStore
from regiond.storage.topology import ClusterStore
from regiond.storage.writer import Writer
from tests.fakes.backend import FakeBackend
from tests.regiond.storage.region import Region, first_address, new_id, region_on
from tests.waiting import until

reactor: Any = global_reactor

V4, V6 = "192.0.2.0/24", "2001:db8::/64"
MAC = Identifier.mac("00:16:3e:00:00:01")
DUID = Identifier(IdentifierKind.DUID, b"\x00\x03\x00\x01\x00\x16\x3e\x00\x00\x01")


@dataclass
class Office:
    """A region with its dispatcher, listening at `socket`."""

    region: Region
    dispatch: HostMapDispatch
    progress: Progress
    socket: Path

    async def settled(self, outcome: Outcome) -> tuple[MapState, str | None]:
        (view,) = await self.progress.settled(outcome, 10.0)
        assert view.progress is not None
        return overall_state(view.progress), next((one.error for one in view.progress), None)

    async def subnet(self, cidr: str) -> int:
        return next(view.id for view in await self.region.reads.subnets() if view.cidr == cidr)


@asynccontextmanager
async def office(dsn: str, directory: Path) -> AsyncIterator[Office]:
    async with region_on(dsn, reactor) as region:
        progress = Progress(reactor, region.reads)
        connections = Connections()
        identity = await region.reads.identity()
        region.clusters = ClusterStore(region.pool, new_id)
        region.writer = Writer(reactor, region.pool, lambda subnets: dispatch.committed(subnets))

        class Announced:
            def acknowledged(self, subnets: Any) -> None:
                progress.acknowledged(subnets)

            def topology_changed(self) -> None:
                pass

        dispatch = HostMapDispatch(
            reactor,
            connections,
            region.clusters,
            DeliveryReads(region.pool),
            region.writer,
            identity.history,
            Announced(),
        )
        contact = FirstContacts(FirstContactStore(region.pool, new_id), lambda: None)
        socket = directory / "region.sock"
        factory = ClusterLinkFactory(reactor, identity, connections, dispatch, contact, identify_plain)
        port = await UNIXServerEndpoint(reactor, str(socket)).listen(factory)
        try:
            yield Office(region, dispatch, progress, socket)
        finally:
            await port.stopListening()
            for cluster in connections.clusters():
                connections.by_cluster[cluster].link.abort()
            await until(lambda: not connections.clusters())
            await region.writer.stop()


@dataclass
class Site:
    """clusterd without its process: everything between the socket and a fake DHCP server."""

    backend: FakeBackend
    connection: RegionConnection
    registrations: list[int]

    async def report(self, *cidrs: str) -> None:
        await until(lambda: bool(self.registrations))
        await self.connection.report_topology(
            tuple(InterfaceReport("eth0", cidr, (first_address(cidr),)) for cidr in cidrs)
        )
        await self.connection.report_dhcp_server(ServerPicture(), None)


@asynccontextmanager
async def site(directory: Path, socket: Path, backend: FakeBackend) -> AsyncIterator[Site]:
    thread = StoreThread(reactor)
    store = HostMapStore.open(directory / "host-maps.sqlite")
    convergence = Convergence(store, backend, reactor, thread, lambda: 0.5)
    registrations: list[int] = []
    connection = RegionConnection(
        reactor,
        [Place("the region", UNIXClientEndpoint(reactor, str(socket)))],
        Introduction("rack-7", "rack-7.example", "0.1.0", backend.name),
        AcceptedHostMaps(store, convergence, thread),
        lambda: registrations.append(1),
        lambda: 0.0,
    )
    thread.start()
    convergence.start()
    connection.startService()
    try:
        yield Site(backend, connection, registrations)
    finally:
        await connection.stop()
        await convergence.stop()
        await thread(store.close)
        thread.stop()


@pytest_twisted.ensureDeferred
async def test_claims_reach_the_dhcp_server_and_releases_leave_it(database: str, tmp_path: Path) -> None:
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, FakeBackend()) as rack:
        await rack.report("192.0.2.0/24", "2001:db8::/64")
        region = at.region
        v4, v6 = await at.subnet(V4), await at.subnet(V6)
        first = await region.do(region.device(v4, MAC, hostname="bmc-1"))
        assert await at.settled(first) == (MapState.APPLIED, None)
        second = await region.do(region.device(v6, DUID))
        assert await at.settled(second) == (MapState.APPLIED, None)
        assert rack.backend.maps == {
            HostMap(MAC, "192.0.2.2", "bmc-1"),
            HostMap(DUID, second.reservations[0].address),
        }
        await region.release(first.reservations[0])
        await until(lambda: len(rack.backend.maps) == 1)

        async def confirmed() -> bool:
            view = await region.reads.reservation(first.reservations[0].id)
            return view is not None and view.reservation.confirmed_at is not None

        await until(confirmed)


@pytest_twisted.ensureDeferred
async def test_many_claims_at_once_are_all_delivered_in_a_few_calls(database: str, tmp_path: Path) -> None:
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, FakeBackend()) as rack:
        await rack.report("10.0.0.0/16")
        subnet = await at.subnet("10.0.0.0/16")
        region = at.region
        macs = [Identifier(IdentifierKind.MAC, (0x020000000000 + n).to_bytes(6)) for n in range(1, 1201)]
        last = None
        for start in range(0, len(macs), 400):
            last = await region.do(*[region.device(subnet, mac) for mac in macs[start : start + 400]])
        assert last is not None
        assert all(view.progress for view in await at.progress.settled(last, 20.0))
        assert {host_map.identifier for host_map in rack.backend.maps} == set(macs)
        rows = await region.pool.query("SELECT count(DISTINCT address) FROM host_map WHERE NOT removed")
        assert rows == [(1200,)]


@pytest_twisted.ensureDeferred
async def test_what_happened_while_the_cluster_was_away_is_made_up_for(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at:
        region = at.region
        async with site(tmp_path, at.socket, backend) as rack:
            await rack.report("192.0.2.0/24")
            subnet = await at.subnet(V4)
            kept = await region.do(region.device(subnet, MAC))
            assert (await at.settled(kept))[0] is MapState.APPLIED
        other = Identifier.mac("00:16:3e:00:00:02")
        await region.do(region.device(subnet, other))
        await region.release(kept.reservations[0])
        assert {host_map.identifier for host_map in backend.maps} == {MAC}, "served while the region is not there"
        async with site(tmp_path, at.socket, backend):
            await until(lambda: {host_map.identifier for host_map in backend.maps} == {other})


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_lost_its_disk_is_given_everything(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    disks = [tmp_path / "one", tmp_path / "two"]
    for disk in disks:
        disk.mkdir()
    async with office(database, tmp_path) as at:
        region = at.region
        async with site(disks[0], at.socket, backend) as rack:
            await rack.report("192.0.2.0/24")
            subnet = await at.subnet(V4)
            claimed = await region.do(region.device(subnet, MAC))
            assert (await at.settled(claimed))[0] is MapState.APPLIED
        backend.forget(list(backend.maps))
        async with site(disks[1], at.socket, backend):
            await until(lambda: {host_map.identifier for host_map in backend.maps} == {MAC})
            assert (await at.settled(claimed))[0] is MapState.APPLIED


@pytest_twisted.ensureDeferred
async def test_a_dhcp_server_that_refuses_is_quoted_and_recovers(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, backend) as rack:
        await rack.report("192.0.2.0/24")
        region = at.region
        subnet = await at.subnet(V4)
        backend.refuse_all("no more memory")
        refused = await region.do(region.device(subnet, MAC))
        assert await at.settled(refused) == (MapState.FAILED, "no more memory")
        backend.accept_all()

        async def recovered() -> bool:
            return (await at.settled(refused))[0] is MapState.APPLIED

        await until(recovered)


@pytest_twisted.ensureDeferred
async def test_a_network_that_is_gone_for_good_is_forgotten_by_the_dhcp_server(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, backend) as rack:
        await rack.report("192.0.2.0/24", "198.51.100.0/24")
        region = at.region
        subnet = await at.subnet(V4)
        claimed = await region.do(region.device(subnet, MAC))
        assert (await at.settled(claimed))[0] is MapState.APPLIED
        await rack.report("198.51.100.0/24")
        await region.pool.execute("UPDATE cluster_interface SET last_changed = now() - interval '1 hour'")
        await region.clusters.drain_absent()
        await at.dispatch.sweep()
        await until(lambda: backend.maps == set())

        async def former() -> bool:
            rows = await region.pool.query("SELECT role FROM delivery WHERE subnet = %s", (subnet,))
            return rows == [("former",)]

        await until(former)
        await rack.report("192.0.2.0/24")
        await until(lambda: {host_map.identifier for host_map in backend.maps} == {MAC})
