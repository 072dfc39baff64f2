"""How fast a token may ask: a bucket that fills steadily, kept as one time for each token (GCRA)."""

from typing import Final

MAX_KEPT: Final = 10_000
BURST_SECONDS: Final = 2.0


class RateLimit:
    """`per_second` requests, and as many at once as BURST_SECONDS of them."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._times: dict[int, float] = {}

    def wait(self, key: int, now: float) -> float:
        """0 when the request may be answered; else the seconds until the next one may. Times are monotonic."""
        at = self._times.get(key, now)
        if at > now + BURST_SECONDS:
            return at - now - BURST_SECONDS
        self._times[key] = max(at, now) + self._interval
        if len(self._times) > MAX_KEPT:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Those whose bucket is full, and whoever asked the least of late where that is not enough."""
        self._times = {key: at for key, at in self._times.items() if at > now}
        if len(self._times) > MAX_KEPT // 2:
            kept = sorted(self._times.items(), key=lambda item: item[1])[-MAX_KEPT // 2 :]
            self._times = dict(kept)
