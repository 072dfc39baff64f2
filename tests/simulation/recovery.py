"""Recoveries in the simulated database: an ask, an answer and the time between them are steps."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from clusterd.protocol.values import HostMap
from regiond.domain.ids import NewId
from regiond.storage.changes import Change
from regiond.storage.recovery import Evidence
from regiond.storage.settling import Settled
from tests.fakes.recovery import RecoveryTables
from tests.fakes.tables import Tables

T = TypeVar("T")


class Done(Protocol):
    """`SimulatedStorage.done`."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class SimulatedRecovery:
    """`hearing.Evidences` and `witness.Beats`."""

    def __init__(self, tables: Tables, new_id: NewId, done: Done) -> None:
        self._rows = RecoveryTables(tables, new_id)
        self._done = done

    async def begin(
        self, change: Change, reason: str, of_history: str | None = None, *, anew: bool = False
    ) -> str | None:
        return await self._done(lambda: self._rows.begin(reason, of_history, anew=anew))

    async def finish(self) -> str | None:
        return await self._done(self._rows.finish)

    async def hearing(self, cluster: int, history: str) -> None:
        await self._done(lambda: self._rows.hearing(cluster, history))

    async def knows(self, history: str) -> bool:
        return await self._done(lambda: self._rows.knows(history))

    async def generation(self, subnet: int) -> int | None:
        return await self._done(lambda: self._rows.generation(subnet))

    async def end_waiting(self) -> None:
        """By force."""
        await self._done(self._rows.end_waiting)

    async def take(self, evidence: Evidence) -> None:
        await self._done(lambda: self._rows.take(evidence))

    async def add_maps(self, cluster: int, name: str, host_maps: Sequence[HostMap], *, former: bool = False) -> None:
        await self._done(lambda: self._rows.add_maps(cluster, name, host_maps, former=former))

    async def complete(self, cluster: int, name: str) -> None:
        await self._done(lambda: self._rows.complete(cluster, name))

    async def drop(self, cluster: int, name: str) -> None:
        await self._done(lambda: self._rows.drop(cluster, name))

    async def contradictions(self, cluster: int, name: str) -> int:
        return await self._done(lambda: self._rows.contradictions(cluster, name))

    async def heard(self, cluster: int) -> None:
        await self._done(lambda: self._rows.heard(cluster))

    async def waits_for(self, cluster: int) -> bool:
        return await self._done(lambda: self._rows.waits_for(cluster))

    async def may_have(self, cluster: int) -> list[int]:
        return await self._done(lambda: self._rows.may_have(cluster))

    async def to_settle(self) -> list[int]:
        return await self._done(self._rows.to_settle)

    async def settle(self, subnet: int) -> Settled | None:
        return await self._done(lambda: self._rows.settle(subnet))

    async def beat(self, regiond: str) -> tuple[int, str]:
        return await self._done(lambda: self._rows.beat(regiond))


class WitnessMemory:
    """The witness' file: on the disk of the regiond's host, which no restore of the database touches."""

    def __init__(self) -> None:
        self.kept: tuple[str, int] | None = None

    def recall(self, region: str) -> tuple[str, int] | None:
        return self.kept

    def remember(self, region: str, regiond: str, beats: int) -> None:
        self.kept = regiond, beats
