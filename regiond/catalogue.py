"""The networks and cluster interfaces of the region, kept in memory so that a claim's selector costs no query.

Stale for at most `FRESH_SECONDS` and the time of a query, and told of changes by doorbell. That is safe: the claim's
transaction looks again whether the subnet is there, and a selector that finds nothing or too much is tried once more
on a fresh picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from regiond.domain import errors
from regiond.domain.selectors import parse_selector, resolve
from regiond.domain.views import InterfaceView, SubnetView
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import Reads

FRESH_SECONDS = 5.0
MAX_RESOLVED = 10_000


@dataclass(slots=True)
class _Picture:
    """What was read at one time, and the selectors that were resolved on it."""

    read_at: float
    interfaces: Sequence[InterfaceView]
    subnets: Mapping[int, SubnetView]
    resolved: dict[str, SubnetView] = field(default_factory=dict)


class Catalogue:
    """Answers which subnet a selector means."""

    def __init__(self, clock: IReactorTime, reads: Reads) -> None:
        self._clock = clock
        self._reads = reads
        self._picture: _Picture | None = None
        self._changes = 0
        self._turn = DeferredLock()
        self._begun = 0
        self._last: tuple[int, _Picture | DatabaseUnavailable] | None = None  # the number of a reading, and its result

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
        if picture is not None and (self._turn.locked or self._clock.seconds() - picture.read_at < FRESH_SECONDS):
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
        asked = self._begun
        await self._turn.acquire()
        try:
            if self._last is None or self._last[0] <= asked:
                await self._read_anew()
            assert self._last is not None
            _, result = self._last
        finally:
            self._turn.release()
        if isinstance(result, DatabaseUnavailable):
            raise DatabaseUnavailable(str(result)) from result
        return result

    async def _read_anew(self) -> None:
        read_at, changes = self._clock.seconds(), self._changes
        self._begun += 1
        number = self._begun
        try:
            found = await self._reads.interfaces()
            subnets = {subnet.id: subnet for subnet in await self._reads.subnets()}
        except DatabaseUnavailable as error:
            self._last = number, error
            return
        # one may have been removed in between
        interfaces = [each for each in found if each.subnet is None or each.subnet in subnets]
        picture = _Picture(read_at, interfaces, subnets)
        self._last = number, picture
        if changes == self._changes:
            self._picture = picture

    @staticmethod
    def _resolve_on(picture: _Picture, text: str) -> SubnetView:
        found = picture.subnets[resolve(parse_selector(text), picture.interfaces, list(picture.subnets.values()))]
        if len(picture.resolved) < MAX_RESOLVED:
            picture.resolved[text] = found
        return found
