"""What the dispatcher sends to a scripted cluster: at its registration, after commits, and when it drains."""

from hashlib import shake_256

import pytest

from clusterd.protocol import errors
from clusterd.protocol.arguments import MAX_PAGE_ROWS
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.cluster_rpc.connections import MAX_TRANSFERS_AT_ONCE
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge, Claim, Forgotten, NewDevice
from regiond.domain.reservations import Kind
from regiond.host_map_dispatch.targets import FIRST_BACK_OFF_SECONDS
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster, Stored
from tests.regiond.site import (
    HISTORY,
    NET,
    OTHER_NET,
    OTHER_SUBNET,
    RACK,
    SUBNET,
    Site,
    cluster,
    mac,
    site,
)

__all__ = ["cluster", "site"]


# ---- registration ----


def test_a_cluster_with_nothing_is_given_what_it_lacks(site: Site, cluster: FakeCluster) -> None:
    site.claim(3)
    site.register(cluster)
    assert cluster.names() == ["ApplyHostMaps"]
    assert cluster.calls[0].arguments["from"] == 0
    assert site.is_settled(cluster)
    assert site.recorded() == ("serving", 1, 0)


def test_a_cluster_that_has_everything_is_left_alone(site: Site, cluster: FakeCluster) -> None:
    site.claim(2)
    site.register(cluster).cut()
    site.claim()
    site.register(cluster)
    cluster.calls.clear()
    site.wires[-1].cut()
    site.register(cluster)
    assert cluster.names() == []
    assert site.is_settled(cluster)


def test_a_cluster_that_was_away_is_given_the_difference(site: Site, cluster: FakeCluster) -> None:
    first, *_ = site.claim(3)
    site.register(cluster).cut()
    site.release(first)
    site.claim()
    cluster.calls.clear()
    site.register(cluster)
    (call,) = cluster.calls
    assert call.name == "ApplyHostMaps"
    assert (call.arguments["from"], call.arguments["to"]) == (1, 3)
    assert (len(call.arguments["upserts"]), len(call.arguments["removals"])) == (1, 1)
    assert site.is_settled(cluster)


def test_generations_of_another_history_count_for_nothing(site: Site, cluster: FakeCluster) -> None:
    site.claim(2)
    cluster.history = "another"
    cluster.subnets = {SUBNET: Stored(0, {})}
    foreign = format_id(Prefix.SUBNET, 999)
    cluster.subnets[foreign] = Stored(77, {})
    site.change(Acknowledge(RACK, NET, 1, 1))
    site.register(cluster)
    assert site.recorded() == ("serving", 1, 0)
    assert foreign in cluster.subnets, "another history's subnets are not this region's to drop"


def test_a_wrong_digest_at_the_desired_generation_brings_the_whole_set(site: Site, cluster: FakeCluster) -> None:
    site.claim(2)
    site.register(cluster).cut()
    cluster.subnets[SUBNET].host_maps.pop(mac(1))
    cluster.calls.clear()
    with logged() as events:
        site.register(cluster)
    assert "delivery.digest-differs" in [event["event"] for event in events]
    assert cluster.names() == ["ApplyHostMaps", "BeginTransfer", "TransferPage", "CommitTransfer"]
    assert site.is_settled(cluster)


def test_nothing_is_delivered_before_the_registration_is_answered(site: Site, cluster: FakeCluster) -> None:
    site.claim()
    site.connect(cluster)
    site.storage.hold()
    answer = Outcome(cluster.register())
    site.flush()
    site.dispatch.committed([NET])
    Outcome(site.dispatch.sweep())
    site.flush()
    assert cluster.calls == []
    site.storage.let_go()
    site.flush()
    assert answer.done()
    assert cluster.calls == []
    site.pass_time(0)
    assert site.is_settled(cluster)
    assert cluster.names() == ["ApplyHostMaps"]


def test_a_subnet_that_is_not_the_clusters_is_forgotten(site: Site, cluster: FakeCluster) -> None:
    foreign = format_id(Prefix.SUBNET, 999)
    cluster.history = HISTORY
    cluster.subnets = {foreign: Stored(3, {})}
    cluster.refusals = [errors.ServerRefused("busy")]
    site.register(cluster)
    assert foreign in cluster.subnets
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    assert cluster.names() == ["ForgetSubnet", "ForgetSubnet"]
    assert cluster.subnets == {}
    site.pass_time(1000)
    assert len(cluster.calls) == 2


def test_a_newer_connection_takes_over_and_the_older_one_is_cut(site: Site, cluster: FakeCluster) -> None:
    site.claim()
    old = site.register(cluster)
    old_link = cluster.link
    assert old_link is not None
    twin = FakeCluster("rack-7", HISTORY)
    twin.subnets = {SUBNET: Stored(1, dict(cluster.subnets[SUBNET].host_maps))}
    site.register(twin)
    assert not old_link.connected_now
    assert not old.server.connected_now
    site.claim()
    assert site.is_settled(twin)
    assert site.storage.ended == [(RACK, 1)]
    assert site.connections.clusters() == [RACK]


def test_a_connection_that_has_a_later_one_elsewhere_is_given_nothing_more(site: Site, cluster: FakeCluster) -> None:
    """At another regiond, which tells the database and not this one."""
    end = site.register(cluster).server
    site.claim()
    site.tables.epochs[RACK] += 1
    cluster.calls.clear()
    with logged() as events:
        site.claim()
    assert cluster.calls == [] and not end.connected_now
    assert [(e["event"], e["cluster"]) for e in events if e["event"] == "cluster.superseded-elsewhere"] == [
        ("cluster.superseded-elsewhere", "rack-7")
    ]


def test_reports_over_a_superseded_connection_are_refused(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    connection = site.connections.by_cluster.pop(RACK)
    with pytest.raises(errors.NotRegistered):
        site.ask(cluster.report(SUBNET, 1, HISTORY))
    site.connections.by_cluster[RACK] = connection


def test_nothing_is_sent_on_a_connection_that_is_not_the_clusters_latest(site: Site, cluster: FakeCluster) -> None:
    """The later one is another regiond's, and this one has not been told yet."""
    made = site.register(cluster)
    site.tables.epochs[RACK] += 1
    site.claim()
    assert cluster.calls == []
    assert not made.server.connected_now


def test_what_was_said_on_a_superseded_connection_and_comes_late_to_the_database_counts_for_nothing(
    site: Site, cluster: FakeCluster
) -> None:
    """It was on its way there when the cluster came with another disk: it confirms nothing of what that has."""
    (held,) = site.claim()
    site.register(cluster).cut()
    site.release(held)
    site.register(cluster)
    epoch = site.tables.epochs[RACK]
    site.change(Acknowledge(RACK, NET, 2, 2, epoch=epoch - 1))
    assert site.recorded() == ("serving", 2, 1)
    site.change(Forgotten(RACK, NET, epoch - 1))
    assert site.recorded() == ("serving", 2, 1)
    (row,) = site.tables.reservations.values()
    assert row["confirmed_at"] is None
    site.change(Acknowledge(RACK, NET, 2, 2, epoch=epoch))
    assert site.recorded() == ("serving", 2, 2)
    assert row["confirmed_at"] is not None


def test_a_connection_that_ends_while_it_registers_leaves_nothing_behind(site: Site, cluster: FakeCluster) -> None:
    site.claim()
    made = site.connect(cluster)
    site.storage.hold()
    answer = Outcome(cluster.register())
    site.flush()
    made.cut()
    site.storage.let_go()
    site.flush()
    site.pass_time(0)
    assert isinstance(answer.error, Exception)
    assert site.connections.clusters() == []
    assert cluster.calls == []


# ---- changes ----


def test_a_commit_is_delivered_at_once_and_a_repeated_doorbell_sends_nothing(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.claim()
    assert site.is_settled(cluster)
    site.dispatch.committed([NET])
    site.sweep()
    site.flush()
    assert cluster.names() == ["ApplyHostMaps"]


def test_one_call_is_in_flight_and_what_comes_meanwhile_goes_together(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.hold()
    for _ in range(5):
        site.claim()
    site.claim(subnet=OTHER_NET)
    assert [call.subnet for call in cluster.calls] == [SUBNET, OTHER_SUBNET]
    cluster.let_go()
    site.flush()
    spans = [(c.arguments["from"], c.arguments["to"]) for c in cluster.calls if c.subnet == SUBNET]
    assert spans == [(0, 1), (1, 5)]
    assert cluster.most_at_once == 1
    assert site.is_settled(cluster)
    assert site.is_settled(cluster, OTHER_NET)


def test_the_sweep_repairs_what_nobody_was_told_of(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.change(site._device(NET))
    site.flush()
    assert not site.is_settled(cluster)
    site.sweep()
    assert site.is_settled(cluster)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_long_difference_goes_in_pages(site: Site, cluster: FakeCluster, extra: int) -> None:
    site.register(cluster)
    site.claim()
    cluster.calls.clear()
    site.claim(MAX_PAGE_ROWS + extra)
    if extra:
        assert cluster.names() == ["BeginTransfer", "TransferPage", "TransferPage", "CommitTransfer"]
        assert cluster.calls[0].arguments == {"from": 1, "to": 2, "count": MAX_PAGE_ROWS + 1}
    else:
        assert cluster.names() == ["ApplyHostMaps"]
    assert site.is_settled(cluster)


def test_few_large_changes_are_on_their_way_to_one_cluster_at_a_time(site: Site, cluster: FakeCluster) -> None:
    """Each is in memory until the cluster, which may be slow on purpose, has all of it."""
    subnets = [NET, OTHER_NET, *range(110, 114)]
    for number, subnet in enumerate(subnets):
        if subnet >= 110:
            site.tables.add_subnet(subnet, f"10.{number}.0.0/16", hold=600)
            site.tables.rebuild_free_ranges(subnet)
        if subnet != NET:
            site.tables.add_delivery(subnet, RACK, "serving")
        site.claim(MAX_PAGE_ROWS + 1, subnet)
    cluster.hold()
    site.register(cluster)
    assert cluster.names() == ["BeginTransfer"] * MAX_TRANSFERS_AT_ONCE
    cluster.let_go()
    site.flush()
    site.flush()
    assert all(site.is_settled(cluster, subnet) for subnet in subnets)
    assert cluster.names().count("CommitTransfer") == len(subnets)
    # Whoever waited for a link that is gone asks the database for nothing.
    cluster.subnets.clear()
    cluster.hold()
    site.register(cluster).cut()
    cluster.let_go()
    assert cluster.names()[-MAX_TRANSFERS_AT_ONCE:] == ["BeginTransfer"] * MAX_TRANSFERS_AT_ONCE
    site.register(cluster)
    site.flush()
    assert all(site.is_settled(cluster, subnet) for subnet in subnets)


def test_a_difference_from_before_the_horizon_goes_as_the_whole_set(site: Site, cluster: FakeCluster) -> None:
    first, *_ = site.claim(3)
    site.register(cluster).cut()
    site.release(first)
    site.claim()
    del site.tables.maps[next(key for key, row in site.tables.maps.items() if row["removed"])]
    site.tables.subnets[NET]["horizon"] = 2
    cluster.calls.clear()
    site.register(cluster)
    assert cluster.names() == ["BeginTransfer", "TransferPage", "CommitTransfer"]
    assert cluster.calls[0].arguments == {"from": None, "to": 3, "count": 3}
    assert site.is_settled(cluster)
    assert site.hearing.examined == []


def test_a_sweep_that_was_overtaken_by_a_delivery_changes_nothing(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.change(site._device(NET))
    site.storage.hold_answers()
    sweep = Outcome(site.dispatch.sweep())
    site.dispatch.committed([NET])
    site.flush()
    assert site.is_settled(cluster)
    site.storage.answer()
    site.flush()
    assert sweep.done()
    site.claim()
    assert cluster.names() == ["ApplyHostMaps", "ApplyHostMaps"], "nothing was sent again"
    assert site.is_settled(cluster)


def test_a_sweep_that_read_draining_does_not_forget_what_is_served_again(site: Site, cluster: FakeCluster) -> None:
    site.claim(2)
    site.register(cluster)
    cluster.calls.clear()
    site.tables.deliveries[NET, RACK]["role"] = "draining"
    site.storage.hold_answers()
    sweep = Outcome(site.dispatch.sweep())
    site.tables.deliveries[NET, RACK]["role"] = "serving"
    site.storage.answer()
    site.flush()
    assert sweep.done()
    assert cluster.calls == []
    assert site.is_settled(cluster)


def test_a_difference_that_is_too_large_for_one_value_goes_in_pages(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.claim(2)
    cluster.calls.clear()
    long_ones = [bytes([n // 256, n % 256]) + _noise(n) for n in range(1, 401)]
    steps = [
        Claim(
            10_000 + n,
            Kind.DEVICE,
            NET,
            1,
            "tester",
            identifiers=(Identifier(IdentifierKind.CLIENT_ID, value),),
            device=NewDevice(10_000 + n, None, None),
        )
        for n, value in enumerate(long_ones)
    ]
    site.change(*steps)
    site.dispatch.committed([NET])
    site.flush()
    assert cluster.names()[0] == "BeginTransfer"
    assert cluster.calls[0].arguments["from"] == 1, "still a difference, not the whole set"
    assert cluster.names().count("TransferPage") > 1
    assert site.is_settled(cluster)


def _noise(number: int) -> bytes:
    """Octets that do not compress."""
    return shake_256(number.to_bytes(4)).digest(250)


# ---- draining ----


def test_a_draining_subnet_is_forgotten_and_its_cluster_is_no_holder_any_more(site: Site, cluster: FakeCluster) -> None:
    site.claim(2)
    site.register(cluster)
    site.tables.deliveries[NET, RACK]["role"] = "draining"
    cluster.calls.clear()
    site.sweep()
    assert [(c.name, c.arguments["cidr"]) for c in cluster.calls] == [("ForgetSubnet", "10.0.0.0/16")]
    assert site.recorded() == ("former", 0, 0)
    assert SUBNET not in cluster.subnets
    site.claim()
    site.sweep()
    assert len(cluster.calls) == 1
    assert frozenset({NET}) in site.storage.announced


def test_a_drained_address_rests_only_after_the_cluster_has_forgotten(site: Site, cluster: FakeCluster) -> None:
    (held,) = site.claim()
    site.register(cluster)
    site.tables.deliveries[NET, RACK]["role"] = "draining"
    cluster.refusals = [errors.ServerRefused("dnsmasq is busy")]
    site.sweep()
    site.release(held)
    (row,) = site.tables.reservations.values()
    assert row["confirmed_at"] is None
    assert site.error() == "dnsmasq is busy"
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    assert site.recorded() == ("former", 0, 0)
    assert row["confirmed_at"] is not None


@pytest.mark.parametrize("adopted", [True, False])
def test_a_cluster_that_serves_again_while_it_forgets_is_given_everything_anew(
    site: Site, cluster: FakeCluster, adopted: bool
) -> None:
    site.claim(2)
    site.register(cluster)
    site.tables.deliveries[NET, RACK]["role"] = "draining"
    cluster.hold()
    site.sweep()
    site.tables.deliveries[NET, RACK]["role"] = "serving"
    if adopted:  # the report that says so came over this connection
        Outcome(site.dispatch.topology(site.connections.by_cluster[RACK], []))
        site.flush()
    cluster.let_go()
    site.flush()
    site.sweep()
    assert site.is_settled(cluster)
    assert site.recorded() == ("serving", 1, 0)
