"""A DHCP server that outlives clusterd, and its backend as one life of clusterd sees it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from twisted.internet.interfaces import IReactorTime

from clusterd.dhcp.backend import BackendError, Capabilities, NoLeases, Rejection
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.dhcp.pacing import Pause
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.simulation.steps import Process, Steps


@dataclass
class DhcpServer:
    """What it serves is `maps`. `refusing` says when a call fails: before, half-way or after it took effect.

    Every client takes its lease at once, and keeps it until that is ended, whatever becomes of its host map.
    """

    name: str
    maps: frozenset[HostMap] = frozenset()
    leases: frozenset[HostMap] = frozenset()
    refusing: str | None = None
    rejected: set[Identifier] = field(default_factory=set)  # does not take host maps with these
    stuck: set[Identifier] = field(default_factory=set)  # nor lets go of host maps with these

    @property
    def queue(self) -> str:
        return f"{self.name} server"

    def accept_all(self) -> None:
        self.refusing = None
        self.rejected.clear()
        self.stuck.clear()


PAUSE_SECONDS = 5.0


class SimulatedBackend:
    """See `clusterd.dhcp.backend.Backend`. Each call is one step that takes effect and one that answers.

    After a removal the next one has to wait, as with a server that answers nobody meanwhile.
    """

    name = "simulated"

    def __init__(self, server: DhcpServer, steps: Steps, process: Process, clock: IReactorTime) -> None:
        self.capabilities = Capabilities(frozenset({4, 6}), frozenset(IdentifierKind), 100_000)
        self._server = server
        self._steps = steps
        self._process = process
        self._clock = clock
        self._pause = Pause(PAUSE_SECONDS)

    async def check(self) -> list[str]:
        return []

    async def read(self) -> frozenset[HostMap]:
        await self._turn()
        maps = self._server.maps
        if self._server.refusing is not None:
            raise BackendError("the server does not answer")
        await self._turn()
        return maps

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        gone, come = frozenset(removed), frozenset(added)
        if gone:
            self._pause = self._pause.after(self._clock.seconds(), 0.0)
        return await self._change(gone, come, lambda: (self._server.maps - gone) | come)

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        return self._pause.left(self._clock.seconds()) if removed else 0.0

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        wanted = frozenset(host_maps)
        return await self._change(self._server.maps - wanted, wanted, lambda: wanted)

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        return frozenset(host_maps) & await self.read()

    async def release(self, removed: Collection[HostMap]) -> None:
        await self._turn()
        server = self._server
        refusing = server.refusing
        if refusing != "before":
            ended = sorted(removed)[:1] if refusing == "half-way" else removed
            server.leases = (server.leases - frozenset(ended)) | server.maps
        await self._turn()
        if refusing is not None:
            raise BackendError(f"the server failed {refusing} ending leases")

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """No story asks."""
        raise NoLeases("nobody asks here")

    async def end_lease(self, lease: ServerLease) -> None:
        """As `leases`."""
        raise NoLeases("nobody asks here")

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _change(
        self, removed: Collection[HostMap], added: Collection[HostMap], wanted: Callable[[], frozenset[HostMap]]
    ) -> tuple[Rejection, ...]:
        await self._turn()
        server = self._server
        before, after = server.maps, wanted()
        rejected = {m for m in after - before if m.identifier in server.rejected}
        kept = {m for m in before - after if m.identifier in server.stuck}
        after = (after - rejected) | kept
        refusing = server.refusing
        if refusing == "half-way":
            server.maps = before - frozenset(sorted(before - after)[:1])
        elif refusing != "before":
            server.maps = after
        server.leases |= server.maps
        await self._turn()
        if refusing is not None:
            raise BackendError(f"the server failed {refusing}")
        return tuple(Rejection(host_map, "not with me") for host_map in sorted(rejected | kept))

    async def _turn(self) -> None:
        await self._steps.turn(self._server.queue, self._process)
