"""clusterd's own half of a site, without the link to a region: the store, the driver, and a real DHCP server."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clusterd.convergence.acceptance import Origin
from clusterd.convergence.convergence import Convergence
from clusterd.dhcp.backend import Backend
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.states import HostMapState
from clusterd.host_maps.store import HostMapStore
from clusterd.host_maps.store_thread import StoreThread
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier
from tests.waiting import until

_ORIGIN = Origin("region-1", "rack-7", "history-1")


class Hurried:
    """A reactor's time for which waiting takes a fraction: the driver's minutes pass in a second."""

    def __init__(self, reactor: Any, haste: float) -> None:
        self._reactor = reactor
        self._haste = haste

    def seconds(self) -> float:
        return float(self._reactor.seconds())

    def callLater(self, delay: float, call: Callable[..., object], *args: object, **keywords: object) -> Any:
        return self._reactor.callLater(delay / self._haste, call, *args, **keywords)

    def getDelayedCalls(self) -> Sequence[Any]:
        return list(self._reactor.getDelayedCalls())


class DrivenSite:
    """What a region would cause is done with `change`; `reported` is what it would hear.

    The driver's pauses are `haste` times as short as in a daemon; the backend's are what they are.
    """

    def __init__(self, directory: Path, backend: Backend, reactor: Any, *, haste: float = 1.0) -> None:
        self.reported: list[HostMapState] = []
        self.store_file = directory / "accepted" / "host-maps.sqlite"
        self._reactor = reactor
        self._haste = haste
        self._generations: dict[str, int] = {}
        self._sets: dict[str, dict[Identifier, HostMap]] = {}
        self._boot(backend)

    def _boot(self, backend: Backend) -> None:
        clock: Any = Hurried(self._reactor, self._haste)
        self._running = False
        self._thread = StoreThread(self._reactor)
        self._store = HostMapStore.open(self.store_file)
        self.convergence = Convergence(self._store, backend, clock, self._thread, random.random)
        self._accepted = AcceptedHostMaps(self._store, self.convergence, self._thread)

    async def start(self) -> None:
        self._running = True
        self._thread.start()
        self.convergence.start()
        await self._accepted.connected(_ORIGIN, self._report)

    async def start_again(self, backend: Backend) -> None:
        """As another process, with a backend that knows nothing yet."""
        await self.stop()
        self._boot(backend)
        await self.start()

    async def stop(self) -> None:
        """What has begun is finished first; nothing to do when it is stopped already."""
        if not self._running:
            return
        self._running = False
        await self.convergence.stop()
        await self._thread(self._store.close)
        self._thread.stop()

    async def accept(self, cidr: str, upserts: Sequence[HostMap] = (), removals: Sequence[Identifier] = ()) -> None:
        """Returns when the change is on the disk."""
        since = self._generations.get(cidr, 0)
        wanted = self._sets.setdefault(cidr, {})
        for identifier in removals:
            wanted.pop(identifier, None)
        wanted.update((one.identifier, one) for one in upserts)
        self._generations[cidr] = await self._accepted.apply_host_maps(
            "history-1", cidr, cidr, since, since + 1, digest_of(wanted.values()), upserts, removals, ()
        )

    async def change(self, cidr: str, upserts: Sequence[HostMap] = (), removals: Sequence[Identifier] = ()) -> None:
        """Returns when the change is reported as applied."""
        await self.accept(cidr, upserts, removals)
        await until(lambda: self.state(cidr).applied_generation == self._generations[cidr])

    def state(self, cidr: str) -> HostMapState:
        """What the region heard last of this subnet."""
        return ([state for state in self.reported if state.subnet == cidr] or [HostMapState("history-1", cidr, 0)])[-1]

    async def _report(self, state: HostMapState) -> None:
        self.reported.append(state)
