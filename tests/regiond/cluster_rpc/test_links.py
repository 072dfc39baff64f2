"""The ends of the connections: who is cut, and what closing waits for."""

from clusterd.protocol.commands import Ping, ReportTopology
from regiond.cluster_rpc.links import LONGEST_NOTING_SECONDS, MAX_COMMANDS_IN_FLIGHT
from regiond.cluster_rpc.newcomer import REGISTRATION_SECONDS
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster
from tests.regiond.site import (
    RACK,
    Site,
    cluster,
    site,
)

__all__ = ["cluster", "site"]


def test_who_does_not_register_is_cut(site: Site, cluster: FakeCluster) -> None:
    silent = FakeCluster("rack-8")
    site.connect(silent)
    site.register(cluster)
    assert silent.link is not None and cluster.link is not None
    site.pass_time(REGISTRATION_SECONDS - 1)
    assert silent.link.connected_now
    with logged() as events:
        site.pass_time(1)
    assert [link.connected_now for link in (silent.link, cluster.link)] == [False, True]
    assert [(e["event"], e["seconds"]) for e in events] == [("link.unregistered", REGISTRATION_SECONDS)]


def test_few_reports_of_one_cluster_wait_at_a_time_and_others_do_not_wait_for_them(
    site: Site, cluster: FakeCluster
) -> None:
    other = FakeCluster("rack-8")
    site.register(cluster)
    site.register(other)
    assert cluster.link is not None and other.link is not None
    turns = site.factory._shared.turns
    for _ in range(turns.limit):
        turns.acquire()
    with logged() as events:
        said = [
            Outcome(cluster.link.call(ReportTopology, sequence=n, page=0, pages=1, interfaces=(), deadline=1e6))
            for n in range(3 * MAX_COMMANDS_IN_FLIGHT)
        ]
        site.flush()
    assert [(event["event"], event["commands"]) for event in events] == [("link.crowded", MAX_COMMANDS_IN_FLIGHT)]
    assert site.ask(other.link.call(Ping)) == {}
    assert site.storage.topologies == []
    for _ in range(turns.limit):
        turns.release()
    for _ in range(4):
        site.pass_time(0)
    assert all(outcome.done() and outcome.error is None for outcome in said)
    assert len(site.storage.topologies) == len(said)


def test_closing_waits_until_the_ends_of_the_connections_are_recorded(site: Site, cluster: FakeCluster) -> None:
    stranger = FakeCluster("rack-8")
    site.register(cluster)
    site.connect(stranger)
    site.storage.hold()
    closed = Outcome(site.factory.close())
    site.flush()
    assert not closed.done()
    assert site.connections.clusters() == []
    site.storage.let_go()
    site.flush()
    assert closed.done() and closed.error is None
    assert site.storage.ended == [(RACK, 1)]
    assert site.clock.getDelayedCalls() == []
    site.ask(site.factory.close())


def test_closing_does_not_wait_for_a_database_that_is_away(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.storage.hold()
    closed = Outcome(site.factory.close())
    site.flush()
    assert not closed.done()
    site.pass_time(LONGEST_NOTING_SECONDS)
    assert closed.done() and closed.error is None
