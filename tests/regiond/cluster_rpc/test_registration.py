"""How a connection becomes a cluster's."""

from typing import Any

import pytest
from twisted.logger import LogLevel

from clusterd.protocol import errors
from clusterd.protocol.commands import PROTOCOL_VERSION, Register
from clusterd.protocol.connection import CallTimedOut
from regiond.cluster_rpc.newcomer import REGISTRATION_SECONDS
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster, Stored
from tests.regiond.site import (
    HISTORY,
    RACK,
    SUBNET,
    Site,
    cluster,
    site,
)

__all__ = ["cluster", "site"]


def test_nothing_but_a_registration_is_answered_first(site: Site, cluster: FakeCluster) -> None:
    site.connect(cluster)
    with pytest.raises(errors.NotRegistered):
        site.ask(cluster.report(SUBNET, 1, HISTORY))


def test_a_cluster_is_told_where_to_connect_if_the_region_was_told(site: Site, cluster: FakeCluster) -> None:
    site.connect(cluster)
    assert site.ask(cluster.register())["endpoints"] is None
    site.factory.endpoints = ["tcp:a.example:5250", "tcp:b.example:5250"]
    site.connect(cluster)
    assert site.ask(cluster.register())["endpoints"] == "tcp:a.example:5250 tcp:b.example:5250"


def test_a_connection_asks_once(site: Site, cluster: FakeCluster) -> None:
    """Each time the database is asked, and other clusters wait for that."""
    refused = FakeCluster("../etc")
    site.connect(refused)
    with pytest.raises(errors.RegistrationRefused, match="not a name"):
        site.ask(refused.register())
    site.register(cluster)
    for one in (refused, cluster):
        one.name = "rack-8"
        with pytest.raises(errors.RegistrationRefused, match="already"):
            site.ask(one.register())
    assert site.connections.clusters() == [RACK]


def test_the_newer_of_two_registrations_wins_whichever_is_answered_first(site: Site, cluster: FakeCluster) -> None:
    again = FakeCluster(cluster.name)
    site.connect(cluster)
    site.connect(again)
    site.storage.hold_answers()
    older, newer = Outcome(cluster.register()), Outcome(again.register())
    site.flush()
    site.storage.answer(newest_first=True)
    site.flush()
    assert isinstance(older.error, errors.RegistrationRefused)
    assert newer.error is None
    assert site.connections.by_cluster[RACK].epoch == 2


def test_a_registration_that_the_database_takes_long_for_is_waited_for(site: Site, cluster: FakeCluster) -> None:
    site.connect(cluster)
    site.storage.hold_answers()
    slow = Outcome(cluster.register())
    site.flush()
    site.pass_time(REGISTRATION_SECONDS / 2)
    site.pass_time(REGISTRATION_SECONDS)
    site.storage.answer(newest_first=True)
    site.flush()
    assert isinstance(slow.error, CallTimedOut), "which a cluster has ended long since"
    assert site.connections.clusters() == [RACK]
    site.pass_time(REGISTRATION_SECONDS)
    assert site.connections.clusters() == [RACK]


def test_who_is_revoked_while_it_registers_is_told_so_before_it_is_cut(site: Site, cluster: FakeCluster) -> None:
    end = site.connect(cluster).server
    site.storage.hold_answers()
    registering = Outcome(cluster.register())
    site.flush()
    site.factory.peers[end].newcomer.is_unwelcome = True
    site.storage.answer(newest_first=True)
    site.flush()
    assert isinstance(registering.error, errors.RegistrationRefused)
    assert str(registering.error) == "its certificate was revoked or has expired"
    assert site.connections.clusters() == []
    assert end.connected_now
    site.pass_time(REGISTRATION_SECONDS)
    assert not end.connected_now


def test_who_comes_again_and_again_and_is_refused_is_told_of_less_and_less_often(
    site: Site, cluster: FakeCluster
) -> None:
    """A clusterd that was revoked comes every ten seconds, for as long as it runs."""

    def is_refused() -> None:
        end = site.connect(cluster).server
        site.factory.peers[end].newcomer.is_unwelcome = True
        with pytest.raises(errors.RegistrationRefused, match="revoked"):
            site.ask(cluster.register())
        end.abort()

    with logged() as events:
        for _ in range(20):
            is_refused()
        site.register(cluster)
        is_refused()
    told = [event for event in events if event.get("event") == "cluster.refused"]
    assert [event["times"] for event in told] == [*range(1, 21), 1]
    assert [event["times"] for event in told if event["log_level"] is LogLevel.warn] == [1, 2, 4, 8, 16, 1]


@pytest.mark.parametrize(
    ("name", "reason"), [(None, "needs the cluster's name"), ("../etc", "not a name"), ("", "needs|not a name")]
)
def test_a_cluster_without_a_proper_name_is_refused(site: Site, name: str | None, reason: str) -> None:
    nameless = FakeCluster("x")
    site.connect(nameless)
    named: dict[str, Any] = {} if name is None else {"cluster": name}
    common: dict[str, Any] = {"software_version": "1", "hostname": "h", "backend": "b", "held": ()}
    assert nameless.link is not None
    with pytest.raises(errors.RegistrationRefused, match=reason):
        site.ask(nameless.link.call(Register, protocol_version=PROTOCOL_VERSION, **common, **named))
    with pytest.raises(errors.IncompatibleVersion):
        site.ask(nameless.link.call(Register, protocol_version=99, cluster="rack-7", **common))


def test_who_is_to_come_again_is_told_so_before_it_is_cut(site: Site, cluster: FakeCluster) -> None:
    cluster.history = cluster.stamp = HISTORY
    cluster.subnets[SUBNET] = Stored(generation=7)
    end = site.connect(cluster).server
    registering = Outcome(cluster.register())
    site.flush()
    assert isinstance(registering.error, errors.RegistrationRefused)
    assert "come again" in str(registering.error)
    assert site.hearing.begun
    # The recovery that has begun makes every connection an older one, which the next sweep cuts.
    site.tables.epochs[RACK] += 1
    site.sweep()
    assert end.connected_now and not site.factory.peers[end].has_registered
    site.pass_time(REGISTRATION_SECONDS)
    assert not end.connected_now
    assert site.storage.ended == [(RACK, 1)]
