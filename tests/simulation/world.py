"""One region and its clusters, their network and the time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

from twisted.internet.defer import Deferred

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import HostMap, InterfaceReport
from regiond.domain.networks import Network, network
from tests.fakes.tables import Tables
from tests.simulation.cluster import Cluster, refused
from tests.simulation.database import Database
from tests.simulation.region import Region
from tests.simulation.steps import Steps
from tests.simulation.wire import Wire

ACCOUNT = 1
NETWORKS = ("10.0.0.0/29", "10.0.1.0/29")
SLICE_SECONDS = 1.0


def interface(number: int, of: int) -> InterfaceReport:
    """Cluster `of` on a network: few addresses, so that the released ones are soon wanted again."""
    prefix = NETWORKS[number].removesuffix("0/29")
    return InterfaceReport(f"eth{number}", NETWORKS[number], (f"{prefix}{of + 1}",))


@dataclass
class World:
    """`seconds` is the time since the beginning; `hold` the release hold of every subnet."""

    hold: int
    random: Random = field(default_factory=lambda: Random(0))
    steps: Steps = field(default_factory=Steps)
    seconds: float = 0.0
    wires: list[Wire] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._numbers: Iterator[int] = count(1000)
        self.tables = Tables(accounts={ACCOUNT: "tester"})
        self.database = Database(self.tables, self.hold)
        self.region = Region(self.database, self.steps, self.random, self.new_id)
        self.clusters = [Cluster(f"rack-{n}", self.steps, self.random, self._dial) for n in range(2)]

    def new_id(self) -> int:
        return next(self._numbers)

    # ---- time ----

    def run(self, steps: int) -> Iterator[str]:
        """Do so many steps, as the random generator says; the queue of each."""
        for _ in range(steps):
            queue = self.steps.run_one(self.random)
            if queue is None:
                return
            yield queue

    def advance(self, seconds: float) -> None:
        """Time passes for everybody; what it makes due becomes steps, or happens."""
        self.seconds += seconds
        self.tables.now += timedelta(seconds=seconds)
        lives = [(self.region.process, self.region.clock), *((one.process, one.clock) for one in self.clusters)]
        for process, clock in lives:
            if process.alive:
                clock.advance(seconds)

    # ---- network ----

    def _dial(self, cluster: Cluster, factory: Any, connected: "Deferred[Any]") -> None:
        process = cluster.process

        def dial() -> None:
            if not self.region.is_open or cluster.name in self.unreachable:
                connected.errback(refused())
                return
            server = self.region.links.buildProtocol(None)
            client = factory.buildProtocol(None)
            queue = self.steps.own_queue(f"{cluster.name} wire")
            cluster.wire = Wire(self.steps, self.random, queue, (client, process), (server, self.region.process))
            self.wires.append(cluster.wire)
            connected.callback(client)

        self.steps.add(f"{cluster.name} dials", dial, process)

    def kill_region(self) -> None:
        self.region.kill()
        for wire in self.wires:
            wire.process_ended(self.region.process)

    # ---- what is where ----

    def network_of(self, subnet: int) -> Network:
        return network(self.tables.subnets[subnet]["cidr"])

    def subnet_of(self, host_map: HostMap) -> int | None:
        """The region's subnet that the address lies in."""
        for subnet, row in self.tables.subnets.items():
            net = network(row["cidr"])
            if net.family == host_map.family and number_of(host_map.address) in net:
                return subnet
        return None

    def subnet_with(self, cidr: str) -> int | None:
        return next((subnet for subnet, row in self.tables.subnets.items() if row["cidr"] == cidr), None)

    def cluster_id(self, cluster: Cluster) -> int | None:
        return next((number for number, name in self.tables.clusters.items() if name == cluster.name), None)


def number_of(address: str) -> int:
    return address_to_int(address)[1]
