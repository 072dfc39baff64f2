"""Distributions, and how late the reactor is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from clusterd.daemon.counting import Counts, Distribution
from clusterd.daemon.stalls import EVERY_SECONDS, StallWatch

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


def test_counts_are_by_all_labels() -> None:
    counts = Counts()
    for labels in (("a", "1"), ("a", "2"), ("a", "1")):
        counts.add(*labels)
    assert counts.values == {("a", "1"): 2, ("a", "2"): 1}


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
