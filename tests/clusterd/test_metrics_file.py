"""The file for node_exporter: what is in it, when it is written, and that OPERATING.md says the same."""

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from twisted.internet.task import Clock

from clusterd.config import ClusterSettings
from clusterd.daemon.metric_families import Family
from clusterd.dhcp.host_system import run_at_once
from clusterd.metrics_file import EVERY_SECONDS, METRICS, MetricsFile
from clusterd.standing import Standing
from tests.clusterd.log_events import logged
from tests.finished import result_of

README = Path(__file__).parents[2] / "regiond" / "OPERATING.md"
ROW = re.compile(r"\| `(hostmap_cluster_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|")


class World:
    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.registered = (True, 3)
        self.standing = Standing(4, 1, 200, 2, 0)
        self.path = path
        self.file = MetricsFile(
            self.clock, path, run_at_once, ("rack-7", "dnsmasq"), lambda: self.registered, lambda: self.standing
        )

    def values(self) -> dict[tuple[str, str], float]:
        """By the name of the sample and the values of its labels; histograms are left out."""
        found = text_string_to_metric_families(self.path.read_text())
        return {
            (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in found
            for sample in family.samples
            if family.type != "histogram" and not sample.name.startswith("hostmap_cluster_process")
        }


def test_the_table_in_the_readme() -> None:
    told = {
        name: Family(kind, meaning.strip(), tuple(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, meaning in ROW.findall(README.read_text())
    }
    assert told == METRICS


def test_what_is_in_it(tmp_path: Path) -> None:
    world = World(tmp_path / "hostmap.prom")
    world.file.start()
    info = next(labels for name, labels in world.values() if name == "hostmap_cluster_info")
    assert info.startswith("dnsmasq,rack-7,")
    assert {key: value for key, value in world.values().items() if key[0] != "hostmap_cluster_info"} == {
        ("hostmap_cluster_registered", ""): 1,
        ("hostmap_cluster_registrations_total", ""): 3,
        ("hostmap_cluster_subnets", "all"): 4,
        ("hostmap_cluster_subnets", "pending"): 1,
        ("hostmap_cluster_host_maps", "accepted"): 200,
        ("hostmap_cluster_host_maps", "refused"): 2,
        ("hostmap_cluster_dhcp_server_failures", ""): 0,
    }
    families = {family.name: family for family in text_string_to_metric_families(world.path.read_text())}
    assert {name: (f.type, f.documentation) for name, f in families.items() if name in METRICS} == {
        name: (family.kind, family.meaning) for name, family in METRICS.items()
    }
    # node_exporter refuses a file with names that it has itself, process_cpu_seconds_total among them
    assert all(name.startswith("hostmap_cluster_") for name in families)
    assert "hostmap_cluster_process_open_fds" in families
    assert list(tmp_path.iterdir()) == [world.path]

    world.registered, world.standing = (False, 3), Standing(4, 4, 201, 2, 5)
    world.clock.advance(EVERY_SECONDS)
    values = world.values()
    assert values["hostmap_cluster_registered", ""] == 0
    assert values["hostmap_cluster_dhcp_server_failures", ""] == 5
    result_of(world.file.stop())
    assert world.clock.getDelayedCalls() == []


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    world = World(tmp_path / "missing" / "hostmap.prom")
    with logged() as events:
        world.file.start()
        world.clock.pump([EVERY_SECONDS] * 3)
        assert [event["event"] for event in events] == ["metrics.not-written"]
        world.path.parent.mkdir()
        world.clock.advance(EVERY_SECONDS)
        assert world.path.exists()
    assert len(events) == 1
    result_of(world.file.stop())


def test_by_default_there_is_none_and_its_name_is_one_that_is_read() -> None:
    assert ClusterSettings().metrics.file is None
    with pytest.raises(ValidationError, match=r"end in \.prom"):
        ClusterSettings.model_validate({"metrics": {"file": "/var/lib/metrics"}})
