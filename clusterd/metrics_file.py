"""What this clusterd counts, in a file for node_exporter's textfile collector: no port is open for it.

The file is replaced every 15 s, so that its age (`node_textfile_mtime_seconds`) tells that clusterd lives.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.daemon.counting import STALL_SECONDS, Distribution
from clusterd.daemon.metric_families import Families, Family
from clusterd.daemon.stalls import StallWatch
from clusterd.dhcp.host_system import RunInThread, replace_file
from clusterd.standing import Standing

EVERY_SECONDS: Final = 15.0

# The process's own have this prefix, too: node_exporter has some of the plain names itself.
PREFIX: Final = "hostmap_cluster"
METRICS: Final = {
    "hostmap_cluster_info": Family("gauge", "always 1; what this clusterd is", ("cluster", "backend", "version")),
    "hostmap_cluster_registered": Family("gauge", "1 while there is a connection to the region"),
    "hostmap_cluster_registrations": Family("counter", "connections to the region since the start"),
    "hostmap_cluster_subnets": Family("gauge", "subnets that are held: all, pending (something to apply)", ("state",)),
    "hostmap_cluster_host_maps": Family("gauge", "host maps: accepted, refused (by the DHCP server)", ("state",)),
    "hostmap_cluster_dhcp_server_failures": Family("gauge", "failures in a row to bring host maps to the DHCP server"),
    "hostmap_cluster_reactor_stall_seconds": Family("histogram", "how late the reactor was, ten times a second"),
}


class MetricsFile(Collector):
    """Writes the file from `start` to `stop`. `registered` tells whether, and how often."""

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        path: Path,
        run_in_thread: RunInThread,
        who: tuple[str, str],
        registered: Callable[[], tuple[bool, int]],
        standing: Callable[[], Standing],
    ) -> None:
        """`who`: the cluster's name and the backend's."""
        self._path = path
        self._run_in_thread = run_in_thread
        self._who = who
        self._registered = registered
        self._standing = standing
        self._stall_seconds = Distribution(STALL_SECONDS)
        self._stalls = StallWatch(clock, self._stall_seconds.observe)
        self._said: str | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX, registry=self._registry)
        self._loop = LoopingCall(self._write)
        self._loop.clock = clock
        self._idle: Deferred[Any] | None = None

    def start(self) -> None:
        self._stalls.start()
        self._idle = self._loop.start(EVERY_SECONDS)

    async def stop(self) -> None:
        """Return when nothing is being written. The file stays as it is, and grows old."""
        self._stalls.stop()
        self._loop.stop()
        if self._idle is not None:
            await self._idle

    def describe(self) -> list[Metric]:
        return _FAMILIES.described()

    def collect(self) -> Iterator[Metric]:
        make, now = _FAMILIES, self._standing()
        registered, times = self._registered()
        yield make.gauge("hostmap_cluster_info", {(*self._who, version("hostmap")): 1})
        yield make.gauge("hostmap_cluster_registered", int(registered))
        yield make.counter("hostmap_cluster_registrations", times)
        yield make.gauge("hostmap_cluster_subnets", {("all",): now.subnets, ("pending",): now.subnets_pending})
        yield make.gauge("hostmap_cluster_host_maps", {("accepted",): now.host_maps, ("refused",): now.refused})
        yield make.gauge("hostmap_cluster_dhcp_server_failures", now.failures)
        yield make.histogram("hostmap_cluster_reactor_stall_seconds", self._stall_seconds)

    def _write(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self._written()).addErrback(self._failed)

    async def _written(self) -> None:
        content = generate_latest(self._registry)
        try:
            await self._run_in_thread(lambda: replace_file(self._path, content))
            self._said = None
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._said:  # once, and not every 15 s
                self._said = reason
                self._log.warn(
                    "metrics cannot be written to {path}: {reason}",
                    event="metrics.not-written",
                    path=str(self._path),
                    reason=reason,
                )

    def _failed(self, failure: Failure) -> None:
        self._log.failure("metrics were not written", failure, event="metrics.failed-here")


_FAMILIES: Final = Families(METRICS)
