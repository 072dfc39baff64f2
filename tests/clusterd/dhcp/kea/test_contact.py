"""First contact with Kea: asked over its control socket, read from its files, and from its hosts table."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.first_contact import ServerPicture, Unreadable
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.backend import kea_backend, kea_reader
from clusterd.dhcp.kea.reservations import OWNER
from clusterd.dhcp.kea.settings import KeaSettings
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.kea.laboratory import HostsDatabase
from tests.clusterd.dhcp.kea.scripted import HostCommands, ScriptedServer
from tests.clusterd.dhcp.samples import entries, pools, put

MAC = "00:16:3e:00:00:07"
SUBNET = {"id": 1, "subnet": "192.0.2.0/24", "pools": [{"pool": "192.0.2.100 - 192.0.2.109"}]}
POOL = {("192.0.2.100", "192.0.2.109")}


class Site:
    """A Kea for IPv4, scripted or away, with a configuration file."""

    def __init__(self, directory: Path) -> None:
        self.server = ScriptedServer(directory / "kea4")
        self.file = directory / "kea-dhcp4.conf"
        self.settings = KeaSettings(
            backend="kea", dhcp4_socket=self.server.path, dhcp4_config=self.file, include_directory=directory
        )
        self.configuration: dict[str, Any] = {"subnet4": [SUBNET]}
        self.server.answers["status-get"] = lambda _: {"result": 0, "arguments": {"pid": 1, "reload": 0}}
        self.server.answers["config-get"] = lambda _: {"result": 0, "arguments": {"Dhcp4": self.configuration}}

    async def read(self, settings: KeaSettings | None = None) -> ServerPicture:
        return await kea_reader(settings or self.settings, reactor, run_at_once).read()


@pytest.fixture
def away(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest_twisted.async_yield_fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_runs_is_asked_whatever_its_file_says(site: Site) -> None:
    site.file.write_text("unreadable")
    reservation = {"hw-address": MAC, "ip-address": "192.0.2.7", "hostname": "printer"}
    ours = {"hw-address": "00:16:3e:00:00:08", "ip-address": "192.0.2.8", "user-context": OWNER}
    site.configuration["subnet4"] = [SUBNET | {"reservations": [reservation, ours]}]
    picture = await site.read()
    assert (pools(picture), entries(picture)) == (POOL, {"192.0.2.7": ({f"mac:{MAC}"}, "printer")})
    assert {entry.source for entry in picture.entries} == {"kea-dhcp4: subnet 192.0.2.0/24"}


@pytest_twisted.ensureDeferred
async def test_reservations_in_the_servers_memory_are_asked_for_page_by_page(site: Site) -> None:
    hosts = HostCommands(site.server, 4, {1: "192.0.2.0/24", 7: "10.64.0.0/10"})
    hosts.hosts = [
        {"subnet-id": 7, "hw-address": f"00:16:3e:01:{number >> 8:02x}:{number & 255:02x}", "ip-address": address}
        for number, address in ((number, f"10.64.{number >> 8}.{number & 255}") for number in range(1, 1502))
    ]
    hosts.hosts.append({"subnet-id": 1, "client-id": "01020304", "ip-address": "192.0.2.9", "user-context": OWNER})
    found = await site.read()
    assert len(found.entries) == 1501
    assert entries(found)["10.64.5.220"] == ({"mac:00:16:3e:01:05:dc"}, None)
    assert site.server.count("reservation-get-page") == 3


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_not_an_empty_answer(site: Site) -> None:
    HostCommands(site.server, 4, {1: "192.0.2.0/24"})
    site.server.answers["reservation-get-page"] = lambda _: {"result": 1, "text": "the database is away"}
    with pytest.raises(Unreadable, match="kea-dhcp4 refuses reservation-get-page: the database is away"):
        await site.read()
    site.server.answers["config-get"] = lambda _: {"result": 0, "arguments": {"Dhcp4": {"subnet4": 3}}}
    with pytest.raises(Unreadable, match="kea-dhcp4 answered config-get with"):
        await site.read()


@pytest_twisted.ensureDeferred
async def test_a_database_that_only_the_hook_can_list(site: Site) -> None:
    site.configuration["hosts-database"] = {"type": "mysql", "name": "kea"}
    with pytest.raises(Unreadable, match=r"type mysql, .* load libdhcp_host_cmds\.so, or keep its"):
        await site.read()


@pytest_twisted.ensureDeferred
async def test_without_the_server_its_file_is_read_with_what_it_includes(away: Site, tmp_path: Path) -> None:
    put("kea-dhcp4.conf", tmp_path)
    put("kea-reservations.json", tmp_path, "reservations.json")
    picture = await away.read()
    assert ("203.0.113.7", "203.0.113.9") in pools(picture)
    assert entries(picture)["192.0.2.31"] == ({"mac:00:16:3e:00:00:31"}, "everywhere")
    assert {entry.source.partition(":")[0] for entry in picture.entries} == {str(away.file)}


@pytest_twisted.ensureDeferred
async def test_neither_server_nor_file_is_not_an_empty_configuration(away: Site, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"does not answer at .*kea4: .* and without it .*kea-dhcp4\.conf cannot"):
        await away.read()
    put("kea-dhcp4.conf", tmp_path)
    with pytest.raises(Unreadable, match=r"reservations\.json"):
        await away.read()
    for text in ('{ "Dhcp4": ', f'<?include "{away.file}"?>', "[]", '{"Dhcp4": 3}', "{}"):
        away.file.write_text(text)
        with pytest.raises(Unreadable, match=r"kea-dhcp4\.conf"):
            await away.read()


@pytest_twisted.ensureDeferred
async def test_rows_of_the_hosts_table_that_are_not_ours(away: Site, hosts_database: HostsDatabase) -> None:
    away.file.write_text(json.dumps({"Dhcp4": {"subnet4": [SUBNET], "hosts-database": hosts_database.parameters}}))
    insert = (
        "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, dhcp6_subnet_id, ipv4_address, "
        "hostname, user_context) VALUES (decode(%s, 'hex'), %s, %s, %s, %s::inet - '0.0.0.0'::inet, %s, %s) "
        "RETURNING host_id"
    )
    hosts_database.run(insert, (MAC.replace(":", ""), 0, 1, None, "192.0.2.7", "printer", '{ "comment": "theirs" }'))
    hosts_database.run(insert, ("01020304", 3, 0, None, "192.0.2.9", None, None))  # a global one
    hosts_database.run(insert, ("0a0b", 0, 1, None, None, "only-options", None))
    [(six,)] = hosts_database.run(insert, ("000300010102", 1, None, 4, None, None, None))
    reserve = "INSERT INTO ipv6_reservations (address, prefix_len, type, host_id) VALUES (%s, %s, %s, %s)"
    hosts_database.run(reserve, ("2001:db8::7", 128, 0, six))
    hosts_database.run(reserve, ("2001:db8:9::", 56, 2, six))  # a delegated prefix

    backend = kea_backend(away.settings, reactor, run_at_once)
    six_settings = away.settings.model_copy(update={"dhcp4_socket": "", "dhcp6_socket": away.server.path})
    six_file = away.file.with_name("kea-dhcp6.conf")
    six_settings = six_settings.model_copy(update={"dhcp6_config": six_file})
    six_file.write_text(json.dumps({"Dhcp6": {"subnet6": [], "hosts-database": hosts_database.parameters}}))
    await away.server.start()
    configuration = json.loads(away.file.read_text())
    away.server.answers["config-get"] = lambda _: {"result": 0, "arguments": configuration}
    try:
        assert await backend.apply((), [HostMap(Identifier.mac("00:16:3e:00:00:08"), "192.0.2.8")]) == ()
    finally:
        await backend.close()
        await away.server.stop()
    assert entries(await away.read()) == {
        "192.0.2.7": ({f"mac:{MAC}"}, "printer"),
        "192.0.2.9": ({"client-id:01:02:03:04"}, None),
    }
    assert entries(await away.read(six_settings)) == {"2001:db8::7": ({"duid:00:03:00:01:01:02"}, None)}


@pytest_twisted.ensureDeferred
async def test_a_hosts_table_that_cannot_be_read_is_not_an_empty_one(away: Site, tmp_path: Path) -> None:
    named = {"type": "postgresql", "name": "kea", "host": str(tmp_path), "user": "kea"}
    for more, words in (
        ({}, "the hosts database .*No such file or directory"),
        ({"password": "*****"}, "it does not tell the password of its hosts database: set hosts_database"),
    ):
        away.file.write_text(json.dumps({"Dhcp4": {"subnet4": [SUBNET], "hosts-database": named | more}}))
        with pytest.raises(Unreadable, match=words):
            await away.read()
