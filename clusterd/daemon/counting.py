"""Counting on the way of a claim, which must not cost it anything: plain numbers, on the reactor's thread only.

prometheus-client's own counters and histograms take a lock for each change, which costs several times as much; these
become its families when somebody asks, in `clusterd.daemon.metric_families`.
"""

from bisect import bisect_left
from collections.abc import Sequence

STALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

Labels = tuple[str, ...]


class Counts:
    """How often what happened, by the values of its labels."""

    def __init__(self) -> None:
        self.values: dict[Labels, int] = {}

    def add(self, *labels: str) -> None:
        values = self.values
        values[labels] = values.get(labels, 0) + 1


class Distribution:
    """How many observations were at most each of `bounds`, ascending; `sum` of them all."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, int]]:
        """As Prometheus has it: each bound with all that are not above it, `+Inf` with all."""
        told, so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self._counts, strict=True):
            so_far += count
            told.append((bound, so_far))
        return told
