"""A site for each DHCP server that people run: its networks, the real server on them, and a clusterd that serves it.

clusterd's `[dhcp]` table is as an operator writes it. The networks of two sites differ, so that one region has both.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import extensions

from regiond.postgres.place import ROLE
from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.clients import missing_clients
from tests.lab.dhcpd import OMAPI_PORT, DhcpdServer, dhcpd
from tests.lab.kea import SCRIPTS, KeaServers, kea, missing_programs
from tests.lab.namespaces import Network, Wire
from tests.lab.servers import DnsmasqServer, ProcessIdentity, dnsmasq
from tests.requirements import need

MAC = "00:16:3e:aa:00:01"  # of both of the clients' NICs
SERVERS = ("dnsmasq", "isc", "kea-hosts-database", "kea-include-files")


@dataclass(frozen=True, slots=True)
class DhcpSite:
    """`v4` and `v6` are on the first cable, `second` on the other one; `identity` is the process that serves IPv4.

    `static_entries` are addresses that the server's own configuration gives to somebody. `one_lease_per_address`: a
    second client that may have an address waits for the end of the first one's lease.
    """

    cluster: Cluster
    network: Network
    v4: str
    v6: str
    second: str
    identity: Callable[[], ProcessIdentity]
    static_entries: list[str]
    one_lease_per_address: bool

    @property
    def server_address(self) -> str:
        """The server's own address on `v4`."""
        return str(next(ip_network(self.v4).hosts()))


@dataclass(frozen=True, slots=True)
class _Server:
    dhcp: str
    identity: Callable[[], ProcessIdentity]
    static_entries: tuple[str, ...] = ()
    one_lease_per_address: bool = False


@contextmanager
def dhcp_site(name: str, region: Region, directory: Path) -> Iterator[DhcpSite]:
    """The site of one of SERVERS, all of whose networks can be claimed on."""
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    number = SERVERS.index(name) + 1
    wires = (Wire((f"10.20.{number}.1/24", f"2001:db8:{number}::1/64")), Wire((f"10.21.{number}.1/24",)))
    place = directory / name
    place.mkdir()
    with namespaces.network(wires) as network, _server(name, network, place, region) as server:
        network.set_client_mac(MAC)
        network.set_client_mac(MAC, "c1")
        cluster = Cluster(directory, region.link, f"rack-{name}", namespace=network.server, dhcp=server.dhcp)
        v4, v6, second = (cidr for wire in wires for cidr in wire.networks)
        try:
            cluster.up()
            for cidr in (v4, v6, second):
                _open(region, cidr)
            entries = list(server.static_entries)
            yield DhcpSite(cluster, network, v4, v6, second, server.identity, entries, server.one_lease_per_address)
        finally:
            cluster.stop()


def subnet_path(cidr: str) -> str:
    """Where the API has a subnet."""
    return f"subnets/{quote(cidr, safe='')}"


def _open(region: Region, cidr: str) -> None:
    """Return when addresses can be claimed; a released one is free as soon as its removal is confirmed."""

    def is_claimable() -> bool:
        reply = region.api.request("GET", subnet_path(cidr))
        return reply.status == 200 and bool(reply.body["claimable"])

    eventually(is_claimable, f"{cidr} is claimable")
    region.api.patch(subnet_path(cidr), {"release_hold_seconds": 0})


@contextmanager
def _server(name: str, network: Network, directory: Path, region: Region) -> Iterator[_Server]:
    match name:
        case "dnsmasq":
            need(shutil.which("dnsmasq"), "dnsmasq is not installed")
            with dnsmasq(network, directory) as one:
                yield _Server(dnsmasq_table(one), lambda: one.identity)
        case "isc":
            need(shutil.which("dhcpd"), "dhcpd is not installed")
            own = network.wires[0].networks[0].replace(".0/24", ".99")
            host = f"host foreign {{ hardware ethernet 00:16:3e:aa:00:77; fixed-address {own}; }}"
            with dhcpd(network, directory, more=[host]) as two:
                yield _Server(isc_table(two), lambda: two.identity, (own,))
        case _:
            need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
            database = make_hosts_database(region, "kea") if name == "kea-hosts-database" else None
            with kea(KeaServers(network, directory, hosts_database=database)) as servers:
                yield _Server(kea_table(servers), lambda: servers.identity(4), one_lease_per_address=True)


def dnsmasq_table(server: DnsmasqServer) -> str:
    """clusterd's [dhcp] table for a dnsmasq."""
    return f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'


def isc_table(server: DhcpdServer) -> str:
    """clusterd's [dhcp] table for a dhcpd."""
    return f"""backend = "isc"
omapi_port = {OMAPI_PORT}
omapi_key_file = "{server.key_file}"
leases_file = "{server.leases_file}"
configuration_file = "{server.configuration_file}"
[dhcp.ipv6]
include_file = "{server.include_file}"
configuration_file = "{server.configuration_file6}"
pid_file = "{server.pid_file6}"
leases_file = "{server.leases_file6}"
program = "{server.directory}/dhcpd"
restart_command = ["{server.restart_command}"]"""


def kea_table(servers: KeaServers) -> str:
    """clusterd's [dhcp] table for Kea."""
    return f"""backend = "kea"
dhcp4_socket = "{servers.socket(4) if 4 in servers.families else ""}"
dhcp6_socket = "{servers.socket(6) if 6 in servers.families else ""}"
include_directory = "{servers.include_directory}"
dhcp4_config = "{servers.config_file(4)}"
dhcp6_config = "{servers.config_file(6)}\""""


def make_hosts_database(region: Region, name: str) -> dict[str, Any]:
    """A database with Kea's schema on the PostgreSQL that there is, the region's; as Kea's configuration names it."""
    script = SCRIPTS / "dhcpdb_create.pgsql"
    need(script.exists(), f"{script} is not installed (package kea-admin)")
    access = {"host": str(region.state / "postgres" / "socket"), "user": ROLE, "dbname": "postgres"}
    execute(access, f"CREATE DATABASE {name}")
    execute({**access, "dbname": name}, script.read_text())
    return {"type": "postgresql", "name": name, "host": access["host"], "user": ROLE}


def execute(access: dict[str, str], sql: str) -> list[tuple[Any, ...]]:
    """One statement, or a script, on a connection of its own."""
    connection = psycopg2.connect(extensions.make_dsn(**access))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description is not None else []
    finally:
        connection.close()
