"""Hostile peers at the doors of a real regiond: refused by name in the log, memory and descriptors bounded.

An honest cluster is served meanwhile.

What each kind of wrong certificate is told is `tests/clusterd/daemon/test_mutual_tls.py`, replayed tokens and signing
requests are `tests/regiond/use_cases/test_enrolment.py`, and boxes in great numbers `tests/fuzz`.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import pytest
from OpenSSL import SSL

from clusterd.daemon.mutual_tls import Credentials, enrolling_context
from clusterd.region_link.identity import IdentityFile
from regiond.certificates import Authority, load_authority
from tests import certificates
from tests.clusterd.daemon.test_mutual_tls import own_context
from tests.database import TestServer, run_in_reactor
from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.end_to_end.hostile import Stranger, hello
from tests.lab import namespaces
from tests.requirements import need

pytestmark = pytest.mark.namespaces

SUBNET = "2001:db8:0:1::/64"
LINK, ENROLMENT = 5250, 5251
HALF_DONE = 600
FEW_DESCRIPTORS = 400  # the limit that regiond is started with, and may raise
MORE_MEMORY_MB = 20.0

macs = (f"00:16:3e:cc:{number >> 8:02x}:{number & 255:02x}" for number in count())


@dataclass(slots=True)
class Site:
    """A region with both doors open, and an honest cluster."""

    directory: Path
    region: Region
    cluster: Cluster
    stranger: Stranger
    authority: Authority  # the region's own, with its key

    def other_cluster(self, name: str) -> Cluster:
        """One more that has enrolled."""
        inside = self.stranger.namespace
        made = Cluster(self.directory, None, name, namespace=inside, nics=["none"], dhcp=files(self.directory, name))
        joined = made.join(self.region.ctl("clusters", "enrol", name))
        assert joined.returncode == 0, joined.stderr
        return made

    def credentials(self, cluster: Cluster) -> Credentials:
        return IdentityFile(cluster.state / "identity" / "identity.json").load().credentials

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.region.pid}/fd").iterdir()))

    def memory_mb(self) -> float:
        """Resident (proc(5))."""
        status = Path(f"/proc/{self.region.pid}/status").read_text().splitlines()
        (line,) = [line for line in status if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024


def files(directory: Path, name: str) -> str:
    return f'backend = "file"\nhosts_file = "{directory / name}-maps"'


@pytest.fixture(scope="module")
def site(postgres: TestServer, module_state_directory: Path) -> Iterator[Site]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    directory = module_state_directory / "hostile"
    directory.mkdir()
    name = run_in_reactor(postgres.create)
    with namespaces.network() as network:
        inside = network.server
        region = Region(directory, clusters=[f"tcp:127.0.0.1:{LINK}"], dsn=postgres.dsn_for(name), namespace=inside)
        region.program = ("prlimit", f"--nofile={FEW_DESCRIPTORS}:", *region.program)
        cluster = Cluster(directory, None, namespace=inside, dhcp=files(directory, "rack-a"))
        try:
            region.up()
            number = region.wait_for("regiond.started")["region"]
            read = "SELECT certificate, private_key FROM authority"
            ((pem, key),) = run_in_reactor(lambda: postgres.run(read, database=name))
            made = Site(directory, region, cluster, Stranger(inside), load_authority(number, pem, key))
            joined = cluster.join(region.ctl("clusters", "enrol", cluster.name))
            assert joined.returncode == 0, joined.stderr
            region.ctl("clusters", "enrol", "rack-z")  # its token keeps the other door open
            cluster.up()
            cluster.wait_for("contact.reported")  # before, nothing can be claimed there
            yield made
        finally:
            cluster.stop()
            region.stop()
    run_in_reactor(lambda: postgres.drop(name))


@contextmanager
def honest_traffic(site: Site) -> Iterator[list[Any]]:
    """Claims all the time, each of which has to be applied at once on the honest cluster; the answers."""
    answers: list[Any] = []
    ending = Event()

    def claim() -> None:
        while not ending.is_set():
            body = {"macs": [next(macs)], "interface": SUBNET}
            reply = site.region.api.request("POST", "devices?wait=10", body)
            answers.append((reply.status, reply.body["reservations"][0]["host_map"]["state"]))
            ending.wait(0.2)  # the rate of the claims

    thread = Thread(target=claim)
    thread.start()
    try:
        yield answers
    finally:
        ending.set()
        thread.join(60)
    assert answers and set(answers) == {(201, "applied")}, answers


@contextmanager
def undisturbed(site: Site, more_memory_mb: float = MORE_MEMORY_MB) -> Iterator[None]:
    """The honest cluster stays connected and served, and afterwards regiond is as it was before."""
    descriptors, memory = site.descriptors(), site.memory_mb()
    offset = site.region.log.stat().st_size
    with honest_traffic(site):
        yield
        assert site.memory_mb() - memory < more_memory_mb
    eventually(lambda: site.descriptors() <= descriptors, "every descriptor given back")
    lines = list(site.region.lines(offset))
    assert not [line for line in lines if line["event"] == "cluster.disconnected" and line["cluster"] == "rack-a"]
    assert not [line for line in lines if "traceback" in line or line["level"] in ("error", "critical")]


def test_strangers_are_refused_and_named(site: Site) -> None:
    foreign = certificates.authority(site.authority.region)
    cluster = site.credentials(site.cluster)
    (mine,) = [view["id"] for view in site.region.api.get("clusters") if view["name"] == "rack-a"]
    aged = site.authority.for_cluster(
        cluster.key.public_key(), mine, "rack-a", 4711, certificates.now() - timedelta(days=394)
    )
    wrong: dict[str, Callable[[], SSL.Context]] = {
        "did not return a certificate": lambda: SSL.Context(SSL.TLS_METHOD),
        "authority": lambda: own_context(certificates.cluster_credentials(foreign, mine)),
        "expired": lambda: own_context(Credentials(cluster.key, aged, cluster.authority)),
        "another purpose": lambda: own_context(certificates.region_credentials(site.authority)),
    }
    with undisturbed(site):
        for words, context in wrong.items():
            offset = site.region.log.stat().st_size
            name = site.stranger.says_over_tls(LINK, context(), b"")
            line = site.region.wait_for("link.handshake-failed", offset, peer=name)
            assert words in line["reason"]


def test_random_bytes_and_random_boxes_are_refused_and_named(site: Site) -> None:
    random = Random(4)
    rack_b = site.other_cluster("rack-b")
    with_certificate = own_context(site.credentials(rack_b))
    without = enrolling_context(site.authority.fingerprint)
    offset = site.region.log.stat().st_size
    names: dict[str, str] = {}
    with undisturbed(site):
        for _ in range(40):
            for port, context in ((LINK, with_certificate), (ENROLMENT, without)):
                noise = random.randbytes(random.randrange(20, 40_000))
                names[site.stranger.says(port, b"\x00" + noise)] = "link.handshake-failed"
                names[site.stranger.says_over_tls(port, context, b"\xff" + noise)] = "link.broken"
    said = [(line["event"], line.get("peer")) for line in site.region.lines(offset)]
    assert [name for name, event in names.items() if (event, name) not in said] == []


def test_a_revoked_cluster_is_cut_off_and_stays_out(site: Site) -> None:
    rack_c = site.other_cluster("rack-c")
    try:
        rack_c.start("region.registered")
        before, ours = site.region.log.stat().st_size, rack_c.log.stat().st_size
        with undisturbed(site):
            site.region.ctl("clusters", "revoke", "rack-c")
            evicted = site.region.wait_for("cluster.evicted", before)
            assert evicted["peer"].startswith("127.0.0.1:")
            rack_c.wait_for("region.lost", ours)
            refused = site.region.wait_for("cluster.refused", before, cluster="rack-c")
            assert refused["peer"].startswith("127.0.0.1:") and "revoked" in refused["reason"]
            rack_c.stop()
    finally:
        rack_c.stop()


def test_a_flood_of_half_done_handshakes_keeps_nobody_out(site: Site) -> None:
    rack_d = site.other_cluster("rack-d")
    context = own_context(site.credentials(rack_d))
    whole = hello(context)
    try:
        with undisturbed(site, more_memory_mb=50.0), ExitStack() as held:  # some 40 KB each
            sockets: list[socket.socket] = []
            for number in range(HALF_DONE):
                made, _ = held.enter_context(site.stranger.connected(LINK if number % 2 else ENROLMENT))
                made.sendall((whole, whole[:60], b"")[number % 3])
                sockets.append(made)
            eventually(lambda: site.descriptors() >= HALF_DONE, "all of them at the door")
            rack_d.start("region.registered")
            for one in sockets:
                one.close()
            rack_d.stop()
    finally:
        rack_d.stop()
