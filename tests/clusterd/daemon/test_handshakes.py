"""How many handshakes at a time, and what becomes of those who do not hurry."""

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
    HANDSHAKE_SECONDS,
    HANDSHAKES_AT_ONCE,
    WAITING_SECONDS,
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

    def __init__(self, admission: Admission | None = None) -> None:
        ours = authority()
        self.clock = Clock()
        self.let_in: list[Protocol] = []
        context = region_context(region_credentials(ours), REGION)
        self._client = cluster_context(cluster_credentials(ours), REGION)
        lending: Any = Lending()
        endpoint = TlsServerEndpoint(self.clock, lending, TlsConnections(lambda: context), admission or Admission())
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


def test_a_few_shake_hands_and_the_others_wait_their_turn(turned_away: list[LogEvent]) -> None:
    door = Door()
    arrived = [door.arrive() for _ in range(HANDSHAKES_AT_ONCE + 2)]
    assert all(wire.value() == b"" for _, wire in arrived)
    for connection, _ in arrived:
        connection.dataReceived(door.hello())
    answered = [wire for _, wire in arrived if wire.value()]
    waiting = [wire for _, wire in arrived if wire.paused]
    assert (len(answered), len(waiting)) == (HANDSHAKES_AT_ONCE, 2)
    # One of them leaves in the middle of its handshake: the next one's turn has come.
    arrived[0][0].connectionLost(Failure(ConnectionDone()))
    assert waiting[0].value() and not waiting[0].paused
    assert waiting[1].paused and not waiting[1].value()
    assert [line["peer"] for line in turned_away] == ["192.0.2.9:40000"]
    assert door.let_in == []


def test_who_says_nothing_takes_no_turn_and_is_cut(turned_away: list[LogEvent]) -> None:
    door = Door(Admission(at_once=1))
    _, silent = door.arrive()
    speaker, wire = door.arrive()
    speaker.dataReceived(door.hello())
    assert wire.value(), "the silent one has no turn"
    door.clock.advance(HANDSHAKE_SECONDS)
    assert silent.cut and wire.cut, "and whoever stops in the middle is cut, too"
    assert {line["reason"] for line in turned_away} == {"no handshake within 10 s"}


def test_a_turn_that_does_not_come_ends_too(turned_away: list[LogEvent]) -> None:
    door = Door(Admission(at_once=0))
    connection, wire = door.arrive()
    connection.dataReceived(door.hello())
    assert wire.paused
    cut = []
    for seconds in (WAITING_SECONDS - 0.1, 0.1):
        door.clock.advance(seconds)
        cut.append(wire.cut)
    assert cut == [False, True]
    assert [line["reason"] for line in turned_away] == ["no handshake within 30 s"]


def test_no_more_wait_than_may(turned_away: list[LogEvent]) -> None:
    door = Door(Admission(at_once=0, most_waiting=1))
    wires = []
    for _ in range(2):
        connection, wire = door.arrive()
        connection.dataReceived(door.hello())
        wires.append(wire)
    assert [wire.cut for wire in wires] == [False, True]
    assert [line["reason"] for line in turned_away] == ["too many others wait for their turn"]


def test_turns_are_given_back_whoever_begins_or_not() -> None:
    admission, begun = Admission(at_once=1), []

    def begin(name: str, wants: bool) -> Any:
        def start() -> bool:
            begun.append(name)
            return wants

        return start

    assert admission.ask(begin("a", True))
    for name, wants in (("b", False), ("c", True), ("d", True)):
        assert admission.ask(begin(name, wants))
    assert begun == ["a"]
    admission.leave()
    assert begun == ["a", "b", "c"]
    admission.leave()
    admission.leave()
    assert admission.ask(begin("e", False)) and admission.ask(begin("f", True))
    assert begun == ["a", "b", "c", "d", "e", "f"]
