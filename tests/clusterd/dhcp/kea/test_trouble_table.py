"""A real Kea with a hosts table, and what goes wrong: repaired, or told in the words of whoever refuses."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL

import psycopg2
import psycopg2.errors
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import capturedLogs

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.control_socket import ControlSocket
from clusterd.dhcp.kea.reservations import OWNER_TEXT
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.contract import ALIAS, ALL_KINDS, BY_DUID, PLAIN, UNNAMED, numbered
from tests.clusterd.dhcp.kea.laboratory import CLIENT_MAC, OTHER_MAC, V4, V6, HostsDatabase, in_thread
from tests.database import TestServer, run_in_reactor
from tests.lab.dhcp_messages import Kind
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import wait_until
from tests.requirements import need

pytestmark = pytest.mark.namespaces

OTHER = HostMap(Identifier.mac(OTHER_MAC), V4.address)


@pytest.fixture
def servers(network: Network, hosts_database: HostsDatabase, tmp_path: Path) -> Iterator[KeaServers]:
    with kea(KeaServers(network, tmp_path, hosts_database=hosts_database.parameters)) as running:
        yield running


@pytest.fixture
def backend(servers: KeaServers) -> Iterator[KeaBackend]:
    made = kea_backend(servers.settings, reactor)
    yield made
    run_in_reactor(made.close)


def insert_foreign(database: HostsDatabase, mac: str, address: str, *, context: str | None = None) -> None:
    """A row as another tool writes it, with a DHCPv6 subnet beside."""
    database.run(
        "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, dhcp6_subnet_id, ipv4_address, "
        "hostname, user_context) VALUES (decode(%s, 'hex'), 0, 1, 1, %s::inet - '0.0.0.0'::inet, 'theirs', %s)",
        (mac.replace(":", ""), address, context),
    )


@pytest_twisted.ensureDeferred
async def test_rows_of_others_are_never_touched_and_win(
    backend: KeaBackend, hosts_database: HostsDatabase, v4: RawClient4
) -> None:
    insert_foreign(hosts_database, CLIENT_MAC, "192.0.2.200", context='{ "comment": "the printer" }')
    insert_foreign(hosts_database, "00:16:3e:00:00:77", UNNAMED.address)
    before = hosts_database.run("SELECT * FROM hosts ORDER BY host_id")
    rejections = {one.host_map: one.reason for one in await backend.apply((), {V4, UNNAMED, PLAIN})}
    assert rejections == {
        V4: f"mac:{CLIENT_MAC} has a reservation of 192.0.2.200 there already, which is not hostmap's",
        UNNAMED: "192.0.2.12 is reserved for mac:00:16:3e:00:00:77 already, which is not hostmap's doing",
    }
    assert await backend.read() == {PLAIN}
    assert await backend.apply({HostMap(V4.identifier, "192.0.2.200", "theirs")}, ()) == ()
    assert await backend.replace(()) == ()
    assert hosts_database.run("SELECT * FROM hosts ORDER BY host_id") == before
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == "192.0.2.200"


@pytest_twisted.ensureDeferred
async def test_two_clients_for_one_address_are_refused_where_the_server_would_serve_neither(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    servers.configure(4, {"ip-reservations-unique": True})
    servers.stop(4)
    servers.start(4)
    await backend.apply((), {V4})
    [rejection] = await backend.apply((), {OTHER})
    assert rejection.reason.startswith("Kea takes one client per address")
    assert rejection.reason.endswith(f"192.0.2.50 is mac:{CLIENT_MAC}'s")
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
    assert await backend.apply({V4}, {OTHER}) == ()
    assert await backend.read() == {OTHER}


@pytest_twisted.ensureDeferred
async def test_rows_edited_behind_our_back_are_drift_that_the_comparison_sees(
    backend: KeaBackend, hosts_database: HostsDatabase
) -> None:
    await backend.apply((), ALL_KINDS)
    hosts_database.run("DELETE FROM hosts WHERE dhcp6_subnet_id IS NOT NULL")
    hosts_database.run("UPDATE hosts SET hostname = 'edited' WHERE hostname = 'web1'")
    found = await backend.read()
    assert {host_map.family for host_map in found} == {4}
    assert found != {host_map for host_map in ALL_KINDS if host_map.family == 4}
    assert await backend.verify(ALL_KINDS) == ALL_KINDS & found
    assert await backend.apply(found - ALL_KINDS, ALL_KINDS - found) == ()
    assert await backend.read() == ALL_KINDS


@pytest_twisted.ensureDeferred
async def test_a_row_of_ours_in_a_wrong_subnet_is_deleted(backend: KeaBackend, hosts_database: HostsDatabase) -> None:
    """As after the operator gave subnets other ids: Kea would serve an address of one network in another."""
    await backend.apply((), {PLAIN, ALIAS, BY_DUID})
    hosts_database.run("UPDATE hosts SET dhcp4_subnet_id = 2 WHERE hostname = 'web1'")
    with capturedLogs() as logs:
        assert await backend.read() == {ALIAS, BY_DUID}
    [event] = [event for event in logs if event.get("event") == "kea.misplaced-row"]
    assert (event["address"], event["subnet_id"], event["holder"]) == (PLAIN.address, 2, str(PLAIN.identifier))
    assert hosts_database.run("SELECT count(*) FROM hosts") == [(2,)]


@pytest_twisted.ensureDeferred
async def test_rows_of_another_sites_server_in_the_same_table_are_not_ours(
    backend: KeaBackend, hosts_database: HostsDatabase
) -> None:
    hosts_database.run(
        "INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, dhcp4_subnet_id, ipv4_address, user_context) "
        "VALUES ('abcdef', 0, 900, 167772161, %s)",
        (OWNER_TEXT,),
    )
    assert await backend.read() == frozenset()
    await backend.replace({PLAIN})
    assert hosts_database.run("SELECT count(*) FROM hosts") == [(2,)]


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_down_is_an_error_and_serves_everything_at_its_return(
    backend: KeaBackend, servers: KeaServers, v4: RawClient4
) -> None:
    await backend.apply((), {PLAIN})
    servers.stop(4, how=SIGKILL)
    for call in (lambda: backend.apply((), {V4}), backend.read, lambda: backend.verify({PLAIN})):
        with pytest.raises(BackendError, match=r"kea-dhcp4 does not answer at .*: nobody listens there: the server"):
            await call()
    [sentence] = await backend.check()
    assert sentence.endswith("Start it, or say with dhcp4_socket where its control socket is.")
    assert await backend.apply((), {V6}) == ()  # the other server is there
    assert backend.pause({PLAIN}, {V6}) == 0.0
    servers.start(4)
    assert await backend.apply((), {V4}) == ()
    assert await backend.read() == {PLAIN, V4, V6}
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, V4.address)
    assert await backend.check() == []


@pytest_twisted.ensureDeferred
async def test_a_reconfigured_server_is_noticed_with_the_next_change(backend: KeaBackend, servers: KeaServers) -> None:
    new = HostMap(V4.identifier, "203.0.113.9")
    [rejection] = await backend.apply((), {new})
    assert "no subnet with 203.0.113.9" in rejection.reason
    servers.configure(4, {"subnet4": [{"id": 9, "subnet": "203.0.113.0/24"}]})
    servers.stop(4)
    servers.start(4)
    assert await backend.apply((), {new}) == ()
    assert await backend.read() == {new}


@pytest_twisted.ensureDeferred
async def test_the_hosts_database_is_away_for_a_while(
    backend: KeaBackend, hosts_database: HostsDatabase, postgres: TestServer, servers: KeaServers, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    await postgres.run(f"ALTER DATABASE {hosts_database.name} ALLOW_CONNECTIONS false")
    await postgres.run(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{hosts_database.name}'"
    )
    with pytest.raises(BackendError, match=r"the hosts database \(host=.*\): .*not currently accepting connections"):
        await backend.apply((), {PLAIN})
    with pytest.raises(BackendError, match="not currently accepting connections"):
        await backend.read()
    obstacles = await backend.check()
    assert len(obstacles) == 2 and "clusterd needs SELECT, INSERT, UPDATE and DELETE on hosts" in obstacles[0]
    await postgres.run(f"ALTER DATABASE {hosts_database.name} ALLOW_CONNECTIONS true")
    assert await backend.apply((), {PLAIN}) == ()
    assert await backend.read() == {V4, PLAIN}
    assert await backend.check() == []
    # Kea connects again by itself; with its default for on-fail it answers nobody before it has.
    await in_thread(wait_until, lambda: v4.discover(CLIENT_MAC) is not None, "Kea serves again")
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_a_connection_that_ended_while_idle_is_made_again_unnoticed(
    backend: KeaBackend, hosts_database: HostsDatabase, postgres: TestServer
) -> None:
    await backend.apply((), {PLAIN})
    await postgres.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{hosts_database.name}' AND application_name = 'clusterd'"
    )
    assert await backend.apply({PLAIN}, {UNNAMED}) == ()
    assert await backend.read() == {UNNAMED}


@pytest_twisted.ensureDeferred
async def test_what_postgresql_refuses_is_told_in_its_words_and_nothing_is_half_done(
    backend: KeaBackend, hosts_database: HostsDatabase
) -> None:
    await backend.apply((), {PLAIN})
    hosts_database.run("ALTER TABLE hosts ADD CONSTRAINT small CHECK (hostname <> 'web1-alias')")
    with pytest.raises(BackendError, match=r'the hosts database .*: new row for relation "hosts" violates check'):
        await backend.apply({PLAIN}, {UNNAMED, ALIAS})
    assert await backend.read() == {PLAIN}


@pytest.fixture
def small_disk(hosts_database: HostsDatabase) -> Iterator[Path]:
    """A file system with room for next to nothing, on which PostgreSQL's user may write."""
    place = Path(tempfile.mkdtemp(prefix="hostmap-small-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    need(mounted.returncode == 0, f"no file system can be mounted: {mounted.stderr.strip()}")
    try:
        owner = Path(hosts_database.parameters["host"]).stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_of_postgresql_is_told_and_heals(
    backend: KeaBackend, hosts_database: HostsDatabase, postgres: TestServer, small_disk: Path, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    space = f"small_{hosts_database.name}"
    await postgres.run(f"CREATE TABLESPACE {space} LOCATION '{small_disk}'")
    try:
        hosts_database.run(f"ALTER TABLE hosts SET TABLESPACE {space}")
        with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        # What is left is room in the last page of the table.
        fill = "DO $$ BEGIN FOR n IN 1..1000 LOOP INSERT INTO hosts (dhcp_identifier, dhcp_identifier_type, "
        fill += "dhcp4_subnet_id, ipv4_address) VALUES (decode(to_hex(n + 1048576), 'hex'), 0, 1, 1); COMMIT; "
        with pytest.raises(psycopg2.errors.DiskFull):
            await postgres.run(f"{fill} END LOOP; END $$", database=hosts_database.name)
        words = r"the hosts database .*: could not extend file .*: No space left on device$"
        with pytest.raises(BackendError, match=words):
            await backend.apply((), {PLAIN})
        assert await backend.read() == {V4}
        answer = await in_thread(v4.discover, CLIENT_MAC)
        assert answer is not None and answer.address == V4.address
        (small_disk / "ballast").unlink()
        assert await backend.apply((), {PLAIN}) == ()
        assert await backend.read() == {V4, PLAIN}
    finally:
        hosts_database.run("ALTER TABLE hosts SET TABLESPACE pg_default")
        await postgres.run(f"DROP TABLESPACE {space}")


@pytest_twisted.ensureDeferred
async def test_somebody_who_holds_the_table_is_told_of(
    backend: KeaBackend, hosts_database: HostsDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clusterd.dhcp.kea import database

    monkeypatch.setitem(database._CONNECTION, "options", "-c lock_timeout=100ms")
    holder = psycopg2.connect(hosts_database.dsn)
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE hosts IN ROW EXCLUSIVE MODE")
    with pytest.raises(BackendError, match="canceling statement due to lock timeout"):
        await backend.apply((), {PLAIN})
    holder.close()
    assert await backend.apply((), {PLAIN}) == ()


@pytest_twisted.ensureDeferred
async def test_included_files_of_before_are_emptied_when_the_table_is_there(
    network: Network, hosts_database: HostsDatabase, tmp_path: Path
) -> None:
    with kea(KeaServers(network, tmp_path)) as servers:
        first = kea_backend(servers.settings, reactor)
        await first.apply((), {PLAIN, V4})
        assert set(first.ways.values()) == {Way.INCLUDE_FILES}
        servers.configure(4, {"hosts-database": hosts_database.parameters})
        servers.configure(6, {"hosts-database": hosts_database.parameters})
        servers.stop()
        servers.start()
        second = kea_backend(servers.settings, reactor)
        assert await second.read() == frozenset()
        assert set(second.ways.values()) == {Way.HOSTS_DATABASE}
        await second.apply((), {PLAIN})
        assert await second.read() == {PLAIN}
        reply = await ControlSocket(servers.socket(4), 4, reactor, run_at_once).order("config-get")
        assert [subnet["reservations"] for subnet in reply.arguments["Dhcp4"]["subnet4"]] == [[], [], []]
        await second.close()


@pytest_twisted.ensureDeferred
async def test_what_the_configuration_lacks_is_said_with_what_to_do(
    network: Network, hosts_database: HostsDatabase, tmp_path: Path
) -> None:
    pools = [{"pool": "192.0.2.50 - 192.0.2.99"}]
    changes = {
        "match-client-id": True,
        "host-reservation-identifiers": ["hw-address", "client-id"],
        "subnet4": [{"id": 1, "subnet": "192.0.2.0/24", "pools": pools, "reservations-out-of-pool": True}],
    }
    lacking = KeaServers(
        network,
        tmp_path,
        hosts_database=hosts_database.parameters,
        changes={4: changes},
        lease_commands=False,
        families=(4,),
    )
    with kea(lacking) as servers:
        backend = kea_backend(servers.settings, reactor)
        said = "\n".join(await backend.check())
        assert "reservations-out-of-pool is true" in said
        assert "set match-client-id to false" in said
        assert 'set host-reservation-identifiers to ["client-id", "hw-address"]' in said
        assert "Add the hook to hooks-libraries" in said
        [rejection] = await backend.apply((), {V4, PLAIN})
        assert rejection.reason.startswith("kea-dhcp4 ignores a reservation of 192.0.2.50: it lies in a pool of")
        assert await backend.read() == {PLAIN}
        with capturedLogs() as logs:
            await backend.release({PLAIN})
        assert [event["event"] for event in logs if "event" in event] == ["kea.no-lease-commands"]
        await backend.close()


@pytest_twisted.ensureDeferred
async def test_kea_admin_finds_nothing_wrong_with_the_schema_of_the_tests(hosts_database: HostsDatabase) -> None:
    """The tests load the script that `kea-admin db-init pgsql` runs; its own version check agrees."""
    need(shutil.which("kea-admin"), "kea-admin is not installed")
    need(shutil.which("psql"), "psql is not installed (kea-admin needs it)")
    named = hosts_database.parameters
    command = ["kea-admin", "db-version", "pgsql", "-h", named["host"], "-n", named["name"], "-u", named["user"]]
    done = await in_thread(subprocess.run, [*command, "-p", "none"], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "13.0", done.stderr


@pytest_twisted.ensureDeferred
async def test_ten_thousand_are_replaced_and_found_right(backend: KeaBackend) -> None:
    many = numbered(10_000)
    assert await backend.replace(many) == ()
    assert await backend.read() == many
    assert await backend.verify(many) == many
    assert await backend.replace(many) == ()
