"""One call in the future at most."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """Calls `ring` once for each time that it was set, unless it is cleared or set anew before."""

    def __init__(self, clock: IReactorTime, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: IDelayedCall | None = None

    @property
    def is_set(self) -> bool:
        """Whether it is going to ring."""
        return self._call is not None

    def set_in(self, seconds: float) -> None:
        """Ring in so many seconds, and not when it was to before."""
        self.clear()
        self._call = self._clock.callLater(seconds, self._now)

    def set_within(self, seconds: float) -> None:
        """Ring in so many seconds, or earlier if it was to: what is asked for again and again is not put off."""
        if self._call is None or self._call.getTime() > self._clock.seconds() + seconds:
            self.set_in(seconds)

    def clear(self) -> None:
        """Do not ring."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _now(self) -> None:
        self._call = None
        self._ring()
