"""How late the reactor is: whatever keeps it from its calls for a while keeps everybody waiting."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

EVERY_SECONDS = 0.1


class StallWatch:
    """Asks to be called after a while, again and again, and tells how much later that was than asked for."""

    def __init__(self, clock: IReactorTime, observe: Callable[[float], None]) -> None:
        self._clock = clock
        self._observe = observe
        self._due = 0.0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        self._due = self._clock.seconds() + EVERY_SECONDS
        self._next = self._clock.callLater(EVERY_SECONDS, self._look)

    def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._observe(max(self._clock.seconds() - self._due, 0.0))
        self.start()
