"""Fixtures of the tests with a real Kea. The network and Kea's schema are made once per module."""

from collections.abc import Iterator

import pytest

from tests.clusterd.dhcp.kea.laboratory import HostsDatabase, kea_network, kea_template
from tests.database import TestServer
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with kea_network() as made:
        yield made


@pytest.fixture(scope="session")
def template(postgres: TestServer) -> str:
    return kea_template(postgres)


@pytest.fixture
def hosts_database(postgres: TestServer, template: str) -> Iterator[HostsDatabase]:
    database = HostsDatabase(postgres, template)
    yield database
    database.drop()


@pytest.fixture
def v4(network: Network) -> Iterator[RawClient4]:
    with RawClient4(network) as client:
        yield client


@pytest.fixture
def v6(network: Network) -> Iterator[RawClient6]:
    with RawClient6(network) as client:
        yield client
