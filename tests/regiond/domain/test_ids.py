"""The ids that people see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regiond.domain.ids import ID_BITS, Prefix, format_id, parse_id

_prefixes = st.sampled_from(Prefix)
_numbers = st.integers(0, (1 << ID_BITS) - 1)


@given(_prefixes, _numbers)
def test_a_number_and_its_text_stand_for_each_other(prefix: Prefix, number: int) -> None:
    text = format_id(prefix, number)
    assert len(text) == 13
    assert parse_id(prefix, text) == number
    assert parse_id(prefix, f" {text.upper()}\n") == number


@given(_prefixes, st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyz", min_size=10, max_size=10))
def test_every_text_of_the_alphabet_is_the_text_of_its_number(prefix: Prefix, body: str) -> None:
    number = parse_id(prefix, f"{prefix.value}-{body}")
    assert number is not None
    assert format_id(prefix, number) == f"{prefix.value}-{body}"


@given(_prefixes, _numbers)
def test_an_id_of_another_sort_is_none(prefix: Prefix, number: int) -> None:
    text = format_id(prefix, number)
    assert all(parse_id(other, text) is None for other in Prefix if other is not prefix)


def test_prefixes_differ() -> None:
    assert len({prefix.value for prefix in Prefix}) == len(Prefix)
    assert all(len(prefix.value) == 2 for prefix in Prefix)


@pytest.mark.parametrize("text", ["", "sn", "sn-", "sn-000000000", "sn-00000000000", "sn-000000000u", "sn_0000000000"])
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_id(Prefix.SUBNET, text) is None


@given(st.text())
def test_any_text_is_an_id_or_none(text: str) -> None:
    number = parse_id(Prefix.SUBNET, text)
    assert number is None or format_id(Prefix.SUBNET, number) == text.strip().lower()
