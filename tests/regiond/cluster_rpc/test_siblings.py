"""Two regionds in memory: one asks a cluster that is connected to the other."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.connection import CallTimedOut, LinkLost, Responders
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import AddressInUse, Identifier
from regiond.cluster_rpc.asking import NotAsked
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.cluster_rpc.siblings import MAX_OPEN_QUESTIONS, TAKE_SECONDS, Siblings
from regiond.domain.questions import Question
from regiond.storage.errors import DatabaseUnavailable
from tests.clusterd.links import Outcome, Wire, linked
from tests.clusterd.log_events import logged
from tests.fakes.questions import FakeBell, FakeQuestions
from tests.regiond.storage.region import new_id

RACK_A, RACK_B = 9, 10
SQUATTER = AddressInUse("192.0.2.7", "00:16:3e:00:00:66")
PROBE: dict[str, Any] = {"nic": "eth0", "cidr": "192.0.2.0/24", "addresses": ["192.0.2.7"], "milliseconds": 1000}


class Cluster(Responders):
    """Answers what a test says, as often as it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []
        self.answer: Callable[[], Any] = lambda: {"in_use": [SQUATTER]}
        self.ended: list[ServerLease] = []

    @commands.ProbeAddresses.responder
    def probe(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return self.answer()

    @commands.EndLease.responder
    def end_lease(self, leases: Sequence[ServerLease]) -> Any:
        self.ended += leases
        return {}


class World:
    """`here` asks; RACK_A is connected to `there`. Both have the table and the bell in common."""

    def __init__(self, cluster: amp.CommandLocator) -> None:
        self.clock = Clock()
        self.questions = FakeQuestions(self.clock)
        self.questions.connected[RACK_A] = 3
        self.bells = {"here": FakeBell(), "there": FakeBell()}
        self.wire: Wire = linked(self.clock, None, cluster)
        self.connection = Connection(RACK_A, "rack-a", 3, self.wire.server, "h", False)
        self.here = self.regiond("here")
        self.there = self.regiond("there", self.connection)
        self.bells["here"].others.append(self.there)
        self.bells["there"].others.append(self.here)

    def regiond(self, name: str, *connections: Connection) -> Siblings:
        connected = Connections({each.cluster: each for each in connections})
        return Siblings(self.clock, connected, self.questions, self.bells[name], new_id)

    def probe(self, cluster: int = RACK_A, seconds: float = 3.0) -> Outcome:
        outcome = Outcome(self.here.ask(cluster, commands.ProbeAddresses, deadline=seconds, **PROBE))
        self.wire.flush()
        return outcome

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wire.flush()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def world(cluster: Cluster) -> Any:
    made = World(cluster)
    yield made
    if made.connection.link.connected_now:
        made.wire.cut()
    assert made.clock.getDelayedCalls() == [], "no timer is left behind"


def test_the_answer_comes_by_way_of_the_one_that_has_the_cluster(world: World, cluster: Cluster) -> None:
    assert world.probe().value == {"in_use": (SQUATTER,)}
    assert cluster.asked == [{**PROBE, "addresses": ("192.0.2.7",)}]
    assert not world.questions.open and not world.questions.answers, "an answer is taken once, and nothing is left"
    lease = ServerLease("192.0.2.8", (Identifier.mac("00:16:3e:00:00:01"),), "guest", 2_000_000_000)
    ended = Outcome(world.here.ask(RACK_A, commands.EndLease, deadline=1.0, leases=[lease]))
    world.wire.flush()
    assert ended.value == {} and cluster.ended == [lease]


def test_one_that_is_connected_here_is_asked_at_once(world: World, cluster: Cluster) -> None:
    world.questions.trouble = RuntimeError("nobody needs the table")
    asked = Outcome(world.there.ask(RACK_A, commands.ProbeAddresses, deadline=1.0, **PROBE))
    world.wire.flush()
    assert asked.value == {"in_use": (SQUATTER,)}


def test_one_that_is_connected_nowhere_is_not_waited_for(world: World) -> None:
    refused = world.probe(RACK_B)
    assert isinstance(refused.error, NotAsked) and "not connected" in str(refused.error)


@pytest.mark.parametrize(
    "raised",
    [
        errors.NotProbed("eth0 is down"),
        errors.MalformedArgument("not at all"),
        amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, "internal error, reference 7", False),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_what_the_cluster_refuses_is_told_in_its_own_words(world: World, cluster: Cluster, raised: Exception) -> None:
    def refuse() -> None:
        raise raised

    cluster.answer = refuse
    error = world.probe().error
    assert isinstance(error, type(raised) if isinstance(raised, errors.NotProbed) else amp.RemoteAmpError)
    assert getattr(raised, "description", str(raised)) in str(error)


def test_an_older_cluster_is_told_of_as_one() -> None:
    world = World(Responders())
    assert isinstance(world.probe().error, errors.UnknownCommand)
    world.wire.cut()


def test_the_time_is_the_askers_whoever_asks(world: World, cluster: Cluster) -> None:
    cluster.answer = Deferred
    hung = world.probe(seconds=3.0)
    world.pass_time(TAKE_SECONDS)
    assert not hung.done(), "somebody has taken it"
    world.pass_time(1.9)
    assert not hung.done()
    world.pass_time(0.2)
    assert isinstance(hung.error, CallTimedOut)
    assert world.probe(seconds=0.0).error is not None


def test_a_connection_that_ends_meanwhile_is_the_end_of_the_question(world: World, cluster: Cluster) -> None:
    cluster.answer = Deferred
    asked = world.probe()
    world.wire.cut()
    assert isinstance(asked.error, LinkLost)


def test_one_that_was_killed_before_it_took_the_question(world: World) -> None:
    world.bells["here"].others.clear()
    asked = world.probe(seconds=10.0)
    world.pass_time(TAKE_SECONDS)
    assert isinstance(asked.error, NotAsked)
    assert world.questions.open == {}, "and nobody takes it any more"


def test_one_that_was_killed_after_it_took_the_question(world: World) -> None:
    world.bells["here"].others.clear()
    asked = world.probe(seconds=3.0)
    world.questions.taken.update(world.questions.open)
    world.pass_time(TAKE_SECONDS)
    world.pass_time(2.0)
    assert isinstance(asked.error, CallTimedOut)
    assert len(world.questions.open) == 1
    world.pass_time(1.0)
    Outcome(world.questions.prune())
    assert world.questions.open == {}


def test_an_answer_whose_bell_was_not_heard_is_found_all_the_same(world: World) -> None:
    world.bells["there"].is_broken = True
    asked = world.probe(seconds=3.0)
    world.pass_time(TAKE_SECONDS)
    assert asked.value == {"in_use": (SQUATTER,)}


def test_a_question_whose_bell_was_missed_is_taken_when_the_listener_is_back(world: World) -> None:
    world.bells["here"].is_broken = True
    asked = world.probe(seconds=3.0)
    world.pass_time(TAKE_SECONDS / 2)
    world.there.heard_of_questions(None)
    world.wire.flush()
    assert asked.value == {"in_use": (SQUATTER,)}


def test_only_the_latest_connection_of_a_cluster_is_asked(world: World, cluster: Cluster) -> None:
    world.questions.connected[RACK_A] = 4  # elsewhere: the link here has not noticed its end yet
    asked = world.probe()
    world.pass_time(TAKE_SECONDS)
    assert isinstance(asked.error, NotAsked) and cluster.asked == []


def test_a_ring_that_concerns_others_changes_nothing(world: World, cluster: Cluster) -> None:
    answer: Deferred[Any] = Deferred()
    cluster.answer = lambda: answer
    asked = world.probe()
    for _ in range(3):
        world.here.heard_of_answers(None)
        world.here.heard_of_answers([1, 2])
    assert not asked.done()
    answer.callback({"in_use": []})
    world.wire.flush()
    assert asked.value == {"in_use": ()}


def test_not_more_than_so_many_are_open(world: World, cluster: Cluster) -> None:
    cluster.answer = Deferred
    waiting = [world.probe() for _ in range(MAX_OPEN_QUESTIONS)]
    assert isinstance(world.probe().error, NotAsked)
    world.pass_time(TAKE_SECONDS)
    world.pass_time(2.0)
    assert {type(each.error) for each in waiting} == {CallTimedOut}
    cluster.answer = lambda: {"in_use": []}
    assert world.probe().value == {"in_use": ()}


def test_a_database_that_is_away_is_a_cluster_that_cannot_be_asked(world: World) -> None:
    world.questions.trouble = DatabaseUnavailable("away")
    assert isinstance(world.probe().error, NotAsked)
    with logged() as events:
        world.there.heard_of_questions([RACK_A])
    assert [(event["event"], event["reason"]) for event in events] == [("question.unanswered", "away")]


def test_nothing_else_is_passed_on(world: World, cluster: Cluster) -> None:
    """Whatever is in the table: what brings host maps is not asked on behalf of others."""
    asked = Question(1, RACK_A, "ForgetSubnet", b"\0\0")
    odd = Question(2, RACK_A, "ProbeAddresses", b"\0\x03nic")
    for question in (asked, odd):
        Outcome(world.questions.put(question, 3.0))
    world.there.heard_of_questions([RACK_A])
    world.wire.flush()
    assert world.questions.answers[1].error_code == "UNHANDLED"
    assert world.questions.answers[2].error_code == "MALFORMED_ARGUMENT"
    assert cluster.asked == []


def test_whoever_waits_is_answered_when_the_daemon_stops(world: World, cluster: Cluster) -> None:
    cluster.answer = Deferred
    asked = world.probe()
    world.here.wait_no_longer()
    assert isinstance(asked.error, CallTimedOut)
    assert isinstance(world.probe().error, NotAsked)
