"""A dhcpd and a Kea that were in use before: kept out of, adopted with regionctl, and taken over when it suits."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually, running_region
from tests.end_to_end.dhcp_sites import execute, isc_table, kea_table, make_hosts_database
from tests.lab import namespaces
from tests.lab.clients import missing_clients, udhcpc
from tests.lab.dhcpd import dhcpd
from tests.lab.kea import KeaServers, kea, missing_programs
from tests.lab.namespaces import Network, Wire
from tests.requirements import need

pytestmark = pytest.mark.namespaces

MAC = "00:16:3e:bb:00:07"  # of the client's NIC
OTHER_MAC = "00:16:3e:bb:00:08"


@dataclass(frozen=True, slots=True)
class SiteInUse:
    """`old` are the server's own static entries, address → why their host map is refused while they are there.

    `theirs` is all that the server's owner wrote; `delete` takes the static entries away as the owner would.
    """

    dhcp: str
    old: dict[str, str | None]
    theirs: Callable[[], Any]
    delete: Callable[[], None]


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    with running_region(module_state_directory / "sites-in-use") as running:
        yield running


@pytest.fixture(params=[1, 2], ids=["isc", "kea"])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def network(number: int) -> Iterator[Network]:
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network((Wire((f"10.30.{number}.1/24", f"2001:db8:30:{number}::1/64")),)) as made:
        made.set_client_mac(MAC)
        yield made


@pytest.fixture
def site(number: int, network: Network, region: Region, state_directory: Path) -> Iterator[SiteInUse]:
    with (dhcpd_in_use if number == 1 else kea_in_use)(network, state_directory, region) as made:
        yield made


@contextmanager
def dhcpd_in_use(network: Network, directory: Path, region: Region) -> Iterator[SiteInUse]:
    """A pool, and a host in dhcpd.conf."""
    need(shutil.which("dhcpd"), "dhcpd is not installed")
    cidr = network.wires[0].networks[0]
    host = f"host printer {{ hardware ethernet {MAC}; fixed-address 10.30.1.3; }}"
    with dhcpd(network, directory, pools={cidr: "10.30.1.4 10.30.1.9"}, more=[host]) as server:
        text = server.configuration_file.read_text()

        def delete() -> None:
            server.stop()
            server.configuration_file.write_text(text.replace(f"{host}\n", ""))
            server.start()

        words = "its host 'printer', which is not ours, is for the same client"
        yield SiteInUse(isc_table(server), {"10.30.1.3": words}, server.configuration_file.read_text, delete)


@contextmanager
def kea_in_use(network: Network, directory: Path, region: Region) -> Iterator[SiteInUse]:
    """A pool and a reservation in Kea's configuration, and a reservation in its hosts table."""
    need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
    cidr = network.wires[0].networks[0]
    database = make_hosts_database(region, "kea_in_use")
    access = {"host": database["host"], "user": database["user"], "dbname": database["name"]}
    execute(
        access,
        "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, ipv4_address, hostname) "
        f"VALUES (decode('{OTHER_MAC.replace(':', '')}', 'hex'), 0, 1, '10.30.2.10'::inet - '0.0.0.0'::inet, 'theirs')",
    )
    subnet: dict[str, Any] = {"id": 1, "subnet": cidr, "interface": "s0", "pools": [{"pool": "10.30.2.4 - 10.30.2.9"}]}
    printer = {"hw-address": MAC, "ip-address": "10.30.2.3", "hostname": "printer"}
    changes = {"subnet4": [subnet | {"reservations": [printer]}]}
    servers = KeaServers(network, directory, hosts_database=database, changes={4: changes}, families=(4,))

    def theirs() -> Any:
        foreign = "SELECT * FROM hosts WHERE user_context IS NULL"
        return servers.config_file(4).read_text(), execute(access, foreign)

    def delete() -> None:
        servers.configure(4, {"subnet4": [subnet]})
        loaded = servers.log(4).count("DHCP4_CONFIG_COMPLETE")
        servers.signal(4, SIGHUP)
        eventually(lambda: servers.log(4).count("DHCP4_CONFIG_COMPLETE") > loaded, "Kea has loaded its configuration")
        execute(access, "DELETE FROM hosts WHERE user_context IS NULL")

    with kea(servers):
        refused = f"mac:{OTHER_MAC} has a reservation of 10.30.2.10 there already, which is not hostmap's"
        yield SiteInUse(kea_table(servers), {"10.30.2.3": None, "10.30.2.10": refused}, theirs, delete)


def test_a_server_in_use(site: SiteInUse, number: int, network: Network, region: Region) -> None:
    name, api = f"used-{number}", region.api
    prefix, cidr = f"10.30.{number}", network.wires[0].networks[0]
    cluster = Cluster(region.config.parent, region.link, name, namespace=network.server, dhcp=site.dhcp)
    try:
        cluster.up()
        eventually(lambda: api.get(f"clusters/{name}/dhcp-server")["contact"] == "reported", "the report at the region")
        assert udhcpc(network) == f"{prefix}.3"

        # Neither the pool nor anybody's address is given away, and nobody can ask for one of them.
        made = [api.post("reservations", {"interface": cidr})["address"] for _ in range(3)]
        free = [f"{prefix}.{last}" for last in (2, *range(10, 14)) if f"{prefix}.{last}" not in site.old]
        assert made == free[:3]
        for address, slug in [(f"{prefix}.6", "address-in-dynamic-range")] + [
            (address, "address-of-static-entry") for address in site.old
        ]:
            reply = api.request("POST", "reservations", {"interface": cidr, "address": address})
            assert (reply.status, reply.body["type"]) == (409, slug)

        before = site.theirs()
        shown = region.ctl("adopt", name)
        assert f"0 adopted, {len(site.old)} can be adopted, 0 in conflict; nothing was changed" in shown
        assert all(entry["adoption"] == "possible" for entry in static_entries(region, name))
        for _ in range(2):
            adopted = region.ctl("adopt", name, "--yes")
            assert f"{len(site.old)} adopted, 0 can be adopted, 0 in conflict" in adopted
            assert "delete it and re" in adopted
        held = {
            view["address"]: view["id"] for view in api.get("reservations?limit=1000") if view["address"] in site.old
        }
        assert sorted(held) == sorted(site.old)

        # Until the owner deletes an entry its client has its address by that, and it says what stands in the way.
        for address, words in site.old.items():
            expected = ("applied", "") if words is None else ("failed", words)
            eventually(partial(is_state, region, held[address], *expected), f"{address} is {expected}")
        assert udhcpc(network) == f"{prefix}.3"
        assert site.theirs() == before

        site.delete()
        cluster.stop()
        cluster.up()
        for address in site.old:
            eventually(partial(is_state, region, held[address], "applied"), f"{address} is served by us")
        assert udhcpc(network) == f"{prefix}.3"
        eventually(lambda: static_entries(region, name) == [], "the entries are not reported any more")
    finally:
        cluster.stop()


def static_entries(region: Region, cluster: str) -> Any:
    return region.api.get(f"clusters/{cluster}/static-entries")


def is_state(region: Region, reservation: str, state: str, words: str = "") -> bool:
    """Whether the one cluster has its host map so, for this reason."""
    [cluster] = region.api.get(f"reservations/{reservation}")["host_map"]["clusters"]
    return cluster["state"] == state and words in (cluster["error"] or "")
