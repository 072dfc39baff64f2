"""What a cluster's topology report means for subnets, cluster interfaces and serving: pure.

A network that nobody has becomes a subnet of the cluster's VRF, served by this cluster. A second cluster on an
existing subnet stays unserved (`shared-subnet`) until an admin says that it is the same wire: two unrelated sites
that both use 10.0.0.0/24 must not silently become a pair. A network that overlaps a subnet without being it is kept
as a conflict and shown, never refused.

An interface that is not reported any more is absent and nothing else, for now: when a link flaps, its IPv6 networks
vanish until duplicate address detection has ended. What stays absent is drained later (`ClusterStore.drain_absent`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from clusterd.protocol.values import InterfaceReport
from regiond.domain.ids import NewId
from regiond.domain.networks import Network, network


@dataclass(frozen=True, slots=True)
class KnownSubnet:
    """A subnet of the cluster's VRF that a reported network is or overlaps. `others` tells whether another cluster
    is on it."""

    id: int
    cidr: str
    others: bool


@dataclass(frozen=True, slots=True)
class KnownInterface:
    """A cluster interface as it is stored."""

    id: int
    report: InterfaceReport
    subnet: int | None
    present: bool
    serving: str


@dataclass(frozen=True, slots=True)
class PlannedInterface:
    """A cluster interface as it has to be stored; `change` is appeared, returned, changed or None."""

    id: int
    report: InterfaceReport
    subnet: int | None
    serving: str
    change: str | None


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """What to write. `infrastructure` has, per subnet this cluster is on, the addresses that nobody may claim."""

    new_subnets: Mapping[int, Network]
    interfaces: Sequence[PlannedInterface]
    vanished: Sequence[KnownInterface]
    serve: Collection[int]
    infrastructure: Mapping[int, frozenset[tuple[str, str]]]


def plan_topology(
    reports: Sequence[InterfaceReport],
    known_interfaces: Sequence[KnownInterface],
    known_subnets: Sequence[KnownSubnet],
    new_id: NewId,
) -> TopologyPlan:
    """Compare the whole picture of one cluster with what is stored of it."""
    known = {(row.report.nic, row.report.cidr): row for row in known_interfaces}
    subnets = {row.cidr: row for row in known_subnets}
    new_subnets: dict[int, Network] = {}
    interfaces: list[PlannedInterface] = []
    for report in reports:
        before = known.pop((report.nic, report.cidr), None)
        subnet = subnets.get(report.cidr)
        if subnet is None and not any(_overlap(report.cidr, other) for other in subnets):
            subnet = KnownSubnet(new_id(), report.cidr, others=False)
            subnets[report.cidr] = subnet
            new_subnets[subnet.id] = network(report.cidr)
        serving = _serving(subnet, before)
        if before is None:
            change: str | None = "appeared"
        elif not before.present:
            change = "returned"
        elif before.report != report:
            change = "changed"
        else:
            change = None
        interfaces.append(
            PlannedInterface(
                new_id() if before is None else before.id,
                report,
                None if subnet is None else subnet.id,
                serving,
                change,
            )
        )
    serve = {row.subnet for row in interfaces if row.serving == "serving" and row.subnet is not None}
    gone = [row for row in known.values() if row.present]
    infrastructure: dict[int, set[tuple[str, str]]] = {}
    for row in interfaces:
        if row.subnet is not None:
            taken = infrastructure.setdefault(row.subnet, set())
            taken.update((address, "controller") for address in row.report.addresses)
            taken.update((address, "gateway") for address in row.report.gateways)
    return TopologyPlan(
        new_subnets,
        interfaces,
        gone,
        serve,
        {subnet: frozenset(taken) for subnet, taken in infrastructure.items()},
    )


def _serving(subnet: KnownSubnet | None, before: KnownInterface | None) -> str:
    if subnet is None:
        return "conflict"
    if before is not None and before.subnet == subnet.id:
        return before.serving
    return "shared-subnet" if subnet.others else "serving"


def _overlap(one: str, other: str) -> bool:
    a, b = network(one), network(other)
    return a.family == b.family and a.first <= b.last and b.first <= a.last
