"""Pauses between the times at which a DHCP server answers nobody, since it reads, loads or starts again."""

from dataclasses import dataclass, replace

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause is `shortest` seconds long, or `per_second` for each second that the server was kept from answering.

    `ends` is the moment from which on it may be kept from answering again, on the clock of whoever asks.
    """

    shortest: float = 0.0
    per_second: float = 0.0
    ends: float = float("-inf")

    def after(self, now: float, deaf_seconds: float) -> "Pause":
        """The pause that begins now, when the server was deaf for so long."""
        return self.not_before(now + max(self.shortest, self.per_second * deaf_seconds))

    def not_before(self, moment: float) -> "Pause":
        """The same pause, if need be made longer."""
        return replace(self, ends=max(self.ends, moment))

    def left(self, now: float) -> float:
        """The seconds of it that are left, 0.0 when it is over."""
        return max(0.0, self.ends - now)


async def sit_out(pause: Pause, clock: IReactorTime) -> None:
    """Return when the pause is over."""
    left = pause.left(clock.seconds())
    if left:
        await deferLater(clock, left)
