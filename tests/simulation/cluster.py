"""A cluster controller: a disk and a DHCP server that outlive clusterd, and one life of clusterd after the other."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.convergence.convergence import Convergence
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.protocol.values import Identifier, InterfaceReport
from clusterd.region_link.connection import Introduction, Region, RegionConnection
from clusterd.region_link.lease_answers import LeaseAnswers
from clusterd.topology.reporter import TopologyReporter
from tests.fakes.prober import FakeProber
from tests.simulation.dhcp_server import DhcpServer, SimulatedBackend
from tests.simulation.disk import Disk, Killed
from tests.simulation.steps import Process, Steps
from tests.simulation.wire import Wire

T = TypeVar("T")

Dial = Callable[["Cluster", Any, "Deferred[Any]"], None]


class Cluster:
    """`networks` are the interfaces that the kernel has. `dial` makes a connection to the region, or fails."""

    def __init__(self, name: str, steps: Steps, random: Random, dial: Dial) -> None:
        self.name = name
        self.server = DhcpServer(name)
        self.disk = Disk()
        self.networks: tuple[InterfaceReport, ...] = ()
        self.clock = Clock()
        self.process = Process()
        self.process.alive = False
        self.wire: Wire | None = None
        self._steps = steps
        self._random = random
        self._dial = dial
        self.ever_rejected: set[Identifier] = set()
        self._former: list[object] = []  # what is left of former lives is not collected in the middle of a story

    @property
    def thread(self) -> str:
        """The queue of the store's thread."""
        return f"{self.name} thread"

    # ---- a life of clusterd ----

    def start(self) -> None:
        self.process, self.clock = Process(), Clock()
        self.store = self.disk.open()
        backend = SimulatedBackend(self.server, self._steps, self.process, self.clock)
        convergence = Convergence(self.store, backend, self.clock, self._run_in_thread, self._random.random)
        accepted = AcceptedHostMaps(self.store, convergence, self._run_in_thread)
        connection = RegionConnection(
            self.clock,
            [Region("the region", _Endpoint(self, self._dial))],
            Introduction(self.name, self.name, "1", backend.name),
            accepted,
            LeaseAnswers(backend),
            lambda: reporter.refresh(),
            self._random.random,
            FakeProber().probe,
        )
        kernel = _Kernel()
        reporter = TopologyReporter(self.clock, kernel.watch, self._look, connection.report_topology)
        self._kernel = kernel
        self.accepted = accepted
        self._former.append((convergence, accepted, connection, reporter))
        convergence.start()
        reporter.start()
        connection.startService()

    def kill(self) -> None:
        """As `kill -9`, wherever it is."""
        self.process.alive = False
        self.disk.process_ended()
        if self.wire is not None:
            self._former.append(self.wire)
            self.wire.process_ended(self.process)
            self.wire = None

    def has_networks(self, *networks: InterfaceReport) -> None:
        """The kernel's interfaces change."""
        self.networks = networks
        if self.process.alive:
            self._kernel.changed()

    async def _look(self) -> tuple[InterfaceReport, ...]:
        await self._turn(f"{self.name} kernel")
        return self.networks

    async def _turn(self, queue: str) -> None:
        await self._steps.turn(queue, self.process)

    def _run_in_thread(self, work: Callable[[], T], /) -> Awaitable[T]:
        answer: Deferred[T] = Deferred()

        def run() -> None:
            try:
                result: Any = work()
            except Killed:
                self.kill()
                return
            except Exception:
                result = Failure()
            # The thread goes on with its next work, whether or not the reactor has taken this answer.
            self._steps.add(f"{self.name} thread's answers", lambda: answer.callback(result), self.process)

        self._steps.add(self.thread, run, self.process)
        return answer


class _Kernel:
    """Announces changes of interfaces to whoever watches."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None

    def watch(self, changed: Callable[[], None]) -> "_Kernel":
        self.changed = changed
        return self

    def stop(self) -> None:
        self.changed = lambda: None


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, cluster: Cluster, dial: Dial) -> None:
        self._cluster = cluster
        self._dial = dial

    def connect(self, protocolFactory: Any) -> "Deferred[Any]":
        connected: Deferred[Any] = Deferred()
        self._dial(self._cluster, protocolFactory, connected)
        return connected


def refused() -> Failure:
    return Failure(ConnectError())
