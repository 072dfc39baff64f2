"""Both daemons' ends of a link, in memory, with a hostile peer and an honest one each."""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.convergence.acceptance import Origin
from clusterd.convergence.convergence import Convergence
from clusterd.dhcp.host_system import run_at_once
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.schema import MIGRATIONS, STAGING
from clusterd.host_maps.states import HostMapState
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol import commands
from clusterd.protocol.connection import Link
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier
from clusterd.region_link.lease_answers import LeaseAnswers
from clusterd.region_link.responders import RegionResponders
from regiond.domain.errors import EnrolmentRefused
from regiond.enrolment_door import MAX_CONNECTIONS, EnrolmentFactory
from regiond.storage.certificates import Enrolled, Issued
from tests.clusterd.log_events import logged
from tests.fakes.backend import FakeBackend
from tests.fakes.cluster import FakeCluster
from tests.fakes.prober import FakeProber
from tests.finished import result_of
from tests.fuzz.inputs import inputs
from tests.regiond.site import HISTORY, Site

HOSTILE = IPv4Address("TCP", "192.0.2.66", 4711)
HONEST = IPv4Address("TCP", "198.51.100.7", 4711)
INPUTS_PER_CONNECTION = 50


class HostileTransport(StringTransport):
    """Takes every answer and forgets it; an abort is heard of at once."""

    def __init__(self, link: Link) -> None:
        super().__init__(peerAddress=HOSTILE)
        self._link = link

    def write(self, data: bytes) -> None:
        """To nobody."""

    def abortConnection(self) -> None:
        if self._link.connected_now:
            self._link.connectionLost(Failure(ConnectionAbortedError()))


class RegionTarget:
    """The region's end: its responders and its dispatcher on tables in memory, and an honest cluster beside."""

    name = "regiond"

    def __init__(self) -> None:
        self.site = Site()
        self.clock = self.site.clock
        self.honest = FakeCluster("rack-7")
        self.site.register(self.honest)
        self.site.tables.clusters[266] = "rack-66"

    def connect(self, random: Random) -> Link:
        link = self.site.factory.buildProtocol(None)
        assert isinstance(link, Link)
        link.makeConnection(HostileTransport(link))
        if random.random() < 0.5:
            link.dataReceived(_registration().serialize())
        return link

    def still_serves(self) -> bool:
        """Whether the honest cluster is given what is claimed for it."""
        (made,) = self.site.claim()
        delivered = self.site.is_settled(self.honest)
        self.site.release(made)
        return delivered and self.site.is_settled(self.honest)

    def held(self) -> int:
        """How much is kept for peers."""
        return len(self.site.factory.peers) + len(self.site.connections.by_cluster)


class ClusterTarget:
    """The cluster's end: its responders, store and convergence; the honest region is the next connection."""

    name = "clusterd"

    def __init__(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        for statement in (*(s for statements in MIGRATIONS for s in statements), STAGING):
            connection.execute(statement)
        self.clock = Clock()
        self.backend = FakeBackend()
        self.store = HostMapStore(connection)
        self.convergence = Convergence(self.store, self.backend, self.clock, run_at_once, lambda: 0.5)
        self.accepted = AcceptedHostMaps(self.store, self.convergence, run_at_once)
        self.convergence.start()

    def connect(self, random: Random) -> Link:
        responders = RegionResponders(self.accepted, LeaseAnswers(self.backend), FakeProber().probe)
        link = Link(self.clock, responders)
        link.makeConnection(HostileTransport(link))
        if random.random() < 0.9:
            origin = Origin("region-1", "cluster-1", HISTORY)
            Deferred.fromCoroutine(self.accepted.connected(origin, _unreported))
            responders.open()
        link.lost.addCallback(lambda _: self.accepted.disconnected())
        return link

    def still_serves(self) -> bool:
        """Whether an honest region's host map comes to the server, and goes again."""
        host_map = HostMap(Identifier.mac("02:00:00:00:99:99"), "10.99.0.7")
        region = Origin("region-1", "cluster-1", HISTORY)
        result_of(self.accepted.connected(region, _unreported))
        digest = digest_of([host_map])
        accepting = self.accepted.apply_host_maps(
            HISTORY, "sn-honest", "10.99.0.0/24", 0, 1, digest, [host_map], [], []
        )
        result_of(accepting)
        served = host_map in self.backend.maps
        result_of(self.accepted.forget_subnet(HISTORY, "sn-honest", None))
        self.accepted.disconnected()
        return served and host_map not in self.backend.maps

    def held(self) -> int:
        return len(self.store._transfers)


class EnrolmentTarget:
    """The door for newcomers, which anybody may come to; each connection is from another address."""

    name = "the enrolment listener"
    endpoints = ("tcp:region.example:5250",)

    def __init__(self) -> None:
        self.clock = Clock()
        self.factory = EnrolmentFactory(self.clock, "region-1", self)

    async def enrol(self, token: str, request: str, peer: str) -> tuple[Enrolled, str]:
        if token != "right":
            raise EnrolmentRefused("the token is unknown, used or expired")
        return Enrolled(7, "rack-7", Issued("1", datetime(2030, 1, 1, tzinfo=UTC), request)), "authority"

    def connect(self, random: Random) -> Link:
        link = self.factory.buildProtocol(IPv4Address("TCP", f"192.0.2.{random.randrange(256)}", 4711))
        if link is None:
            # Too many refusals from there: what is cut at once needs no fuzzing.
            link = self.factory.buildProtocol(HONEST)
        assert link is not None
        link.makeConnection(HostileTransport(link))
        return link

    def still_serves(self) -> bool:
        """Whether a newcomer with the right token is let in."""
        link = self.factory.buildProtocol(HONEST)
        if link is None:
            return False
        transport = StringTransport(peerAddress=HONEST)
        link.makeConnection(transport)
        box = commands.Enrol.makeArguments({"token": "right", "request": "request"}, amp.AMP())
        box[amp.COMMAND], box[amp.ASK] = b"Enrol", b"1"
        link.dataReceived(box.serialize())
        link.connectionLost(Failure(ConnectionAbortedError()))
        return b"rack-7" in transport.value()

    def held(self) -> int:
        return len(self.factory._links) + len(self.factory._limit._refused) - MAX_CONNECTIONS


Target = RegionTarget | ClusterTarget | EnrolmentTarget
TARGETS: tuple[type[Target], ...] = (RegionTarget, ClusterTarget, EnrolmentTarget)


def attack(make: Callable[[], Target], seed: int, how_many: int) -> int:
    """Send so many inputs; how many connections it took. Raises AssertionError for whatever must not happen."""
    random = Random(seed)
    target = make()
    connections, sent = 0, 0
    while sent < how_many:
        with logged() as events:
            link = target.connect(random)
            connections += 1
            speaks_amp = random.random() < 0.5
            for _ in range(INPUTS_PER_CONNECTION):
                link.dataReceived(inputs(random, speaks_amp))
                sent += 1
                if not link.connected_now:
                    break
            was_cut = not link.connected_now
            link.abort()
        _judge(events, was_cut)
        target.clock.advance(0.01)
        if connections % 50 == 0:
            assert target.still_serves(), f"{target.name} does not serve the others: seed {seed}, input {sent}"
            assert target.held() <= 1100, f"{target.name} keeps {target.held()} things for peers that are gone"
    assert target.still_serves()
    return connections


def _judge(events: list[LogEvent], was_cut: bool) -> None:
    """Nothing is a bug; what a peer is cut for has one line, and every line names the peer."""
    for event in events:
        failure = event.get("log_failure")
        assert failure is None, f"{event['event']}: {failure.getTraceback() if failure else ''}"
    broken = [event for event in events if event["event"] == "link.broken"]
    malformed = [event for event in events if event["event"] == "link.malformed"]
    went_on = any(event["event"] == "enrolment.refused" and "too many" in event["reason"] for event in events)
    assert len(broken) == was_cut or went_on, f"{len(broken)} lines for a connection that was cut: {was_cut}"
    assert all("192.0.2.66:4711" in event["peer"] for event in broken + malformed)


def _registration() -> amp.AmpBox:
    said = {
        "protocol_version": commands.PROTOCOL_VERSION,
        "software_version": "1",
        "hostname": "rack-66",
        "cluster": "rack-66",
        "backend": "fake",
        "held": (),
    }
    box: amp.AmpBox = commands.Register.makeArguments(said, amp.AMP())
    box[amp.COMMAND], box[amp.ASK] = b"Register", b"1"
    return box


async def _unreported(state: HostMapState) -> None:
    """Nobody is interested."""
