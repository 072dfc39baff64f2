"""A region that does what a test says: the AMP side that clusterd talks to, with the sets it wants delivered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory

from clusterd.protocol import commands
from clusterd.protocol.arguments import HOST_MAPS
from clusterd.protocol.connection import Link, Responders
from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import RegistrationRefused
from clusterd.protocol.values import (
    HeldSubnet,
    HostMap,
    Identifier,
    InterfaceReport,
    RejectedMap,
    ServerEntry,
    ServerPool,
)


@dataclass(frozen=True, slots=True)
class Registration:
    """What a cluster said when it registered."""

    cluster: str | None
    history: str | None
    held: tuple[HeldSubnet, ...]
    hostname: str
    backend: str
    region: str | None = None  # whose store it has


@dataclass(frozen=True, slots=True)
class ReportedState:
    """One `ReportHostMapState`."""

    subnet: str
    applied_generation: int
    rejected: tuple[RejectedMap, ...]
    error: str | None
    drift_repaired: int = 0


@dataclass(slots=True)
class DesiredSubnet:
    """What the region wants a cluster to have of one subnet."""

    cidr: str
    generation: int = 0
    host_maps: dict[Identifier, HostMap] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportedServer:
    """One report of what a DHCP server has of its own; `whole` when its last page is there."""

    pools: tuple[ServerPool, ...] = ()
    entries: tuple[ServerEntry, ...] = ()
    remarks: tuple[str, ...] = ()
    error: str | None = None
    whole: bool = False


class FakeRegion:
    """Records what it is told; `link` is the latest connection. Nothing is sent unless a test says so."""

    def __init__(self, clock: IReactorTime, region: str = "region-1", history: str = "history-1") -> None:
        self.region = region
        self.history = history
        self.subnets: dict[str, DesiredSubnet] = {}
        self.registrations: list[Registration] = []
        self.topologies: list[tuple[InterfaceReport, ...]] = []
        self.dhcp_servers: list[ReportedServer] = []
        self.states: list[ReportedState] = []
        self.refusal: str | None = None
        self.endpoints: str | None = None  # where it says that it is
        self.link: Link | None = None
        self._clock = clock
        self._held_registrations: list[Deferred[None]] | None = None

    def factory(self) -> Factory:
        """Makes the region's end of each connection."""
        return _RegionFactory(self)

    def connect(self) -> Link:
        """The region's end of a new connection."""
        self.link = Link(self._clock)
        self.link.answer_with(_RegionResponders(self))
        return self.link

    def hold_registrations(self) -> None:
        """Leave registrations unanswered until `let_registrations_go`."""
        self._held_registrations = []

    def let_registrations_go(self) -> None:
        held, self._held_registrations = self._held_registrations or [], None
        for one in held:
            one.callback(None)

    async def admit(self) -> None:
        """Raises RegistrationRefused when a test wants that."""
        if self._held_registrations is not None:
            turn: Deferred[None] = Deferred()
            self._held_registrations.append(turn)
            await turn
        if self.refusal is not None:
            raise RegistrationRefused(self.refusal)

    def latest_state(self, subnet: str) -> ReportedState | None:
        """The last state that was reported of a subnet."""
        return next((state for state in reversed(self.states) if state.subnet == subnet), None)

    async def call(self, command: Any, **arguments: Any) -> dict[str, Any]:
        """Any command to the cluster."""
        assert self.link is not None, "nobody has connected"
        return await self.link.call(command, **arguments)

    async def change(
        self,
        subnet: str,
        cidr: str,
        upserts: Sequence[HostMap] = (),
        removals: Sequence[Identifier] = (),
        request_ids: Sequence[str] = (),
    ) -> int:
        """Change the desired set by one generation and send the difference; answers the accepted generation."""
        desired = self.subnets.setdefault(subnet, DesiredSubnet(cidr))
        for identifier in removals:
            desired.host_maps.pop(identifier, None)
        desired.host_maps.update((host_map.identifier, host_map) for host_map in upserts)
        desired.generation += 1
        answer = await self.call(
            commands.ApplyHostMaps,
            history=self.history,
            subnet=subnet,
            cidr=cidr,
            from_generation=desired.generation - 1,
            to_generation=desired.generation,
            digest=digest_of(desired.host_maps.values()),
            upserts=tuple(upserts),
            removals=tuple(removals),
            request_ids=tuple(request_ids),
        )
        return int(answer["accepted_generation"])

    async def send_snapshot(self, subnet: str, cidr: str, host_maps: Iterable[HostMap], generation: int) -> int:
        """Make this the desired set and send all of it in pages; answers the accepted generation."""
        desired = DesiredSubnet(cidr, generation, {host_map.identifier: host_map for host_map in host_maps})
        self.subnets[subnet] = desired
        rows = list(desired.host_maps.values())
        await self.call(
            commands.BeginTransfer,
            history=self.history,
            subnet=subnet,
            cidr=cidr,
            to_generation=generation,
            digest=digest_of(rows),
            count=len(rows),
        )
        for page in HOST_MAPS.pages_of(rows):
            await self.call(commands.TransferPage, subnet=subnet, to_generation=generation, upserts=page, removals=())
        answer = await self.call(commands.CommitTransfer, subnet=subnet, to_generation=generation)
        return int(answer["accepted_generation"])


class _RegionFactory(Factory):
    noisy = False

    def __init__(self, told: FakeRegion) -> None:
        self._told = told

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return self._told.connect()


class _RegionResponders(Responders):
    def __init__(self, told: FakeRegion) -> None:
        super().__init__()
        self._told = told

    @commands.Register.responder
    async def register(
        self,
        protocol_version: int,
        software_version: str,
        hostname: str,
        backend: str,
        held: tuple[HeldSubnet, ...],
        cluster: str | None = None,
        history: str | None = None,
        instance: str | None = None,
        reports_dhcp_server: int | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        await self._told.admit()
        self._told.registrations.append(Registration(cluster, history, held, hostname, backend, region))
        return {
            "region": self._told.region,
            "history": self._told.history,
            "cluster": "cluster-1",
            "endpoints": self._told.endpoints,
        }

    @commands.ReportTopology.responder
    def report_topology(
        self, sequence: int, page: int, pages: int, interfaces: tuple[InterfaceReport, ...]
    ) -> dict[str, Any]:
        if page == 0:
            self._told.topologies.append(())
        self._told.topologies[-1] += interfaces
        return {}

    @commands.ReportDhcpServer.responder
    def report_dhcp_server(
        self,
        sequence: int,
        page: int,
        pages: int,
        pools: tuple[ServerPool, ...],
        entries: tuple[ServerEntry, ...],
        remarks: tuple[str, ...],
        error: str | None = None,
    ) -> dict[str, Any]:
        if page == 0:
            self._told.dhcp_servers.append(ReportedServer())
        told = self._told.dhcp_servers[-1]
        self._told.dhcp_servers[-1] = ReportedServer(
            told.pools + pools, told.entries + entries, told.remarks + remarks, error, page + 1 == pages
        )
        return {}

    @commands.ReportHostMapState.responder
    def report_host_map_state(
        self,
        history: str,
        subnet: str,
        applied_generation: int,
        rejected: tuple[RejectedMap, ...],
        error: str | None = None,
        drift_repaired: int | None = None,
    ) -> dict[str, Any]:
        self._told.states.append(ReportedState(subnet, applied_generation, rejected, error, drift_repaired or 0))
        return {}
