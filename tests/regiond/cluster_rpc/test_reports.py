"""What the region answers to what clusters report."""

from typing import Any

import pytest
from twisted.protocols.amp import RemoteAmpError

from clusterd.protocol import errors
from clusterd.protocol.commands import ReportDhcpServer, ReportTopology
from clusterd.protocol.errors import MalformedArgument, NotRegistered
from clusterd.protocol.values import InterfaceReport, ServerEntry, ServerPool
from regiond.cluster_rpc.reports import MAX_SERVER_ROWS, MAX_TOPOLOGY_ROWS
from regiond.domain.first_contact import DhcpServerReport
from tests.clusterd.log_events import logged
from tests.fakes.cluster import FakeCluster
from tests.regiond.site import (
    HISTORY,
    NET,
    RACK,
    RACK_8,
    SUBNET,
    Site,
    cluster,
    mac,
    site,
)

__all__ = ["cluster", "site"]


def test_a_state_is_recorded_and_announced(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.storage.announced.clear()
    site.claim()
    assert site.recorded() == ("serving", 1, 0)
    assert site.storage.announced == [], "nobody waits for what a cluster has accepted"
    site.ask(cluster.report(SUBNET, 1, HISTORY))
    assert site.recorded() == ("serving", 1, 1)
    assert site.storage.announced == [frozenset({NET})]
    site.ask(cluster.report("sn-nonsense", 1, HISTORY))
    with pytest.raises(errors.HistoryMismatch):
        site.ask(cluster.report(SUBNET, 1, "another"))


def test_repaired_drift_is_said(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    site.claim()
    with logged() as events:
        site.ask(cluster.report(SUBNET, 1, HISTORY, drift_repaired=3))
        site.ask(cluster.report(SUBNET, 1, HISTORY))
    told = [e for e in events if e["event"] == "delivery.drift-repaired"]
    assert [(e["cluster"], e["subnet"], e["count"]) for e in told] == [("rack-7", SUBNET, 3)]
    assert site.storage.drifts == [(RACK, NET, 3)]


def _reports(count: int) -> list[InterfaceReport]:
    return [InterfaceReport(f"eth{n}", f"10.{n}.0.0/16", (f"10.{n}.0.1",)) for n in range(count)]


def _send_pages(site: Site, cluster: FakeCluster, sequence: int, pages: dict[int, list[InterfaceReport]]) -> None:
    assert cluster.link is not None
    for page, rows in pages.items():
        site.ask(
            cluster.link.call(ReportTopology, sequence=sequence, page=page, pages=len(pages), interfaces=tuple(rows))
        )


def test_a_topology_is_applied_when_its_last_page_is_there(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    rows = _reports(3)
    _send_pages(site, cluster, 1, {1: rows[2:], 0: rows[:2]})
    assert site.storage.topologies == [(RACK, tuple(rows))]
    assert site.storage.topology_changes == 1
    _send_pages(site, cluster, 0, {0: rows[:1]})
    assert len(site.storage.topologies) == 1, "an older picture is ignored"
    _send_pages(site, cluster, 2, {0: rows[:1]})
    assert site.storage.topologies[-1] == (RACK, tuple(rows[:1]))


@pytest.mark.parametrize(("page", "pages"), [(1, 1), (0, 0), (7, 3)])
def test_a_page_that_cannot_be_is_refused_and_kept_nowhere(
    site: Site, cluster: FakeCluster, page: int, pages: int
) -> None:
    site.register(cluster)
    assert cluster.link is not None
    with pytest.raises(RemoteAmpError, match=f"no page {page} of {pages}"):
        site.ask(cluster.link.call(ReportTopology, sequence=1, page=page, pages=pages, interfaces=()))
    assert site.storage.topologies == []
    _send_pages(site, cluster, 1, {0: _reports(1)})
    assert len(site.storage.topologies) == 1


def test_what_is_kept_of_reports_is_bounded_by_what_is_in_their_rows(site: Site, cluster: FakeCluster) -> None:
    hears = site.factory.peers[site.register(cluster).server]
    addresses = tuple(f"10.0.{number >> 8}.{number & 255}" for number in range(500))
    wide = [InterfaceReport("eth0", "10.0.0.0/16", addresses)] * 10
    for page in range(MAX_TOPOLOGY_ROWS // 5010):
        site.ask(hears.report_topology(sequence=1, page=page, pages=9999, interfaces=wide))
    with pytest.raises(MalformedArgument, match="at most 20000 interfaces and addresses"):
        site.ask(hears.report_topology(sequence=1, page=4000, pages=9999, interfaces=wide))
    entry = ServerEntry("192.0.2.9", tuple(mac(number) for number in range(64)))
    said: dict[str, Any] = {"sequence": 2, "pages": 9999, "pools": (), "remarks": (), "entries": [entry] * 500}
    for page in range(MAX_SERVER_ROWS // (500 * 65)):
        site.ask(hears.report_dhcp_server(page=page, **said))
    with pytest.raises(MalformedArgument, match="at most 500000 pools, static entries and identifiers"):
        site.ask(hears.report_dhcp_server(page=4000, **said))


def test_a_subnet_that_a_topology_brings_is_delivered(site: Site, cluster: FakeCluster) -> None:
    del site.tables.deliveries[NET, RACK]
    site.register(cluster)
    site.claim()
    assert cluster.calls == []
    site.tables.add_delivery(NET, RACK, "serving")
    _send_pages(site, cluster, 1, {0: _reports(1)})
    assert site.is_settled(cluster)


def test_two_clusters_are_delivered_to_independently(site: Site, cluster: FakeCluster) -> None:
    other = FakeCluster("rack-8")
    site.tables.add_delivery(NET, RACK_8, "serving")
    site.register(cluster)
    site.register(other)
    cluster.hold()
    site.claim()
    assert site.recorded(RACK_8)[1] == 1
    assert site.recorded(RACK)[1] == 0
    cluster.let_go()
    site.flush()
    assert site.recorded(RACK)[1] == 1


def test_a_report_of_a_dhcp_server_is_heard_when_its_last_page_is_there(site: Site, cluster: FakeCluster) -> None:
    site.register(cluster)
    assert site.contact.expected == [("rack-7", False)]  # this one does not say that it will
    pools = [ServerPool("192.0.2.1", "192.0.2.2"), ServerPool("192.0.2.5", "192.0.2.6")]
    entry = ServerEntry("192.0.2.9", (mac(1),), "web1", "conf:1")

    def page(sequence: int, number: int, **more: Any) -> None:
        given = {"pools": (), "entries": (), "remarks": (), **more}
        assert cluster.link is not None
        site.ask(cluster.link.call(ReportDhcpServer, sequence=sequence, page=number, pages=2, **given))

    page(1, 0, pools=pools[:1], remarks=("odd",))
    page(1, 0, pools=pools[:1], remarks=("odd",))  # the same again
    assert site.contact.reports == []
    page(1, 1, pools=pools[1:], entries=(entry,))
    assert site.contact.reports == [("rack-7", DhcpServerReport(pools, [entry], ["odd"], None))]
    page(3, 1, error="permission denied")
    page(2, 0)  # overtaken
    page(3, 0, error="permission denied")
    assert site.contact.reports[1:] == [("rack-7", DhcpServerReport([], [], [], "permission denied"))]
    with pytest.raises(RemoteAmpError, match="no page 2 of 2"):
        page(4, 2)


def test_a_report_of_a_dhcp_server_needs_a_registration(site: Site, cluster: FakeCluster) -> None:
    site.connect(cluster)
    assert cluster.link is not None
    with pytest.raises(NotRegistered):
        site.ask(cluster.link.call(ReportDhcpServer, sequence=1, page=0, pages=1, pools=(), entries=(), remarks=()))
