"""A region on tables in memory and scripted clusters at the ends of wires, for tests of what is between them."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.task import Clock

from clusterd.protocol.connection import Link
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.cluster_rpc.identify import identify_plain
from regiond.cluster_rpc.links import ClusterLinkFactory
from regiond.cluster_rpc.listeners import Listeners
from regiond.domain.first_contact import DhcpServerReport
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Actor, Claim, Mutation, NewDevice, Release
from regiond.domain.reservations import Kind, Reservation
from regiond.host_map_dispatch.arrivals import ClusterArrivals
from regiond.host_map_dispatch.dispatch import HostMapDispatch
from regiond.host_map_dispatch.record import Record
from regiond.storage.reads import RegionIdentity
from tests.clusterd.links import Outcome, Wire, wire
from tests.fakes.cluster import FakeCluster, Stored
from tests.fakes.hearing import FakeHearing
from tests.fakes.storage import FakeStorage
from tests.fakes.tables import Tables
from tests.fakes.tables_world import commit

HISTORY = "history-1"
RACK = 201
RACK_8 = 202
NET, OTHER_NET = 101, 102
SUBNET, OTHER_SUBNET = (format_id(Prefix.SUBNET, number) for number in (NET, OTHER_NET))
ACTOR = Actor(1, "tester", is_admin=True)


def mac(number: int) -> Identifier:
    return Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))


@dataclass
class HeardContacts:
    """What clusters said of their DHCP servers."""

    expected: list[tuple[str, bool]] = field(default_factory=list)
    reports: list[tuple[str, DhcpServerReport]] = field(default_factory=list)

    async def expect(self, connection: Connection, reports: bool) -> None:
        self.expected.append((connection.name, reports))

    async def report(self, connection: Connection, report: DhcpServerReport) -> None:
        self.reports.append((connection.name, report))


@dataclass
class Site:
    """A region on tables in memory, and the wires to its clusters."""

    clock: Clock = field(default_factory=Clock)
    wires: list[Wire] = field(default_factory=list)
    connections: Connections = field(default_factory=Connections)

    def __post_init__(self) -> None:
        self.tables = Tables(accounts={1: "tester"}, clusters={RACK: "rack-7", RACK_8: "rack-8"})
        for subnet, cidr in ((NET, "10.0.0.0/16"), (OTHER_NET, "10.1.0.0/16")):
            self.tables.add_subnet(subnet, cidr, hold=600)
            self.tables.rebuild_free_ranges(subnet)
            self.tables.add_delivery(subnet, RACK, "serving")
        self.storage = FakeStorage(self.tables)
        self.hearing = FakeHearing()
        record = Record(self.storage, self.storage)
        self.dispatch = HostMapDispatch(
            self.clock,
            self.connections,
            self.storage,
            self.storage,
            record,
            self.hearing,
            self.storage,
        )
        arrivals = ClusterArrivals(
            self.clock,
            self.connections,
            self.storage,
            self.storage,
            record,
            self.hearing,
            "region-1",
            self.dispatch,
        )
        self.contact = HeardContacts()
        self.factory = ClusterLinkFactory(
            self.clock,
            RegionIdentity("region-1", HISTORY),
            self.connections,
            Listeners(arrivals, self.dispatch, self.contact),
            identify_plain,
        )
        self._next = 0

    def connect(self, cluster: FakeCluster) -> Wire:
        region = self.factory.buildProtocol(None)
        cluster.link = Link(self.clock, cluster)
        self.wires.append(wire(region, cluster.link))
        return self.wires[-1]

    def register(self, cluster: FakeCluster) -> Wire:
        """Connect and register, and let the dispatcher do what follows from it."""
        made = self.connect(cluster)
        self.ask(cluster.register())
        self.pass_time(0)
        return made

    def ask(self, awaitable: Any) -> Any:
        outcome = Outcome(awaitable)
        self.flush()
        assert outcome.done(), "still waiting"
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def sweep(self) -> None:
        self.ask(self.dispatch.sweep())

    def flush(self) -> None:
        for _ in range(50):
            for one in self.wires:
                one.flush()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.flush()

    def change(self, *steps: Any) -> list[Reservation]:
        (outcome,) = commit(self.tables, [Mutation(ACTOR, steps, "request-1")])
        assert not isinstance(outcome, Exception), outcome
        return list(outcome.reservations)

    def claim(self, count: int = 1, subnet: int = NET) -> list[Reservation]:
        """Device claims in one batch; the dispatcher hears of it."""
        made = self.change(*(self._device(subnet) for _ in range(count)))
        self.dispatch.committed([subnet])
        self.flush()
        return made

    def release(self, held: Reservation) -> None:
        self.change(Release(held.id, held.subnet, held.address))
        self.dispatch.committed([held.subnet])
        self.flush()

    def _device(self, subnet: int) -> Claim:
        self._next += 1
        number = self._next
        return Claim(
            number, Kind.DEVICE, subnet, 1, "tester", identifiers=(mac(number),), device=NewDevice(number, None, None)
        )

    def generation(self, subnet: int = NET) -> int:
        return int(self.tables.subnets[subnet]["generation"])

    def recorded(self, cluster: int = RACK, subnet: int = NET) -> tuple[str, int, int]:
        row = self.tables.deliveries[subnet, cluster]
        return row["role"], row["accepted_generation"], row["applied_generation"]

    def error(self, cluster: int = RACK, subnet: int = NET) -> str | None:
        words: str | None = self.tables.deliveries[subnet, cluster]["error"]
        return words

    def is_settled(self, cluster: FakeCluster, subnet: int = NET) -> bool:
        """Whether the cluster has what is desired, and the region knows."""
        stored = cluster.subnets.get(format_id(Prefix.SUBNET, subnet), Stored())
        desired = {(r["identifier"], r["address"]) for r in self.tables.maps.values() if _desired(r, subnet)}
        held = {(i.value.hex(), host_map.address) for i, host_map in stored.host_maps.items()}
        return held == desired and stored.generation == self.generation(subnet) == self.recorded(subnet=subnet)[1]


def _desired(row: dict[str, Any], subnet: int) -> bool:
    return row["subnet"] == subnet and not row["removed"]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster("rack-7")
