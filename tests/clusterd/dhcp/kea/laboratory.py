"""What the tests with a real Kea share: its network, its servers, and a hosts table in a real PostgreSQL."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import psycopg2
from psycopg2 import extensions
from twisted.internet.threads import deferToThread

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.database import TestServer, run_in_reactor
from tests.lab import namespaces
from tests.lab.clients import duid_of_mac, missing_clients
from tests.lab.kea import SCRIPTS, missing_programs
from tests.lab.namespaces import Network
from tests.requirements import need

P = ParamSpec("P")
T = TypeVar("T")

CLIENT_MAC = "00:16:3e:aa:00:01"  # of the clients' NIC
OTHER_MAC = "00:16:3e:aa:00:02"
SERVER_ID = "192.0.2.1"
V4 = HostMap(Identifier.mac(CLIENT_MAC), "192.0.2.50", "bench-1")
V6 = HostMap(Identifier(IdentifierKind.DUID, duid_of_mac(CLIENT_MAC)), "2001:db8:0:1::50", "bench-1")


def in_thread(work: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> Awaitable[T]:
    """Clients block; the backend's reactor must not."""
    return deferToThread(work, *args, **keywords)


@contextmanager
def kea_network() -> Iterator[Network]:
    """A network, on a machine that has what the tests need."""
    need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(CLIENT_MAC)
        yield made


def schema_script() -> str:
    """What `kea-admin db-init pgsql` runs."""
    path = SCRIPTS / "dhcpdb_create.pgsql"
    need(path.exists(), f"{path} is not installed (package kea-admin)")
    return path.read_text()


class HostsDatabase:
    """A database with Kea's schema, for one test."""

    def __init__(self, postgres: TestServer, template: str) -> None:
        self._postgres = postgres
        self.name = run_in_reactor(lambda: postgres.create(template))
        self.dsn = postgres.dsn_for(self.name)

    @property
    def parameters(self) -> dict[str, Any]:
        """As Kea's configuration names it."""
        parts = extensions.parse_dsn(self.dsn)
        named = {"type": "postgresql", "name": parts["dbname"], "host": parts["host"], "user": parts["user"]}
        return {**named, "port": int(parts.get("port", 5432)), "max-reconnect-tries": 1000, "reconnect-wait-time": 50}

    def run(self, sql: str, arguments: Any = None) -> list[tuple[Any, ...]]:
        """One statement, on a connection of its own."""
        connection = psycopg2.connect(self.dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, arguments)
                return cursor.fetchall() if cursor.description is not None else []
        finally:
            connection.close()

    def drop(self) -> None:
        """Drop it with whoever is connected to it."""
        run_in_reactor(lambda: self._postgres.drop(self.name))


def kea_template(postgres: TestServer) -> str:
    """A database with Kea's schema, to copy."""
    script = schema_script()
    name = run_in_reactor(postgres.create)
    connection = psycopg2.connect(postgres.dsn_for(name))
    try:
        with connection.cursor() as cursor:
            cursor.execute(script)
    finally:
        connection.close()
    return name
