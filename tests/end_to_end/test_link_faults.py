"""What befalls the link of an enrolled cluster, on real parts: everything converges afterwards, and DHCP never stops.

Region and cluster controller are in namespaces of their own with a cable between them; the cluster enrolled with the
printed command. In each story addresses are claimed and released before, during and after a fault, while a machine asks
for its address all the time.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.asker import Asker
from tests.lab.clients import missing_clients, udhcpc
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer, dnsmasq
from tests.lab.uplink import REGION_ADDRESS, Uplink, missing_filter, uplink
from tests.requirements import need

pytestmark = pytest.mark.namespaces

SUBNET = "192.0.2.0/24"
MAC = "00:16:3e:aa:00:01"  # of the clients' NIC
ASKING_MAC = "00:16:3e:aa:00:02"
NOTICED_SECONDS = 80.0  # half a minute until the next ping, and 10 s for its answer, on a machine that has the time
LONGEST_GAP_SECONDS = 4.0  # then a client asks again (RFC 2131, 4.1)
DAY = timedelta(days=1)

macs = (f"00:16:3e:bb:{number >> 8:02x}:{number & 255:02x}" for number in count())


@dataclass(slots=True)
class Site:
    """Everything there is, running and converged."""

    network: Network
    cable: Uplink
    region: Region
    cluster: Cluster
    server: DnsmasqServer
    asking: str = ""  # the address of ASKING_MAC
    held: str = ""  # and of MAC

    @property
    def api(self) -> Api:
        return self.region.api

    def claim(self, mac: str, wait: float) -> Any:
        body = {"macs": [mac], "interface": SUBNET}
        return self.api.post(f"devices?wait={wait}", body)["reservations"][0]

    def is_connected(self) -> bool:
        return bool(self.api.get("clusters")[0]["connected"])


@dataclass(slots=True)
class Story:
    """What is claimed and released around one fault."""

    site: Site
    served: dict[str, str] = field(default_factory=dict)  # MAC → address, as it has to be at the end
    released: list[tuple[str, str]] = field(default_factory=list)  # MAC and reservation
    _devices: list[tuple[str, Any]] = field(default_factory=list)  # to be released one by one

    def before(self) -> None:
        """Three devices, all served."""
        for _ in range(3):
            self.claim()

    def claim(self) -> None:
        """A device that is served before anything else happens."""
        mac = next(macs)
        claimed = self.site.claim(mac, 20)
        assert claimed["host_map"]["state"] == "applied"
        self.served[mac] = claimed["address"]
        self._devices.append((mac, claimed))

    def change(self) -> str:
        """One claim and one release, nothing waited for; the state of the claimed host map right after."""
        mac, device = self._devices.pop()
        self.site.api.delete(f"devices/{device['device']}", 202)
        del self.served[mac]
        self.released.append((mac, device["id"]))
        mac = next(macs)
        claimed = self.site.claim(mac, 0)
        self.served[mac] = claimed["address"]
        return str(self.site.api.get(f"reservations/{claimed['id']}")["host_map"]["state"])

    def serves_on(self) -> None:
        """A real client gets its address now."""
        assert udhcpc(self.site.network) == self.site.held

    def arrives(self, seconds: float = 90.0) -> None:
        """Region, cluster and DHCP server come to agree, and real answers say so."""
        eventually(self._is_all_there, "converged after the fault", seconds)
        with RawClient4(self.site.network) as client:
            for mac, address in self.served.items():
                answer = client.obtain(mac, timeout=2.0)
                assert answer is not None and answer.address == address
            assert [mac for mac, _ in self.released if client.discover(mac) is not None] == []

    def _is_all_there(self) -> bool:
        (cluster,) = self.site.api.get("clusters")
        rows = [row for row in cluster["subnets"] if row["cidr"] == SUBNET]
        wanted = [row["desired_generation"] for row in rows]
        return (
            cluster["connected"]
            and [row["accepted_generation"] for row in rows] == wanted
            and [row["applied_generation"] for row in rows] == wanted
            and all(self._is_confirmed(reservation) for _, reservation in self.released)
        )

    def _is_confirmed(self, reservation: str) -> bool:
        waits_for = self.site.api.get(f"reservations/{reservation}")["waits_for"]
        return bool(waits_for and waits_for[0].startswith("the release hold"))


@pytest.fixture(scope="module")
def site(module_state_directory: Path) -> Iterator[Site]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle() or missing_filter()
    need(obstacle is None, str(obstacle))
    directory = module_state_directory / "link-faults"
    (directory / "dnsmasq").mkdir(parents=True)
    directory.chmod(0o711)
    with namespaces.network() as network, uplink(network) as cable, dnsmasq(network, directory / "dnsmasq") as server:
        network.set_client_mac(MAC)
        region = Region(directory, clusters=[f"tcp:{REGION_ADDRESS}:5250"], namespace=cable.region)
        dhcp = f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'
        cluster = Cluster(directory, None, namespace=network.server, dhcp=dhcp)
        try:
            region.up()
            joined = cluster.join(region.ctl("clusters", "enrol", cluster.name))
            assert joined.returncode == 0, joined.stderr
            cluster.up()
            cluster.wait_for("contact.reported")  # before, nothing can be claimed there
            made = Site(network, cable, region, cluster, server)
            eventually(lambda: len(made.api.get("cluster-interfaces")) == 3, "the topology at the region")
            made.asking = made.claim(ASKING_MAC, 10)["address"]
            made.held = made.claim(MAC, 10)["address"]
            yield made
        finally:
            cluster.stop()
            region.stop()


@contextmanager
def story(site: Site) -> Iterator[Story]:
    """A story, begun and brought to its end; DHCP answers all the time and by the same process."""
    told = Story(site)
    process = site.server.identity
    with Asker(site.network, ASKING_MAC, site.asking) as asker:
        told.before()
        yield told
        told.serves_on()
        told.change()
        told.arrives()
    assert asker.answers > 10 and asker.wrong == []
    assert asker.longest_gap < LONGEST_GAP_SECONDS
    assert site.server.identity == process


def test_the_nic_of_the_link_goes_down(site: Site) -> None:
    with story(site) as told:
        site.cable.cut()
        try:
            assert told.change() == "pending"
            told.serves_on()
        finally:
            site.cable.mend()


def test_the_address_of_the_link_is_taken_away(site: Site) -> None:
    with story(site) as told:
        site.cable.take_address()
        try:
            assert told.change() == "pending"
            told.serves_on()
        finally:
            site.cable.give_address()


def test_three_of_ten_packets_are_lost(site: Site) -> None:
    with story(site) as told:
        site.cable.lose(30)
        try:
            told.change()
            told.serves_on()
            site.region.kill()  # so that the whole way in, handshakes and all, is gone under these conditions
            site.region.up()
            eventually(site.is_connected, "connected while packets are lost", 60)
            for _ in range(5):
                told.claim()
            assert site.cable.lost() > 5
        finally:
            site.cable.lose(0)


def test_a_half_open_link_is_noticed_on_both_sides(site: Site) -> None:
    with story(site) as told:
        logs = [(site.region, site.region.log.stat().st_size), (site.cluster, site.cluster.log.stat().st_size)]
        began = datetime.now(UTC)
        site.cable.lose(100)
        try:
            assert told.change() == "pending"
            told.serves_on()
            for daemon, offset in logs:
                line = daemon.wait_for("link.silent", offset)
                assert (datetime.fromisoformat(line["time"]) - began).total_seconds() < NOTICED_SECONDS
        finally:
            site.cable.lose(0)


def test_the_region_is_killed(site: Site) -> None:
    with story(site) as told:
        told.change()
        site.region.kill()
        told.serves_on()
        site.region.up()


def test_the_cluster_is_killed(site: Site) -> None:
    with story(site) as told:
        told.change()
        site.cluster.kill()
        told.serves_on()
        eventually(lambda: not site.is_connected(), "the cluster seen as away")
        assert told.change() == "pending"
        site.cluster.start("clusterd.started")


def test_both_are_killed(site: Site) -> None:
    with story(site) as told:
        told.change()
        site.cluster.kill()
        site.region.kill()
        told.serves_on()
        site.cluster.start("clusterd.started")
        told.serves_on()
        site.region.up()


@pytest.mark.parametrize("days", [1, -1])
def test_the_clusters_clock_is_a_day_off(site: Site, days: int) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    need(library is not None, "faketime is not installed")
    with story(site) as told:
        site.cluster.stop()
        offset = site.cluster.log.stat().st_size
        site.cluster.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME": f"{days:+d}d",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        try:
            site.cluster.start("clusterd.started")
            told.change()
            told.arrives()
        finally:
            site.cluster.environment = {}
        line = site.cluster.wait_for("clusterd.started", offset)
        assert abs(datetime.fromisoformat(line["time"]) - datetime.now(UTC) - days * DAY) < timedelta(minutes=5)
        site.cluster.stop()
        site.cluster.start("clusterd.started")
