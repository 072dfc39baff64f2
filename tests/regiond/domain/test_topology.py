"""What a topology report means: properties over any sequence of reports, and the cases by name."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.values import InterfaceReport, NicKind
from regiond.domain.networks import network
from regiond.domain.topology import KnownInterface, KnownSubnet, LeftBehind, TopologyPlan, Vrfs, plan_topology
from regiond.domain.topology_changes import changes_of
from tests.regiond.domain.stories import Ids
from tests.slowness import slowness

CIDRS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48")


def report(
    nic: str,
    cidr: str,
    *,
    up: bool = True,
    addresses: tuple[str, ...] | None = None,
    mac: str | None = None,
    vrf: str | None = None,
    **more: Any,
) -> InterfaceReport:
    own = addresses if addresses is not None else (network(cidr).text(network(cidr).first + 1),)
    return InterfaceReport(nic, cidr, own, mac=mac, up=up, vrf=vrf, **more)


A, B = "00:16:3e:00:00:0a", "00:16:3e:00:00:0b"
VRFS = {"default": 1, "blue": 2}

_reports = st.lists(
    st.builds(
        report,
        st.sampled_from(["eth0", "eth1"]),
        st.sampled_from(CIDRS),
        up=st.booleans(),
        mac=st.sampled_from([None, A, B]),
        vrf=st.sampled_from([None, None, None, "blue", "unheard-of"]),
        serve=st.booleans(),
    ),
    max_size=6,
)


class Kept:
    """What a database would keep of the plans of several clusters."""

    def __init__(self) -> None:
        self.new_id = Ids(0)
        self.subnets: dict[int, tuple[int, str]] = {}  # VRF, CIDR
        self.interfaces: dict[int, dict[int, KnownInterface]] = {}
        self.serving: dict[int, set[int]] = {}  # by cluster
        self.own_vrf: dict[int, str] = {}

    def apply(self, cluster: int, reports: Sequence[InterfaceReport], *, forget_absent: bool = False) -> TopologyPlan:
        known = self.interfaces.setdefault(cluster, {})
        vrfs = Vrfs(self.own_vrf.get(cluster, "default"), VRFS)
        plan = plan_topology(reports, list(known.values()), self._known_subnets(cluster), self.new_id, vrfs)
        self.subnets.update((subnet, (vrf, self.subnets[subnet][1])) for subnet, vrf in plan.moved_subnets.items())
        self.subnets.update((subnet, (new.vrf, new.network.cidr)) for subnet, new in plan.new_subnets.items())
        for replaced in plan.replaced:
            del known[replaced]
        for gone in plan.vanished:
            known[gone.id] = replace(gone, present=False, recent=not forget_absent)
        for row in plan.interfaces:
            known[row.id] = KnownInterface(
                row.id, row.report, row.subnet, True, row.serving, recent=True, conflict=row.conflict
            )
        held = {row.subnet for row in known.values() if row.present}
        self.serving[cluster] = (self.serving.get(cluster, set()) & held) | set(plan.serve)
        assert len({(row.report.nic, row.report.cidr) for row in known.values()}) == len(known), "a unique constraint"
        return plan

    def _known_subnets(self, cluster: int) -> list[KnownSubnet]:
        others = {
            row.subnet
            for other, rows in self.interfaces.items()
            for row in rows.values()
            if other != cluster and (row.present or row.serving == "serving")
        }
        others |= {subnet for other, served in self.serving.items() if other != cluster for subnet in served}
        serves = self.serving.get(cluster, set())
        return [
            KnownSubnet(id_, cidr, others=id_ in others, vrf=vrf, serves=id_ in serves)
            for id_, (vrf, cidr) in self.subnets.items()
        ]


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["default", "blue"]), _reports), max_size=8))
def test_subnets_never_overlap_an_id_names_one_subnet_for_ever_and_one_cluster_serves(
    history: list[tuple[int, str, list[InterfaceReport]]],
) -> None:
    kept = Kept()
    named: dict[int, int] = {}
    for cluster, vrf, reports in history:
        kept.own_vrf[cluster] = vrf
        plan = kept.apply(cluster, reports)
        for (vrf_of_one, one), (vrf_of_other, other) in combinations(kept.subnets.values(), 2):
            a, b = network(one), network(other)
            assert vrf_of_one != vrf_of_other or a.family != b.family or a.last < b.first or b.last < a.first
        for row in plan.interfaces:
            if row.subnet is not None:
                assert named.setdefault(row.id, row.subnet) == row.subnet
                assert kept.subnets[row.subnet] == (VRFS[row.vrf], row.report.cidr)
            assert (row.subnet is None) == (row.serving == "conflict") == (row.conflict is not None)
        assert {row.report.cidr for row in plan.interfaces} == {r.cidr for r in reports}
        for subnet in kept.subnets:
            assert sum(subnet in served for served in kept.serving.values()) <= 1, "nobody confirmed a pair"
        again = kept.apply(cluster, reports)
        assert not again.changes_interfaces
        assert not again.moved_subnets
        assert not again.replaced


def test_who_comes_while_the_first_cluster_is_away_does_not_serve_beside_it_when_it_is_back() -> None:
    kept = Kept()
    wire = [report("eth0", "10.0.0.0/8")]
    assert [row.serving for row in kept.apply(1, wire).interfaces] == ["serving"]
    kept.apply(1, [], forget_absent=True)
    assert [row.serving for row in kept.apply(2, wire).interfaces] == ["shared-subnet"]
    assert [row.serving for row in kept.apply(1, wire).interfaces] == ["serving"]


def test_a_report_that_is_repeated_says_the_same_of_a_conflict() -> None:
    kept = Kept()
    reports = [report("eth0", cidr) for cidr in ("10.2.0.0/16", "10.0.0.0/8", "10.1.0.0/16")]
    kept.apply(1, reports)
    assert not kept.apply(1, reports).changes_interfaces


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
    assert process_time() - start < 2.0 * slowness()


# ---- what happened to a NIC ----


def happened(kept: Kept, cluster: int, *reports: InterfaceReport) -> list[tuple[str, str, str]]:
    """What a report comes to: the change, NIC and CIDR of each."""
    names = {number: name for name, number in VRFS.items()}
    before = {subnet: names[vrf] for subnet, (vrf, _) in kept.subnets.items()}
    plan = kept.apply(cluster, reports)
    return [(each.happened.value, each.nic, each.cidr) for each in changes_of(plan, before)]


def ids(kept: Kept, cluster: int) -> dict[tuple[str, str], int]:
    return {(row.report.nic, row.report.cidr): row.id for row in kept.interfaces[cluster].values() if row.present}


NET, OTHER_NET, V6 = "192.0.2.0/24", "198.51.100.0/24", "2001:db8::/64"


def test_a_renamed_nic_keeps_its_ids_by_its_mac() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET, mac=A), report("eth0", V6, mac=A), report("eth1", OTHER_NET, mac=B)])
    before = ids(kept, 1)
    renamed = happened(kept, 1, report("lan0", NET, mac=A), report("lan0", V6, mac=A), report("eth1", OTHER_NET, mac=B))
    assert renamed == [("renamed", "lan0", NET), ("renamed", "lan0", V6)]
    assert ids(kept, 1) == {(nic.replace("eth0", "lan0"), cidr): id_ for (nic, cidr), id_ in before.items()}


def test_two_nics_that_exchange_names_keep_their_ids() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET, mac=A), report("eth1", OTHER_NET, mac=B)])
    before = ids(kept, 1)
    changes = happened(kept, 1, report("eth1", NET, mac=A), report("eth0", OTHER_NET, mac=B))
    assert {change for change, _, _ in changes} == {"renamed"}
    assert ids(kept, 1) == {("eth1", NET): before["eth0", NET], ("eth0", OTHER_NET): before["eth1", OTHER_NET]}


def test_a_new_card_by_an_old_name_on_the_same_network_is_the_same_interface() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET, mac=A)])
    before = ids(kept, 1)
    assert happened(kept, 1, report("eth0", NET, mac=B)) == [("changed", "eth0", NET)]
    assert ids(kept, 1) == before


@pytest.mark.parametrize(
    "now",
    [
        [report("lan0", NET)],  # no MAC address
        [report("lan0", NET, mac=A), report("lan1", OTHER_NET, mac=A)],  # that of two NICs
        [report("lan0", NET, mac=A, kind=NicKind.BRIDGE)],  # that of a NIC below it
        [report("lan0", NET, mac=A, kind=NicKind.VLAN, vlan=7)],
    ],
)
def test_what_is_not_certain_is_another_interface(now: list[InterfaceReport]) -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET, mac=A)])
    changes = happened(kept, 1, *now)
    assert ("appeared", "lan0", NET) in changes
    assert ("vanished", "eth0", NET) in changes


def test_vlans_on_one_nic_are_told_apart_by_their_ids() -> None:
    kept = Kept()

    def vlans(nic: str) -> list[InterfaceReport]:
        of_7 = report(f"{nic}.7", NET, mac=A, kind=NicKind.VLAN, vlan=7)
        return [of_7, report(f"{nic}.8", OTHER_NET, mac=A, kind=NicKind.VLAN, vlan=8), report(nic, V6, mac=A)]

    kept.apply(1, vlans("eth0"))
    assert {change for change, _, _ in happened(kept, 1, *vlans("lan0"))} == {"renamed"}


def test_an_interface_that_moves_to_another_network_is_a_new_one_and_one_change() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET), report("eth0", V6)])
    before = ids(kept, 1)
    assert happened(kept, 1, report("eth0", OTHER_NET), report("eth0", V6)) == [("moved", "eth0", OTHER_NET)]
    assert ids(kept, 1)["eth0", OTHER_NET] not in before.values()
    assert not kept.interfaces[1][before["eth0", NET]].present
    assert happened(kept, 1, report("eth0", NET), report("eth0", V6)) == [("moved", "eth0", NET)]
    assert ids(kept, 1) == before, "the one of that network is there again"


def test_which_network_became_which_is_not_guessed() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", "10.1.0.0/16"), report("eth0", "10.2.0.0/16")])
    assert happened(kept, 1, report("eth0", NET)) == [
        ("appeared", "eth0", NET),
        ("vanished", "eth0", "10.1.0.0/16"),
        ("vanished", "eth0", "10.2.0.0/16"),
    ]


def test_another_nic_of_a_cluster_that_serves_the_network_serves_it_at_once() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET)])
    kept.apply(2, [report("eth0", NET)])
    (row,) = kept.apply(1, [report("bond0", NET)]).interfaces
    assert row.serving == "serving"
    (row,) = kept.apply(2, [report("bond0", NET)]).interfaces
    assert row.serving == "shared-subnet"


def test_a_cluster_that_wants_to_be_asked_serves_nothing_new_alone() -> None:
    kept = Kept()
    plan = kept.apply(1, [report("eth0", NET, serve=False)])
    assert [row.serving for row in plan.interfaces] == ["unserved"]
    assert not plan.serve
    assert [row.serving for row in kept.apply(1, [report("eth0", NET)]).interfaces] == ["serving"]
    assert [row.serving for row in kept.apply(1, [report("eth0", NET, serve=False)]).interfaces] == ["serving"]


def test_another_nic_of_a_cluster_that_is_not_to_serve_the_network_does_not_serve_it_either() -> None:
    kept = Kept()
    (row,) = kept.apply(1, [report("eth0", NET, mac=A)]).interfaces
    kept.interfaces[1][row.id] = replace(kept.interfaces[1][row.id], serving="declined")
    kept.serving[1].clear()
    for reports in ([report("eth0", NET, mac=A), report("eth1", NET, mac=B)], [report("bond0", NET, mac=B)]):
        plan = kept.apply(1, reports)
        assert {row.serving for row in plan.interfaces} == {"declined"}
        assert not plan.serve


# ---- VRFs ----


def test_one_cidr_in_two_vrfs_is_two_subnets_that_are_both_served() -> None:
    kept = Kept()
    kept.own_vrf[2] = "blue"
    plans = [kept.apply(cluster, [report("eth0", NET)]) for cluster in (1, 2)]
    assert [row.serving for plan in plans for row in plan.interfaces] == ["serving", "serving"]
    assert sorted(kept.subnets.values()) == [(1, NET), (2, NET)]
    third = kept.apply(3, [report("eth0", NET, vrf="blue"), report("eth1", NET)])
    assert [row.serving for row in third.interfaces] == ["shared-subnet", "shared-subnet"]
    assert len({row.subnet for row in third.interfaces}) == 2


def test_a_network_of_a_vrf_that_there_is_not_waits_for_it() -> None:
    kept = Kept()
    (row,) = kept.apply(1, [report("eth0", NET, vrf="unheard-of")]).interfaces
    assert row.serving == "conflict"
    assert row.conflict is not None
    assert "there is no VRF unheard-of" in row.conflict


def test_a_conflict_says_what_is_in_the_way() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", "10.1.0.0/16")])
    (row,) = kept.apply(2, [report("eth0", "10.0.0.0/8")]).interfaces
    assert row.conflict is not None
    assert row.conflict.startswith(
        "10.0.0.0/8 overlaps the subnet 10.1.0.0/16 of VRF default: correct the prefix length"
    )


def test_the_subnet_goes_with_the_one_cluster_that_serves_it_and_its_interfaces_keep_their_ids() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET), report("eth1", OTHER_NET)])
    before = ids(kept, 1)
    kept.own_vrf[1] = "blue"
    plan = kept.apply(1, [report("eth0", NET), report("eth1", OTHER_NET)])
    assert not plan.new_subnets
    assert set(kept.subnets.values()) == {(2, NET), (2, OTHER_NET)}
    assert ids(kept, 1) == before
    assert [row.change for row in plan.interfaces] == ["changed", "changed"]


def test_the_subnet_of_an_interface_that_is_away_for_a_moment_goes_along() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET), report("eth0", V6)])
    before = ids(kept, 1)
    kept.apply(1, [report("eth0", NET)])
    kept.own_vrf[1] = "blue"
    kept.serving[1] = set(kept.subnets)  # what vanished is drained later
    kept.apply(1, [report("eth0", NET)])
    assert set(kept.subnets.values()) == {(2, NET), (2, V6)}
    kept.apply(1, [report("eth0", NET), report("eth0", V6)])
    assert ids(kept, 1) == before
    assert set(kept.subnets.values()) == {(2, NET), (2, V6)}


def test_a_subnet_that_others_are_on_stays_and_the_interface_is_another_one() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET)])
    kept.apply(2, [report("eth0", NET)])
    before = ids(kept, 2)
    kept.own_vrf[2] = "blue"
    assert happened(kept, 2, report("eth0", NET)) == [("moved", "eth0", NET)]
    assert set(kept.subnets.values()) == {(1, NET), (2, NET)}
    assert set(ids(kept, 2).values()).isdisjoint(before.values())
    assert kept.serving[2], "alone on its own subnet"


def test_who_leaves_a_subnet_that_it_serves_to_others_is_told_of() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET), report("eth1", NET)])
    kept.apply(2, [report("eth0", NET)])
    (subnet,) = kept.subnets
    one_stays = kept.apply(1, [report("eth0", NET, vrf="blue"), report("eth1", NET)])
    assert not one_stays.left_behind
    gone = kept.apply(1, [report("eth0", NET, vrf="blue"), report("eth1", NET, vrf="blue")])
    assert gone.left_behind == [LeftBehind(subnet, "eth1", NET, "blue")]
    assert not kept.apply(2, [report("eth0", NET, vrf="blue")]).left_behind, "it did not serve it"


def test_a_subnet_stays_where_one_of_the_cluster_s_interfaces_stays() -> None:
    kept = Kept()
    kept.apply(1, [report("eth0", NET), report("eth1", NET)])
    plan = kept.apply(1, [report("eth0", NET, vrf="blue"), report("eth1", NET)])
    assert not plan.moved_subnets
    assert set(kept.subnets.values()) == {(1, NET), (2, NET)}
