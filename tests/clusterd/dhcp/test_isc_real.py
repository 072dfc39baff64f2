"""The backend `isc` with real dhcpd and real clients, in network namespaces."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from clusterd.dhcp.isc import IscBackend
from tests.clusterd.dhcp.contract import SCENARIOS, Scenario
from tests.lab import namespaces
from tests.lab.clients import missing_clients
from tests.lab.dhcpd import DhcpdServer, dhcpd
from tests.lab.namespaces import Network
from tests.requirements import need

pytestmark = pytest.mark.namespaces

P = ParamSpec("P")
T = TypeVar("T")

CLIENT_MAC = "00:16:3e:aa:00:01"  # of the clients' NIC


def in_thread(work: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> Awaitable[T]:
    """Clients block; the backend's reactor must not."""
    return deferToThread(work, *args, **keywords)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    need(shutil.which("dhcpd"), "dhcpd is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(CLIENT_MAC)
        yield made


@pytest.fixture
def server(network: Network, tmp_path: Path) -> Iterator[DhcpdServer]:
    with dhcpd(network, tmp_path) as running:
        yield running


@pytest_twisted.async_yield_fixture
async def backend(server: DhcpdServer) -> AsyncIterator[IscBackend]:
    made = server.backend(reactor)
    yield made
    await made.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_contract(scenario: Scenario, backend: IscBackend, server: DhcpdServer) -> None:
    before = server.identity
    await scenario(backend)
    assert server.identity == before
