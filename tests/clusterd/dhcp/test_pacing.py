"""Pauses between the times at which a server answers nobody: dnsmasq's two, on any course of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from clusterd.dhcp.dnsmasq.pacing import SHORTEST_BUSY_SECONDS, Pacing, longest_comparison
from clusterd.dhcp.pacing import Pause, sit_out

SECONDS = st.floats(0, 20, allow_nan=False)


def test_a_pause_follows_what_the_server_took() -> None:
    pause = Pause(0.25, 4.0)
    assert pause.left(100.0) == 0.0
    assert pause.after(100.0, 0.01).left(100.1) == pytest.approx(0.15)
    assert pause.after(100.0, 1.0).left(101.0) == pytest.approx(3.0)
    assert pause.after(100.0, 1.0).left(104.0) == 0.0
    assert pause.after(100.0, 1.0).not_before(102.0).left(101.0) == pytest.approx(3.0)
    assert pause.not_before(102.0).left(101.0) == pytest.approx(1.0)


def test_sitting_out_ends_with_the_pause() -> None:
    clock = Clock()
    pause = Pause(3.0).after(clock.seconds(), 0.0)
    ended: list[None] = []
    Deferred.fromCoroutine(sit_out(pause, clock)).addCallback(ended.append)
    clock.advance(2.9)
    assert ended == []
    clock.advance(0.1)
    assert ended == [None]
    Deferred.fromCoroutine(sit_out(pause, clock)).addCallback(ended.append)
    assert ended == [None, None]


@given(st.lists(st.tuples(st.booleans(), SECONDS, SECONDS, st.just(0.0) | SECONDS), max_size=30))
def test_dnsmasq_is_deaf_for_at_most_a_fifth_of_the_time_by_either_way(
    course: list[tuple[bool, float, float, float]],
) -> None:
    """Whoever changes host maps as often as the pauses allow, with whatever idleness in between."""
    pacing, now = Pacing(), 0.0
    deaf = {True: 0.0, False: 0.0}
    for reload, idle, parsing, comparing in course:
        now += idle + (pacing.reload if reload else pacing.show).left(now + idle)
        took = parsing + comparing if reload else comparing
        now += took
        deaf[reload] += took
        pacing = pacing.after_reload(now, parsing, comparing) if reload else pacing.after_showing(now, comparing)
        assert pacing.reload.ends >= pacing.show.ends
        assert deaf[True] <= pacing.reload.ends / 5 + 1e-6
        assert deaf[False] <= pacing.show.ends / 5 + 1e-6


@given(st.integers(0, 10**8), st.integers(0, 50_000))
def test_a_comparison_is_looked_at_only_where_it_can_take_long(lease_octets: int, host_maps: int) -> None:
    longest = longest_comparison(lease_octets, host_maps)
    assert longest == 0.0 or longest >= SHORTEST_BUSY_SECONDS
    # What was measured, 15 ns a pair with a lease line of 60 octets, is always within it.
    if longest:
        assert longest >= lease_octets // 60 * host_maps * 15e-9


def test_a_thousand_leases_beside_ten_thousand_host_maps_are_looked_at_and_twenty_are_not() -> None:
    assert longest_comparison(1_000 * 60, 10_000) > 0.15
    assert longest_comparison(20 * 60, 1_000) == 0.0
