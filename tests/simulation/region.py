"""A region: tables that outlive regiond, and one life of regiond after the other."""

from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.identify import identify_plain
from regiond.cluster_rpc.links import ClusterLinkFactory
from regiond.cluster_rpc.listeners import Listeners
from regiond.domain.ids import NewId
from regiond.domain.mutations import Mutation, Outcome
from regiond.host_map_dispatch.arrivals import ClusterArrivals
from regiond.host_map_dispatch.dispatch import HostMapDispatch
from regiond.host_map_dispatch.record import Record
from regiond.storage.reads import RegionIdentity
from regiond.sweeps import Sweeps
from tests.fakes.hearing import FakeHearing
from tests.regiond.site import HeardContacts
from tests.simulation.database import Database, SimulatedStorage
from tests.simulation.steps import Process, Steps


class OnePast(FakeHearing):
    """The region's database never goes back here: whoever believes that it did is wrong."""

    async def begin(self, reason: str, of_history: str | None) -> None:
        raise AssertionError(f"a recovery began: {reason}")


async def nothing() -> None:
    """Sweeps for databases that went back, and for what is long gone."""


class Region:
    """`links` makes the region's end of a connection while it is up."""

    def __init__(self, database: Database, steps: Steps, random: Random, new_id: NewId) -> None:
        self.database = database
        self.clock = Clock()
        self.process = Process()
        self.process.alive = False
        self.identity = RegionIdentity("region-1", "history-1")
        self._steps = steps
        self._random = random
        self._new_id = new_id
        self._former: list[object] = []

    def start(self) -> None:
        self.process, self.clock = Process(), Clock()
        connections = Connections()
        storage = SimulatedStorage(
            self.database,
            self._steps,
            self._random,
            self.process,
            self._new_id,
            lambda subnets: dispatch.committed(subnets),
        )
        record, hearing = Record(storage, storage), OnePast()
        dispatch = HostMapDispatch(self.clock, connections, storage, storage, record, hearing, storage)
        arrivals = ClusterArrivals(
            self.clock, connections, storage, storage, record, hearing, self.identity.region, dispatch
        )
        self.links = ClusterLinkFactory(
            self.clock, self.identity, connections, Listeners(arrivals, dispatch, HeardContacts()), identify_plain
        )
        self._storage = storage
        sweeps = Sweeps(
            self.clock,
            storage,  # type: ignore[arg-type]
            storage,  # type: ignore[arg-type]
            dispatch.sweep,
            storage.drain_absent,
            storage.heartbeat,
            *[nothing] * 4,
        )
        self._former.append((dispatch, sweeps, self.links, storage))
        sweeps.start()

    def kill(self) -> None:
        """As `kill -9`, wherever it is. The caller ends its connections."""
        self.process.alive = False

    def submit(self, mutation: Mutation) -> "Deferred[Outcome]":
        """Through the writer of the regiond that is alive."""
        return Deferred.fromCoroutine(self._storage.submit(mutation))
