"""Leases of real servers that a real client has obtained from a pool: told, and ended."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from clusterd.dhcp.backend import Backend, NoLeases
from clusterd.dhcp.dnsmasq.backend import dnsmasq_backend
from clusterd.dhcp.kea.backend import kea_backend
from clusterd.dhcp.leases import LeaseQuestion
from clusterd.protocol.values import Identifier, IdentifierKind
from tests.clusterd.dhcp.lease_contract import CLIENT_MAC, NET, SCENARIOS, Leasing, Scenario
from tests.lab import namespaces
from tests.lab.clients import dhclient, duid_of_mac, missing_clients, udhcpc
from tests.lab.dhcpd import dhcpd
from tests.lab.kea import KeaServers, kea
from tests.lab.kea import missing_programs as missing_kea
from tests.lab.namespaces import Network, in_namespace
from tests.lab.servers import dnsmasq
from tests.requirements import need

pytestmark = pytest.mark.namespaces

T = TypeVar("T")

NET6, LOW, HIGH, LOW6, HIGH6 = (
    "2001:db8:0:1::/64",
    "192.0.2.100",
    "192.0.2.110",
    "2001:db8:0:1::100",
    "2001:db8:0:1::110",
)
SERVERS = ("dnsmasq", "isc", "kea")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(CLIENT_MAC)
        yield made


@asynccontextmanager
async def serving(name: str, network: Network, directory: Path) -> AsyncIterator[Backend]:
    """The backend of a server with a pool for each family."""
    match name:
        case "dnsmasq":
            need(shutil.which("dnsmasq"), "dnsmasq is not installed")
            pools = [f"dhcp-range={LOW},{HIGH},600", f"dhcp-range={LOW6},{HIGH6},64,600"]

            def in_its_network(work: Callable[[], T]) -> Awaitable[T]:
                return deferToThread(in_namespace, network.server, work)

            with dnsmasq(network, directory, more=pools) as one:
                paths = (one.hosts_file, one.hosts_directory, one.pid_file)
                yield dnsmasq_backend(*paths, reactor, in_its_network=in_its_network)
        case "isc":
            need(shutil.which("dhcpd"), "dhcpd is not installed")
            with dhcpd(network, directory, pools={NET: f"{LOW} {HIGH}"}) as two:
                configuration = two.configuration_file6.read_text()
                two.configuration_file6.write_text(
                    configuration.replace(f"{NET6} {{", f"{NET6} {{ range6 {LOW6} {HIGH6};")
                )
                two.start6()
                backend = two.backend(reactor)
                try:
                    yield backend
                finally:
                    await backend.close()
        case _:
            need(not missing_kea(), f"not installed: {', '.join(missing_kea())}")
            servers = KeaServers(network, directory, pools={NET: f"{LOW} - {HIGH}", NET6: f"{LOW6} - {HIGH6}"})
            with kea(servers):
                yield kea_backend(servers.settings, reactor)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_contract(name: str, scenario: Scenario, network: Network, tmp_path: Path) -> None:
    async def obtain() -> str | None:
        return await deferToThread(udhcpc, network)

    async with serving(name, network, tmp_path) as backend:
        address = await obtain()
        assert address is not None
        await scenario(Leasing(backend, address, obtain))


@pytest.mark.parametrize("name", SERVERS)
@pytest_twisted.ensureDeferred
async def test_ipv6(name: str, network: Network, tmp_path: Path) -> None:
    duid = Identifier(IdentifierKind.DUID, duid_of_mac(CLIENT_MAC))
    async with serving(name, network, tmp_path) as backend:
        address = await deferToThread(dhclient, network, 6)
        assert address is not None
        (found,) = (await backend.leases(LeaseQuestion(NET6))).leases
        assert (found.address, found.is_of(duid), found.is_of(Identifier.mac(CLIENT_MAC))) == (address, True, True)
        assert found.expires is not None
        alone = LeaseQuestion(NET6, addresses=frozenset({address}))
        assert (await backend.leases(alone)).leases == (found,)
        if name == "isc":
            with pytest.raises(NoLeases, match="cannot be told to end an IPv6 lease"):
                await backend.end_lease(found)
            return
        await backend.end_lease(found)
        assert (await backend.leases(alone)).leases == ()
