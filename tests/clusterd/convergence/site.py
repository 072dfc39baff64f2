"""The driver in memory: a cluster without its link, whose DHCP server has moods."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from clusterd.convergence.acceptance import Origin
from clusterd.convergence.convergence import Convergence
from clusterd.dhcp.backend import Rejection
from clusterd.dhcp.host_system import run_at_once
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.states import HostMapState
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.connection import CallTimedOut
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.fakes.backend import FakeBackend
from tests.finished import result_of

HERE = Origin("region-1", "rack-7", "history-1")


def host_map(number: int, address: str | None = None) -> HostMap:
    identifier = Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))
    return HostMap(identifier, address or f"192.0.2.{number}")


class StubbornBackend(FakeBackend):
    """Also keeps host maps that it is told to remove, can forget what it was just told, and be slow to read."""

    def __init__(self, max_host_maps: int = 100_000) -> None:
        super().__init__(max_host_maps)
        self.keeps: dict[HostMap, str] = {}
        self.loses: set[HostMap] = set()
        self.reading: Deferred[None] | None = None

    async def read(self) -> frozenset[HostMap]:
        if self.reading is not None:
            await self.reading
        return await super().read()

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        kept = [one for one in removed if one in self.keeps and one in self.maps]
        rejections = await super().apply(removed, added)
        self.maps |= set(kept)
        self.maps -= self.loses
        return (*rejections, *(Rejection(one, self.keeps[one]) for one in kept))


class Site:
    """A cluster without its link: the store, the driver and a DHCP server; `region` has what was reported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.backend = StubbornBackend()
        self.reported: list[HostMapState] = []
        self.deaf = False
        self.generations: dict[str, int] = {}
        self.sets: dict[str, dict[Identifier, HostMap]] = {}
        self.boot()

    def boot(self) -> None:
        self.store = HostMapStore.open(self.path)
        self.convergence = Convergence(self.store, self.backend, self.clock, run_at_once, lambda: 0.5)
        self.accepted = AcceptedHostMaps(self.store, self.convergence, run_at_once)
        self.convergence.start()

    def kill(self) -> None:
        """The process ends between two steps: nothing more is done with these objects."""
        self.store.close()
        self.clock = Clock()
        if self.backend.held:
            # A change that was handed to the server, and of which nobody will hear.
            self.backend = StubbornBackend()

    def connect(self, origin: Origin = HERE) -> None:
        result_of(self.accepted.connected(origin, self.report))

    async def report(self, state: HostMapState) -> None:
        if self.deaf:
            raise CallTimedOut("no answer")
        self.reported.append(state)

    def change(
        self,
        upserts: Sequence[HostMap] = (),
        removals: Sequence[Identifier] = (),
        subnet: str = "subnet-1",
        cidr: str = "192.0.2.0/24",
        request_ids: Sequence[str] = (),
    ) -> int:
        since = self.generations.get(subnet, 0)
        wanted = self.sets.setdefault(subnet, {})
        for identifier in removals:
            wanted.pop(identifier, None)
        wanted.update((one.identifier, one) for one in upserts)
        accepted = result_of(
            self.accepted.apply_host_maps(
                HERE.history, subnet, cidr, since, since + 1, digest_of(wanted.values()), upserts, removals, request_ids
            )
        )
        self.generations[subnet] = accepted
        return accepted

    def state(self, subnet: str = "subnet-1") -> HostMapState:
        return [state for state in self.reported if state.subnet == subnet][-1]

    def applied(self, subnet: str = "subnet-1") -> int:
        return next(record.applied_generation for record in self.store.subnets() if record.subnet == subnet)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "accepted" / "store.sqlite")
    made.connect()
    yield made
    made.store.close()
