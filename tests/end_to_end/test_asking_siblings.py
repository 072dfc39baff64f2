"""Two regionds, and one clusterd with a real DHCP server that is connected to the other one of them.

What is asked of the first is found out by way of the second, and its end is that of a cluster that nobody can ask.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.clients import missing_clients, udhcpc
from tests.lab.namespaces import Network, Wire, run_tool
from tests.lab.servers import DnsmasqServer
from tests.requirements import need

pytestmark = pytest.mark.namespaces

NET = "192.0.2.0/24"
PATH = f"subnets/{quote(NET, safe='')}"
HOLDER = "00:16:3e:aa:00:01"
LEASED, SQUATTED, NEXT = "192.0.2.100", "192.0.2.2", "192.0.2.3"  # the controller has the first address


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """The client at the other end uses an address that nobody gave to it."""
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network((Wire(("192.0.2.1/24",)),)) as made:
        made.set_client_mac(HOLDER)
        run_tool("ip", "-n", made.client, "addr", "add", f"{SQUATTED}/24", "dev", "c0")
        yield made


@dataclass
class Regionds:
    """`far` is the one that `cluster` is connected to; `database` a connection to what both have in common."""

    here: Region
    far: Region
    cluster: Cluster
    database: Any

    @property
    def api(self) -> Api:
        return self.here.api

    def questions(self) -> list[bool]:
        """Of each question that is in the table, whether it is taken."""
        with self.database.cursor() as cursor:
            cursor.execute("SELECT taken FROM cluster_question")
            return [taken for (taken,) in cursor.fetchall()]

    def claim(self, query: str = "probe=true", **values: Any) -> Any:
        return self.api.request("POST", f"reservations?{query}", {"interface": NET, **values})

    def leases(self) -> Any:
        return self.api.get(f"{PATH}/leases")


@pytest.fixture
def regionds(database: str, network: Network, state_directory: Path) -> Iterator[Regionds]:
    parts = [state_directory / name for name in ("here", "far")]
    for part in parts:
        part.mkdir(mode=0o711)
    here, far = (Region(part, dsn=database) for part in parts)
    pool = "dhcp-range=192.0.2.100,192.0.2.100,600"
    server = DnsmasqServer(network, parts[1], more=[pool])
    dhcp = f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'
    cluster = Cluster(parts[1], far.link, namespace=network.server, dhcp=dhcp)
    try:
        server.start()
        assert udhcpc(network) == LEASED
        server.stop()
        settings = parts[1] / "dnsmasq.conf"
        settings.write_text(settings.read_text().replace(pool, ""))  # it keeps its leases
        server.start()
        here.up()
        far.up()
        cluster.up()
        eventually(lambda: here.api.request("GET", PATH).status == 200, "the subnet")
        eventually(lambda: here.api.get(PATH)["claimable"], "the subnet claimable")
        with closing(psycopg2.connect(database)) as connection:
            connection.autocommit = True
            yield Regionds(here, far, cluster, connection)
    finally:
        cluster.stop()
        far.stop()
        here.stop()
        server.kill()


def test_a_cluster_of_another_regiond_is_asked_like_any(regionds: Regionds) -> None:
    probed = regionds.claim().body
    assert (probed["address"], probed["probed"]) == (NEXT, True)
    taken = regionds.claim(address=SQUATTED)
    assert (taken.status, taken.body["type"]) == (409, "address-in-use")

    (lease,) = regionds.leases()["leases"]
    assert (lease["address"], lease["mac"], lease["cluster"]["name"]) == (LEASED, HOLDER, "rack-a")
    refused = regionds.claim("", address=LEASED)
    assert (refused.status, refused.body["type"]) == (409, "leased-to-another")
    forced = regionds.claim("force=true&wait=20", address=LEASED)
    assert forced.status == 201, forced
    assert regionds.leases() == {**regionds.leases(), "leases": [], "complete": True}
    assert regionds.questions() == []

    # The other one is killed while its cluster is at it: nobody can be asked, and everything else goes on.
    regionds.cluster.send(SIGSTOP)
    try:
        with ThreadPoolExecutor(1) as pool:
            claim = pool.submit(regionds.claim)
            eventually(lambda: regionds.questions() == [True], "the question taken")
            regionds.far.kill()
            answer = claim.result()
    finally:
        regionds.cluster.send(SIGCONT)
    assert (answer.status, answer.body["type"]) == (503, "not-probed")
    assert "cluster rack-a does not answer" in answer.body["reasons"]
    (reason,) = regionds.claim().body["reasons"]
    assert reason.startswith("cluster rack-a cannot be asked: ")
    listing = regionds.leases()
    assert (listing["complete"], listing["leases"]) == (False, [])
    assert regionds.claim("wait=0", address=LEASED.replace(".100", ".101")).status == 201
