"""What is kept as the answer to an idempotency key reads as it was written; and how far a host map is."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from regiond.domain import errors
from regiond.domain.facts import Answered
from regiond.domain.mutations import Idempotency, Outcome
from regiond.domain.plan import replayed
from regiond.domain.reservations import Delivery, Kind, MapState, Reservation, Status, overall_state, progress_of
from tests.clusterd.strategies import text

_numbers = st.integers(0, 2**50 - 1)
_times = st.datetimes(timezones=st.just(UTC))
_texts: Any = st.none() | text
_reservations = st.builds(
    Reservation,
    id=_numbers,
    kind=st.sampled_from(Kind),
    status=st.sampled_from(Status),
    address=st.ip_addresses().map(str),
    subnet=_numbers,
    cidr=text,
    vrf=text,
    owner=_numbers,
    owner_name=text,
    macs=st.lists(text, max_size=3).map(tuple),
    client_id=_texts,
    duid=_texts,
    alias=_texts,
    hostname=_texts,
    device=st.none() | _numbers,
    node=st.none() | _numbers,
    purpose=_texts,
    comment=_texts,
    group=st.none() | _numbers,
    created=_times,
    expires_at=st.none() | _times,
    map_generation=st.none() | _numbers,
    release_generation=st.none() | _numbers,
    confirmed_at=st.none() | _times,
    free_at=st.none() | _times,
)
_outcomes = st.builds(Outcome, st.booleans(), st.lists(_reservations, max_size=3).map(tuple), st.just(False))


@given(_outcomes)
def test_a_stored_answer_is_the_first_answer_again(outcome: Outcome) -> None:
    answer = TypeAdapter(Outcome).dump_json(outcome).decode()
    again = replayed(Idempotency(1, "key", "same"), Answered("same", answer))
    assert again == Outcome(outcome.created, outcome.reservations, replayed=True)
    assert [type(one) for one in again.reservations] == [Reservation] * len(outcome.reservations)


def test_a_key_of_another_request_is_refused() -> None:
    with pytest.raises(errors.IdempotencyKeyReused):
        replayed(Idempotency(1, "key", "other"), Answered("same", "{}"))


def delivery(cluster: int, role: str, applied: int, error: str | None = None) -> Delivery:
    when = datetime(2030, 1, 1, tzinfo=UTC)
    return Delivery(cluster, f"rack-{cluster}", role, True, applied, applied, error, when)


@pytest.mark.parametrize(
    ("deliveries", "rejections", "expected", "overall"),
    [
        ([], {}, [], MapState.PENDING),
        ([delivery(1, "serving", 5)], {}, [(MapState.APPLIED, None)], MapState.APPLIED),
        ([delivery(1, "serving", 6)], {}, [(MapState.APPLIED, None)], MapState.APPLIED),
        ([delivery(1, "serving", 4)], {}, [(MapState.PENDING, None)], MapState.PENDING),
        ([delivery(1, "serving", 4, "no memory")], {}, [(MapState.FAILED, "no memory")], MapState.FAILED),
        ([delivery(1, "serving", 5, "no memory")], {}, [(MapState.APPLIED, None)], MapState.APPLIED),
        ([delivery(1, "serving", 5)], {1: "taken"}, [(MapState.FAILED, "taken")], MapState.FAILED),
        ([delivery(1, "draining", 5)], {}, [], MapState.PENDING),
        ([delivery(1, "former", 5), delivery(2, "serving", 5)], {}, [(MapState.APPLIED, None)], MapState.APPLIED),
        (
            [delivery(1, "serving", 5), delivery(2, "serving", 4)],
            {},
            [(MapState.APPLIED, None), (MapState.PENDING, None)],
            MapState.PENDING,
        ),
        (
            [delivery(1, "serving", 4), delivery(2, "serving", 5)],
            {2: "taken"},
            [(MapState.PENDING, None), (MapState.FAILED, "taken")],
            MapState.FAILED,
        ),
    ],
)
def test_how_far_a_host_map_of_generation_five_is(
    deliveries: list[Delivery],
    rejections: dict[int, str],
    expected: list[tuple[MapState, str | None]],
    overall: MapState,
) -> None:
    progress = progress_of(5, deliveries, rejections)
    assert [(one.state, one.error) for one in progress] == expected
    assert overall_state(progress) is overall
