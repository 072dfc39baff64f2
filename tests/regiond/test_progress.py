"""Waiting for clusters: nobody sleeps through the news, nobody waits longer than was asked for."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.domain.mutations import Outcome as Committed
from regiond.domain.reservations import Delivery, Kind, MapState, Reservation, Status, overall_state
from regiond.domain.views import ReservationView
from regiond.progress import DEFAULT_WAIT_SECONDS, Progress
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import view_of
from regiond.storage.reservation_filter import ReservationFilter
from tests.clusterd.links import Outcome

NET, OTHER_NET = 101, 102
WHEN = datetime(2030, 1, 1, tzinfo=UTC)


def reservation(number: int, subnet: int = NET, generation: int | None = 1) -> Reservation:
    return Reservation(
        id=number,
        kind=Kind.USER if generation is None else Kind.DEVICE,
        status=Status.ACTIVE,
        address=f"192.0.2.{number}",
        subnet=subnet,
        cidr="192.0.2.0/24",
        vrf="default",
        owner=1,
        owner_name="tester",
        macs=(),
        client_id=None,
        duid=None,
        alias=None,
        hostname=None,
        device=None,
        node=None,
        purpose=None,
        comment=None,
        group=None,
        created=WHEN,
        expires_at=None,
        map_generation=generation,
    )


def delivery(applied: int, *, connected: bool = True, cluster: int = 1) -> Delivery:
    return Delivery(cluster, f"rack-{cluster}", "serving", connected, applied, applied, None, WHEN)


class FakeReads:
    """Reservations and how far the clusters are; answers at once unless held."""

    def __init__(self) -> None:
        self.held: dict[int, Reservation] = {}
        self.deliveries: dict[int, list[Delivery]] = {}
        self.asked = 0
        self.down = False
        self._turns: list[Deferred[None]] | None = None

    def hold(self) -> None:
        self._turns = []

    def let_go(self) -> None:
        turns, self._turns = self._turns or [], None
        for turn in turns:
            turn.callback(None)

    async def reservations(self, wanted: ReservationFilter) -> list[ReservationView]:
        self.asked += 1
        # What the database answers is how things were when it was asked.
        views = [view_of(r, list(self.deliveries[r.subnet]), {}) for r in self.held.values() if r.id in wanted.ids]
        if self._turns is not None:
            turn: Deferred[None] = Deferred()
            self._turns.append(turn)
            await turn
        if self.down:
            raise DatabaseUnavailable("away")
        return views


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        self.reads = FakeReads()
        self.progress = Progress(self.clock, self.reads)  # type: ignore[arg-type]

    def commit(self, *held: Reservation, deliveries: dict[int, Sequence[Delivery]]) -> Committed:
        self.reads.held.update((r.id, r) for r in held)
        self.reads.deliveries = {subnet: list(rows) for subnet, rows in deliveries.items()}
        return Committed(True, held, deliveries={subnet: tuple(rows) for subnet, rows in deliveries.items()})

    def wait(self, outcome: Committed, seconds: float | None) -> Outcome:
        return Outcome(self.progress.settled(outcome, seconds))

    def apply(self, subnet: int, *rows: Delivery) -> None:
        self.reads.deliveries[subnet] = list(rows)
        self.progress.acknowledged([subnet])


@pytest.fixture
def desk() -> Desk:
    return Desk()


def state(outcome: Outcome) -> MapState:
    assert outcome.done(), "still waiting"
    assert outcome.error is None
    (view,) = outcome.value
    return overall_state(view.progress)


def test_zero_waits_for_nothing_and_asks_nothing(desk: Desk) -> None:
    outcome = desk.commit(reservation(1), deliveries={NET: [delivery(0)]})
    assert state(desk.wait(outcome, 0.0)) is MapState.PENDING
    assert desk.reads.asked == 0


def test_what_is_settled_at_once_is_not_waited_for(desk: Desk) -> None:
    done = desk.commit(reservation(1), deliveries={NET: [delivery(1)]})
    assert state(desk.wait(done, 60.0)) is MapState.APPLIED
    (view,) = desk.wait(desk.commit(reservation(2, generation=None), deliveries={}), None).value
    assert view.progress is None
    assert desk.reads.asked == 0


def test_it_is_told_as_soon_as_it_is_applied(desk: Desk) -> None:
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 60.0)
    desk.clock.advance(1)
    desk.progress.acknowledged([OTHER_NET])
    assert not waiting.done()
    desk.progress.acknowledged([NET])
    assert not waiting.done(), "something was said, but not that"
    desk.apply(NET, delivery(1))
    assert state(waiting) is MapState.APPLIED
    assert desk.clock.getDelayedCalls() == []


def test_who_hears_that_something_was_said_and_not_of_what_looks(desk: Desk) -> None:
    """Another regiond names at most 200 subnets, and one that listens anew has missed some."""
    outcome = desk.commit(reservation(1), deliveries={NET: [delivery(0)], OTHER_NET: [delivery(0)]})
    waiting = desk.wait(outcome, 60.0)
    desk.progress.acknowledged(None)
    assert not waiting.done()
    desk.reads.deliveries[NET] = [delivery(1)]
    desk.progress.acknowledged(None)
    assert state(waiting) is MapState.APPLIED


def test_what_is_said_while_the_database_is_asked_is_not_missed(desk: Desk) -> None:
    desk.reads.hold()
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 60.0)
    desk.apply(NET, delivery(1))
    desk.reads.let_go()
    assert state(waiting) is MapState.APPLIED


@pytest.mark.parametrize(("first", "second", "wait"), [(1, 1, 2.0), (1, 0, 2.0), (0, 0, 0.0)])
def test_the_default_is_some_time_where_anybody_is_connected(desk: Desk, first: int, second: int, wait: float) -> None:
    rows = [delivery(0, connected=bool(first)), delivery(0, connected=bool(second), cluster=2)]
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: rows}), None)
    assert wait in (DEFAULT_WAIT_SECONDS, 0.0)
    if wait:
        desk.clock.advance(wait - 0.01)
        assert not waiting.done()
        desk.clock.advance(0.01)
    assert state(waiting) is MapState.PENDING


def test_by_default_nobody_waits_for_the_one_of_a_pair_that_is_away(desk: Desk) -> None:
    away = delivery(0, connected=False, cluster=2)
    for seconds, done in ((None, True), (60.0, False)):
        waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0), away]}), seconds)
        assert not waiting.done()
        desk.apply(NET, delivery(1), away)
        assert waiting.done() is done
        if done:
            (view,) = waiting.value
            assert [each.state for each in view.progress] == [MapState.APPLIED, MapState.PENDING]
            assert state(waiting) is MapState.PENDING


def test_nobody_serving_is_nobody_to_wait_for(desk: Desk) -> None:
    assert state(desk.wait(desk.commit(reservation(1), deliveries={NET: []}), None)) is MapState.PENDING


def test_time_that_passes_within_a_query_counts(desk: Desk) -> None:
    desk.reads.hold()
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 5.0)
    desk.clock.advance(10)
    desk.reads.let_go()
    assert state(waiting) is MapState.PENDING


def test_a_clock_that_moves_between_two_looks_is_no_error(desk: Desk) -> None:
    seconds = iter([0.0, 4.9, 5.1, 5.2])

    class Jumping(Clock):
        def seconds(self) -> float:
            return next(seconds, 6.0)

        def callLater(self, delay: float, *args: Any, **named: Any) -> Any:
            assert delay >= 0
            return super().callLater(delay, *args, **named)

    desk.clock = Jumping()
    desk.progress = Progress(desk.clock, desk.reads)  # type: ignore[arg-type]
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 5.0)
    desk.progress.acknowledged([NET])
    assert state(waiting) is MapState.PENDING


def test_reservations_on_several_subnets_are_waited_for_together(desk: Desk) -> None:
    both = (reservation(1), reservation(2, OTHER_NET))
    waiting = desk.wait(desk.commit(*both, deliveries={NET: [delivery(0)], OTHER_NET: [delivery(0)]}), 60.0)
    desk.apply(NET, delivery(1))
    assert not waiting.done()
    desk.apply(OTHER_NET, delivery(1))
    assert waiting.done()
    assert [view.reservation.id for view in waiting.value] == [1, 2]
    assert desk.progress._waiting == {}


def test_many_wait_for_one_subnet_and_all_hear_of_it(desk: Desk) -> None:
    waiting = [desk.wait(desk.commit(reservation(n), deliveries={NET: [delivery(0)]}), 60.0) for n in range(1, 20)]
    desk.apply(NET, delivery(1))
    assert [state(one) for one in waiting] == [MapState.APPLIED] * 19


def test_a_reservation_that_is_gone_is_shown_as_it_was_made(desk: Desk) -> None:
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 60.0)
    desk.reads.held.clear()
    desk.progress.acknowledged([NET])
    assert [view.reservation.id for view in waiting.value] == [1]


def test_a_database_that_goes_away_meanwhile_does_not_take_the_commit_back(desk: Desk) -> None:
    waiting = desk.wait(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 60.0)
    desk.reads.down = True
    desk.progress.acknowledged([NET])
    assert state(waiting) is MapState.PENDING


def test_a_replayed_answer_is_read_anew(desk: Desk) -> None:
    first = desk.commit(reservation(1), deliveries={NET: [delivery(0)]})
    desk.reads.deliveries[NET] = [delivery(1)]
    assert state(desk.wait(replace(first, replayed=True, deliveries={}), 0.0)) is MapState.APPLIED


def test_who_gives_up_leaves_nothing_behind(desk: Desk) -> None:
    deferred = Deferred.fromCoroutine(
        desk.progress.settled(desk.commit(reservation(1), deliveries={NET: [delivery(0)]}), 60.0)
    )
    gone = Outcome(deferred)
    deferred.cancel()
    assert gone.error is not None
    assert desk.clock.getDelayedCalls() == []
    assert desk.progress._waiting == {}


def test_a_daemon_that_stops_keeps_nobody(desk: Desk) -> None:
    outcome = desk.commit(reservation(1), deliveries={NET: [delivery(0)]})
    waiting = desk.wait(outcome, 60.0)
    desk.progress.wait_no_longer()
    assert state(waiting) is MapState.PENDING
    assert state(desk.wait(outcome, 60.0)) is MapState.PENDING
