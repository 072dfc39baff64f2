"""Waiting, for a bounded time, until the clusters have applied what was claimed."""

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from regiond.domain.reservations import MapState, Reservation, overall_state
from regiond.domain.views import ReservationView
from regiond.storage.reads import Reads, ReservationFilter

DEFAULT_WAIT_SECONDS = 2.0


class Progress:
    """Wakes those who wait for a subnet whenever a cluster has said something about it."""

    def __init__(self, clock: Any, reads: Reads) -> None:
        self._clock = clock
        self._reads = reads
        self._waiting: dict[int, set[Deferred[None]]] = {}
        self._patient = True

    def wait_no_longer(self) -> None:
        """Whoever waits is answered with how things stand, and so is who comes later: the daemon is stopping."""
        self._patient = False
        self.acknowledged(list(self._waiting))

    def acknowledged(self, subnets: Iterable[int]) -> None:
        """A cluster's state of these subnets changed."""
        for subnet in subnets:
            for woken in self._waiting.pop(subnet, ()):
                _wake(woken)

    async def settled(self, reservations: Sequence[Reservation], seconds: float | None) -> list[ReservationView]:
        """These reservations, once each host map is applied or refused or the time is up.

        None waits the default time where every serving cluster is connected, and not at all elsewhere: an answer
        that cannot come in time is not waited for. A reservation that is gone by now is not among the answer.
        """
        wanted = ReservationFilter(ids=[reservation.id for reservation in reservations])
        subnets = {reservation.subnet for reservation in reservations}
        if not any(reservation.map_generation for reservation in reservations):
            return await self._reads.reservations(wanted)
        end = None if seconds is None else self._clock.seconds() + seconds
        while True:
            # Before the rows are read: what is said while the query is under way must not go unheard.
            woken = self._listen(subnets)
            try:
                views = await self._reads.reservations(wanted)
                if not _pending(views):
                    return views
                if end is None:
                    wait = DEFAULT_WAIT_SECONDS if await self._all_connected(views) else 0.0
                    end = self._clock.seconds() + wait
                if self._clock.seconds() >= end or not self._patient:
                    return views
                timer = self._clock.callLater(end - self._clock.seconds(), _wake, woken)
                try:
                    await woken
                finally:
                    if timer.active():
                        timer.cancel()
            finally:
                self._stop_listening(woken, subnets)

    async def _all_connected(self, views: Sequence[ReservationView]) -> bool:
        connected = {view.id for view in await self._reads.clusters() if view.connected}
        waited_for = {cluster.cluster for view in views for cluster in view.progress or ()}
        return bool(waited_for) and waited_for <= connected

    def _listen(self, subnets: Iterable[int]) -> Deferred[None]:
        woken: Deferred[None] = Deferred()
        for subnet in subnets:
            self._waiting.setdefault(subnet, set()).add(woken)
        return woken

    def _stop_listening(self, woken: Deferred[None], subnets: Iterable[int]) -> None:
        for subnet in subnets:
            waiting = self._waiting.get(subnet, set())
            waiting.discard(woken)
            if not waiting:
                self._waiting.pop(subnet, None)


def _wake(woken: Deferred[None]) -> None:
    if not woken.called:
        woken.callback(None)


def _pending(views: Sequence[ReservationView]) -> bool:
    return any(view.progress is not None and overall_state(view.progress) is MapState.PENDING for view in views)
