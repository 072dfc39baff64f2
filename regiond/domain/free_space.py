"""A known part of a subnet's free ranges, and the surgery on it.

Only the ranges that a batch can touch are read: the lowest ones and the neighbours of named addresses. Every
operation here is exact for those, and `take` and `give` undo each other, which is how a failed member of a
batch is rolled back.
"""

from bisect import bisect_left
from collections.abc import Iterable


class FreeSpace:
    """Sorted, disjoint, never adjacent ranges of addresses, both ends included."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        known = sorted(set(ranges))
        self._lows = [low for low, _ in known]
        self._highs = [high for _, high in known]
        self._at_first = dict(zip(self._highs, self._lows, strict=True))

    def ranges(self) -> list[tuple[int, int]]:
        return list(zip(self._lows, self._highs, strict=True))

    def __contains__(self, address: int) -> bool:
        index = bisect_left(self._highs, address)
        return index < len(self._highs) and self._lows[index] <= address

    def lowest(self) -> int | None:
        """The lowest free address, or None when nothing is free."""
        return self._lows[0] if self._lows else None

    def first(self, most: int) -> list[int]:
        """The lowest free addresses, at most so many."""
        found: list[int] = []
        for low, high in zip(self._lows, self._highs, strict=True):
            found.extend(range(low, min(high, low + most - len(found) - 1) + 1))
            if len(found) == most:
                break
        return found

    def take(self, address: int) -> None:
        """Make a free address taken. Raises KeyError if it is not free here."""
        index = bisect_left(self._highs, address)
        if index == len(self._highs) or self._lows[index] > address:
            raise KeyError(address)
        low, high = self._lows[index], self._highs[index]
        if low == high:
            del self._lows[index], self._highs[index]
        elif address == low:
            self._lows[index] = low + 1
        elif address == high:
            self._highs[index] = high - 1
        else:
            self._lows[index] = address + 1
            self._lows.insert(index, low)
            self._highs.insert(index, address - 1)

    def give(self, address: int) -> None:
        """Make a taken address free, merging it with its neighbours. A free one stays free."""
        index = bisect_left(self._highs, address)
        if index < len(self._highs) and self._lows[index] <= address:
            return
        joins_before = index > 0 and self._highs[index - 1] == address - 1
        joins_after = index < len(self._lows) and self._lows[index] == address + 1
        if joins_before and joins_after:
            self._lows[index] = self._lows[index - 1]
            del self._lows[index - 1], self._highs[index - 1]
        elif joins_before:
            self._highs[index - 1] = address
        elif joins_after:
            self._lows[index] = address
        else:
            self._lows.insert(index, address)
            self._highs.insert(index, address)

    def changes(self) -> tuple[list[int], list[tuple[int, int]]]:
        """What happened since the start: the `high` ends of ranges that are gone, and ranges to put by `high`."""
        now = dict(zip(self._highs, self._lows, strict=True))
        gone = [high for high in self._at_first if high not in now]
        put = [(low, high) for high, low in now.items() if self._at_first.get(high) != low]
        return gone, put
