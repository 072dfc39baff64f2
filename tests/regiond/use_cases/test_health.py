"""Readiness on real servers: the schema, a standby that is wanted and not there, a standby, nobody at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_twisted
from psycopg2 import extensions
from twisted.internet import reactor as global_reactor

from regiond.domain.readiness import DatabaseRole, DatabaseState, ReplicationState, SchemaState
from regiond.storage.pool import Pool
from regiond.storage.schema import migrate
from regiond.use_cases.health import Health
from tests.chaos.postgres import PostgresServer, Servers
from tests.waiting import until

reactor: Any = global_reactor


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Pool]:
    pool = Pool(reactor, dsn, size=2, patience=1.0)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def running(server: PostgresServer) -> AsyncIterator[Pool]:
    """A pool on a server that is started, and stopped afterwards."""
    server.start()
    try:
        async with connected(server.dsn) as pool:
            yield pool
    finally:
        server.stop()


@pytest_twisted.ensureDeferred
async def test_replication_that_was_asked_for_has_to_be_there(state_directory: Path) -> None:
    servers = Servers(state_directory)
    primary, standby = servers.server("primary"), servers.server("standby")
    primary.initialize()
    primary.start()
    primary.create_database()
    primary.stop()
    async with running(primary) as pool:
        health = Health(pool)
        unlike = await health.readiness()
        assert unlike.shortcomings == ("the database's schema is not the one of this regiond",)
        assert unlike.database == DatabaseState(True, DatabaseRole.PRIMARY, SchemaState.OTHER)
        await migrate(pool)
        alone = await health.readiness()
        assert (alone.shortcomings, alone.database.schema) == ((), SchemaState.CURRENT)
        assert alone.replication == ReplicationState(False, 0, 0, 0, None)
        await pool.execute("CREATE ROLE plain; GRANT SELECT ON migration TO plain")

        primary.query("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.query("SELECT pg_reload_conf()")
        lacking = "synchronous replication is configured and no synchronous standby is streaming"

        async def lacks() -> bool:
            readiness = await health.readiness()
            return readiness.shortcomings == (lacking,) and readiness.replication == ReplicationState(
                True, 0, 0, 0, None
            )

        async def is_ready() -> bool:
            return (await health.readiness()).shortcomings == ()

        async def has_caught_up() -> bool:
            return (await health.readiness()).replication == ReplicationState(True, 1, 1, 1, 0)

        await until(lacks)
        async with connected(extensions.make_dsn(primary.dsn, options="-c role=plain")) as unprivileged:
            blind = await Health(unprivileged).readiness()
            assert blind.shortcomings == ()  # it cannot see, so it does not say
            assert blind.replication == ReplicationState(True, None, None, None, None)
        standby.clone(primary)
        async with running(standby) as of_standby:
            await until(is_ready)
            await pool.execute("INSERT INTO account (id, name, role) VALUES (1, 'x', 'user')")
            await until(has_caught_up)
            there = await Health(of_standby).readiness()
            assert there.shortcomings == ("the database is a standby and takes no writes",)
            assert there.database == DatabaseState(True, DatabaseRole.STANDBY, SchemaState.CURRENT)
        await until(lacks)

        primary.stop()
        away = await health.readiness()
        (gone,) = away.shortcomings
        assert gone.startswith("the database is not reachable: ")
        assert (away.database, away.replication) == (DatabaseState(False), None)
        primary.start()
        await until(lacks)
