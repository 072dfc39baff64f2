"""The real dispatcher on a real PostgreSQL, and the real parts of clusterd at the other end of a real socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import UNIXClientEndpoint, UNIXServerEndpoint

from clusterd.convergence.convergence import Convergence
from clusterd.dhcp.first_contact import ServerPicture
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.store import HostMapStore
from clusterd.host_maps.store_thread import StoreThread
from clusterd.protocol.values import InterfaceReport
from clusterd.region_link.connection import Introduction, RegionConnection
from clusterd.region_link.connection import Region as Place
from clusterd.region_link.lease_answers import LeaseAnswers
from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.identify import identify_plain
from regiond.cluster_rpc.links import ClusterLinkFactory
from regiond.cluster_rpc.listeners import Listeners
from regiond.domain.mutations import Outcome
from regiond.domain.reservations import MapState, overall_state
from regiond.hearing import Hearing
from regiond.host_map_dispatch.arrivals import ClusterArrivals
from regiond.host_map_dispatch.dispatch import HostMapDispatch
from regiond.host_map_dispatch.record import Record
from regiond.progress import Progress
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.first_contact import FirstContactStore
from regiond.storage.recovery import RecoveryStore
from regiond.storage.topology import ClusterStore
from regiond.storage.writer import Writer
from regiond.use_cases.first_contact import FirstContacts
from tests.fakes.backend import FakeBackend
from tests.fakes.prober import FakeProber
from tests.regiond.storage.region import Region, first_address, new_id, region_on
from tests.waiting import until

reactor: Any = global_reactor


@dataclass
class Office:
    """A region with its dispatcher, listening at `socket`."""

    region: Region
    dispatch: HostMapDispatch
    progress: Progress
    socket: Path
    hearing: Hearing
    recoveries: RecoveryStore
    connections: Connections

    async def settled(self, outcome: Outcome) -> tuple[MapState, str | None]:
        (view,) = await self.progress.settled(outcome, 10.0)
        assert view.progress is not None
        return overall_state(view.progress), next((one.error for one in view.progress if one.error is not None), None)

    async def sweep(self) -> None:
        """What regiond does every second."""
        await self.hearing.settle()
        await self.dispatch.sweep()

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

        recoveries = RecoveryStore(region.pool, new_id)
        hearing = Hearing(reactor, recoveries)
        deliveries, announced = DeliveryReads(region.pool), Announced()
        record = Record(region.writer, announced)
        dispatch = HostMapDispatch(
            reactor,
            connections,
            region.clusters,
            deliveries,
            record,
            hearing,
            announced,
        )
        arrivals = ClusterArrivals(
            reactor, connections, region.clusters, deliveries, record, hearing, identity.region, dispatch
        )
        socket = directory / "region.sock"
        contact = FirstContacts(FirstContactStore(region.pool, new_id), lambda: None)
        factory = ClusterLinkFactory(
            reactor, identity, connections, Listeners(arrivals, dispatch, contact), identify_plain
        )
        port = await UNIXServerEndpoint(reactor, str(socket)).listen(factory)
        try:
            yield Office(region, dispatch, progress, socket, hearing, recoveries, connections)
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
    prober: FakeProber

    async def report(self, *cidrs: str) -> None:
        await until(lambda: bool(self.registrations))
        await self.connection.report_topology(
            tuple(InterfaceReport("eth0", cidr, (first_address(cidr),)) for cidr in cidrs)
        )
        await self.connection.report_dhcp_server(ServerPicture(), None)


@asynccontextmanager
async def site(directory: Path, socket: Path, backend: FakeBackend, name: str = "rack-7") -> AsyncIterator[Site]:
    thread = StoreThread(reactor)
    store = HostMapStore.open(directory / "host-maps.sqlite")
    convergence = Convergence(store, backend, reactor, thread, lambda: 0.5)
    registrations: list[int] = []
    prober = FakeProber()
    connection = RegionConnection(
        reactor,
        [Place("the region", UNIXClientEndpoint(reactor, str(socket)))],
        Introduction(name, f"{name}.example", "0.1.0", backend.name),
        AcceptedHostMaps(store, convergence, thread),
        LeaseAnswers(backend),
        lambda: registrations.append(1),
        lambda: 0.0,
        prober.probe,
    )
    thread.start()
    convergence.start()
    connection.startService()
    try:
        yield Site(backend, connection, registrations, prober)
    finally:
        await connection.stop()
        await convergence.stop()
        await thread(store.close)
        thread.stop()
