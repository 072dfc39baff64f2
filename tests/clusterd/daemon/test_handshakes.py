"""How many handshakes at a time, and what becomes of those who do not hurry."""

from collections.abc import Callable
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.daemon.handshakes import (
    FIRST_BYTES_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_HELLO_BYTES,
    Admission,
    TlsServerEndpoint,
)
from clusterd.daemon.mutual_tls import TlsConnections, cluster_context, region_context
from tests.certificates import REGION, authority, cluster_credentials, region_credentials

PEER = IPv4Address("TCP", "192.0.2.9", 40000)


class Lending:
    """An endpoint that keeps the factory it is given."""

    def listen(self, factory: Any) -> None:
        self.factory = factory


class Wire(StringTransport):
    """A transport that knows whether it was paused or cut."""

    def __init__(self) -> None:
        super().__init__(peerAddress=PEER)
        self.paused = False
        self.cut = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def abortConnection(self) -> None:
        self.cut = True


class Door:
    """A TLS listener in memory."""

    def __init__(self, *, most: int = 100) -> None:
        ours = authority()
        self.clock = Clock()
        admission = Admission(self.clock, most=most)
        self.let_in: list[Protocol] = []
        context = region_context(region_credentials(ours), REGION)
        self._client = cluster_context(cluster_credentials(ours), REGION)
        lending: Any = Lending()
        endpoint = TlsServerEndpoint(self.clock, lending, TlsConnections(lambda: context), admission)
        endpoint.listen(Factory.forProtocol(self._protocol))
        self._factory = lending.factory

    def _protocol(self) -> Protocol:
        self.let_in.append(Protocol())
        return self.let_in[-1]

    def arrive(self) -> tuple[Any, Wire]:
        connection, wire = self._factory.buildProtocol(PEER), Wire()
        connection.makeConnection(wire)
        return connection, wire

    def hello(self) -> bytes:
        """What a client says first."""
        connection = TlsConnections(lambda: self._client).clientConnectionForTLS(None)
        connection.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        return connection.bio_read(1 << 14)


@pytest.fixture
def turned_away() -> Any:
    lines: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("event") == "link.handshake-failed":
            lines.append(event)

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_a_few_steps_in_one_turn_of_the_reactor() -> None:
    turns: list[Callable[[], None]] = []

    class Turns:
        """A reactor whose turns the test gives."""

        def callLater(self, delay: float, call: Callable[[], None]) -> None:
            assert delay == 0
            turns.append(call)

    clock: Any = Turns()
    admission, taken = Admission(clock, at_once=2), []
    for number in range(5):
        admission.ask(lambda number=number: taken.append(number))  # type: ignore[misc]
    seen = []
    while turns:
        turns.pop()()
        assert len(turns) <= 1
        seen.append(list(taken))
    assert seen == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_what_is_said_waits_for_its_turn(turned_away: list[LogEvent]) -> None:
    door = Door()
    connection, wire = door.arrive()
    connection.dataReceived(door.hello())
    seen = [(wire.paused, bool(wire.value()))]
    door.clock.advance(0)
    seen.append((wire.paused, bool(wire.value())))
    assert seen == [(True, False), (False, True)]
    assert (turned_away, door.let_in) == ([], [])


def test_whoever_stops_in_the_middle_keeps_nobody_waiting(turned_away: list[LogEvent]) -> None:
    door = Door()
    for _ in range(50):
        connection, wire = door.arrive()
        connection.dataReceived(door.hello()[:100])
        door.clock.advance(0)
    honest, wire = door.arrive()
    honest.dataReceived(door.hello())
    door.clock.advance(0)
    assert wire.value()


def test_who_is_too_slow_is_cut(turned_away: list[LogEvent]) -> None:
    door = Door()
    _, silent = door.arrive()
    slow, half = door.arrive()
    slow.dataReceived(door.hello()[:10])
    cut = []
    for seconds in (FIRST_BYTES_SECONDS, HANDSHAKE_SECONDS - FIRST_BYTES_SECONDS - 0.1, 0.1):
        door.clock.advance(seconds)
        cut.append((silent.cut, half.cut))
    assert cut == [(True, False), (True, False), (True, True)]
    assert [line["reason"] for line in turned_away] == ["nothing said within 10 s", "no handshake within 30 s"]
    assert {line["peer"] for line in turned_away} == {"192.0.2.9:40000"}


def test_the_oldest_makes_room(turned_away: list[LogEvent]) -> None:
    door = Door(most=2)
    arrived = [door.arrive() for _ in range(3)]
    assert [wire.cut for _, wire in arrived] == [True, False, False]
    arrived[1][0].connectionLost(Failure(ConnectionDone()))
    door.arrive()
    assert [wire.cut for _, wire in arrived] == [True, False, False]
    assert [line["reason"] for line in turned_away] == ["it made room for others"]


def test_whoever_is_gone_when_its_turn_comes_costs_nothing(turned_away: list[LogEvent]) -> None:
    door = Door()
    connection, wire = door.arrive()
    connection.dataReceived(door.hello())
    connection.connectionLost(Failure(ConnectionDone()))
    door.clock.advance(0)
    assert not wire.value()
    assert [line["reason"] for line in turned_away] == ["it closed the connection"]
    assert not door.clock.getDelayedCalls()


def test_what_is_much_too_long_for_a_beginning_is_none(turned_away: list[LogEvent]) -> None:
    door = Door()
    connection, wire = door.arrive()
    connection.dataReceived(b"\x16" * (MAX_HELLO_BYTES + 1))
    assert wire.cut
    assert [line["reason"] for line in turned_away] == ["it does not begin with a TLS handshake"]
    assert not door.clock.getDelayedCalls()
