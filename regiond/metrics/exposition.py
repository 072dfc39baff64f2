"""All metrics in Prometheus' text format, as of now. Those of the process are prometheus-client's own."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from clusterd.daemon.metric_families import Families, Values
from regiond.metrics.families import METRICS
from regiond.metrics.measurements import Measurements
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, PoolStats
from regiond.storage.progress_counts import ProgressCounts

FRESH_SECONDS = 5.0


class Clock(Protocol):
    """Monotonic seconds; a reactor is one."""

    def seconds(self) -> float: ...


class HasConnections(Protocol):
    """ApiSite, as far as it is needed here."""

    @property
    def in_flight(self) -> int: ...

    @property
    def connections(self) -> Sequence[Any] | frozenset[Any]: ...


@dataclass(frozen=True, slots=True)
class Sources:
    """Who is asked at each scrape."""

    pools: Mapping[str, Callable[[], PoolStats]]
    waiting: Callable[[], int]
    connected: Callable[[], int]
    followers: Callable[[], int]
    counts: Callable[[], Awaitable[ProgressCounts]]


class Exposition(Collector):
    """See the module. `sites` are the listeners whose connections are counted."""

    def __init__(self, clock: Clock, measured: Measurements, sources: Sources) -> None:
        self.sites: list[HasConnections] = []
        self._clock = clock
        self._measured = measured
        self._sources = sources
        self._known: tuple[float, ProgressCounts] | None = None
        self._counts: ProgressCounts | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def text(self) -> bytes:
        """What a scrape is answered. Without the database what only that knows is left out."""
        now = self._clock.seconds()
        if self._known is None or now - self._known[0] >= FRESH_SECONDS:
            try:
                self._known = (now, await self._sources.counts())
            except (DatabaseUnavailable, ConnectionLost):
                self._known = None
        self._counts = None if self._known is None else self._known[1]
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Names alone: the registry needs no values to tell collectors apart."""
        return _FAMILIES.described()

    def collect(self) -> Iterator[Metric]:
        """Everything but the process's own."""
        make, measured, sources = _FAMILIES, self._measured, self._sources
        yield make.gauge("hostmap_info", {(version("hostmap"),): 1})
        yield make.counter("hostmap_http_requests", measured.requests.values)
        yield make.histogram("hostmap_http_request_seconds", measured.request_seconds)
        yield make.gauge("hostmap_http_connections", sum(len(site.connections) for site in self.sites))
        yield make.gauge("hostmap_http_requests_in_flight", sum(site.in_flight for site in self.sites))
        yield make.gauge("hostmap_events_followers", sources.followers())
        yield make.counter("hostmap_claims", measured.claims.values)
        yield make.histogram("hostmap_claim_seconds", measured.claim_seconds)
        yield make.histogram("hostmap_batch_seconds", measured.batch_seconds)
        yield make.histogram("hostmap_batch_mutations", measured.batch_mutations)
        yield make.gauge("hostmap_writer_waiting", sources.waiting())
        yield from self._pools()
        yield make.gauge("hostmap_clusters_connected_here", sources.connected())
        yield make.histogram("hostmap_reactor_stall_seconds", measured.reactor_stall_seconds)
        yield from self._progress()

    def _pools(self) -> Iterator[Metric]:
        make = _FAMILIES
        stats = {name: ask() for name, ask in self._sources.pools.items()}
        states: Values = {
            (name, state): getattr(one, state) for name, one in stats.items() for state in ("idle", "lent")
        }
        yield make.gauge("hostmap_database_connections", states)
        yield make.gauge("hostmap_database_waiting", {(name,): one.waiting for name, one in stats.items()})
        for metric, field in (
            ("hostmap_database_connects", "connects"),
            ("hostmap_database_connect_failures", "connect_failures"),
            ("hostmap_database_connections_lost", "deaths"),
            ("hostmap_database_retries", "retries"),
            ("hostmap_database_deadlines", "deadlines"),
        ):
            yield make.counter(metric, {(name,): getattr(one, field) for name, one in stats.items()})

    def _progress(self) -> Iterator[Metric]:
        make, counts = _FAMILIES, self._counts
        yield make.gauge("hostmap_database_up", int(counts is not None))
        if counts is None:
            return
        clusters = {"all": counts.clusters, "connected": counts.clusters_connected, "pending": counts.clusters_pending}
        yield make.gauge("hostmap_clusters", {(state,): number for state, number in clusters.items()})
        deliveries: Values = {
            ("applied",): counts.deliveries_applied,
            ("pending",): counts.deliveries_pending,
            ("failed",): counts.deliveries_failed,
        }
        yield make.gauge("hostmap_deliveries", deliveries)
        yield make.gauge("hostmap_delivery_oldest_pending_seconds", counts.oldest_pending_seconds)
        maps: Values = {("pending",): counts.host_maps_pending, ("failed",): counts.host_maps_failed}
        yield make.gauge("hostmap_host_maps", maps)


_FAMILIES: Final = Families(METRICS)
