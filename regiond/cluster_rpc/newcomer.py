"""A connection that has not registered yet: how long it may take, and what it is told when it is revoked meanwhile."""

from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from clusterd.protocol.connection import Link

REGISTRATION_SECONDS: Final = 30.0


class Newcomer:
    """Its link is cut when it does not ask to be registered for REGISTRATION_SECONDS."""

    _log = Logger(namespace="region.link")

    def __init__(self, clock: IReactorTime, link: Link) -> None:
        self._clock = clock
        self._link = link
        self._timer: IDelayedCall | None = None
        self._is_gone = False
        self.is_unwelcome = False
        """Its certificate is good no more. It is told so when it registers, and not cut: the answer may be on its way,
        and without it clusterd would take the region for unreachable."""

    def wait(self) -> None:
        """From now on it has that time; so has the answer to a registration that was refused, to arrive."""
        self.stop_waiting()
        if not self._is_gone:
            self._timer = self._clock.callLater(REGISTRATION_SECONDS, self._is_late)

    def stop_waiting(self) -> None:
        """It asks, and is answered without a deadline: the database may be slow, and thousands may be before it."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def gone(self) -> None:
        """Its link has ended."""
        self._is_gone = True
        self.stop_waiting()

    def _is_late(self) -> None:
        self._log.warn(
            "{peer} has not registered for {seconds} s: cutting the connection",
            event="link.unregistered",
            peer=self._link.peer,
            seconds=REGISTRATION_SECONDS,
        )
        self._link.abort()
