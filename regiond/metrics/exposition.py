"""All metrics in Prometheus' text format, as of now. Those of the process are prometheus-client's own."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from regiond.metrics.families import METRICS
from regiond.metrics.instruments import Distribution
from regiond.metrics.measurements import Measurements
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, PoolStats
from regiond.storage.progress_counts import ProgressCounts

FRESH_SECONDS = 5.0

Values = Mapping[tuple[str, ...], float]


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
        return [Metric(name, family.meaning, family.kind) for name, family in METRICS.items()]

    def collect(self) -> Iterator[Metric]:
        """Everything but the process's own."""
        measured, sources = self._measured, self._sources
        yield _gauge("hostmap_info", {(version("hostmap"),): 1})
        yield _counter("hostmap_http_requests", measured.requests.values)
        yield _histogram("hostmap_http_request_seconds", measured.request_seconds)
        yield _gauge("hostmap_http_connections", {(): sum(len(site.connections) for site in self.sites)})
        yield _gauge("hostmap_http_requests_in_flight", {(): sum(site.in_flight for site in self.sites)})
        yield _counter("hostmap_claims", measured.claims.values)
        yield _histogram("hostmap_claim_seconds", measured.claim_seconds)
        yield _histogram("hostmap_batch_seconds", measured.batch_seconds)
        yield _histogram("hostmap_batch_mutations", measured.batch_mutations)
        yield _gauge("hostmap_writer_waiting", {(): sources.waiting()})
        yield from self._pools()
        yield _gauge("hostmap_clusters_connected_here", {(): sources.connected()})
        yield _histogram("hostmap_reactor_stall_seconds", measured.reactor_stall_seconds)
        yield from self._progress()

    def _pools(self) -> Iterator[Metric]:
        stats = {name: ask() for name, ask in self._sources.pools.items()}
        states: Values = {
            (name, state): getattr(one, state) for name, one in stats.items() for state in ("idle", "lent")
        }
        yield _gauge("hostmap_database_connections", states)
        yield _gauge("hostmap_database_waiting", {(name,): one.waiting for name, one in stats.items()})
        for metric, field in (
            ("hostmap_database_connects", "connects"),
            ("hostmap_database_connect_failures", "connect_failures"),
            ("hostmap_database_connections_lost", "deaths"),
            ("hostmap_database_retries", "retries"),
            ("hostmap_database_deadlines", "deadlines"),
        ):
            yield _counter(metric, {(name,): getattr(one, field) for name, one in stats.items()})

    def _progress(self) -> Iterator[Metric]:
        counts = self._counts
        yield _gauge("hostmap_database_up", {(): int(counts is not None)})
        if counts is None:
            return
        clusters = {"all": counts.clusters, "connected": counts.clusters_connected, "pending": counts.clusters_pending}
        yield _gauge("hostmap_clusters", {(state,): number for state, number in clusters.items()})
        deliveries: Values = {
            ("applied",): counts.deliveries_applied,
            ("pending",): counts.deliveries_pending,
            ("failed",): counts.deliveries_failed,
        }
        yield _gauge("hostmap_deliveries", deliveries)
        yield _gauge("hostmap_delivery_oldest_pending_seconds", {(): counts.oldest_pending_seconds})
        maps: Values = {("pending",): counts.host_maps_pending, ("failed",): counts.host_maps_failed}
        yield _gauge("hostmap_host_maps", maps)


def _gauge(name: str, values: Values) -> Metric:
    family = GaugeMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _counter(name: str, values: Values) -> Metric:
    family = CounterMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(name: str, observed: Distribution) -> Metric:
    family = HistogramMetricFamily(name, METRICS[name].meaning)
    family.add_metric([], observed.cumulative(), observed.sum)
    return family
