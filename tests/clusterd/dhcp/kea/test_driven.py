"""The backend `kea` behind the driver, with a real Kea in trouble; and the whole way of an address."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from signal import SIGKILL

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.control_socket import ControlSocket
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp import driven_contract
from tests.clusterd.dhcp.driven_contract import SCENARIOS, Scenario, driven, version_of
from tests.clusterd.dhcp.kea.laboratory import CLIENT_MAC, HostsDatabase, in_thread
from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.lab.clients import dhclient, udhcpc
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.requirements import need

pytestmark = pytest.mark.namespaces

# A full disk is PostgreSQL's to tell, and it tells nothing but what it tells of any other refusal.
TABLE_SCENARIOS = [one for one in SCENARIOS if one is not driven_contract.a_full_disk_is_said_and_heals]


class TroubledKea:
    """The DHCPv4 server; with files, they are on a small disk of their own."""

    words_when_away = r"^kea-dhcp4 does not answer at /.*: nobody listens there: the server is not running$"
    words_when_full = r"^cannot write below /.*: No space left on device$"
    refused = (
        HostMap(Identifier.mac("00:16:3e:aa:01:0f"), "192.0.2.66"),
        r"^192\.0\.2\.66 is reserved for mac:00:16:3e:99:00:01 already, which is not hostmap's doing$",
    )

    def __init__(self, servers: KeaServers, client: RawClient4, database: HostsDatabase | None) -> None:
        self.servers = servers
        self.backend = self.new_backend()
        self._database = database
        self._client = client

    def new_backend(self) -> KeaBackend:
        return kea_backend(self.servers.settings, reactor)

    async def written(self) -> object:
        if self._database is not None:
            return self._database.run("SELECT host_id, xmin::text FROM hosts ORDER BY host_id")
        loaded = self.servers.log(4).count("DHCP4_CONFIG_COMPLETE")
        return loaded, version_of(*sorted(self.servers.include_directory.iterdir()))

    async def serves(self, host_map: HostMap) -> bool:
        answer = await in_thread(self._client.discover, host_map.identifier.text)
        return answer is not None and answer.address == host_map.address

    async def lose(self, host_map: HostMap) -> None:
        if self._database is not None:
            self._database.run("DELETE FROM hosts WHERE dhcp_identifier = %s", (host_map.identifier.value,))
            return
        control = ControlSocket(self.servers.socket(4), 4, reactor, run_at_once)
        document = (await control.order("config-get")).arguments
        for subnet in document["Dhcp4"]["subnet4"]:
            kept = [entry for entry in subnet["reservations"] if entry["ip-address"] != host_map.address]
            subnet["reservations"] = kept
        await control.order("config-set", document)

    async def lose_everything(self) -> None:
        if self._database is not None:
            self._database.run("DELETE FROM hosts WHERE user_context IS NOT NULL")
        for path in self.servers.include_directory.glob("*.json"):
            path.write_text("[]")
        for path in self.servers.include_directory.glob(".*.good"):
            path.unlink()

    async def stop(self) -> None:
        await in_thread(lambda: self.servers.stop(4, how=SIGKILL))

    async def start(self) -> None:
        await in_thread(self.servers.start, 4)

    async def fill_disk(self) -> None:
        with suppress(OSError), (self.servers.include_directory / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    async def free_disk(self) -> None:
        (self.servers.include_directory / "ballast").unlink()


@pytest.fixture
def small_disk(tmp_path: Path, network: Network) -> Iterator[Path]:
    place = tmp_path / "include"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    need(mounted.returncode == 0, f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("scenario", TABLE_SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_driven_contract_with_a_hosts_table(
    scenario: Scenario, network: Network, hosts_database: HostsDatabase, tmp_path: Path
) -> None:
    hosts_database.run(
        "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, ipv4_address) "
        "VALUES (decode('00163e990001', 'hex'), 0, 1, '192.0.2.66'::inet - '0.0.0.0'::inet)"
    )
    servers = KeaServers(network, tmp_path, hosts_database=hosts_database.parameters, families=(4,))
    with kea(servers), RawClient4(network) as client:
        troubled = TroubledKea(servers, client, hosts_database)
        async with driven(troubled, tmp_path) as site:
            await scenario(troubled, site)
        await troubled.backend.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_driven_contract_with_included_files(
    scenario: Scenario, network: Network, small_disk: Path, tmp_path: Path
) -> None:
    servers = KeaServers(network, tmp_path, families=(4,))
    config = servers.config_file(4)
    with kea(servers), RawClient4(network) as client:
        troubled = TroubledKea(servers, client, None)
        async with driven(troubled, tmp_path) as site:
            if scenario is driven_contract.a_refused_host_map_is_reported_and_the_others_are_served:
                # The operator has made the subnet smaller, and not loaded it yet.
                config.write_text(config.read_text().replace('"subnet": "192.0.2.0/24"', '"subnet": "192.0.2.0/25"'))
                outside = HostMap(troubled.refused[0].identifier, "192.0.2.200")
                troubled.refused = outside, r"^kea-dhcp4: specified reservation '192\.0\.2\.200' is not within"
            await scenario(troubled, site)


def test_the_way_of_an_address_through_both_daemons(
    network: Network, hosts_database: HostsDatabase, state_directory: Path
) -> None:
    """Claim, release, move to another machine, and the same after a restart of Kea, with real clients."""
    v4, v6 = "192.0.2.0/24", "2001:db8:0:1::/64"
    place = state_directory / "kea"
    place.mkdir()
    servers = KeaServers(network, place, hosts_database=hosts_database.parameters)
    dhcp = f'backend = "kea"\ndhcp4_socket = "{servers.socket(4)}"\ndhcp6_socket = "{servers.socket(6)}"'
    with ExitStack() as stack:
        region = Region(state_directory)
        stack.callback(region.stop)
        region.up()
        stack.enter_context(kea(servers))
        cluster = Cluster(state_directory, region.link, namespace=network.server, dhcp=dhcp)
        stack.callback(cluster.stop)
        cluster.up()
        api = region.api
        cluster.wait_for("contact.reported")  # before, nothing can be claimed there
        eventually(lambda: len(api.get("cluster-interfaces")) == 3, "the topology at the region")
        before = servers.identity(4)
        claimed = api.post("devices?wait=10", {"macs": [CLIENT_MAC], "interface": v4})["reservations"][0]
        claimed6 = api.post("devices?wait=10", {"macs": [CLIENT_MAC], "interface": v6})["reservations"][0]
        assert (claimed["host_map"]["state"], claimed6["host_map"]["state"]) == ("applied", "applied")
        assert udhcpc(network) == claimed["address"]
        assert dhclient(network, 4) == claimed["address"]
        assert dhclient(network, 6) == claimed6["address"]
        api.delete(f"devices/{claimed['device']}", 202)
        eventually(
            lambda: api.get("reservations?status=releasing")[0]["waits_for"][0].startswith("the release hold"),
            "the removal confirmed",
        )
        with RawClient4(network) as client:
            assert client.discover(CLIENT_MAC, timeout=1.0) is None
        assert servers.identity(4) == before
        assert re.search(r'"way": ?"hosts-database"', cluster.log.read_text())
