"""The doorbell: its words, and two regionds that hear each other."""

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.task import Clock

from regiond.storage.doorbell import (
    CHANNEL,
    MAX_NAMED_QUESTIONS,
    MAX_NAMED_SUBNETS,
    RING_INTERVAL_SECONDS,
    Doorbell,
    Rung,
    format_payload,
    parse_payload,
)
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import Pool
from tests.waiting import until

reactor: Any = global_reactor

_ids = st.integers(0, 2**50 - 1)
_subnets = st.none() | st.frozensets(_ids, max_size=MAX_NAMED_SUBNETS)
_questions = st.none() | st.frozensets(_ids, max_size=MAX_NAMED_QUESTIONS)
_rungs = st.builds(Rung, _subnets, _subnets, st.booleans(), st.booleans(), _questions, _questions)


@given(st.from_regex(r"[0-9a-f]{12}", fullmatch=True), _rungs)
def test_what_is_rung_is_heard_by_older_and_newer_ones(sender: str, rung: Rung) -> None:
    payload = format_payload(sender, rung)
    assert parse_payload(payload) == (sender, rung)
    assert parse_payload(f"{payload}|of a newer regiond") == (sender, rung)
    of_an_older_one = payload.rsplit("|", 2)[0]
    assert parse_payload(of_an_older_one) == (sender, replace(rung, asked=frozenset(), answered=frozenset()))


def test_the_longest_fits_in_a_payload() -> None:
    subnets = frozenset(range(2**50 - MAX_NAMED_SUBNETS, 2**50))
    questions = frozenset(range(2**50 - MAX_NAMED_QUESTIONS, 2**50))
    assert len(format_payload("f" * 12, Rung(subnets, subnets, True, True, questions, questions))) < 8000


@pytest.mark.parametrize("payload", ["", "me", "me||", "me|x|y|1", "|".join(["1,2", "3,x", "", ""])])
def test_what_cannot_be_read_is_nothing(payload: str) -> None:
    assert parse_payload(payload) is None


class Notifications:
    """A pool that keeps what is notified, or is down."""

    def __init__(self) -> None:
        self.payloads: list[Rung] = []
        self.trouble: Exception | None = None

    async def execute(self, sql: str, args: tuple[str, str], *, retry: bool) -> None:
        if self.trouble is not None:
            raise self.trouble
        assert args[0] == CHANNEL
        parsed = parse_payload(args[1])
        assert parsed is not None
        self.payloads.append(parsed[1])


def bell(clock: Clock, pool: Notifications) -> Doorbell:
    return Doorbell(clock, "", pool, lambda rung: None)  # type: ignore[arg-type]


def test_what_happens_within_a_moment_is_rung_once() -> None:
    clock, pool = Clock(), Notifications()
    doorbell = bell(clock, pool)
    doorbell.host_maps([1])
    doorbell.host_maps([2])
    doorbell.acknowledged([1])
    doorbell.topology_changed()
    assert pool.payloads == []
    clock.advance(RING_INTERVAL_SECONDS)
    assert pool.payloads == [Rung(frozenset({1, 2}), frozenset({1}), True)]
    clock.advance(10)
    assert len(pool.payloads) == 1
    doorbell.acknowledged(range(MAX_NAMED_SUBNETS + 1))
    clock.advance(RING_INTERVAL_SECONDS)
    assert pool.payloads[-1] == Rung(frozenset(), None, False)


def test_a_question_does_not_wait_for_a_moment_to_pass() -> None:
    clock, pool = Clock(), Notifications()
    doorbell = bell(clock, pool)
    doorbell.host_maps([1])
    doorbell.asked([7])
    clock.advance(0)
    assert pool.payloads == [Rung(frozenset({1}), asked=frozenset({7}))]
    doorbell.answered(range(MAX_NAMED_QUESTIONS + 1))
    clock.advance(0)
    assert pool.payloads[1:] == [Rung(answered=None)]
    clock.advance(10)
    assert len(pool.payloads) == 2


@pytest.mark.parametrize("trouble", [DatabaseUnavailable("away"), RuntimeError("a bug")])
def test_a_bell_that_failed_rings_the_next_time(trouble: Exception) -> None:
    clock, pool = Clock(), Notifications()
    doorbell = bell(clock, pool)
    pool.trouble = trouble
    doorbell.host_maps([1])
    clock.advance(RING_INTERVAL_SECONDS)
    pool.trouble = None
    doorbell.host_maps([2])
    clock.advance(RING_INTERVAL_SECONDS)
    assert pool.payloads == [Rung(frozenset({2}), frozenset(), False)]


@pytest_twisted.ensureDeferred
async def test_two_regionds_hear_each_other_and_not_themselves(database: str) -> None:
    heard: dict[str, list[Rung]] = {"a": [], "b": []}
    pool = Pool(reactor, database, size=2)
    pool.start()
    bells = {name: Doorbell(reactor, database, pool, heard[name].append) for name in heard}
    everything = Rung(None, None, True, True, None, None)
    try:
        for each in bells.values():
            each.start()
        # What was missed before a listener was there is told as "anything".
        await until(lambda: all(rungs == [everything] for rungs in heard.values()))
        bells["a"].host_maps([1, 2])
        await until(lambda: len(heard["b"]) == 2)
        bells["b"].topology_changed()
        await until(lambda: len(heard["a"]) == 2)
        assert heard["b"][1:] == [Rung(frozenset({1, 2}), frozenset(), False)]
        assert heard["a"][1:] == [Rung(frozenset(), frozenset(), True)]
        await pool.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"""
        )
        await until(lambda: heard["a"][-1] == heard["b"][-1] == everything)
    finally:
        for each in bells.values():
            await each.stop()
        await pool.close()
