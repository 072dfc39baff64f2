"""A real client holds a lease from its DHCP server, and somebody claims the address: refused with the lease; forced;
and then the client that owns the reservation gets it. With each of the servers.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.clients import missing_clients, udhcpc
from tests.lab.dhcp_messages import Kind
from tests.lab.dhcpd import OMAPI_PORT, configuration, dhcpd
from tests.lab.kea import KeaServers, kea
from tests.lab.kea import missing_programs as missing_kea
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer
from tests.requirements import need

pytestmark = pytest.mark.namespaces

NET = "192.0.2.0/24"
LOW, HIGH = "192.0.2.100", "192.0.2.110"
HOLDER, OWNER = "00:16:3e:aa:00:01", "00:16:3e:aa:00:02"
PATH = f"subnets/{quote(NET, safe='')}"


@dataclass(frozen=True, slots=True)
class Leaser:
    """A server with a pool. `close_pool` restarts it without: dnsmasq and Kea keep the leases, dhcpd forgets them."""

    dhcp: str
    close_pool: Callable[[], None]
    keeps_leases: bool = True


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(HOLDER)
        yield made


@contextmanager
def _dnsmasq(network: Network, directory: Path) -> Iterator[Leaser]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    server = DnsmasqServer(network, directory)
    settings = directory / "dnsmasq.conf"
    static = settings.read_text()
    settings.write_text(f"{static}dhcp-range={LOW},{HIGH},600\n")

    def close_pool() -> None:
        server.stop()
        settings.write_text(static)
        server.start()

    server.start()
    try:
        yield Leaser(
            f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"', close_pool
        )
    finally:
        server.kill()


@contextmanager
def _dhcpd(network: Network, directory: Path) -> Iterator[Leaser]:
    need(shutil.which("dhcpd"), "dhcpd is not installed")
    with dhcpd(network, directory, pools={NET: f"{LOW} {HIGH}"}) as server:

        def close_pool() -> None:
            server.stop()
            networks = [cidr for wire in network.wires for cidr in wire.networks]
            server.configuration_file.write_text(configuration(networks))
            server.start()

        # clusterd is not told where the configuration is, and so nobody knows of the pool.
        dhcp = f"""backend = "isc"
omapi_port = {OMAPI_PORT}
omapi_key_file = "{server.key_file}"
leases_file = "{server.leases_file}"
configuration_file = "{directory}/elsewhere.conf\""""
        yield Leaser(dhcp, close_pool, keeps_leases=False)


@contextmanager
def _kea(network: Network, directory: Path) -> Iterator[Leaser]:
    need(not missing_kea(), f"not installed: {', '.join(missing_kea())}")
    kept = {"lease-database": {"type": "memfile", "persist": True, "name": f"{directory}/leases4.csv"}}
    servers = KeaServers(network, directory, changes={4: kept}, families=(4,), pools={NET: f"{LOW} - {HIGH}"})
    with kea(servers):

        def close_pool() -> None:
            servers.stop(4)
            servers.pools.clear()
            servers.configure(4, kept)
            servers.start(4)

        dhcp = f"""backend = "kea"
dhcp4_socket = "{servers.socket(4)}"
dhcp6_socket = ""
include_directory = "{servers.include_directory}"
dhcp4_config = "{servers.config_file(4)}\""""
        yield Leaser(dhcp, close_pool)


SERVERS = {"dnsmasq": _dnsmasq, "isc": _dhcpd, "kea": _kea}


@pytest.mark.parametrize("name", SERVERS)
def test_a_foreign_lease(name: str, network: Network, state_directory: Path) -> None:
    directory = state_directory / name
    directory.mkdir()
    region = Region(state_directory)
    api = region.api
    with SERVERS[name](network, directory) as server:
        cluster = Cluster(state_directory, region.link, namespace=network.server, dhcp=server.dhcp)
        try:
            address = udhcpc(network)
            assert address is not None
            if server.keeps_leases:
                server.close_pool()
            region.up()
            cluster.up()
            eventually(lambda: api.request("GET", PATH).status == 200, "the subnet at the region")
            if not server.keeps_leases:
                api.patch(PATH, {"claimable_anyway": True})
            eventually(lambda: api.get(PATH)["claimable"], "addresses can be claimed")

            (lease,) = leases(region)
            assert (lease["address"], lease["mac"], lease["reservation"]) == (address, HOLDER, None)
            assert HOLDER in region.ctl("leases", NET)
            wanted = {"interface": NET, "mac": OWNER, "address": address}
            refused = api.request("POST", "devices", wanted)
            assert (refused.status, refused.body["type"]) == (409, "leased-to-another")
            assert [each["mac"] for each in refused.body["leases"]] == [HOLDER]
            assert leases(region) == [lease]

            held = api.post("devices?force=true&wait=20", wanted)["reservations"][0]
            assert leases(region) == []
            assert [entry["action"] for entry in api.get(f"audit?object={held['id']}")] == ["reservation.force-claim"]
            if not server.keeps_leases:
                _take_out_of_the_pool(region, cluster, server, held)
            with RawClient4(network) as client:
                answer = client.obtain(OWNER)
                assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, address)
                renewed = client.renew(HOLDER, address)
                assert renewed is None or renewed.kind is not Kind.ACK
        finally:
            cluster.stop()
            region.stop()


def _take_out_of_the_pool(region: Region, cluster: Cluster, server: Leaser, held: Any) -> None:
    """dhcpd would give an address of a pool to two clients: clusterd says so, until the pool is gone."""
    (told,) = region.api.get(f"reservations/{held['id']}")["host_map"]["clusters"]
    assert told["state"] == "failed" and "lies in a pool of dhcpd" in told["error"]
    server.close_pool()
    cluster.stop()
    cluster.up()  # which compares everything

    def is_applied() -> bool:
        return bool(region.api.get(f"reservations/{held['id']}")["host_map"]["state"] == "applied")

    eventually(is_applied, "the host map in effect")


def leases(region: Region) -> Any:
    found = region.api.get(f"{PATH}/leases")
    assert found["complete"], found
    return found["leases"]
