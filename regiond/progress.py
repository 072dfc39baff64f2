"""Waiting, for a bounded time, until the clusters have applied what was claimed."""

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from regiond.domain.mutations import Outcome
from regiond.domain.reservations import ClusterProgress, MapState, Reservation, overall_state
from regiond.domain.views import ReservationView
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import Reads, view_of
from regiond.storage.reservation_filter import ReservationFilter

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
        self.acknowledged(None)

    def acknowledged(self, subnets: Iterable[int] | None) -> None:
        """A cluster's state of these subnets changed; None: perhaps of any."""
        for subnet in list(self._waiting) if subnets is None else subnets:
            for woken in self._waiting.pop(subnet, ()):
                _wake(woken)

    async def settled(self, outcome: Outcome, seconds: float | None) -> list[ReservationView]:
        """The outcome's reservations, once each host map is applied or refused or the time is up.

        None waits the default time for those of the serving clusters that are connected, and not at all where none is:
        an answer that cannot come in time is not waited for. A reservation that is gone by now is shown as it was, and
        so are all when the database goes away while they are waited for: what was committed is told.
        """
        if not outcome.reservations:
            return []
        views = [_as_committed(reservation, outcome) for reservation in outcome.reservations]
        awaited: frozenset[int] | None = None
        if outcome.created and not outcome.replayed:
            if seconds is None:
                awaited = _connected(outcome)
                seconds = DEFAULT_WAIT_SECONDS if awaited else 0.0
            if seconds == 0.0 or not _pending(views, awaited):
                return views
        try:
            settled = await self._until_settled(outcome, seconds or 0.0, awaited)
            now = {view.reservation.id: view for view in settled}
        except DatabaseUnavailable:
            return views
        return [now.get(view.reservation.id, view) for view in views]

    async def _until_settled(
        self, outcome: Outcome, seconds: float, awaited: frozenset[int] | None
    ) -> list[ReservationView]:
        wanted = ReservationFilter(ids=[reservation.id for reservation in outcome.reservations])
        subnets = {reservation.subnet for reservation in outcome.reservations}
        end = self._clock.seconds() + seconds
        while True:
            # Before the rows are read: what is said while the query is under way must not go unheard.
            woken = self._listen(subnets)
            try:
                views = await self._reads.reservations(wanted)
                left = end - self._clock.seconds()
                if not _pending(views, awaited) or left <= 0 or not self._patient:
                    return views
                timer = self._clock.callLater(left, _wake, woken)
                try:
                    await woken
                finally:
                    if timer.active():
                        timer.cancel()
            finally:
                self._stop_listening(woken, subnets)

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


def _pending(views: Sequence[ReservationView], awaited: frozenset[int] | None) -> bool:
    """Whether one of these clusters has yet to say something; None: any."""
    return any(_is_pending(view.progress, awaited) for view in views if view.progress is not None)


def _is_pending(progress: Sequence[ClusterProgress], awaited: frozenset[int] | None) -> bool:
    if awaited is None:
        return overall_state(progress) is MapState.PENDING
    of_them = [each for each in progress if each.cluster in awaited]
    return bool(of_them) and overall_state(of_them) is MapState.PENDING


def _as_committed(reservation: Reservation, outcome: Outcome) -> ReservationView:
    return view_of(reservation, outcome.deliveries.get(reservation.subnet, ()), {})


def _connected(outcome: Outcome) -> frozenset[int]:
    rows = [row for rows in outcome.deliveries.values() for row in rows]
    return frozenset(row.cluster for row in rows if row.role == "serving" and row.connected)
