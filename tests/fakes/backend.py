"""A DHCP server in memory, for tests of everything in front of a backend. Passes the backend contract."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from twisted.internet.defer import Deferred

from clusterd.dhcp.backend import BackendError, Capabilities, Rejection
from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """One call that changed the server: `kind` is `apply` or `replace`; a replace has nothing in `removed`."""

    kind: str
    removed: frozenset[HostMap]
    added: frozenset[HostMap]


class FakeBackend:
    """What it serves is `maps`; what it was told is `changes`; its moods are set by the methods without `async`."""

    name = "fake"

    def __init__(self, max_host_maps: int = 100_000) -> None:
        self.capabilities = Capabilities(frozenset({4, 6}), frozenset(IdentifierKind), max_host_maps)
        self.maps: set[HostMap] = set()
        self.changes: list[AppliedChange] = []
        self.reads = 0
        self.closed = False
        self.released: list[frozenset[HostMap]] = []
        self.leased: dict[str, ServerLease] = {}
        self.asked: list[LeaseQuestion] = []
        self.now = 0.0
        self.obstacles: list[str] = []
        self.removals_pause = 0.0  # for so many seconds what is removed has to wait, as long as this is set
        self._refusal: str | None = None
        self._unlistable: str | None = None
        self._rejected: dict[Identifier, str] = {}
        self._held_calls: list[Deferred[None]] | None = None

    def refuse_all(self, message: str) -> None:
        """From now on every read and change fails with these words."""
        self._refusal = message

    def refuse_to_list(self, message: str) -> None:
        """From now on every `read` fails with these words, and nothing else."""
        self._unlistable = message

    def accept_all(self) -> None:
        """End `refuse_all`, `refuse_to_list` and every `reject`."""
        self._refusal = self._unlistable = None
        self._rejected.clear()

    def reject(self, identifier: Identifier, reason: str) -> None:
        """From now on do not take host maps with this identifier."""
        self._rejected[identifier] = reason

    def hold(self) -> None:
        """From now on changes are not done before `let_go`."""
        if self._held_calls is None:
            self._held_calls = []

    def let_go(self) -> None:
        """Do the changes that are held, and hold no more."""
        held, self._held_calls = self._held_calls or [], None
        for call in held:
            call.callback(None)

    @property
    def held(self) -> int:
        """How many changes are waiting for `let_go`."""
        return len(self._held_calls or ())

    def forget(self, host_maps: Collection[HostMap]) -> None:
        """Lose these behind everybody's back, as a server that was restored from a backup."""
        self.maps -= set(host_maps)

    async def check(self) -> list[str]:
        return list(self.obstacles)

    async def read(self) -> frozenset[HostMap]:
        self.reads += 1
        self._complain()
        if self._unlistable is not None:
            raise BackendError(self._unlistable)
        return frozenset(self.maps)

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        return await self._change("apply", frozenset(removed), frozenset(added), lambda: self.maps - set(removed))

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        return await self._change("replace", frozenset(), frozenset(host_maps), set)

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        return self.removals_pause if removed else 0.0

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        self._complain()
        return frozenset(host_maps) & self.maps

    async def release(self, removed: Collection[HostMap]) -> None:
        self._complain()
        self.released.append(frozenset(removed))

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        self.asked.append(question)
        self._complain()
        rows = [(pack_address(address), lease) for address, lease in self.leased.items()]
        return choose(rows, lambda lease: lease, question, self.now)

    async def end_lease(self, lease: ServerLease) -> None:
        self._complain()
        held = self.leased.get(lease.address)
        if held is not None and held.identifiers == lease.identifiers:
            del self.leased[lease.address]

    async def close(self) -> None:
        self.closed = True

    async def _change(
        self, kind: str, removed: frozenset[HostMap], added: frozenset[HostMap], left: Callable[[], set[HostMap]]
    ) -> tuple[Rejection, ...]:
        if self._held_calls is not None:
            turn: Deferred[None] = Deferred()
            self._held_calls.append(turn)
            await turn
        self._complain()
        taken = {host_map for host_map in added if host_map.identifier not in self._rejected}
        maps = left() | taken
        if len(maps) > self.capabilities.max_host_maps:
            raise BackendError(f"{len(maps)} host maps are more than the {self.capabilities.max_host_maps} it takes")
        self.maps = maps
        self.changes.append(AppliedChange(kind, removed, added))
        return tuple(Rejection(host_map, self._rejected[host_map.identifier]) for host_map in sorted(added - taken))

    def _complain(self) -> None:
        if self._refusal is not None:
            raise BackendError(self._refusal)
