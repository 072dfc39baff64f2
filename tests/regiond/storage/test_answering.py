"""Answers wait for the next batch's plan where that comes soon, and leave the reactor a few at a time."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.domain.errors import NotFound
from regiond.domain.mutations import Actor, Mutation, Outcome, Release
from regiond.storage.answering import ANSWERED_AT_ONCE, FACTS_SECONDS, IMPATIENT_BATCHES, Answering

ACTOR = Actor(1, "tester", is_admin=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answering(clock: Clock) -> Answering:
    return Answering(clock)


def waiting(answering: Answering) -> "Deferred[None]":
    answering.begun()
    return Deferred.fromCoroutine(answering.until_planned())


def test_they_wait_until_the_batch_is_planned(answering: Answering, clock: Clock) -> None:
    for _ in range(3):
        waited = waiting(answering)
        clock.advance(FACTS_SECONDS / 2)
        assert not waited.called
        answering.is_planned()
        assert waited.called
    assert clock.getDelayedCalls() == []


def test_after_facts_that_took_long_nobody_waits_for_a_while(answering: Answering, clock: Clock) -> None:
    waited = waiting(answering)
    clock.advance(FACTS_SECONDS)
    assert waited.called
    assert all(waiting(answering).called for _ in range(IMPATIENT_BATCHES))
    waited = waiting(answering)
    was_called = waited.called
    answering.is_planned()
    assert waited.called and not was_called
    assert clock.getDelayedCalls() == []


def test_a_batch_that_nobody_waits_for_may_be_planned(answering: Answering) -> None:
    answering.is_planned()
    answering.begun()
    answering.is_planned()
    assert Deferred.fromCoroutine(answering.until_planned()).called


def test_a_few_answers_in_a_turn_each_its_own(answering: Answering, clock: Clock) -> None:
    count = 3 * ANSWERED_AT_ONCE
    outcomes: list[Any] = [NotFound("gone") if number % 3 == 0 else Outcome(True, ()) for number in range(count)]
    batch: list[tuple[Mutation, Deferred[Outcome]]] = [
        (Mutation(ACTOR, (Release(1, 1, "192.0.2.1"),), "request"), Deferred()) for _ in range(count)
    ]
    got: list[Any] = []
    for _, answer in batch:
        answer.addCallbacks(got.append, lambda failure: got.append(failure.value))
    done = Deferred.fromCoroutine(answering.answer(batch, outcomes))
    sizes = [len(got)]
    while not done.called:
        turns, clock.calls = clock.calls, []
        for turn in turns:
            turn.func(*turn.args, **turn.kw)
        sizes.append(len(got))
    assert got == outcomes
    assert sizes == [ANSWERED_AT_ONCE, 2 * ANSWERED_AT_ONCE, count]
