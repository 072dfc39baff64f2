"""What `dhcp-config` prints is all that the server needs: `--check` finds nothing, and host maps are served."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.dnsmasq.backend import dnsmasq_backend
from clusterd.dhcp.kea.backend import kea_backend
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.kea.laboratory import kea_network, schema_script
from tests.database import TestServer
from tests.end_to_end.dhcp_sites import isc_table, kea_table
from tests.lab.dhcpd import SECRET, DhcpdServer
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network
from tests.lab.operator import Operator
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer
from tests.requirements import need

pytestmark = pytest.mark.namespaces

ONE = HostMap(Identifier.mac("00:16:3e:aa:01:01"), "192.0.2.61", "one")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with kea_network() as made:
        yield made


async def is_ready_and_serves(operator: Operator, network: Network, backend: Backend, *said: str) -> None:
    assert await deferToThread(operator.check) == (0, list(said))
    assert await backend.apply((), {ONE}) == ()
    with RawClient4(network) as client:
        answer = await deferToThread(client.obtain, ONE.identifier.text)
    assert answer is not None and (answer.address, answer.host_name) == (ONE.address, ONE.hostname)
    await backend.close()


@pytest_twisted.ensureDeferred
async def test_dnsmasq(network: Network, tmp_path: Path) -> None:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    server = DnsmasqServer(network, tmp_path)
    dhcp = f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'
    operator = Operator(network, tmp_path, dhcp)
    text = operator.fragment("dnsmasq")
    assert f"install -d -m 0755 {server.hosts_directory}" in text
    (tmp_path / "dnsmasq.conf").write_text(f"{text}port=0\nno-ping\ndhcp-leasefile={server.lease_file}\n")
    server.start()
    try:
        backend = dnsmasq_backend(server.hosts_file, server.hosts_directory, server.pid_file, reactor)
        said = "dnsmasq: ready for up to 50000 host maps, IPv4 and IPv6."
        await is_ready_and_serves(operator, network, backend, said)
    finally:
        server.kill()


@pytest_twisted.ensureDeferred
async def test_isc(network: Network, tmp_path: Path) -> None:
    need(shutil.which("dhcpd"), "dhcpd is not installed")
    server = DhcpdServer(network, tmp_path)
    server.key_file.write_text(f'key hostmap {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')
    operator = Operator(network, tmp_path, isc_table(server))
    server.configuration_file.write_text(operator.fragment("isc"))
    server.configuration_file6.write_text(operator.fragment("isc", "--family", "6"))
    try:
        server.start()
        server.start6()
        said = (
            "isc: ready for up to 100000 host maps, IPv4 and IPv6.",
            "isc: each change of IPv6 host maps restarts the server.",
        )
        await is_ready_and_serves(operator, network, server.backend(reactor), *said)
    finally:
        server.kill()
        server.kill6()


def configure(servers: KeaServers, operator: Operator, access: Mapping[str, str] | None = None) -> None:
    """What is printed for each family, without leases on the disk; `access` is to a database that is elsewhere."""
    changes = {'"persist": true': '"persist": false', **(access or {})}
    for family in servers.families:
        text = operator.fragment("kea", "--family", str(family))
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        if family == 6:  # nor an identity there
            text = text.replace('"valid-lifetime"', '"server-id": {"type": "LL", "persist": false}, "valid-lifetime"')
        servers.config_file(family).write_text(text)


@pytest_twisted.ensureDeferred
async def test_kea_with_included_files(network: Network, tmp_path: Path) -> None:
    servers = KeaServers(network, tmp_path)
    operator = Operator(network, tmp_path, f'{kea_table(servers)}\nway = "include-files"')
    configure(servers, operator)
    with kea(servers):
        said = "kea: ready for up to 20000 host maps, IPv4 and IPv6."
        await is_ready_and_serves(operator, network, kea_backend(servers.settings, reactor), said)


@pytest_twisted.ensureDeferred
async def test_kea_with_a_hosts_table(network: Network, postgres: TestServer, tmp_path: Path) -> None:
    name = await postgres.create()
    connection = psycopg2.connect(postgres.dsn_for(name))
    with connection, connection.cursor() as cursor:
        cursor.execute(schema_script())
    connection.close()
    parts: Any = psycopg2.extensions.parse_dsn(postgres.dsn_for(name))
    servers = KeaServers(network, tmp_path, hosts_database={})
    operator = Operator(network, tmp_path, kea_table(servers))
    place = f'"name": "{name}", "host": "{parts["host"]}", "port": {parts.get("port", 5432)}'
    configure(servers, operator, {'"name": "kea"': place, '"user": "kea"': f'"user": "{parts["user"]}"'})
    with kea(servers):
        said = "kea: ready for up to 100000 host maps, IPv4 and IPv6."
        await is_ready_and_serves(operator, network, kea_backend(servers.settings, reactor), said)
    await postgres.drop(name)
