"""Free space against a Python set of addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regiond.domain.free_space import FreeSpace

SIZE = 24

_sets = st.sets(st.integers(0, SIZE - 1))
_moves = st.lists(st.tuples(st.booleans(), st.integers(0, SIZE - 1)), max_size=40)


def ranges_of(addresses: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for address in sorted(addresses):
        if ranges and ranges[-1][1] == address - 1:
            ranges[-1] = (ranges[-1][0], address)
        else:
            ranges.append((address, address))
    return ranges


@given(_sets, _moves)
def test_it_is_a_set_of_addresses_in_ranges_that_never_touch(start: set[int], moves: list[tuple[bool, int]]) -> None:
    space, model = FreeSpace(ranges_of(start)), set(start)
    for taken, address in moves:
        if taken and address in model:
            space.take(address)
            model.remove(address)
        elif taken:
            with pytest.raises(KeyError):
                space.take(address)
        else:
            space.give(address)
            model.add(address)
        assert space.ranges() == ranges_of(model)
        assert space.lowest() == min(model, default=None)
        assert all(space.first(most) == sorted(model)[:most] for most in (1, 3, SIZE))
        assert all((other in space) == (other in model) for other in range(SIZE))


@given(_sets, _moves)
def test_its_changes_turn_the_rows_from_before_into_those_now(start: set[int], moves: list[tuple[bool, int]]) -> None:
    space = FreeSpace(ranges_of(start))
    for taken, address in moves:
        if not taken:
            space.give(address)
        elif address in space:
            space.take(address)
    gone, put = space.changes()
    rows = {high: low for low, high in ranges_of(start)}
    assert set(gone) <= rows.keys()
    assert not any(rows.get(high) == low for low, high in put), "only what changed is written"
    for high in gone:
        del rows[high]
    rows.update((high, low) for low, high in put)
    assert rows == {high: low for low, high in space.ranges()}


@given(_sets, _moves)
def test_undone_in_reverse_nothing_is_left_to_write(start: set[int], moves: list[tuple[bool, int]]) -> None:
    space = FreeSpace(ranges_of(start))
    undo = []
    for taken, address in moves:
        if taken and address in space:
            space.take(address)
            undo.append((space.give, address))
        elif not taken and address not in space:
            space.give(address)
            undo.append((space.take, address))
    for step, address in reversed(undo):
        step(address)
    assert space.changes() == ([], [])


def test_a_range_read_twice_is_one() -> None:
    assert FreeSpace([(5, 9), (1, 2), (5, 9)]).ranges() == [(1, 2), (5, 9)]


def test_a_network_of_a_size_that_no_memory_holds_is_one_range() -> None:
    space = FreeSpace([(1, 2**64 - 1)])
    space.take(1)
    space.take(2**63)
    assert space.ranges() == [(2, 2**63 - 1), (2**63 + 1, 2**64 - 1)]
    assert space.lowest() == 2
