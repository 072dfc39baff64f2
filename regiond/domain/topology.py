"""What a cluster's topology report means for subnets, cluster interfaces and serving: pure.

A network that nobody has becomes a subnet of its VRF (the one that the cluster's configuration gives its NIC, or else
the cluster's own), served by this cluster. A second cluster on an existing subnet stays unserved (`shared-subnet`)
until an admin says that it is the same wire: two unrelated sites that both use 10.0.0.0/24 must not silently become a
pair. So does a new network of a cluster that wants to be asked first (`unserved`), and one that an admin said no to,
for all NICs that the cluster has there or gets (`declined`). A network that overlaps a subnet without being it is kept
as a conflict and shown, never refused; so is one of a VRF that there is not.

A subnet is where the cluster is that serves it: when all of that cluster's interfaces on it are given another VRF, and
no other cluster is on it, it goes there with its reservations. Otherwise it stays, and the interface is another one.

An interface that is not reported any more is absent and nothing else, for now: when a link flaps, its IPv6 networks
vanish until duplicate address detection has ended, and its routes with them. What stays absent is drained later, and
the addresses that were the controller's or a gateway's can be claimed then (`ClusterStore.drain_absent`).
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from clusterd.protocol.values import InterfaceReport
from regiond.domain.ids import NewId
from regiond.domain.networks import Network, network
from regiond.domain.nic_identity import renamed_nics

T = TypeVar("T")

_Key = tuple[str, str]
"""A NIC's name and a CIDR."""


@dataclass(frozen=True, slots=True)
class Vrfs:
    """The ids of the VRFs by name, and the name of the one that the cluster's networks are in unless told otherwise."""

    own: str = "default"
    ids: Mapping[str, int] = field(default_factory=lambda: {"default": 1})

    def name_of(self, report: InterfaceReport) -> str:
        return self.own if report.vrf is None else report.vrf

    def id_of(self, report: InterfaceReport) -> int | None:
        """None where there is no such VRF."""
        return self.ids.get(self.name_of(report))


@dataclass(frozen=True, slots=True)
class KnownSubnet:
    """A subnet that a reported network is or overlaps, in a VRF that matters, or that the cluster has an interface on.

    `others` tells whether another cluster is on it, or was and will serve it when it is back; `serves` whether this one
    serves it.
    """

    id: int
    cidr: str
    others: bool
    vrf: int = 1
    serves: bool = False


@dataclass(frozen=True, slots=True)
class KnownInterface:
    """A cluster interface as it is stored; `recent` tells that it is present, or was so until a moment ago.

    `conflict` says in words why it is on no subnet.
    """

    id: int
    report: InterfaceReport
    subnet: int | None
    present: bool
    serving: str
    recent: bool
    conflict: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedInterface:
    """A cluster interface as it has to be stored.

    `change` is appeared, returned, renamed, moved, changed or None; `former` is what it was, or of one that moved to
    another network, what was on the former one.
    """

    id: int
    report: InterfaceReport
    subnet: int | None
    serving: str
    change: str | None
    conflict: str | None = None
    vrf: str = "default"
    former: KnownInterface | None = None


@dataclass(frozen=True, slots=True)
class NewSubnet:
    """A subnet that has to be made, in the VRF with this id."""

    network: Network
    vrf: int = 1


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A subnet that the cluster serves, and is not on any more: the network of its NIC was given this other VRF.

    Others are on the subnet, which stays with them and with its reservations.
    """

    subnet: int
    nic: str
    cidr: str
    vrf: str


@dataclass(frozen=True, slots=True)
class TopologyPlan:
    """What to write. `infrastructure` has, per subnet this cluster is on, the addresses that nobody may claim.

    `vanished` become absent; `replaced` are ids that cease to be, since another interface is on their NIC and network
    now; `moved_subnets` go to another VRF.
    """

    new_subnets: Mapping[int, NewSubnet]
    interfaces: Sequence[PlannedInterface]
    vanished: Sequence[KnownInterface]
    serve: Collection[int]
    infrastructure: Mapping[int, frozenset[tuple[str, str]]]
    replaced: Sequence[int] = ()
    moved_subnets: Mapping[int, int] = field(default_factory=dict)
    left_behind: Sequence[LeftBehind] = ()

    @property
    def changes_interfaces(self) -> bool:
        """Whether networks or interfaces will be others than they are: most reports only repeat what is known."""
        return bool(self.new_subnets or self.vanished) or any(row.change is not None for row in self.interfaces)

    @property
    def gone(self) -> Sequence[KnownInterface]:
        """What vanished and did not move to another network."""
        moved = {row.former.id for row in self.interfaces if row.change == "moved" and row.former is not None}
        return [row for row in self.vanished if row.id not in moved]


NOTHING = TopologyPlan({}, (), (), (), {})


def plan_topology(
    reports: Sequence[InterfaceReport],
    known_interfaces: Sequence[KnownInterface],
    known_subnets: Sequence[KnownSubnet],
    new_id: NewId,
    vrfs: Vrfs | None = None,
) -> TopologyPlan:
    """Compare the whole picture of one cluster with what is stored of it."""
    return _Planning(reports, known_interfaces, known_subnets, new_id, vrfs or Vrfs()).plan()


class _Planning:
    """One report being understood."""

    def __init__(
        self,
        reports: Sequence[InterfaceReport],
        known_interfaces: Sequence[KnownInterface],
        known_subnets: Sequence[KnownSubnet],
        new_id: NewId,
        vrfs: Vrfs,
    ) -> None:
        self._reports: dict[_Key, InterfaceReport] = {(report.nic, report.cidr): report for report in reports}
        self._left: dict[_Key, KnownInterface] = {(row.report.nic, row.report.cidr): row for row in known_interfaces}
        self._declined = {row.subnet for row in known_interfaces if row.serving == "declined"}
        self._names = renamed_nics(
            [row.report for row in known_interfaces if row.present], list(self._reports.values())
        )
        self._new_id = new_id
        self._vrfs = vrfs
        self._former = self._recognised()
        self._moved_subnets = self._subnets_that_move(known_subnets)
        placed = [(self._moved_subnets.get(row.id, row.vrf), row) for row in known_subnets]
        self._subnets = {(vrf, row.cidr): row for vrf, row in placed}
        self._shared = {row.id: row.cidr for row in known_subnets if row.others and row.serves}
        self._taken = {vrf: _Networks() for vrf in {*vrfs.ids.values(), *(vrf for vrf, _ in placed)}}
        for vrf, row in placed:
            self._taken[vrf].add(network(row.cidr))
        self._new_subnets: dict[int, NewSubnet] = {}
        self._replaced: list[int] = []

    def plan(self) -> TopologyPlan:
        subnets = {key: self._subnet_of(report) for key, report in self._reports.items()}
        rows = [self._placed(report, subnets[key], self._former.get(key)) for key, report in self._reports.items()]
        vanished = [row for _, row in sorted(self._left.items(), key=lambda item: item[0]) if row.present]
        rows = self._with_moves(rows, vanished)
        serve = {row.subnet for row in rows if row.serving == "serving" and row.subnet is not None}
        return TopologyPlan(
            self._new_subnets,
            rows,
            vanished,
            serve,
            self._infrastructure(rows),
            self._replaced,
            self._moved_subnets,
            self._left_behind(rows),
        )

    def _recognised(self) -> dict[_Key, KnownInterface]:
        """What each reported interface was before. Takes it out of what is left."""
        found = {key: self._left.pop(key) for key in self._reports if key in self._left}
        before = {new: old for old, new in self._names.items()}
        for nic, cidr in self._reports:
            former = self._left.get((before.get(nic, ""), cidr))
            if (nic, cidr) not in found and former is not None and former.present:
                found[nic, cidr] = self._left.pop((former.report.nic, cidr))
        return found

    def _subnets_that_move(self, known_subnets: Sequence[KnownSubnet]) -> dict[int, int]:
        """The VRFs of subnets that are in another one from now on; see the module."""
        by_subnet: dict[int | None, set[int | None]] = {}
        for key, former in self._former.items():
            by_subnet.setdefault(former.subnet, set()).add(self._vrfs.id_of(self._reports[key]))
        # An interface that is away for a moment goes where it would be.
        away = [each for each in self._left.values() if each.recent and each.subnet not in by_subnet]
        for each in away:
            by_subnet.setdefault(each.subnet, set()).add(self._vrfs.id_of(each.report))
        stays = {(self._vrfs.id_of(report), report.cidr) for report in self._reports.values()}
        taken: dict[int, _Networks] = {}
        for row in known_subnets:
            taken.setdefault(row.vrf, _Networks()).add(network(row.cidr))
        moves = {}
        for row in known_subnets:
            targets = by_subnet.get(row.id, set())
            if row.others or not row.serves or len(targets) != 1 or (row.vrf, row.cidr) in stays:
                continue
            (target,) = targets
            if target is None or target == row.vrf:
                continue
            there = taken.setdefault(target, _Networks())
            if not there.overlapped(network(row.cidr)):
                there.add(network(row.cidr))
                moves[row.id] = target
        return moves

    def _placed(
        self, report: InterfaceReport, subnet: KnownSubnet | None, before: KnownInterface | None
    ) -> PlannedInterface:
        conflict = None if subnet is not None else self._conflict_of(report)
        serving = _serving(report, subnet, before, self._declined)
        where = None if subnet is None else subnet.id
        id_, change = (self._new_id(), "appeared") if before is None else (before.id, _change(report, before))
        if before is not None and before.subnet is not None and before.subnet != where:
            # A cluster interface is of one subnet for ever: who kept its id must not claim from another network.
            self._replaced.append(before.id)
            id_, change = self._new_id(), "moved"
        elif before is not None and change is None:
            now = (report, where, serving, conflict)
            was = (before.report, before.subnet, before.serving, before.conflict)
            change = "changed" if now != was or where in self._moved_subnets else None
        return PlannedInterface(
            id_, report, where, serving, change, conflict, self._vrfs.name_of(report), former=before
        )

    def _subnet_of(self, report: InterfaceReport) -> KnownSubnet | None:
        """The subnet that a reported network is; it is made where nothing is in the way."""
        vrf, net = self._vrfs.id_of(report), network(report.cidr)
        if vrf is None:
            return None
        known = self._subnets.get((vrf, report.cidr))
        if known is not None or self._taken[vrf].overlapped(net):
            return known
        made = KnownSubnet(self._new_id(), report.cidr, others=False, vrf=vrf)
        self._subnets[vrf, report.cidr] = made
        self._new_subnets[made.id] = NewSubnet(net, vrf)
        self._taken[vrf].add(net)
        return made

    def _conflict_of(self, report: InterfaceReport) -> str:
        """Why a reported network is no subnet. Asked when all subnets are made: a repeated report says the same."""
        name, vrf = self._vrfs.name_of(report), self._vrfs.id_of(report)
        if vrf is None:
            return f"there is no VRF {name}: make it (regionctl vrfs add {name}), or correct clusterd's settings"
        other = self._taken[vrf].overlapped(network(report.cidr))
        return (
            f"{report.cidr} overlaps the subnet {other} of VRF {name}: correct the prefix length that is wrong, or "
            "give this cluster another VRF (regionctl clusters set --vrf)"
        )

    def _with_moves(
        self, rows: Sequence[PlannedInterface], vanished: Sequence[KnownInterface]
    ) -> list[PlannedInterface]:
        """A NIC that left one network for one other, of the same family, moved there: one change and not two."""
        gone = _one_by_nic(
            ((self._names.get(row.report.nic, row.report.nic), network(row.report.cidr).family), row)
            for row in vanished
            if not row.report.relayed
        )
        come = _one_by_nic(
            ((row.report.nic, network(row.report.cidr).family), row)
            for row in rows
            if row.change in ("appeared", "returned") and not row.report.relayed
        )
        moved = {row.id: gone[where] for where, row in come.items() if row is not None and gone.get(where) is not None}
        return [replace(row, change="moved", former=moved[row.id]) if row.id in moved else row for row in rows]

    def _left_behind(self, rows: Sequence[PlannedInterface]) -> list[LeftBehind]:
        stays = {row.subnet for row in rows}
        return [
            LeftBehind(former.subnet, row.report.nic, row.report.cidr, row.vrf)
            for row in rows
            if (former := row.former) is not None
            and former.subnet is not None
            and former.subnet not in stays
            and self._shared.get(former.subnet) == row.report.cidr
        ]

    def _infrastructure(self, rows: Sequence[PlannedInterface]) -> dict[int, frozenset[tuple[str, str]]]:
        found: dict[int, set[tuple[str, str]]] = {}
        # Of an interface that may come back in a moment nothing is handed out yet.
        standing = [(row.subnet, row.report) for row in rows]
        standing += [(row.subnet, row.report) for row in self._left.values() if row.recent]
        for where, report in standing:
            if where is not None:
                addresses = found.setdefault(where, set())
                addresses.update((address, "controller") for address in report.addresses)
                addresses.update((address, "gateway") for address in report.gateways)
        return {where: frozenset(addresses) for where, addresses in found.items()}


def _change(report: InterfaceReport, before: KnownInterface) -> str | None:
    """What happened to an interface that is known, apart from its properties."""
    if not before.present:
        return "returned"
    return "renamed" if report.nic != before.report.nic else None


def _serving(
    report: InterfaceReport,
    subnet: KnownSubnet | None,
    before: KnownInterface | None,
    declined: Collection[int | None],
) -> str:
    if subnet is None:
        return "conflict"
    known = before is not None and before.subnet == subnet.id
    if known and before is not None and not (before.serving == "unserved" and report.serve):
        return before.serving
    if subnet.serves:
        return "serving"  # by another NIC, or by one that is away: it is the same wire
    if subnet.id in declined:
        return "declined"  # an admin said so of the cluster, whichever NIC it was then
    if subnet.others:
        return "shared-subnet"
    return "serving" if report.serve else "unserved"


def _one_by_nic(rows: Iterable[tuple[tuple[str, int], T]]) -> dict[tuple[str, int], T | None]:
    """The rows by where they are; None where there are several."""
    found: dict[tuple[str, int], T | None] = {}
    for where, row in rows:
        found[where] = None if where in found else row
    return found


class _Networks:
    """Networks of which none overlaps another."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, int, str]] = []

    def add(self, net: Network) -> None:
        insort(self._spans, (net.family, net.first, net.last, net.cidr))

    def overlapped(self, net: Network) -> str | None:
        """The first of them that has an address in common with this one."""
        index = bisect_left(self._spans, (net.family, net.first, net.first, ""))
        for family, first, last, cidr in self._spans[max(index - 1, 0) : index + 1]:
            if family == net.family and first <= net.last and net.first <= last:
                return cidr
        return None
