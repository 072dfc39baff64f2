"""An alarm rings once for each time it was set."""

import pytest
from twisted.internet.task import Clock

from clusterd.convergence.alarm import Alarm


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rung(clock: Clock) -> list[float]:
    return []


@pytest.fixture
def alarm(clock: Clock, rung: list[float]) -> Alarm:
    return Alarm(clock, lambda: rung.append(clock.seconds()))


def test_rings_once_and_can_be_set_again(alarm: Alarm, clock: Clock, rung: list[float]) -> None:
    alarm.set_in(3)
    was_set = [alarm.is_set]
    clock.pump([1] * 5)
    was_set.append(alarm.is_set)
    alarm.set_in(1)
    clock.pump([1] * 5)
    assert was_set == [True, False]
    assert rung == [3, 6]


def test_set_anew_it_forgets_the_earlier_time(alarm: Alarm, clock: Clock, rung: list[float]) -> None:
    alarm.set_in(1)
    alarm.set_in(4)
    clock.pump([1] * 9)
    assert rung == [4]


def test_asked_for_within_some_time_it_is_not_put_off(alarm: Alarm, clock: Clock, rung: list[float]) -> None:
    alarm.set_within(3)
    clock.advance(2)
    alarm.set_within(3)
    clock.advance(1)
    assert rung == [3]
    alarm.set_in(9)
    alarm.set_within(2)
    clock.pump([1] * 9)
    assert rung == [3, 5]


def test_cleared_it_is_silent(alarm: Alarm, clock: Clock, rung: list[float]) -> None:
    alarm.clear()
    alarm.set_in(1)
    alarm.clear()
    assert not alarm.is_set
    clock.pump([1] * 3)
    assert rung == [] and clock.getDelayedCalls() == []
