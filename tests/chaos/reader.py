"""A reader of the change feed, as the dispatcher is one: from the generation that it has to the desired one."""

from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from clusterd.protocol.arguments import HOST_MAPS
from clusterd.protocol.digest import digest_of_map
from clusterd.protocol.values import HostMap, Identifier
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import Pool

PAUSE_SECONDS: Final = 0.05
AT_MOST: Final = 1_000_000


class Reader:
    """Follows the differences of some subnets all the time. `violations` says where the feed and the digest differ."""

    def __init__(self, reactor: Any, dsn: str, subnets: list[int]) -> None:
        self._reactor = reactor
        self._pool = Pool(reactor, dsn, size=1)
        self._reads = DeliveryReads(self._pool)
        self._running: Deferred[None] | None = None
        self._digests = dict.fromkeys(subnets, 0)
        self.generations = dict.fromkeys(subnets, 0)
        self.maps: dict[int, dict[Identifier, HostMap]] = {subnet: {} for subnet in subnets}
        self.differences = 0
        self.violations: list[str] = []

    def start(self) -> None:
        self._pool.start()
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._over)

    async def finish(self) -> None:
        """Stop following, and read everything that is left."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await running
        for subnet in self.generations:
            await self._follow(subnet)
        await self._pool.close()

    def _over(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.violations.append(f"the reader broke: {failure.value!r}")

    async def _run(self) -> None:
        while True:
            for subnet in self.generations:
                try:
                    await self._follow(subnet)
                except DatabaseUnavailable:
                    break
            await deferLater(self._reactor, PAUSE_SECONDS)

    async def _follow(self, subnet: int) -> None:
        known = self.generations[subnet]
        difference = await self._reads.difference(0, subnet, known, AT_MOST)
        assert difference is not None and not difference.too_long
        if difference.to_generation < known:
            self.violations.append(f"subnet {subnet} went from generation {known} back to {difference.to_generation}")
        if difference.to_generation == known:
            if difference.upserts or difference.removals or difference.digest != self._digests[subnet]:
                self.violations.append(f"subnet {subnet} changed within generation {known}")
            return
        if difference.beyond_horizon:
            # Nobody holds these subnets, so removals are soon forgotten: who comes too late reads the whole set.
            whole = await self._reads.transfer(0, subnet, None)
            assert whole is not None
            upserts = [host_map for page in whole.upsert_pages for host_map in HOST_MAPS.fromString(page)]
            removals = set(self.maps[subnet]) - {host_map.identifier for host_map in upserts}
            self._take(subnet, upserts, removals, whole.to_generation, whole.digest)
        else:
            upserted, removed = difference.upserts, difference.removals
            self._take(subnet, upserted, removed, difference.to_generation, difference.digest)
            self.differences += 1

    def _take(
        self, subnet: int, upserts: Iterable[HostMap], removals: Iterable[Identifier], generation: int, digest: int
    ) -> None:
        maps = self.maps[subnet]
        for upsert in upserts:
            self._replace(subnet, maps.pop(upsert.identifier, None), upsert)
            maps[upsert.identifier] = upsert
        for identifier in removals:
            self._replace(subnet, maps.pop(identifier, None), None)
        if self._digests[subnet] != digest:
            self.violations.append(
                f"subnet {subnet}: the differences up to generation {generation} make another digest"
            )
            self._digests[subnet] = digest
        self.generations[subnet] = generation

    def _replace(self, subnet: int, before: HostMap | None, after: HostMap | None) -> None:
        for host_map in (before, after):
            if host_map is not None:
                self._digests[subnet] ^= digest_of_map(host_map)
