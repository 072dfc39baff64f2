"""What a topology report means: properties over any sequence of reports, and the cases by name."""

from collections.abc import Sequence
from itertools import combinations
from time import process_time

from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.values import InterfaceReport
from regiond.domain.networks import network
from regiond.domain.topology import KnownInterface, KnownSubnet, PlannedInterface, TopologyPlan, plan_topology
from tests.regiond.domain.stories import Ids

CIDRS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48")


def report(nic: str, cidr: str, *, up: bool = True, addresses: tuple[str, ...] | None = None) -> InterfaceReport:
    own = addresses if addresses is not None else (network(cidr).text(network(cidr).first + 1),)
    return InterfaceReport(nic, cidr, own, up=up)


_reports = st.lists(
    st.builds(report, st.sampled_from(["eth0", "eth1"]), st.sampled_from(CIDRS), up=st.booleans()), max_size=6
)


class Kept:
    """What a database would keep of the plans of several clusters of one VRF."""

    def __init__(self) -> None:
        self.new_id = Ids(0)
        self.subnets: dict[int, str] = {}
        self.interfaces: dict[int, dict[tuple[str, str], KnownInterface]] = {}
        self.serving: dict[int, set[int]] = {}  # by cluster

    def apply(self, cluster: int, reports: Sequence[InterfaceReport], *, forget_absent: bool = False) -> TopologyPlan:
        known = self.interfaces.setdefault(cluster, {})
        plan = plan_topology(reports, list(known.values()), self._known_subnets(cluster), self.new_id)
        self.subnets.update((subnet, net.cidr) for subnet, net in plan.new_subnets.items())
        self.serving.setdefault(cluster, set()).update(plan.serve)
        for gone in plan.vanished:
            key = (gone.report.nic, gone.report.cidr)
            known[key] = KnownInterface(
                gone.id, gone.report, gone.subnet, False, gone.serving, recent=not forget_absent
            )
        for row in plan.interfaces:
            known[row.report.nic, row.report.cidr] = _kept(row)
        return plan

    def _known_subnets(self, cluster: int) -> list[KnownSubnet]:
        others = {
            row.subnet
            for other, rows in self.interfaces.items()
            for row in rows.values()
            if other != cluster and row.present
        }
        others |= {subnet for other, served in self.serving.items() if other != cluster for subnet in served}
        return [KnownSubnet(id_, cidr, others=id_ in others) for id_, cidr in self.subnets.items()]


def _kept(row: PlannedInterface) -> KnownInterface:
    return KnownInterface(row.id, row.report, row.subnet, True, row.serving, recent=True)


@given(st.lists(st.tuples(st.integers(1, 3), _reports), max_size=8))
def test_subnets_never_overlap_ids_never_change_and_one_cluster_serves(
    history: list[tuple[int, list[InterfaceReport]]],
) -> None:
    kept = Kept()
    ids: dict[tuple[int, str, str], int] = {}
    for cluster, reports in history:
        plan = kept.apply(cluster, reports)
        for one, other in combinations(map(network, kept.subnets.values()), 2):
            assert one.family != other.family or one.last < other.first or other.last < one.first
        for row in plan.interfaces:
            key = (cluster, row.report.nic, row.report.cidr)
            assert ids.setdefault(key, row.id) == row.id
            assert (row.subnet is None) == (row.serving == "conflict")
            assert row.subnet is None or kept.subnets[row.subnet] == row.report.cidr
        assert {row.report.cidr for row in plan.interfaces} == {r.cidr for r in reports}
        for subnet in kept.subnets:
            assert sum(subnet in served for served in kept.serving.values()) == 1
        again = kept.apply(cluster, reports)
        assert not again.new_subnets
        assert not again.vanished
        assert [row.change for row in again.interfaces] == [None] * len(again.interfaces)


def test_the_first_cluster_on_a_network_serves_it_and_the_second_waits_for_an_admin() -> None:
    kept = Kept()
    first = kept.apply(1, [report("eth0", "10.1.0.0/16"), report("eth1", "10.1.0.0/16")])
    assert [row.serving for row in first.interfaces] == ["serving", "serving"]
    assert len(first.new_subnets) == 1
    second = kept.apply(2, [report("eth0", "10.1.0.0/16")])
    assert [(row.serving, row.subnet) for row in second.interfaces] == [("shared-subnet", first.interfaces[0].subnet)]
    assert second.serve == set()
    assert not second.new_subnets


def test_a_network_that_overlaps_a_subnet_is_kept_as_a_conflict() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", "10.1.0.0/16")])
    plan = kept.apply(2, [report("eth0", "10.0.0.0/8"), report("eth1", "10.1.2.0/24"), report("eth2", "10.2.0.0/16")])
    assert [(row.serving, row.subnet is None) for row in plan.interfaces] == [
        ("conflict", True),
        ("conflict", True),
        ("serving", False),
    ]


def test_a_conflict_that_is_over_becomes_a_subnet_although_the_report_is_the_same() -> None:
    conflict = KnownInterface(7, report("eth0", "10.0.0.0/8"), None, True, "conflict", recent=True)
    plan = plan_topology([conflict.report], [conflict], [], Ids(100))
    (row,) = plan.interfaces
    assert (row.id, row.serving, row.change) == (7, "serving", "changed")
    assert list(plan.new_subnets) == [row.subnet]


def test_an_interface_that_is_away_for_a_moment_keeps_its_addresses_from_being_claimed() -> None:
    kept = Kept()
    pair = [
        report("eth0", "10.1.0.0/16", addresses=("10.1.0.1",)),
        report("eth1", "10.1.0.0/16", addresses=("10.1.0.2",)),
    ]
    (subnet,) = kept.apply(1, pair).infrastructure
    both = {("10.1.0.1", "controller"), ("10.1.0.2", "controller")}
    plan = kept.apply(1, pair[:1], forget_absent=True)
    assert [row.report.nic for row in plan.vanished] == ["eth1"]
    assert plan.infrastructure[subnet] == both
    later = kept.apply(1, pair[:1])
    assert later.infrastructure[subnet] == {("10.1.0.1", "controller")}
    back = kept.apply(1, pair)
    assert [row.change for row in back.interfaces] == [None, "returned"]
    assert back.infrastructure[subnet] == both


def test_thousands_of_networks_are_planned_in_a_moment() -> None:
    reports = [report("eth0", f"10.{n >> 8}.{n & 255}.0/24") for n in range(5000)]
    for each in reports:
        network(each.cidr)
    start = process_time()
    plan = plan_topology(reports, [], [], Ids(0))
    assert len(plan.new_subnets) == 5000
    assert process_time() - start < 2.0
