"""Fixtures of the tests with a real dhcpd; a test module imports those that it uses."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from clusterd.dhcp.isc.backend import IscBackend
from tests.lab import namespaces
from tests.lab.clients import missing_clients
from tests.lab.dhcpd import DhcpdServer, dhcpd
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.requirements import need

P = ParamSpec("P")
T = TypeVar("T")

CLIENT_MAC = "00:16:3e:aa:00:01"  # of the clients' NIC
POOL = {"198.51.100.0/24": "198.51.100.200 198.51.100.201"}


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
    with dhcpd(network, tmp_path, pools=POOL) as running:
        yield running


@pytest_twisted.async_yield_fixture
async def backend(server: DhcpdServer) -> AsyncIterator[IscBackend]:
    made = server.backend(reactor)
    yield made
    await made.close()


@pytest.fixture
def v4(network: Network) -> Iterator[RawClient4]:
    with RawClient4(network) as client:
        yield client
