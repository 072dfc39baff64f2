"""Following what happens: each follower gets every event that is for it, once and in order, whatever connection breaks.

# Note [Events]
An event is committed with its change. Positions are given afterwards (`number_events`), so their order is one in which
nothing comes in before what somebody was told already, and they are the same on every regiond and after every restart.
A follower is nothing but a position: nothing is queued for it, and a client that reads slowly costs what is on its way
to it. The last events are kept in memory for those who are up to date; who is behind reads the database.

While anybody follows, one loop looks for new events: when something is committed here, when the doorbell rings, and
every POLL_SECONDS, since not every commit rings.
"""

from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.events import Event, EventId, EventKind, EventPage, parse_event_id
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.events import EventReads
from regiond.use_cases.requests import RequestContext

POLL_SECONDS: Final = 0.5
KEEP_ALIVE_SECONDS: Final = 15.0
SLOW_SECONDS: Final = 30.0
PAGE: Final = 500
MAX_KEPT: Final = 2_000
MAX_FOLLOWERS: Final = 500
MAX_FOLLOWERS_OF_AN_ACCOUNT: Final = 50


@dataclass(frozen=True, slots=True)
class Told:
    """What a follower is told next: events, none of which is without news, and where it is then.

    `ends` says why nothing follows; with `lost` it has to start anew.
    """

    at: EventId
    events: Sequence[Event] = ()
    ends: str | None = None
    lost: bool = False


class Events:
    """See the module."""

    _log = Logger(namespace="region.events")

    def __init__(
        self,
        clock: Any,
        reads: EventReads,
        catalogue: Catalogue,
        *,
        most: int = MAX_FOLLOWERS,
        most_of_an_account: int = MAX_FOLLOWERS_OF_AN_ACCOUNT,
    ) -> None:
        self._most = most
        self._most_of_an_account = most_of_an_account
        self._clock = clock
        self._reads = reads
        self._catalogue = catalogue
        self._followers: Counter[int] = Counter()
        self._recent: deque[Event] = deque(maxlen=MAX_KEPT)
        self._history = ""
        self._seen = 0  # the position up to which the loop has read
        self._known = 0  # the last one that anybody has seen
        self._watching = False
        self._stopped = False
        self._waiting: set[Deferred[bool]] = set()
        self._bell: Deferred[None] | None = None

    @property
    def followers(self) -> int:
        """How many follow now."""
        return self._followers.total()

    def nudge(self) -> None:
        """Something was committed, here or elsewhere."""
        if self._bell is not None and not self._bell.called:
            self._bell.callback(None)

    def stop(self) -> None:
        """Tell those who follow that it goes on elsewhere: the daemon is stopping."""
        self._stopped = True
        self.nudge()
        self._wake()

    async def follow(
        self,
        context: RequestContext,
        *,
        after: str | None,
        kinds: Sequence[EventKind],
        subnets: Sequence[str],
        wait: float | None,
    ) -> AsyncGenerator[Told, None]:
        """What happens from now on, or since the event with the id `after`; of these kinds, on these subnets.

        With `wait` it ends when nothing has come for so many seconds. Raises EventsGone, also for what is no
        event's id, TooManyFollowers, and what a selector can be refused with.
        """
        if self.followers >= self._most:
            raise errors.TooManyFollowers(f"{self._most} follow here already")
        if self._followers[context.caller.account] >= self._most_of_an_account:
            raise errors.TooManyFollowers(f"{self._most_of_an_account} of this account follow here already")
        chosen = frozenset([(await self._catalogue.resolve(text)).id for text in subnets])
        tail = await self._reads.tail()
        start = tail.last
        if after is not None:
            asked = parse_event_id(after)
            if asked is None or asked[0] != tail.history[:8] or not tail.reaches_back_to(asked[1]):
                raise errors.EventsGone("what followed this event is not known: list again, and follow from now")
            start = asked[1]
        if self._history == tail.history:
            self._known = max(self._known, tail.last)
        else:
            self._begin_at(tail)
        follower = _Follower(context, frozenset(kinds), chosen)
        return self._tell(follower, EventId(tail.history, start), wait)

    async def _tell(self, follower: "_Follower", at: EventId, wait: float | None) -> AsyncGenerator[Told, None]:
        account = follower.account
        self._followers[account] += 1
        self._watch()
        patience = KEEP_ALIVE_SECONDS if wait is None else wait
        try:
            yield Told(at)
            told = self._clock.seconds()
            while True:
                page = await self._next(at, told + patience)
                if isinstance(page, str):
                    yield Told(at, ends=page, lost=not self._stopped)
                    return
                if page:
                    at = EventId(at.history, page[-1].position)
                elif wait is not None:
                    yield Told(at, ends=f"nothing came for {wait:g} s")
                    return
                seen = follower.sees(page)
                if page and not seen and self._clock.seconds() < told + patience:
                    continue  # what is for others
                asked = self._clock.seconds()
                yield Told(at, seen)
                if seen or wait is None:
                    told = self._clock.seconds()
                if self._clock.seconds() - asked > SLOW_SECONDS:
                    self._log.info(
                        "a follower of {account} is too slow", event="events.too-slow", account=follower.name
                    )
                    yield Told(at, ends=f"too slow: this was not read for {SLOW_SECONDS:g} s")
                    return
        finally:
            self._followers[account] -= 1
            self._followers += Counter()  # without those who are at zero

    async def _next(self, at: EventId, end: float) -> Sequence[Event] | str:
        """The events after this, as soon as there are any, or none when it is time; or why there will be none."""
        while not self._stopped:
            if self._history != at.history:
                return "the region's database went back in time: what was told may not be so any more"
            if at.position >= self._known:
                if not await self._wait(end - self._clock.seconds()):
                    return ()
                continue
            if self._recent and self._recent[0].position <= at.position + 1 <= self._recent[-1].position:
                skipped = at.position + 1 - self._recent[0].position
                return list(islice(self._recent, skipped, skipped + PAGE))
            page = await self._reads.after(at.position, PAGE)
            if page.history != at.history or not page.reaches_back_to(at.position):
                return "what followed is not known any more"
            if page.events:
                return page.events
        return "the region is stopping: it goes on at another one, or at this one when it is back"

    async def _wait(self, seconds: float) -> bool:
        """Until there is news, at most so long; whether there is."""
        if seconds <= 0:
            return False
        woken: Deferred[bool] = Deferred()
        timer = self._clock.callLater(seconds, _call, woken, False)
        self._waiting.add(woken)
        try:
            return await woken
        finally:
            self._waiting.discard(woken)
            if timer.active():
                timer.cancel()

    # ---- the loop ----

    def _watch(self) -> None:
        if not self._watching and not self._stopped:
            self._watching = True
            Deferred.fromCoroutine(self._keep_watching()).addErrback(self._broken)

    async def _keep_watching(self) -> None:
        try:
            while self._followers and not self._stopped:
                self._bell = Deferred()
                try:
                    full = await self._look()
                except DatabaseUnavailable as error:
                    full = False
                    self._log.warn(
                        "what happens is not known now: {reason}", event="events.unread", reason=str(error)[:500]
                    )
                if not full:
                    await self._pause(self._bell)
        finally:
            self._watching, self._bell = False, None

    async def _look(self) -> bool:
        """Read what is new; whether there may be more at once."""
        page = await self._reads.after(self._seen, PAGE)
        if page.history != self._history or not page.reaches_back_to(self._seen):
            self._begin_at(page)
            self._wake()
            return False
        self._recent.extend(page.events)
        if page.events:
            self._seen = page.events[-1].position
            self._known = max(self._known, self._seen)
            self._wake()
        return len(page.events) == PAGE

    def _begin_at(self, page: EventPage) -> None:
        """What is new comes after this."""
        self._recent.clear()
        self._history = page.history
        self._seen = self._known = page.last

    async def _pause(self, bell: Deferred[None]) -> None:
        timer = self._clock.callLater(POLL_SECONDS, _call, bell, None)
        try:
            await bell
        finally:
            if timer.active():
                timer.cancel()

    def _wake(self) -> None:
        for woken in list(self._waiting):
            _call(woken, True)

    def _broken(self, failure: Failure) -> None:
        self._log.failure("looking for what happens broke", failure, event="events.bug")


class _Follower:
    """What somebody wants to know, and may."""

    def __init__(self, context: RequestContext, kinds: frozenset[EventKind], subnets: frozenset[int]) -> None:
        self.account, self.name = context.caller.account, context.caller.name
        self._is_admin = context.caller.is_admin
        self._kinds = kinds
        self._subnets = subnets

    def sees(self, events: Iterable[Event]) -> list[Event]:
        return [event for event in events if self._wants(event) and (self._is_admin or event.is_for(self.account))]

    def _wants(self, event: Event) -> bool:
        return (not self._kinds or event.kind in self._kinds) and (not self._subnets or event.subnet in self._subnets)


def _call(deferred: Deferred[Any], value: Any) -> None:
    if not deferred.called:
        deferred.callback(value)
