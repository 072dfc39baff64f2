"""The dispatcher when a cluster answers something else, nothing, or is lost."""

from itertools import pairwise

import pytest
from twisted.protocols.amp import RemoteAmpError

from clusterd.protocol import errors
from clusterd.protocol.arguments import MAX_PAGE_ROWS
from clusterd.protocol.connection import CALL_DEADLINE_SECONDS
from regiond.domain.ids import Prefix, format_id
from regiond.host_map_dispatch.dispatch import LONGEST_BACK_OFF_SECONDS
from regiond.host_map_dispatch.targets import FIRST_BACK_OFF_SECONDS
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster, Stored
from tests.regiond.site import (
    HISTORY,
    NET,
    OTHER_NET,
    RACK,
    SUBNET,
    Site,
    cluster,
    mac,
    site,
)

__all__ = ["cluster", "site"]


# ---- what a cluster answers ----


def test_a_cluster_that_is_elsewhere_is_taken_at_its_word(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.claim(2)
    cluster.subnets[SUBNET] = Stored()  # it lost its disk without telling
    site.claim()
    assert site.is_settled(cluster)
    spans = [(c.arguments.get("from"), c.arguments.get("to")) for c in cluster.calls]
    assert spans == [(0, 1), (1, 2), (0, 2)]


def test_a_cluster_that_would_have_another_set_is_sent_all(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.claim(2)
    cluster.subnets[SUBNET].host_maps.pop(mac(2))
    cluster.calls.clear()
    site.claim()
    assert cluster.names() == ["ApplyHostMaps", "BeginTransfer", "TransferPage", "CommitTransfer"]
    assert site.is_settled(cluster)


def test_a_digest_that_is_wrong_here_is_tried_ever_more_seldom(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.tables.subnets[NET]["digest"] = 77
    site.claim(2)
    assert cluster.names() == ["ApplyHostMaps", "BeginTransfer", "TransferPage", "CommitTransfer"]
    assert "digest" in (site.error() or "")
    site.sweep()
    assert len(cluster.calls) == 4
    for _ in range(120):
        site.pass_time(1)
        site.sweep()
    assert cluster.names().count("CommitTransfer") <= 8


def test_a_cluster_with_another_history_is_cut_so_that_it_registers_again(site: Site, cluster: FakeCluster) -> None:
    made = site.register(cluster)
    cluster.refusals = [errors.HistoryMismatch("registered with another")]
    site.claim()
    assert not made.server.connected_now
    assert site.connections.clusters() == []


def test_commits_that_are_lost_under_a_connected_cluster_are_noticed_without_any_claim(
    site: Site, cluster: FakeCluster
) -> None:
    made = site.register(cluster)
    site.claim()
    site.claim()
    assert site.is_settled(cluster)
    site.sweep()
    assert site.hearing.begun == []
    # As the standby has it, which was promoted: nothing is left to deliver there.
    site.tables.subnets[NET]["generation"] = 1
    site.tables.deliveries[NET, RACK].update(accepted_generation=1, applied_generation=1)
    site.sweep()
    assert site.hearing.begun == [f"cluster rack-7 is at generation 2 of {SUBNET}, the database at 1"]
    assert not made.server.connected_now


def test_a_cluster_ahead_of_the_region_is_shown_and_confirms_nothing(site: Site, cluster: FakeCluster) -> None:
    (held,) = site.claim()
    cluster.history = HISTORY
    cluster.subnets = {SUBNET: Stored(50, {})}
    with logged() as events, pytest.raises(errors.RegistrationRefused, match="the region recovers"):
        site.register(cluster)
    assert "delivery.ahead" in [event["event"] for event in events]
    assert site.hearing.begun == [f"cluster rack-7 is at generation 50 of {SUBNET}, the database at 1"]
    site.release(held)
    site.pass_time(0)
    site.sweep()
    assert cluster.calls == []
    assert site.recorded() == ("serving", 0, 0)
    (row,) = site.tables.reservations.values()
    assert row["confirmed_at"] is None


def test_a_cluster_ahead_in_a_subnet_that_it_is_not_to_have_tells_of_a_loss_too(
    site: Site, cluster: FakeCluster
) -> None:
    """It began to serve the subnet in what was lost: telling it to forget would overwrite the evidence."""
    site.hearing.generations[999] = 7
    cluster.history = HISTORY
    cluster.subnets = {format_id(Prefix.SUBNET, 999): Stored(8, {})}
    with pytest.raises(errors.RegistrationRefused, match="the region recovers"):
        site.register(cluster)
    name = format_id(Prefix.SUBNET, 999)
    assert site.hearing.begun == [f"cluster rack-7 is at generation 8 of {name}, the database at 7"]
    assert cluster.calls == []


def test_what_the_cluster_cannot_store_is_said_and_tried_again(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.refusals = [errors.NotStored("the disk is full")]
    site.claim()
    assert site.error() == "the disk is full"
    assert len(cluster.calls) == 1
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    assert site.is_settled(cluster)
    site.ask(cluster.report(SUBNET, 1, HISTORY))
    assert site.error() is None


def test_back_off_doubles_holds_against_sweep_and_commits_and_ends_with_success(
    site: Site, cluster: FakeCluster
) -> None:
    site.register(cluster)
    cluster.refusals = [errors.NotStored("full")] * 20
    site.claim()
    attempts = [site.clock.seconds()]
    while len(attempts) < 9:
        site.pass_time(0.5)
        site.sweep()
        site.claim()
        while len(attempts) < len(cluster.calls):
            attempts.append(site.clock.seconds())
    pauses = [later - earlier for earlier, later in pairwise(attempts)]
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS]
    cluster.refusals.clear()
    site.pass_time(LONGEST_BACK_OFF_SECONDS)
    assert site.is_settled(cluster)
    cluster.refusals = [errors.NotStored("full")]
    site.claim()
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    assert site.is_settled(cluster)


def test_subnets_that_fail_together_back_off_each_for_itself(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.refusals = [errors.NotStored("full")] * 2
    site.claim()
    site.claim(subnet=OTHER_NET)
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    assert site.is_settled(cluster)
    assert site.is_settled(cluster, OTHER_NET)


def test_a_silent_cluster_times_out_and_is_asked_again(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.hold()
    site.claim()
    site.pass_time(CALL_DEADLINE_SECONDS)
    assert len(cluster.calls) == 1
    cluster.let_go()
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    # The first call was done, late: the cluster says where it is.
    assert site.is_settled(cluster)


def test_a_link_lost_in_the_middle_is_made_up_for_at_the_next_registration(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.hold()
    site.claim(MAX_PAGE_ROWS + 1)
    site.wires[-1].cut()
    cluster.let_go()
    site.flush()
    assert site.connections.clusters() == []
    site.pass_time(1000)
    cluster.calls.clear()
    site.register(cluster)
    assert site.is_settled(cluster)


def test_an_answer_that_could_not_be_recorded_is_found_out_again(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    cluster.hold()
    site.claim()
    site.storage.down = True
    cluster.let_go()
    site.flush()
    assert cluster.subnets[SUBNET].generation == 1
    site.storage.down = False
    assert site.recorded()[1] == 0
    site.pass_time(FIRST_BACK_OFF_SECONDS)
    site.sweep()
    assert site.is_settled(cluster)


def test_a_database_that_is_away_is_no_bug_and_ends_no_connection(site: Site, cluster: FakeCluster) -> None:
    made = site.register(cluster)
    site.storage.down = True
    with logged() as events:
        site.dispatch.committed([NET])
        site.flush()
        with pytest.raises(RemoteAmpError, match="database does not answer"):
            site.ask(cluster.report(SUBNET, 0, HISTORY))
    assert made.server.connected_now
    assert not [event for event in events if "log_failure" in event]


def test_what_is_reported_as_applied_was_accepted_though_its_answer_came_too_late(
    site: Site, cluster: FakeCluster
) -> None:
    site.register(cluster)
    cluster.hold()
    site.claim()
    site.pass_time(CALL_DEADLINE_SECONDS)
    cluster.history = HISTORY
    site.ask(cluster.report(SUBNET, 1, HISTORY))
    assert site.recorded() == ("serving", 1, 1)
