"""The DHCP servers of the benchmark, each with a backend that reaches it: real ones, in a network of namespaces."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg2
from psycopg2 import extensions
from twisted.internet.threads import deferToThread

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.dnsmasq.backend import dnsmasq_backend
from clusterd.dhcp.kea.backend import kea_backend
from tests.lab.dhcpd import dhcpd
from tests.lab.kea import SCRIPTS, KeaServers, kea
from tests.lab.namespaces import Network, in_namespace
from tests.lab.servers import ProcessIdentity, dnsmasq

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """One running server; `identity` is the process that serves IPv4."""

    backend: Backend
    identity: Callable[[], ProcessIdentity]
    kill: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def dnsmasq_subject(network: Network, directory: Path, reactor: Any, dsn: str) -> Iterator[Subject]:
    def in_its_network(work: Callable[[], T]) -> Awaitable[T]:
        return deferToThread(in_namespace, network.server, work)

    with dnsmasq(network, directory) as server:
        paths = (server.hosts_file, server.hosts_directory, server.pid_file)
        backend = dnsmasq_backend(*paths, reactor, in_its_network=in_its_network)
        yield Subject(backend, lambda: server.identity, server.kill, server.start)


@contextmanager
def isc_subject(network: Network, directory: Path, reactor: Any, dsn: str) -> Iterator[Subject]:
    with dhcpd(network, directory) as server:
        yield Subject(server.backend(reactor), lambda: server.identity, server.kill, server.start)


@contextmanager
def kea_subject(network: Network, directory: Path, reactor: Any, dsn: str) -> Iterator[Subject]:
    """With its reservations in a hosts table."""
    parts = extensions.parse_dsn(_kea_database(dsn, directory.name))
    named = {"type": "postgresql", "name": parts["dbname"], "host": parts["host"], "user": parts["user"]}
    servers = KeaServers(
        network, directory, hosts_database={**named, "port": int(parts.get("port", 5432))}, families=(4,)
    )
    with kea(servers):
        yield Subject(
            kea_backend(servers.settings, reactor), lambda: servers.identity(4), lambda: servers.stop(4), servers.start
        )


def _kea_database(dsn: str, name: str) -> str:
    """A new database with Kea's schema, as kea-admin makes it; its DSN."""
    name = name.replace("-", "_").lower()
    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute(f'CREATE DATABASE "{name}"')
    connection.close()
    made = extensions.make_dsn(dsn, dbname=name)
    connection = psycopg2.connect(made)
    connection.autocommit = True
    connection.cursor().execute((SCRIPTS / "dhcpdb_create.pgsql").read_text())
    connection.close()
    return made


SUBJECTS = {"dnsmasq": dnsmasq_subject, "isc": isc_subject, "kea": kea_subject}
