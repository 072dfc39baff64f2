"""The contract on a real Kea: rows in the hosts table, and files that its configuration includes."""

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.settings import Way
from tests.clusterd.dhcp.contract import SCENARIOS, Scenario
from tests.clusterd.dhcp.kea.laboratory import HostsDatabase
from tests.database import TestServer
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network

pytestmark = pytest.mark.namespaces


@pytest.fixture(scope="module")
def table(postgres: TestServer, template: str) -> Iterator[HostsDatabase]:
    database = HostsDatabase(postgres, template)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def table_servers(
    network: Network, table: HostsDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KeaServers]:
    with kea(KeaServers(network, tmp_path_factory.mktemp("table"), hosts_database=table.parameters)) as servers:
        yield servers


@pytest.fixture(scope="module")
def file_servers(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeaServers]:
    with kea(KeaServers(network, tmp_path_factory.mktemp("files"))) as servers:
        yield servers


async def run(backend: KeaBackend, way: Way, scenario: Scenario) -> None:
    """The servers stay up between scenarios: each begins by taking everything away."""
    try:
        await backend.replace(())
        await scenario(backend)
        assert set(backend.ways.values()) == {way}
    finally:
        await backend.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_hosts_table(scenario: Scenario, table_servers: KeaServers) -> None:
    await run(kea_backend(table_servers.settings, reactor), Way.HOSTS_DATABASE, scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_include_files(scenario: Scenario, file_servers: KeaServers) -> None:
    await run(kea_backend(file_servers.settings, reactor), Way.INCLUDE_FILES, scenario)
