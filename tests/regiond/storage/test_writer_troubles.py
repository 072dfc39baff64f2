"""The writer when the database, a connection or a member of a batch is in trouble: on tables in memory and a clock."""

import gc
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg2
import pytest
from psycopg2 import errorcodes
from psycopg2 import errors as sql_errors
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.mutations import Actor, Claim, Mutation
from regiond.domain.overlay import Overlay
from regiond.domain.reservations import Kind
from regiond.storage.connection import ConnectionLost
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.writer import ATTEMPTS, BATCH_SECONDS, MAX_BATCH_WEIGHT, WAIT_SECONDS, Writer
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.fakes.tables import Conflict, Tables

NET = 101


def sql_error(code: str) -> psycopg2.Error:
    """An error as if it came from a server: psycopg2's own have a code only then."""
    made: psycopg2.Error = type("ServerError", (sql_errors.lookup(code),), {"pgcode": code})("the database's words")
    return made


class TablesPool:
    """A pool whose connections write to `Tables`. `troubles` are raised by the next calls: (where, error)."""

    def __init__(self) -> None:
        self.tables = Tables(accounts={1: "tester"})
        self.tables.add_subnet(NET, "10.0.0.0/16", hold=600)
        self.tables.rebuild_free_ranges(NET)
        self.committed: set[str] = set()
        self.batches: list[int] = []
        self.troubles: list[tuple[str, Exception]] = []
        self.rebuilt = 0
        self.asked = 0
        self._held: list[Deferred[None]] | None = None

    def hold(self) -> None:
        self._held = []

    def let_go(self) -> None:
        held, self._held = self._held or [], None
        for one in held:
            one.callback(None)

    def let_go_one(self) -> None:
        """The batch that waits for its facts; the one after it waits again."""
        if self._held:
            self._held.pop(0).callback(None)

    async def session(self, work: Callable[["TablesPool"], Awaitable[Any]], *, retry: bool = False) -> Any:
        self._trouble("borrow")
        return await work(self)

    async def transaction(self, work: Callable[["TablesPool"], Awaitable[Any]], *, retry: bool = False) -> Any:
        return await work(self)

    async def run(self, sql: str, args: Any = None) -> list[tuple[Any, ...]]:
        if "batch_facts" in sql:
            self.asked += 1
            if self._held is not None:
                turn: Deferred[None] = Deferred()
                self._held.append(turn)
                await turn
            self._trouble("facts")
            return self.tables.batch_facts(args[1])
        if "batch_write" in sql:
            self._trouble("write")
            self._write(args[0])
            self._trouble("commit")
        if "count(*) FROM batch" in sql:
            self._trouble("look")
            return [(int(args[1] in self.committed),)]
        if "rebuild_free_ranges" in sql:
            self.rebuilt += 1
            self.tables.rebuild_free_ranges(NET)
        return []

    def _write(self, document: str) -> None:
        after = self.tables.copy()
        try:
            after.batch_write(document)
        except Conflict as error:
            raise sql_error(errorcodes.UNIQUE_VIOLATION) from error
        changes = json.loads(document)
        self.batches.append(len(changes.get("reservations_new", ())))
        self.committed.add(changes["batch"])
        self.tables = after

    def _trouble(self, where: str) -> None:
        if self.troubles and self.troubles[0][0] == where:
            raise self.troubles.pop(0)[1]


class Desk:
    """A writer on such a pool."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pool = TablesPool()
        self.told: list[frozenset[int]] = []
        self.writer = Writer(self.clock, self.pool, self.told.append)  # type: ignore[arg-type]
        self._next = 0

    def claim(self, **values: Any) -> Outcome:
        return self.mutate(self.step(**values))

    def step(self, **values: Any) -> Claim:
        self._next += 1
        return Claim(self._next, Kind.USER, values.pop("subnet", NET), values.pop("owner", 1), "tester", **values)

    def mutate(self, *steps: Claim) -> Outcome:
        return Outcome(self.writer.submit(Mutation(Actor(1, "tester", is_admin=True), steps, "request")))

    def wait(self) -> None:
        for _ in range(100):
            self.clock.advance(0.2)

    def let_go(self) -> None:
        """PostgreSQL answers, and the reactor does what is due."""
        self.pool.let_go()
        self.turns()

    def turns(self) -> None:
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    @property
    def taken(self) -> list[str]:
        return [row["address"] for row in self.pool.tables.reservations.values()]


def address(outcome: Outcome) -> str:
    assert outcome.error is None, outcome.error
    text: str = outcome.value.reservations[0].address
    return text


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_comes_while_a_batch_is_under_way_joins_the_next_two(desk: Desk) -> None:
    desk.pool.hold()
    claims = [desk.claim() for _ in range(10)]
    desk.let_go()
    assert len({address(claim) for claim in claims}) == 10
    assert desk.pool.batches == [1, 5, 4]


def test_the_next_batch_is_under_way_when_the_last_one_is_answered(desk: Desk) -> None:
    desk.pool.hold()
    first = Deferred.fromCoroutine(desk.writer.submit(Mutation(Actor(1, "t", is_admin=True), (desk.step(),), "r")))
    under_way: list[int] = []
    first.addCallback(lambda _: under_way.append(desk.pool.asked))
    claims = [desk.claim() for _ in range(3)]
    desk.let_go()
    assert under_way == [2]
    assert len({address(claim) for claim in claims}) == 3


def test_nothing_of_a_batch_waits_for_the_garbage_collector(desk: Desk) -> None:
    gc.collect()
    gc.disable()
    before = _overlays()
    try:
        mac = Identifier.mac("00:16:3e:00:00:01")
        desk.mutate(desk.step(), Claim(9, Kind.NODE, NET, 1, "tester", identifiers=(mac,), node=1))
        assert len(desk.taken) == 2
        assert [each for each in _overlays() if all(each is not one for one in before)] == []
    finally:
        gc.enable()


def _overlays() -> list[Overlay]:
    """Those that are in memory: other tests may have left some."""
    return [each for each in gc.get_objects() if isinstance(each, Overlay)]


@pytest.mark.parametrize("programs", [2, 3, 8, 64])
def test_programs_that_ask_again_and_again_are_served_in_two_halves(desk: Desk, programs: int) -> None:
    rounds = 20
    left = programs * rounds

    def again(_: Any = None) -> None:
        nonlocal left
        if left:
            left -= 1
            step = desk.step()
            asked = desk.writer.submit(Mutation(Actor(1, "t", is_admin=True), (step,), "r"))
            Deferred.fromCoroutine(asked).addCallback(again)

    desk.pool.hold()
    for _ in range(programs):
        again()
    for _ in range(2 * rounds + 2):
        desk.pool.let_go_one()
        desk.turns()
    assert desk.pool.batches[0] == 1
    assert set(desk.pool.batches[2:-2]) <= {programs // 2, (programs + 1) // 2}
    assert len(desk.taken) == sum(desk.pool.batches) == programs * rounds


def test_a_batch_has_at_most_so_many_steps_but_one_mutation_is_never_split(desk: Desk) -> None:
    desk.pool.hold()
    first = desk.claim()
    large = desk.mutate(*(desk.step() for _ in range(MAX_BATCH_WEIGHT + 10)))
    small = [desk.mutate(*(desk.step() for _ in range(200))) for _ in range(4)]
    desk.let_go()
    assert all(outcome.error is None for outcome in [first, large, *small])
    assert desk.pool.batches == [1, MAX_BATCH_WEIGHT + 10, 400, 400]


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_answer_is_looked_up_and_nothing_is_done_twice(desk: Desk, committed: bool) -> None:
    desk.pool.troubles = [("commit" if committed else "write", ConnectionLost("gone"))]
    claim = desk.claim()
    desk.wait()
    assert address(claim) == "10.0.0.1"
    assert desk.taken == ["10.0.0.1"]


@pytest.mark.parametrize("look", [ConnectionLost("gone"), DatabaseUnavailable("none"), sql_error("57014")])
def test_a_look_up_that_fails_is_repeated_before_anything_else(desk: Desk, look: Exception) -> None:
    desk.pool.troubles = [("commit", ConnectionLost("gone")), ("look", look)]
    claims = [desk.claim(), desk.claim()]
    desk.wait()
    assert sorted(map(address, claims)) == desk.taken == ["10.0.0.1", "10.0.0.2"]


def test_an_outcome_that_stays_unknown_is_said_to_be(desk: Desk) -> None:
    desk.pool.troubles = [("commit", ConnectionLost("gone")), *[("look", DatabaseUnavailable("none"))] * ATTEMPTS]
    claim = desk.claim()
    desk.wait()
    assert isinstance(claim.error, DatabaseUnavailable)
    assert claim.error.outcome_unknown


def test_a_database_that_is_away_is_said_to_be_and_nothing_happened(desk: Desk) -> None:
    desk.pool.troubles = [("borrow", DatabaseUnavailable("none"))] * ATTEMPTS
    claim = desk.claim()
    desk.wait()
    assert isinstance(claim.error, DatabaseUnavailable)
    assert not claim.error.outcome_unknown
    assert address(desk.claim()) == "10.0.0.1"


@pytest.mark.parametrize("code", ["40001", "40P01", "57014", "55P03", "53100"])
def test_what_no_member_caused_is_tried_again_as_one_batch(desk: Desk, code: str) -> None:
    desk.pool.hold()
    claims = [desk.claim() for _ in range(4)]
    desk.pool.troubles = [("write", sql_error(code)), ("write", sql_error(code))]
    desk.let_go()
    desk.wait()
    assert [claim.error for claim in claims] == [None] * 4
    assert desk.pool.batches == [1, 2, 1]


def test_conflicts_without_end_are_an_unavailable_database_and_no_bug(desk: Desk) -> None:
    desk.pool.troubles = [("write", sql_error("40P01"))] * ATTEMPTS
    with logged() as events:
        claim = desk.claim()
        desk.wait()
    assert isinstance(claim.error, DatabaseUnavailable)
    assert not claim.error.outcome_unknown
    assert {event["event"] for event in events} == {"writer.retry"}


def test_a_member_that_breaks_the_planner_harms_no_neighbour(desk: Desk) -> None:
    desk.pool.hold()
    claims = [desk.claim(), desk.claim(), desk.claim(address="no address"), desk.claim(), desk.claim(owner=77)]
    desk.let_go()
    with logged() as events:
        desk.wait()
    assert [type(claim.error) for claim in claims[:4]] == [type(None), type(None), ValueError, type(None)]
    assert claims[4].error is not None
    assert len(desk.taken) == 3
    assert address(desk.claim()) == "10.0.0.4"
    assert not [event for event in events if event["event"] == "writer.untold"]


def test_a_failure_on_the_spot_does_not_stop_the_writer(desk: Desk) -> None:
    desk.pool.troubles = [("borrow", RuntimeError("a bug"))]
    broken = desk.claim()
    assert isinstance(broken.error, RuntimeError)
    assert address(desk.claim()) == "10.0.0.1"


def test_who_delivers_may_break_and_the_commit_is_still_answered_once() -> None:
    desk = Desk()

    def broken(_: frozenset[int]) -> None:
        raise RuntimeError("a bug in who listens")

    desk.writer = Writer(desk.clock, desk.pool, broken)  # type: ignore[arg-type]
    step = desk.step(identifiers=(), hostname="a")
    mapped = Claim(9, Kind.NODE, NET, 1, "tester", identifiers=(Identifier.mac("00:16:3e:00:00:01"),), node=1)
    with logged() as events:
        outcome = desk.mutate(step, mapped)
    assert outcome.error is None
    assert "writer.untold" in [event["event"] for event in events]
    assert desk.taken == ["10.0.0.1", "10.0.0.2"]


def test_a_missing_free_range_or_one_too_many_heals(desk: Desk) -> None:
    assert address(desk.claim()) == "10.0.0.1"
    high = next(iter(desk.pool.tables.free))
    desk.pool.tables.free[high] -= 1  # 10.0.0.1 looks free again
    assert address(desk.claim()) == "10.0.0.2"
    assert desk.pool.rebuilt == 1
    assert desk.pool.tables.free_ranges(NET) == desk.pool.tables.expected_free_ranges(NET)


def test_a_stopped_writer_answers_what_it_took_and_takes_no_more(desk: Desk) -> None:
    desk.pool.hold()
    claims = [desk.claim() for _ in range(3)]
    stopped = Outcome(desk.writer.stop())
    late = desk.claim()
    assert isinstance(late.error, DatabaseUnavailable)
    assert not stopped.done()
    desk.let_go()
    assert stopped.done()
    assert [claim.error for claim in claims] == [None] * 3
    assert Outcome(desk.writer.stop()).done()


def test_a_subnet_that_is_gone_is_not_found(desk: Desk) -> None:
    assert isinstance(desk.claim(subnet=5).error, errors.NotFound)


def test_a_caller_that_gives_up_keeps_nobody_waiting(desk: Desk) -> None:
    desk.pool.hold()
    first = Deferred.fromCoroutine(desk.writer.submit(Mutation(Actor(1, "t", is_admin=True), (desk.step(),), "r")))
    gave_up = Outcome(first)
    second = desk.claim()
    first.cancel()
    assert gave_up.error is not None
    desk.let_go()
    assert address(second) == "10.0.0.2"


def test_who_waited_too_long_behind_a_batch_in_trouble_is_refused_untouched(desk: Desk) -> None:
    desk.pool.hold()
    first = desk.claim()
    late = [desk.claim() for _ in range(3)]
    desk.clock.advance(WAIT_SECONDS / 2)
    in_time = desk.claim()
    desk.clock.advance(WAIT_SECONDS / 2 + 0.1)
    desk.let_go()
    for claim in late:
        assert isinstance(claim.error, DatabaseUnavailable)
        assert not claim.error.outcome_unknown
    assert [address(first), address(in_time)] == desk.taken == ["10.0.0.1", "10.0.0.2"]


def test_a_batch_is_given_up_after_its_time_however_few_attempts_that_was(desk: Desk) -> None:
    desk.pool.hold()
    claim = desk.claim()
    desk.pool.troubles = [("facts", ConnectionLost("hung"))]
    desk.clock.advance(BATCH_SECONDS)
    desk.let_go()
    assert isinstance(claim.error, DatabaseUnavailable)


def test_members_of_a_batch_are_not_tried_one_by_one_without_a_database(desk: Desk) -> None:
    desk.pool.hold()
    desk.claim(address="198.51.100.1")  # writes nothing
    claims = [desk.claim() for _ in range(6)]
    unavailable = ("borrow", DatabaseUnavailable("none"))
    desk.pool.troubles = [("write", sql_error(errorcodes.CHECK_VIOLATION)), *[unavailable] * ATTEMPTS]
    desk.let_go()
    desk.wait()
    assert [type(claim.error) for claim in claims[:4]] == [DatabaseUnavailable] * 4
    assert list(map(address, claims[4:])) == desk.taken == ["10.0.0.1", "10.0.0.2"]  # the database was back for them
