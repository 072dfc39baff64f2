"""A region: tables that outlive regiond, and one life of regiond after the other."""

from random import Random

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.identify import identify_plain
from regiond.cluster_rpc.links import ClusterLinkFactory
from regiond.cluster_rpc.listeners import Listeners
from regiond.domain.ids import NewId
from regiond.domain.mutations import Mutation, Outcome
from regiond.hearing import Hearing
from regiond.host_map_dispatch.arrivals import ClusterArrivals
from regiond.host_map_dispatch.dispatch import HostMapDispatch
from regiond.host_map_dispatch.record import Record
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import RegionIdentity
from regiond.sweeps import Sweeps
from regiond.witness import Witness
from tests.regiond.site import HeardContacts
from tests.simulation.database import Database, SimulatedStorage
from tests.simulation.recovery import SimulatedRecovery, WitnessMemory
from tests.simulation.steps import Process, Steps


async def nothing() -> None:
    """The sweep for what is long gone."""


class Region:
    """`links` makes its end of a connection while it is open: up, and sure that its database did not go back."""

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
        self.is_open = False
        self.witness = WitnessMemory()

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
        recoveries = SimulatedRecovery(self.database.tables, self._new_id, storage.done)
        self._recoveries = recoveries
        record, hearing = Record(storage, storage), Hearing(self.clock, recoveries)
        dispatch = HostMapDispatch(self.clock, connections, storage, storage, record, hearing, storage)
        arrivals = ClusterArrivals(
            self.clock, connections, storage, storage, record, hearing, self.identity.region, dispatch
        )
        self.links = ClusterLinkFactory(
            self.clock, self.identity, connections, Listeners(arrivals, dispatch, HeardContacts()), identify_plain
        )
        self._storage = storage
        witness = Witness(self.witness, self.identity.region, recoveries, hearing.begin_anew)
        sweeps = Sweeps(
            self.clock,
            storage,  # type: ignore[arg-type]
            storage,  # type: ignore[arg-type]
            dispatch.sweep,
            storage.drain_absent,
            storage.heartbeat,
            hearing.settle,
            witness.beat,
            *[nothing] * 3,
        )
        self._former.append((dispatch, sweeps, self.links, storage))
        self.is_open = False
        Deferred.fromCoroutine(self._open(self.process, witness, sweeps)).addErrback(self._failed)

    async def _open(self, process: Process, witness: Witness, sweeps: Sweeps) -> None:
        await witness.beat()
        if process.alive:
            self.is_open = True
            sweeps.start()

    def _failed(self, failure: Failure) -> None:
        """As regiond ends when it cannot start; whoever watches over it starts it again."""
        failure.trap(DatabaseUnavailable)
        self.kill()

    def kill(self) -> None:
        """As `kill -9`, wherever it is. The caller ends its connections."""
        self.process.alive = False
        self.is_open = False

    def submit(self, mutation: Mutation) -> "Deferred[Outcome]":
        """Through the writer of the regiond that is alive."""
        return Deferred.fromCoroutine(self._storage.submit(mutation))

    def end_waiting(self) -> None:
        """An admin's request, of whom nobody tells how it ended."""
        Deferred.fromCoroutine(self._recoveries.end_waiting()).addErrback(lambda f: f.trap(DatabaseUnavailable))
