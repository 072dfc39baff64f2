"""Daemons of two versions, as programs of their own, on real parts: the link, the database and the disk.

An older one is this tree's with the words of a record and no others (`older.py`).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.database import TestServer, run_in_reactor
from tests.end_to_end.daemons import Cluster, Daemon, Region, eventually
from tests.lab import namespaces
from tests.requirements import need
from tests.upgrades.later_schema import migrate_further

pytestmark = pytest.mark.namespaces

SUBNET = "2001:db8:0:1::/64"
LINK = "tcp:127.0.0.1:5250"


@dataclass(slots=True)
class Site:
    """A region on its own database, and a cluster that is enrolled with it; neither runs."""

    directory: Path
    region: Region
    cluster: Cluster
    dsn: str
    served: dict[str, str] = field(default_factory=dict)  # MAC → reservation
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def claim(self) -> None:
        """A device, served at once."""
        mac = f"00:16:3e:00:00:{next(self._numbers):02x}"
        answer = self.region.api.post("devices?wait=20", {"macs": [mac], "interface": SUBNET})
        (made,) = answer["reservations"]
        assert made["host_map"]["state"] == "applied", made
        self.served[mac] = made["device"]

    def release(self) -> None:
        """The first of the devices; returns when its host map is known to be gone."""
        mac = next(iter(self.served))
        device = self.served.pop(mac)
        (held,) = self.region.api.get(f"devices/{device}")["reservations"]
        self.region.api.delete(f"devices/{device}", 202)
        eventually(lambda: self._rests(held["id"]), "the removal confirmed")

    def _rests(self, reservation: str) -> bool:
        waits_for = self.region.api.get(f"reservations/{reservation}")["waits_for"]
        return bool(waits_for and waits_for[0].startswith("the release hold"))

    def serves(self) -> set[str]:
        """The MAC addresses in the DHCP server's file."""
        lines = (self.directory / "maps").read_text().splitlines()
        return {line.partition(",")[0] for line in lines if not line.startswith("#")}

    def go_on(self) -> None:
        """Claims and a release, as if nothing had happened."""
        self.claim()
        self.claim()
        self.release()
        assert self.serves() == set(self.served)

    def is_claimable(self) -> bool:
        """Whether all is known that has to be before an address is given away."""
        return any(subnet["cidr"] == SUBNET and subnet["claimable"] for subnet in self.region.api.get("subnets"))

    def leases(self) -> str:
        """What the region says of a command that came later."""
        (subnet,) = [each["id"] for each in self.region.api.get("subnets") if each["cidr"] == SUBNET]
        return str(self.region.api.get(f"subnets/{subnet}/leases")["clusters"])

    def is_connected(self) -> bool:
        return bool(self.region.api.get("clusters")[0]["connected"])


@pytest.fixture
def site(postgres: TestServer, tmp_path: Path) -> Iterator[Site]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    tmp_path.chmod(0o711)
    database = run_in_reactor(postgres.create)
    with namespaces.network() as network:
        dsn = postgres.dsn_for(database)
        region = Region(tmp_path, clusters=[LINK], dsn=dsn, namespace=network.server)
        dhcp = f'backend = "file"\nhosts_file = "{tmp_path / "maps"}"'
        cluster = Cluster(tmp_path, None, namespace=network.server, dhcp=dhcp)
        try:
            yield Site(tmp_path, region, cluster, dsn)
        finally:
            cluster.stop()
            region.stop()
    run_in_reactor(lambda: postgres.drop(database))


def make_older(daemon: Daemon, record: str) -> None:
    daemon.program = (sys.executable, "-m", "tests.upgrades.older", record)


def upgrade(daemon: Daemon, like: Daemon) -> None:
    """It runs on as a program of today."""
    daemon.stop()
    daemon.program = like.program


def enrol(site: Site) -> None:
    joined = site.cluster.join(site.region.ctl("clusters", "enrol", site.cluster.name))
    assert joined.returncode == 0, joined.stderr


def no_bug(*daemons: Daemon) -> None:
    lines: list[Any] = [line for daemon in daemons for line in daemon.lines()]
    assert [line for line in lines if "traceback" in line or line["level"] in ("error", "critical")] == []


def test_a_region_serves_an_older_clusterd_until_that_is_upgraded_too(site: Site) -> None:
    make_older(site.cluster, "enrolment")
    site.region.up()
    enrol(site)
    site.cluster.start("topology.reported")
    eventually(site.is_claimable, "its networks known")
    site.go_on()
    assert "older version" in site.leases()
    site.region.stop()
    site.region.up()
    eventually(site.is_connected, "connected again")
    site.go_on()
    upgrade(site.cluster, site.region)
    assert site.serves() == set(site.served), "DHCP goes on while it is upgraded"
    site.cluster.start("contact.reported")
    assert "older version" not in site.leases()
    site.go_on()
    no_bug(site.region, site.cluster)


def test_a_clusterd_goes_on_with_an_older_region_until_that_is_upgraded_too(site: Site) -> None:
    make_older(site.region, "enrolment")
    site.region.up()
    enrol(site)
    site.cluster.start("topology.reported")
    eventually(site.is_claimable, "its networks known")
    site.go_on()
    before = site.cluster.log.stat().st_size
    upgrade(site.region, site.cluster)
    site.region.up()
    site.cluster.wait_for("contact.reported", before)  # which only the region of today asks for
    site.go_on()
    no_bug(site.region, site.cluster)


def test_a_regiond_works_on_beside_a_newer_one_and_its_schema(site: Site) -> None:
    site.region.up()
    enrol(site)
    site.cluster.start("contact.reported")
    eventually(site.is_claimable, "its networks known")
    site.go_on()
    newest = migrate_further(site.dsn)
    site.go_on()
    site.region.stop()
    offset = site.region.log.stat().st_size
    site.region.up()  # restarted before it is its turn to be upgraded
    assert site.region.wait_for("schema.newer", offset)["migration"] == newest
    eventually(site.is_connected, "connected again")
    site.go_on()
    no_bug(site.region, site.cluster)
