"""What a cluster's topology report means for subnets, cluster interfaces and serving: pure.

A network that nobody has becomes a subnet of the cluster's VRF, served by this cluster. A second cluster on an
existing subnet stays unserved (`shared-subnet`) until an admin says that it is the same wire: two unrelated sites
that both use 10.0.0.0/24 must not silently become a pair. A network that overlaps a subnet without being it is kept
as a conflict and shown, never refused.

An interface that is not reported any more is absent and nothing else, for now: when a link flaps, its IPv6 networks
vanish until duplicate address detection has ended. What stays absent is drained later (`ClusterStore.drain_absent`).
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """A cluster interface as it is stored; `recent` tells that it is present, or was so until a moment ago."""

    id: int
    report: InterfaceReport
    subnet: int | None
    present: bool
    serving: str
    recent: bool


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

    @property
    def changes_interfaces(self) -> bool:
        """Whether networks or interfaces will be others than they are: most reports only repeat what is known."""
        return bool(self.new_subnets or self.vanished) or any(row.change is not None for row in self.interfaces)


def plan_topology(
    reports: Sequence[InterfaceReport],
    known_interfaces: Sequence[KnownInterface],
    known_subnets: Sequence[KnownSubnet],
    new_id: NewId,
) -> TopologyPlan:
    """Compare the whole picture of one cluster with what is stored of it."""
    known = {(row.report.nic, row.report.cidr): row for row in known_interfaces}
    subnets = {row.cidr: row for row in known_subnets}
    taken = _Networks(map(network, subnets))
    new_subnets: dict[int, Network] = {}
    interfaces: list[PlannedInterface] = []
    for report in {(report.nic, report.cidr): report for report in reports}.values():
        before = known.pop((report.nic, report.cidr), None)
        subnet = subnets.get(report.cidr)
        if subnet is None and not taken.overlap(network(report.cidr)):
            subnet = KnownSubnet(new_id(), report.cidr, others=False)
            subnets[report.cidr] = subnet
            new_subnets[subnet.id] = network(report.cidr)
            taken.add(new_subnets[subnet.id])
        serving = _serving(subnet, before)
        where = None if subnet is None else subnet.id
        if before is None:
            change: str | None = "appeared"
        elif not before.present:
            change = "returned"
        elif (before.report, before.subnet, before.serving) != (report, where, serving):
            change = "changed"
        else:
            change = None
        interfaces.append(
            PlannedInterface(
                new_id() if before is None else before.id,
                report,
                where,
                serving,
                change,
            )
        )
    serve = {row.subnet for row in interfaces if row.serving == "serving" and row.subnet is not None}
    gone = [row for row in known.values() if row.present]
    infrastructure: dict[int, set[tuple[str, str]]] = {}
    # Of an interface that may come back in a moment nothing is handed out yet.
    standing = [(row.subnet, row.report) for row in interfaces]
    standing += [(row.subnet, row.report) for row in known.values() if row.recent]
    for where, report in standing:
        if where is not None:
            addresses = infrastructure.setdefault(where, set())
            addresses.update((address, "controller") for address in report.addresses)
            addresses.update((address, "gateway") for address in report.gateways)
    return TopologyPlan(
        new_subnets,
        interfaces,
        gone,
        serve,
        {where: frozenset(addresses) for where, addresses in infrastructure.items()},
    )


def _serving(subnet: KnownSubnet | None, before: KnownInterface | None) -> str:
    if subnet is None:
        return "conflict"
    if before is not None and before.subnet == subnet.id:
        return before.serving
    return "shared-subnet" if subnet.others else "serving"


class _Networks:
    """Networks of which none overlaps another."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._spans = sorted((net.family, net.first, net.last) for net in networks)

    def add(self, net: Network) -> None:
        insort(self._spans, (net.family, net.first, net.last))

    def overlap(self, net: Network) -> bool:
        """Whether any of them has an address in common with this one."""
        index = bisect_left(self._spans, (net.family, net.first, net.first))
        near = self._spans[max(index - 1, 0) : index + 1]
        return any(family == net.family and first <= net.last and net.first <= last for family, first, last in near)
