"""Readiness on real servers: the schema, a standby that is wanted and not there, a standby, nobody at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_twisted
from psycopg2 import extensions
from twisted.internet import reactor as global_reactor

from regiond.health import Health
from regiond.storage.pool import Pool
from regiond.storage.schema import migrate
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
        assert await health.shortcomings() == ["the database's schema is not the one of this regiond"]
        await migrate(pool)
        assert await health.shortcomings() == []
        await pool.execute("CREATE ROLE plain; GRANT SELECT ON migration TO plain")

        primary.query("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.query("SELECT pg_reload_conf()")
        lacking = ["synchronous replication is configured and no synchronous standby is streaming"]

        async def lacks() -> bool:
            return await health.shortcomings() == lacking

        async def is_ready() -> bool:
            return await health.shortcomings() == []

        await until(lacks)
        async with connected(extensions.make_dsn(primary.dsn, options="-c role=plain")) as unprivileged:
            assert await Health(unprivileged).shortcomings() == []  # it cannot see, so it does not say
        standby.clone(primary)
        async with running(standby) as of_standby:
            await until(is_ready)
            await pool.execute("INSERT INTO account (id, name, role) VALUES (1, 'x', 'user')")
            assert await Health(of_standby).shortcomings() == ["the database is a standby and takes no writes"]
        await until(lacks)

        primary.stop()
        (gone,) = await health.shortcomings()
        assert gone.startswith("the database is not reachable: ")
        primary.start()
        await until(lacks)
