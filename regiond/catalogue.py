"""The networks and cluster interfaces of the region, kept in memory so that a claim's selector costs no query.

Stale for at most `FRESH_SECONDS` and the time of a query, and told of changes by doorbell. That is safe: the claim's
transaction looks again whether the subnet is there, and a selector that finds nothing or too much is tried once more
on a fresh picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from regiond.domain import errors
from regiond.domain.selectors import parse_selector, resolve
from regiond.domain.views import InterfaceView, SubnetView
from regiond.storage.reads import Reads

FRESH_SECONDS = 5.0
MAX_RESOLVED = 10_000
ANSWERED_AT_ONCE = 64  # each goes on with its claim there and then


@dataclass(slots=True)
class _Picture:
    """What was read at one time, and the selectors that were resolved on it."""

    read_at: float
    interfaces: Sequence[InterfaceView]
    subnets: Mapping[int, SubnetView]
    resolved: dict[str, SubnetView] = field(default_factory=dict)


class Catalogue:
    """Answers which subnet a selector means."""

    def __init__(self, clock: Any, reads: Reads) -> None:
        self._clock = clock
        self._reads = reads
        self._picture: _Picture | None = None
        self._changes = 0
        self._asking: list[Deferred[_Picture]] = []  # whom the next reading is for
        self._reading = False

    def changed(self) -> None:
        """Forget what was read, and what is being read."""
        self._picture = None
        self._changes += 1

    async def resolve(self, text: str) -> SubnetView:
        """The one subnet that a selector means.

        Raises BadSelector, NoSuchClusterInterface and AmbiguousSelector.
        """
        picture = self._picture
        # While one reads anew, the others do not all do the same.
        if picture is not None and (self._reading or self._clock.seconds() - picture.read_at < FRESH_SECONDS):
            known = picture.resolved.get(text)
            if known is not None:
                return known
            try:
                return self._resolve_on(picture, text)
            except (errors.NoSuchClusterInterface, errors.AmbiguousSelector):
                pass  # what would make it unique may have come just now
        else:
            parse_selector(text)
        return self._resolve_on(await self._read(), text)

    async def subnet(self, number: int) -> SubnetView | None:
        """As it was when a selector was resolved last."""
        picture = self._picture or await self._read()
        return picture.subnets.get(number)

    async def interfaces(self) -> Sequence[InterfaceView]:
        """All cluster interfaces, read now."""
        return (await self._read()).interfaces

    async def _read(self) -> _Picture:
        """What is there now. Those who ask at the same time share what one of them reads after they asked.

        When a network comes, all claims that are under way would read everything otherwise.
        """
        answer: Deferred[_Picture] = Deferred()
        self._asking.append(answer)
        if not self._reading:
            self._reading = True
            Deferred.fromCoroutine(self._read_for_all())
        return await answer

    async def _read_for_all(self) -> None:
        while self._asking:
            asking, self._asking = self._asking, []
            found: _Picture | Failure
            try:
                found = await self._read_anew()
            except Exception:
                found = Failure()
            for number, answer in enumerate(asking, 1):
                answer.callback(found)
                if number % ANSWERED_AT_ONCE == 0:
                    await deferLater(self._clock, 0)
        self._reading = False

    async def _read_anew(self) -> _Picture:
        read_at, changes = self._clock.seconds(), self._changes
        found = await self._reads.interfaces()
        subnets = {subnet.id: subnet for subnet in await self._reads.subnets()}
        # one may have been removed in between
        interfaces = [each for each in found if each.subnet is None or each.subnet in subnets]
        picture = _Picture(read_at, interfaces, subnets)
        if changes == self._changes:
            self._picture = picture
        return picture

    @staticmethod
    def _resolve_on(picture: _Picture, text: str) -> SubnetView:
        found = picture.subnets[resolve(parse_selector(text), picture.interfaces, list(picture.subnets.values()))]
        if len(picture.resolved) < MAX_RESOLVED:
            picture.resolved[text] = found
        return found
