"""The rate of a token: a burst, then the rate, and bounded memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regiond.http.rate import BURST_SECONDS, MAX_KEPT, RateLimit


def test_a_burst_and_then_the_rate() -> None:
    rate = RateLimit(10)
    assert [rate.wait(1, 100.0) for _ in range(21)] == [0.0] * 21
    assert rate.wait(1, 100.0) == pytest.approx(0.1)
    assert rate.wait(2, 100.0) == 0.0
    assert rate.wait(1, 100.11) == 0.0
    assert rate.wait(1, 100.11) > 0


@given(st.lists(st.floats(0, 1), max_size=200), st.floats(0.5, 50))
def test_never_more_than_the_rate_and_a_burst(pauses: list[float], per_second: float) -> None:
    rate, now, let_in = RateLimit(per_second), 0.0, 0
    for pause in pauses:
        now += pause
        wait = rate.wait(1, now)
        let_in += wait == 0
        assert wait <= 1 / per_second + 1e-6
    assert let_in <= per_second * (now + BURST_SECONDS) + 1 + 1e-6


def test_many_tokens_take_little_memory() -> None:
    rate = RateLimit(1)
    for key in range(3 * MAX_KEPT):
        assert rate.wait(key, 0.0) == 0.0
    assert len(rate._times) <= MAX_KEPT
