"""The connection to the region: registers, answers, comes back; the region is a scripted one at the end of a wire."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.protocols.amp import RemoteAmpError
from zope.interface import implementer

from clusterd.convergence.acceptance import Announced, Origin
from clusterd.convergence.convergence import Convergence
from clusterd.dhcp.first_contact import ServerPicture
from clusterd.dhcp.host_system import run_at_once
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol import commands
from clusterd.protocol.connection import CALL_DEADLINE_SECONDS, CallTimedOut, LinkLost
from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import (
    DigestMismatch,
    GenerationMismatch,
    HistoryMismatch,
    NotProbed,
    SnapshotOlder,
    UnknownSubnet,
)
from clusterd.protocol.values import (
    AddressInUse,
    HeldSubnet,
    HostMap,
    Identifier,
    IdentifierKind,
    InterfaceReport,
    ServerEntry,
    ServerPool,
)
from clusterd.region_link.connection import LAST_RETRY_SECONDS, LASTING_SECONDS, Introduction, Region, RegionConnection
from clusterd.region_link.lease_answers import LeaseAnswers
from clusterd.topology.reporter import NotReported
from tests.clusterd.links import Outcome, Wire, wire
from tests.clusterd.log_events import logged
from tests.fakes.backend import FakeBackend
from tests.fakes.prober import FakeProber
from tests.fakes.region import FakeRegion, Registration
from tests.finished import result_of

CIDR = "192.0.2.0/24"


def host_map(number: int) -> HostMap:
    identifier = Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))
    return HostMap(identifier, f"192.0.2.{number % 250 + 1}")


@implementer(IStreamClientEndpoint)
class WireEndpoint:
    """Leads to a scripted region in this process, unless it is `down` or `hangs`."""

    def __init__(self, region: FakeRegion) -> None:
        self.region = region
        self.down = False
        self.hangs = False
        self.attempts = 0
        self.wire: Wire | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        self.attempts += 1
        if self.hangs:
            return Deferred()
        if self.down:
            return fail(Refused())
        client = protocolFactory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 5250))
        self.wire = wire(self.region.connect(), client)
        connected: Deferred[Any] = Deferred()
        connected.callback(client)
        return connected


class Cluster:
    """clusterd without a process: everything between the wire and a fake DHCP server."""

    def __init__(self, path: Path, regions: int = 1) -> None:
        self.clock = Clock()
        self.regions = [FakeRegion(self.clock) for _ in range(regions)]
        self.endpoints = [WireEndpoint(region) for region in self.regions]
        self.backend = FakeBackend()
        self.store = HostMapStore.open(path)
        self.convergence = Convergence(self.store, self.backend, self.clock, run_at_once, lambda: 0.5)
        self.registered = 0
        self.prober = FakeProber()
        self.told: list[str] = []  # where the region is
        self.connection = RegionConnection(
            self.clock,
            [Region(f"region {number}", endpoint) for number, endpoint in enumerate(self.endpoints)],
            Introduction("rack-7", "rack-7.example", "0.1.0", "fake"),
            AcceptedHostMaps(self.store, self.convergence, run_at_once),
            LeaseAnswers(self.backend),
            self.count_registration,
            lambda: 1.0,
            self.prober.probe,
            self.told.append,
        )

    def count_registration(self) -> None:
        self.registered += 1

    @property
    def region(self) -> FakeRegion:
        return self.regions[0]

    @property
    def endpoint(self) -> WireEndpoint:
        return self.endpoints[0]

    def start(self) -> None:
        self.convergence.start()
        self.connection.startService()
        self.flush()

    def flush(self) -> None:
        for endpoint in self.endpoints:
            if endpoint.wire is not None:
                endpoint.wire.flush()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)
            self.flush()

    def cut(self) -> None:
        assert self.endpoint.wire is not None
        self.endpoint.wire.cut()

    def ask(self, awaitable: Any) -> Any:
        outcome = Outcome(awaitable)
        self.flush()
        assert outcome.done(), "still waiting"
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "accepted" / "store.sqlite", regions=2)
    yield made
    stopping = Outcome(made.connection.stop())
    made.flush()
    assert stopping.done()
    result_of(made.convergence.stop())
    made.store.close()
    made.clock.advance(60)
    assert made.clock.getDelayedCalls() == []


def test_it_registers_reports_and_takes_changes(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.region.registrations == [Registration("rack-7", None, (), "rack-7.example", "fake")]
    assert cluster.registered == 1
    assert cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1)])) == 1
    assert cluster.backend.maps == {host_map(1)}
    state = cluster.region.latest_state("subnet-1")
    assert state is not None and (state.applied_generation, state.rejected, state.error) == (1, (), None)
    cluster.backend.refuse_all("broken")
    cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(2)]))
    state = cluster.region.latest_state("subnet-1")
    assert state is not None and (state.applied_generation, state.error) == (1, "broken")


def test_a_snapshot_comes_in_pages(cluster: Cluster) -> None:
    cluster.start()
    maps = [host_map(number) for number in range(1, 1201)]
    assert cluster.ask(cluster.region.send_snapshot("subnet-1", CIDR, maps, 7)) == 7
    assert cluster.backend.maps == set(maps)
    with pytest.raises(SnapshotOlder):
        cluster.ask(cluster.region.send_snapshot("subnet-1", CIDR, maps[:5], 6))


def test_the_guards_answer_over_the_wire(cluster: Cluster) -> None:
    cluster.start()
    cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1)]))

    def apply(**different: Any) -> Any:
        arguments = {
            "history": "history-1",
            "subnet": "subnet-1",
            "cidr": CIDR,
            "from_generation": 1,
            "to_generation": 2,
            "digest": digest_of([host_map(1), host_map(2)]),
            "upserts": (host_map(2),),
            "removals": (),
            "request_ids": (),
        }
        return cluster.ask(cluster.region.call(commands.ApplyHostMaps, **(arguments | different)))

    with pytest.raises(GenerationMismatch) as caught:
        apply(from_generation=5)
    assert caught.value.accepted == 1
    with pytest.raises(DigestMismatch):
        apply(digest=1)
    with pytest.raises(HistoryMismatch):
        apply(history="history-2")
    assert cluster.backend.maps == {host_map(1)}
    assert apply() == {"accepted_generation": 2}
    assert cluster.ask(cluster.region.call(commands.ForgetSubnet, history="history-1", subnet="subnet-1")) == {}
    assert cluster.backend.maps == set() and cluster.store.subnets() == ()


def test_what_arrives_before_the_registration_is_answered_waits_for_it(cluster: Cluster) -> None:
    cluster.region.hold_registrations()
    cluster.start()
    early = Outcome(cluster.region.change("subnet-1", CIDR, [host_map(1)]))
    cluster.flush()
    assert not early.done() and cluster.store.subnets() == ()
    cluster.region.let_registrations_go()
    cluster.flush()
    assert early.value == 1 and cluster.backend.maps == {host_map(1)}


def test_after_a_lost_connection_it_registers_with_what_it_holds(cluster: Cluster) -> None:
    cluster.start()
    cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1)]))
    cluster.endpoints[1].down = True
    with logged() as events:
        cluster.cut()
    assert [event["event"] for event in events] == ["region.lost"]
    assert cluster.backend.maps == {host_map(1)}
    cluster.region.states.clear()
    cluster.pass_time(5)
    held = (HeldSubnet("subnet-1", 1, 1, digest_of([host_map(1)])),)
    assert cluster.region.registrations[-1] == Registration(
        "rack-7", "history-1", held, "rack-7.example", "fake", "region-1"
    )
    assert cluster.registered == 2
    assert [state.subnet for state in cluster.region.states] == ["subnet-1"]


def test_nobody_listens_to_a_connection_that_is_over(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.endpoint.wire is not None
    former = cluster.endpoint.wire.client.locator
    cluster.cut()
    cluster.pass_time(2 * LAST_RETRY_SECONDS + 1)
    assert cluster.registered == 2
    said = {"history": "history-1", "subnet": "subnet-1", "cidr": CIDR, "to_generation": 1}
    late = Outcome(
        former.apply_host_maps(
            **said,
            from_generation=0,
            digest=digest_of([host_map(1)]),
            upserts=[host_map(1)],
            removals=[],
            request_ids=[],
        )
    )
    assert isinstance(late.error, RemoteAmpError) and cluster.store.subnets() == ()


def test_what_happens_while_the_region_is_away_is_told_afterwards(cluster: Cluster) -> None:
    cluster.start()
    cluster.backend.hold()
    cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1)]))
    for endpoint in cluster.endpoints:
        endpoint.down = True
    cluster.cut()
    cluster.region.states.clear()
    cluster.backend.let_go()
    cluster.pass_time(60)
    assert cluster.backend.maps == {host_map(1)} and cluster.region.states == []
    cluster.endpoint.down = False
    cluster.pass_time(2 * LAST_RETRY_SECONDS + 1)
    state = cluster.region.latest_state("subnet-1")
    assert state is not None and state.applied_generation == 1


def test_regions_are_tried_in_turn(cluster: Cluster) -> None:
    cluster.endpoints[0].down = True
    cluster.start()
    assert cluster.registered == 0
    cluster.pass_time(2)
    assert cluster.registered == 1 and len(cluster.regions[1].registrations) == 1
    assert [endpoint.attempts for endpoint in cluster.endpoints] == [1, 1]


def test_where_the_region_says_that_it_is_counts_from_the_next_connection_on(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.told == []
    cluster.cut()
    for region in cluster.regions:
        region.endpoints = "tcp:elsewhere:5250"
    cluster.pass_time(LAST_RETRY_SECONDS)
    assert cluster.told == ["tcp:elsewhere:5250"] and cluster.registered == 2
    elsewhere = WireEndpoint(FakeRegion(cluster.clock))
    cluster.connection.move([Region("elsewhere", elsewhere)])
    assert cluster.connection.is_registered and elsewhere.attempts == 0
    cluster.endpoints.append(elsewhere)
    for endpoint in cluster.endpoints:
        if endpoint.wire is not None and endpoint.wire.client.connected_now:
            endpoint.wire.cut()
    cluster.pass_time(LAST_RETRY_SECONDS)
    assert elsewhere.attempts == 1 and cluster.connection.is_registered


def attempt_times(cluster: Cluster, count: int) -> Sequence[float]:
    times: list[float] = []
    seen = sum(endpoint.attempts for endpoint in cluster.endpoints)
    while len(times) < count:
        cluster.clock.advance(0.25)
        cluster.flush()
        now = sum(endpoint.attempts for endpoint in cluster.endpoints)
        if now > seen:
            seen = now
            times.append(cluster.clock.seconds())
    return times


@pytest.mark.parametrize("how", ["down", "refused"])
def test_attempts_get_rarer_up_to_ten_seconds(cluster: Cluster, how: str) -> None:
    for endpoint, region in zip(cluster.endpoints, cluster.regions, strict=True):
        endpoint.down = how == "down"
        region.refusal = "revoked" if how == "refused" else None
    with logged() as events:
        cluster.start()
        times = attempt_times(cluster, 8)
    pauses = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 10]
    assert {event["event"] for event in events} == {"region.unreachable"}
    assert cluster.registered == 0
    for endpoint, region in zip(cluster.endpoints, cluster.regions, strict=True):
        endpoint.down, region.refusal = False, None
    cluster.pass_time(LAST_RETRY_SECONDS)
    assert cluster.registered == 1


def test_a_link_that_never_lasts_is_made_ever_less_often(cluster: Cluster) -> None:
    """As with a clone of this host, which takes the link whenever it is not the one that has it."""
    pauses: list[float] = []
    cluster.start()
    for expected in (1, 2, 4, 8, 10, 10, 0.5):
        if expected == 0.5:
            cluster.pass_time(LASTING_SECONDS)
        for endpoint in cluster.endpoints:
            if endpoint.wire is not None and endpoint.wire.client.connected_now:
                endpoint.wire.cut()
        began, registered = cluster.clock.seconds(), cluster.registered
        while cluster.registered == registered:
            cluster.pass_time(0.25)
        pauses.append(cluster.clock.seconds() - began)
    assert pauses == [1, 2, 4, 8, 10, 10, 0.5]


def test_a_refused_registration_closes_the_connection(cluster: Cluster) -> None:
    cluster.region.refusal = "revoked"
    cluster.start()
    assert cluster.region.link is not None and not cluster.region.link.connected_now


def test_a_region_that_does_not_answer_the_registration_is_left(cluster: Cluster) -> None:
    cluster.region.hold_registrations()
    cluster.start()
    early = Outcome(cluster.region.change("subnet-1", CIDR, [host_map(1)]))
    cluster.pass_time(CALL_DEADLINE_SECONDS + 2)
    assert cluster.registered == 1 and len(cluster.regions[1].registrations) == 1
    assert isinstance(early.error, CallTimedOut | LinkLost) and cluster.store.subnets() == ()
    cluster.region.let_registrations_go()


def test_a_connection_lost_while_registering_is_an_attempt_that_failed(cluster: Cluster) -> None:
    cluster.region.hold_registrations()
    cluster.start()
    with logged() as events:
        cluster.cut()
    assert [event["event"] for event in events] == ["region.unreachable"]
    cluster.pass_time(2)
    assert cluster.registered == 1
    cluster.region.let_registrations_go()


@pytest.mark.parametrize("moment", ["connecting", "registering", "pausing", "registered"])
def test_it_stops_at_any_moment(cluster: Cluster, moment: str) -> None:
    cluster.endpoint.hangs = moment == "connecting"
    cluster.endpoint.down = moment == "pausing"
    if moment == "registering":
        cluster.region.hold_registrations()
    cluster.start()
    with logged() as events:
        stopping = Outcome(cluster.connection.stop())
        cluster.flush()
    assert stopping.done() and stopping.error is None
    assert events == []
    attempts = [endpoint.attempts for endpoint in cluster.endpoints]
    cluster.clock.advance(100)
    assert [endpoint.attempts for endpoint in cluster.endpoints] == attempts
    if cluster.region.link is not None:
        assert not cluster.region.link.connected_now
    cluster.region.let_registrations_go()


def test_a_silent_region_is_left_within_45_seconds(cluster: Cluster) -> None:
    cluster.start()
    for _ in range(45 * 4):  # nothing is pumped: whatever is sent is never answered
        cluster.clock.advance(0.25)
    cluster.pass_time(2)
    assert cluster.registered == 2


def test_the_topology_goes_out_in_pages(cluster: Cluster) -> None:
    report = tuple(
        InterfaceReport(
            f"vlan{number}", f"10.{number >> 8}.{number & 255}.0/24", (f"10.{number >> 8}.{number & 255}.1",)
        )
        for number in range(1100)
    )
    with pytest.raises(NotReported):
        result_of(cluster.connection.report_topology(report))
    cluster.start()
    cluster.ask(cluster.connection.report_topology(report))
    cluster.ask(cluster.connection.report_topology(()))
    assert cluster.region.topologies == [report, ()]


def test_a_topology_that_the_region_did_not_take_is_not_reported(cluster: Cluster) -> None:
    cluster.start()
    reporting = Outcome(cluster.connection.report_topology(()))
    cluster.clock.advance(CALL_DEADLINE_SECONDS)
    assert isinstance(reporting.error, NotReported)


def test_another_history_is_registered_and_replaces_what_was_held(cluster: Cluster) -> None:
    cluster.start()
    cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1), host_map(2)]))
    cluster.endpoints[1].down = True
    cluster.region.history = "history-2"
    cluster.region.subnets.clear()
    cluster.cut()
    cluster.pass_time(2 * LAST_RETRY_SECONDS + 1)
    assert cluster.region.registrations[-1].history == "history-1"
    assert len(cluster.backend.maps) == 2
    cluster.ask(cluster.region.send_snapshot("subnet-1", CIDR, [host_map(2)], 1))
    assert cluster.backend.maps == {host_map(2)}
    cluster.cut()
    cluster.pass_time(2 * LAST_RETRY_SECONDS + 1)
    assert cluster.region.registrations[-1].history == "history-2"
    assert cluster.region.registrations[-1].held[0].accepted_generation == 1


def test_a_dhcp_server_is_reported_in_pages(cluster: Cluster) -> None:
    cluster.start()
    pools = frozenset(ServerPool(f"10.0.{n}.1", f"10.0.{n}.9") for n in range(3))
    entries = frozenset(ServerEntry(f"10.1.{n >> 8}.{n & 255}") for n in range(1200))
    cluster.ask(cluster.connection.report_dhcp_server(ServerPicture(pools, entries, ("odd",)), None))
    cluster.ask(cluster.connection.report_dhcp_server(ServerPicture(), "permission denied"))
    whole, unreadable = cluster.region.dhcp_servers
    assert (frozenset(whole.pools), frozenset(whole.entries)) == (pools, entries)
    assert (whole.remarks, whole.error) == (("odd",), None)
    assert whole.whole and unreadable.whole
    assert unreadable.error == "permission denied"


def test_a_region_that_is_older_is_not_told_of_the_dhcp_server(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start()
    monkeypatch.setattr(commands.ReportDhcpServer, "commandName", b"SomethingNew")
    with pytest.raises(NotReported, match="older"):
        cluster.ask(cluster.connection.report_dhcp_server(ServerPicture(), None))
    assert cluster.ask(cluster.region.change("subnet-1", CIDR, [host_map(1)])) == 1  # the link is as it was


# ---- what the region takes back ----


def _uploaded(cluster: Cluster, subnet: str) -> list[tuple[int, list[HostMap]]]:
    """Page by page what the region is handed up of a subnet, with how many may follow."""
    pages: list[tuple[int, list[HostMap]]] = []
    after: tuple[Identifier, ...] = ()
    assert cluster.region.link is not None
    while not pages or pages[-1][0]:
        outcome = Outcome(cluster.region.link.call(commands.UploadHostMaps, subnet=subnet, after=after))
        cluster.flush()
        assert outcome.error is None, outcome.error
        answer = outcome.value
        assert (answer["cidr"], answer["history"], answer["accepted_generation"]) == ("10.0.0.0/8", "history-1", 1)
        pages.append((answer["more"], answer["host_maps"]))
        after = (pages[-1][1][-1].identifier,) if pages[-1][1] else ()
    return pages


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (1, [1]), (500, [500]), (501, [500, 1]), (1001, [500, 500, 1])])
def test_what_is_held_is_handed_up_in_pages(cluster: Cluster, count: int, pages: list[int]) -> None:
    cluster.start()
    wanted = [HostMap(host_map(n).identifier, f"10.0.{n >> 8}.{n & 255}") for n in range(1, count + 1)]
    cluster.store.accept_delta(_announced(wanted), wanted, ())
    handed_up = _uploaded(cluster, "subnet-1")
    assert [len(rows) for _, rows in handed_up] == pages
    assert [more for more, _ in handed_up] == [1] * (len(pages) - 1) + [0]
    assert [row for _, rows in handed_up for row in rows] == sorted(wanted, key=lambda m: m.identifier)


def test_host_maps_that_fill_a_value_before_a_page_is_full_are_handed_up_all_the_same(cluster: Cluster) -> None:
    cluster.start()
    random = Random(7)
    wanted = [
        HostMap(Identifier(IdentifierKind.CLIENT_ID, random.randbytes(200)), f"10.0.{n >> 8}.{n & 255}")
        for n in range(1, 601)
    ]
    cluster.store.accept_delta(_announced(wanted), wanted, ())
    handed_up = _uploaded(cluster, "subnet-1")
    assert [row for _, rows in handed_up for row in rows] == sorted(wanted, key=lambda m: m.identifier)
    assert max(len(rows) for _, rows in handed_up) < 500


def test_nothing_is_handed_up_of_a_subnet_that_is_not_held(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.region.link is not None
    outcome = Outcome(cluster.region.link.call(commands.UploadHostMaps, subnet="subnet-9", after=()))
    cluster.flush()
    assert isinstance(outcome.error, UnknownSubnet)


def _former(cluster: Cluster, cidr: str) -> list[list[HostMap]]:
    pages: list[list[HostMap]] = []
    more = 1
    while more:
        after = tuple(pages[-1][-1:]) if pages else ()
        answer = cluster.ask(cluster.region.call(commands.UploadFormerHostMaps, cidr=cidr, after=after))
        pages.append(list(answer["host_maps"]))
        more = answer["more"]
    return pages


@pytest.mark.parametrize(("count", "pages"), [(0, [0]), (500, [500]), (501, [500, 1])])
def test_what_was_removed_and_may_be_served_is_handed_up_in_pages(
    cluster: Cluster, count: int, pages: list[int]
) -> None:
    """The DHCP server has done nothing of it: the convergence was never told."""
    cluster.start()
    gone = [HostMap(host_map(n).identifier, f"10.0.{n >> 8}.{n & 255}", "bmc") for n in range(1, count + 1)]
    moved = HostMap(host_map(2000).identifier, "10.1.0.1")
    held = [HostMap(moved.identifier, "10.1.0.2")]
    cluster.store.accept_delta(_announced([*gone, moved]), [*gone, moved], ())
    cluster.store.accept_delta(_announced(held, 1), held, [one.identifier for one in gone])
    handed_up = _former(cluster, "10.0.0.0/16")
    assert [len(page) for page in handed_up] == pages
    wanted = sorted((HostMap(one.identifier, one.address) for one in gone), key=lambda m: m.identifier)
    assert [one for page in handed_up for one in page] == wanted
    assert _former(cluster, "10.1.0.0/16") == [[moved]]
    assert _former(cluster, "192.168.0.0/16") == [[]]


def test_the_former_addresses_of_one_identifier_are_all_handed_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start()
    monkeypatch.setattr("clusterd.host_maps.accepted.MAX_PAGE_ROWS", 1)
    places = [HostMap(host_map(1).identifier, f"10.0.0.{n}") for n in range(1, 4)]
    for generation, place in enumerate(places):
        cluster.store.accept_delta(_announced([place], generation), [place], ())
    assert _former(cluster, "10.0.0.0/8") == [[places[0]], [places[1]]]


def test_a_subnet_that_is_being_forgotten_is_told_of_and_its_former_host_maps_are_handed_up(cluster: Cluster) -> None:
    wanted = [HostMap(host_map(1).identifier, "10.0.0.1")]
    cluster.store.accept_delta(_announced(wanted), wanted, ())
    cluster.store.forget("subnet-1")
    cluster.backend.refuse_all("not now")
    cluster.start()
    assert cluster.region.registrations[-1].held == (HeldSubnet("subnet-1", 0, 0, 0),)
    answer = cluster.ask(cluster.region.call(commands.UploadHostMaps, subnet="subnet-1", after=()))
    assert (answer["cidr"], answer["accepted_generation"], answer["host_maps"]) == ("10.0.0.0/8", 0, ())
    assert _former(cluster, "10.0.0.0/8") == [wanted]


def test_what_is_no_network_is_refused(cluster: Cluster) -> None:
    cluster.start()
    with pytest.raises(RemoteAmpError, match="not a network"):
        cluster.ask(cluster.region.call(commands.UploadFormerHostMaps, cidr="here", after=()))


def _announced(wanted: Sequence[HostMap], since: int = 0) -> Announced:
    origin = Origin("region-1", "rack-7", "history-1")
    return Announced(origin, "subnet-1", "10.0.0.0/8", since, since + 1, digest_of(wanted))


def test_the_region_asks_who_uses_addresses(cluster: Cluster) -> None:
    cluster.start()
    cluster.prober.squatters = {"192.0.2.7": "00:16:3e:00:00:66"}
    question = {"nic": "eth0", "cidr": "192.0.2.0/24", "addresses": ["192.0.2.6", "192.0.2.7"], "milliseconds": 500}
    answer = cluster.ask(cluster.region.call(commands.ProbeAddresses, **question))
    assert answer == {"in_use": (AddressInUse("192.0.2.7", "00:16:3e:00:00:66"),)}
    assert cluster.prober.asked == [("eth0", "192.0.2.0/24", ("192.0.2.6", "192.0.2.7"))]
    cluster.prober.refusal = "eth0 is down"
    with pytest.raises(NotProbed, match="eth0 is down"):
        cluster.ask(cluster.region.call(commands.ProbeAddresses, **question))
