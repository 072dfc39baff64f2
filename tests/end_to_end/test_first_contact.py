"""A dnsmasq that was in use before: its pool and static entry are nobody's to claim, and the entry can be adopted."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.clients import missing_clients, udhcpc
from tests.lab.namespaces import Network
from tests.lab.servers import DnsmasqServer
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4 = "192.0.2.0/24"
OLD_MAC = "00:16:3e:aa:00:07"
OLD_ADDRESS = "192.0.2.3"
STATIC = f"dhcp-host={OLD_MAC},{OLD_ADDRESS},old-one\n"
POOL = "dhcp-range=192.0.2.4,192.0.2.9,255.255.255.0,600\n"


@pytest.fixture
def network() -> Iterator[Network]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(OLD_MAC)
        yield made


def test_a_dnsmasq_in_use(network: Network, state_directory: Path) -> None:
    directory = state_directory / "dnsmasq"
    directory.mkdir()
    server = DnsmasqServer(network, directory)
    configuration = directory / "dnsmasq.conf"
    plain = configuration.read_text().replace("dhcp-range=192.0.2.0,static,255.255.255.0,600\n", POOL)
    configuration.write_text(plain + STATIC)
    dhcp = f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'
    region = Region(state_directory)
    cluster = Cluster(state_directory, region.link, namespace=network.server, dhcp=dhcp)
    api = region.api
    try:
        region.up()
        # Before dnsmasq runs, nobody can know what it will lease: nothing is claimed.
        cluster.up()
        eventually(lambda: len(api.get("cluster-interfaces")) == 3, "the topology at the region")
        eventually(lambda: api.get("clusters/rack-a/dhcp-server")["error"], "the complaint at the region")
        refused = api.request("POST", "reservations", {"interface": V4})
        assert (refused.status, refused.body["type"]) == (503, "subnet-not-ready")
        assert not api.get(f"subnets/{V4.replace('/', '%2F')}")["claimable"]

        server.start()
        eventually(lambda: api.get("clusters/rack-a/dhcp-server")["contact"] == "reported", "the report at the region")
        assert udhcpc(network) == OLD_ADDRESS
        made = [api.post("reservations", {"interface": V4})["address"] for _ in range(3)]
        assert made == ["192.0.2.2", "192.0.2.10", "192.0.2.11"]
        for address, slug in ((OLD_ADDRESS, "address-of-static-entry"), ("192.0.2.6", "address-in-dynamic-range")):
            reply = api.request("POST", "reservations", {"interface": V4, "address": address})
            assert (reply.status, reply.body["type"]) == (409, slug)

        (entry,) = entries(region)
        assert (entry["address"], entry["identifiers"]) == (OLD_ADDRESS, [f"mac:{OLD_MAC}"])
        assert (entry["adoption"], entry["hostname"]) == ("possible", "old-one")
        for _ in range(2):
            (result,) = api.post("clusters/rack-a/adopt", {"entries": [entry["id"]]}, 200)
            assert result["adoption"] == "adopted"
        before = server.identity
        assert udhcpc(network) == OLD_ADDRESS  # both say the same
        assert configuration.read_text() == plain + STATIC

        # As it was told: the entry is deleted from the configuration, and dnsmasq is restarted.
        assert "restart dnsmasq" in entries(region)[0]["what_to_delete"]
        configuration.write_text(plain)
        server.stop()
        server.start()
        assert server.identity != before
        assert udhcpc(network) == OLD_ADDRESS  # from the hosts file now
        # clusterd looks again every few minutes, and at its start.
        cluster.stop()
        cluster.up()

        def is_applied() -> bool:
            held = api.get(f"reservations/{result['reservation']}")
            return bool(held["host_map"]["state"] == "applied")

        eventually(is_applied, "the host map in effect")
        eventually(lambda: entries(region) == [], "the entry is not reported any more")
        reply = api.request("POST", "reservations", {"interface": V4, "address": OLD_ADDRESS})
        assert (reply.status, reply.body["type"]) == (409, "address-taken")
    finally:
        cluster.stop()
        server.stop()
        region.stop()


def entries(region: Region) -> Any:
    return region.api.get("clusters/rack-a/static-entries")
