"""Counts, distributions, what becomes of a claim as a label, and how late the reactor is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from regiond.domain import errors
from regiond.domain.mutations import Actor, Claim, DropNode, Mutation, Outcome, Step
from regiond.domain.reservations import Kind
from regiond.metrics.instruments import Distribution
from regiond.metrics.measurements import Measurements
from regiond.metrics.stalls import EVERY_SECONDS, StallWatch
from regiond.storage.errors import DatabaseUnavailable

bounds = st.lists(st.floats(0, 100), min_size=1, max_size=8, unique=True).map(sorted)


@given(bounds, st.lists(st.floats(0, 200), max_size=30))
def test_a_distribution_is_what_counting_gives(limits: list[float], values: list[float]) -> None:
    observed = Distribution(limits)
    for value in values:
        observed.observe(value)
    assert observed.cumulative() == [
        (str(limit) if limit != math.inf else "+Inf", sum(value <= limit for value in values))
        for limit in [*limits, math.inf]
    ]
    assert observed.sum == pytest.approx(sum(values))


def mutation(*steps: Step) -> Mutation:
    return Mutation(Actor(1, "a", True), steps, "r")


DEVICE, USER = Claim(1, Kind.DEVICE, 1, 1, "a"), Claim(2, Kind.USER, 1, 1, "a")


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome(True, ()), "created"),
        (Outcome(False, ()), "existing"),
        (Outcome(True, (), replayed=True), "repeated"),
        (errors.AddressTaken("taken"), "address-taken"),
        (DatabaseUnavailable("away"), "database-unavailable"),
        (ZeroDivisionError("a bug"), "internal-error"),
    ],
)
def test_every_claim_of_a_mutation_counts_by_its_kind(outcome: Outcome | Exception, word: str) -> None:
    measured = Measurements()
    measured.decided(mutation(DEVICE, DropNode(7), USER), outcome, 0.02)
    measured.decided(mutation(DropNode(7)), outcome, 0.02)
    assert measured.claims.values == {("device", word): 1, ("user", word): 1}
    assert measured.claim_seconds.cumulative()[-1] == ("+Inf", 1)


def test_how_late_the_reactor_was() -> None:
    late: list[float] = []
    clock = Clock()
    watch = StallWatch(clock, late.append)
    watch.start()
    clock.advance(EVERY_SECONDS)
    clock.advance(EVERY_SECONDS + 0.5)
    clock.advance(EVERY_SECONDS)
    assert late == pytest.approx([0.0, 0.5, 0.0])
    watch.stop()
    assert clock.getDelayedCalls() == []
