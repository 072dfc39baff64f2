"""What a scrape is answered by a region on a real database, and that OPERATING.md says the same of it."""

import re
from pathlib import Path
from typing import Any

import pytest_twisted
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor as global_reactor

from clusterd.daemon.metric_families import Family
from regiond.domain import errors
from regiond.domain.mutations import Actor, Claim, Mutation
from regiond.domain.reservations import Kind
from regiond.http.application import Application, Incoming
from regiond.metrics.exposition import FRESH_SECONDS, Exposition, Sources
from regiond.metrics.families import METRICS
from regiond.metrics.measurements import Measurements
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import PoolStats
from regiond.storage.progress_counts import ProgressCounts, progress_counts
from regiond.storage.writer import Writer
from tests.fakes.use_cases import FakeRegion
from tests.regiond.storage.region import new_id, region_on

reactor: Any = global_reactor

README = Path(__file__).parents[3] / "regiond" / "OPERATING.md"
ROW = re.compile(r"\| `(hostmap_(?!cluster_)\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|")
STATS = PoolStats(9, 1, 2, 3, 4, 8, 5, 3, 7)
COUNTS = ProgressCounts(3, 2, 1, 5, 1, 2, 12.5, 40, 6)
NETWORK = "10.9.0.0/16"


class Site:
    in_flight = 2
    connections = frozenset({"a", "b", "c"})


class Asked:
    """The database's answer, and how often it was asked for."""

    def __init__(self) -> None:
        self.times = 0
        self.error: Exception | None = None

    async def counts(self) -> ProgressCounts:
        self.times += 1
        if self.error is not None:
            raise self.error
        return COUNTS


class At:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def seconds(self) -> float:
        return self.now


def exposition(measured: Measurements, asked: Asked, clock: Any = None) -> Exposition:
    sources = Sources({"reading": lambda: STATS}, lambda: 11, lambda: 2, lambda: 4, asked.counts)
    made = Exposition(clock or At(), measured, sources)
    made.sites.append(Site())
    return made


def families(text: bytes) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(found: dict[str, Metric], sample: str, **labels: str) -> float:
    (one,) = [s for family in found.values() for s in family.samples if s.name == sample and s.labels == labels]
    return one.value


def test_the_table_in_the_readme() -> None:
    told = {
        name: Family(kind, meaning.strip(), tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, meaning in ROW.findall(README.read_text())
    }
    assert told == METRICS


@pytest_twisted.ensureDeferred
async def test_what_is_served_is_what_the_table_says() -> None:
    measured = Measurements()
    measured.answered("POST", "/api/v1/devices", 201, 0.004)
    measured.decided(Mutation(Actor(1, "a", True), (Claim(1, Kind.USER, 1, 1, "a"),), "r"), errors.NotFound("x"), 0.1)
    measured.committed(3, 0.02)
    found = families(await exposition(measured, Asked()).text())
    ours = {name: family for name, family in found.items() if name.startswith("hostmap_")}
    assert {name: (family.type, family.documentation) for name, family in ours.items()} == {
        name: (family.kind, family.meaning) for name, family in METRICS.items()
    }
    for name, family in ours.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(METRICS[name].labels), sample
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= set(found)
    assert value(found, "hostmap_http_requests_total", method="POST", route="/api/v1/devices", status="201") == 1
    assert value(found, "hostmap_claims_total", kind="user", outcome="not-found") == 1
    assert value(found, "hostmap_claim_seconds_bucket", le="0.1") == 1
    assert value(found, "hostmap_batch_mutations_sum") == 3
    assert value(found, "hostmap_http_connections") == 3
    assert value(found, "hostmap_http_requests_in_flight") == 2
    assert value(found, "hostmap_writer_waiting") == 11
    assert value(found, "hostmap_events_followers") == 4
    assert value(found, "hostmap_database_connections", pool="reading", state="idle") == 5
    assert value(found, "hostmap_clusters", state="pending") == 1
    assert value(found, "hostmap_host_maps", state="failed") == 6
    assert value(found, "hostmap_delivery_oldest_pending_seconds") == 12.5


@pytest_twisted.ensureDeferred
async def test_the_database_is_asked_now_and_then_and_may_be_away() -> None:
    asked, clock = Asked(), At()
    served = exposition(Measurements(), asked, clock)
    for _ in range(3):
        assert value(families(await served.text()), "hostmap_database_up") == 1
    assert asked.times == 1
    asked.error = DatabaseUnavailable("away")
    clock.now += FRESH_SECONDS
    found = families(await served.text())
    assert value(found, "hostmap_database_up") == 0
    assert not {"hostmap_clusters", "hostmap_deliveries", "hostmap_host_maps"} & set(found)
    assert value(found, "hostmap_writer_waiting") == 11
    asked.error = None
    assert value(families(await served.text()), "hostmap_database_up") == 1


@pytest_twisted.ensureDeferred
async def test_requests_are_counted_by_template_and_no_word_of_the_client_becomes_a_label() -> None:
    measured = Measurements()
    application = Application(reactor, FakeRegion().use_cases, measured=measured)
    for method, target in (
        ("GET", "/api/v1/devices/dv-0000000006"),
        ("HEAD", "/api/v1/devices/dv-0000000006?x=1"),
        ("GET", "/api/v1/made-up"),
        ("BREW", "/api/v1/devices"),
        ("OPTIONS", "/api/v1/devices"),
    ):
        await application.answer(Incoming(method, target, {"authorization": "Bearer admin"}, b"", local=False))
    assert measured.requests.values == {
        ("GET", "/api/v1/devices/{device}", "200"): 1,
        ("GET", "/api/v1/devices/{device}", "400"): 1,
        ("other", "none", "404"): 1,
        ("other", "none", "405"): 1,
        ("other", "none", "204"): 1,
    }


@pytest_twisted.ensureDeferred
async def test_claims_and_deliveries_of_a_real_region(database: str) -> None:
    measured = Measurements()
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", NETWORK)
        writer = Writer(reactor, region.pool, lambda _: None, measured)
        claim = Claim(new_id(), Kind.USER, subnet, region.owner, "tester")
        await writer.submit(Mutation(Actor(region.owner, "tester", True), (claim,), "r"))
        counts = await progress_counts(region.pool)
        assert (counts.clusters, counts.deliveries_applied, counts.deliveries_pending) == (1, 1, 0)
        await region.pool.execute("UPDATE subnet SET generation = generation + 1 WHERE id = %s", (subnet,))
        await region.pool.execute("UPDATE delivery SET error = 'no' WHERE cluster = %s", (cluster,))
        counts = await progress_counts(region.pool)
        assert (counts.deliveries_failed, counts.clusters_pending) == (1, 1)
        assert counts.oldest_pending_seconds > 0
        await writer.stop()
    assert measured.claims.values == {("user", "created"): 1}
    assert measured.batch_mutations.sum == 1
    assert measured.batch_seconds.sum > 0
