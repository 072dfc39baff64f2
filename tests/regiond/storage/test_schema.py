"""Migrations are applied once, in order, by one of the regionds that start together."""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from regiond.storage.pool import Pool
from regiond.storage.schema import Migration, SchemaError, current, load_migrations, migrate
from tests.clusterd.log_events import logged

reactor: Any = global_reactor

FIRST = Migration(1, "initial", "CREATE TABLE thing (id integer); INSERT INTO thing SELECT 100 % 7; -- 100%")
SECOND = Migration(2, "more", "ALTER TABLE thing ADD COLUMN name text")
BOTH = (FIRST, SECOND)


@asynccontextmanager
async def pool_of(dsn: str, size: int = 1) -> Any:
    """A started pool, closed at the end."""
    pool = Pool(reactor, dsn, size)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@pytest_twisted.ensureDeferred
async def test_applies_what_is_missing_and_tells_it(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        assert await current(pool, BOTH) is False
        assert await migrate(pool, [FIRST]) == ["0001_initial"]
        assert (await current(pool, [FIRST]), await current(pool, BOTH)) == (True, False)
        assert await migrate(pool, BOTH) == ["0002_more"]
        assert await migrate(pool, BOTH) == []
        assert await current(pool, BOTH) is True
        assert await pool.query("SELECT id, name FROM thing") == [(2, None)]
        assert await pool.query("SELECT number, name, sha256 FROM migration ORDER BY number") == [
            (1, "initial", FIRST.sha256),
            (2, "more", SECOND.sha256),
        ]


@pytest_twisted.ensureDeferred
async def test_regionds_that_start_together_apply_each_migration_once(empty_database: str) -> None:
    slow = Migration(3, "slow", "SELECT pg_sleep(0.1); CREATE TABLE slow (x integer)")
    pools = [Pool(reactor, empty_database, 1) for _ in range(4)]
    for pool in pools:
        pool.start()
    try:
        answers: Sequence[list[str]] = await gatherResults(
            [Deferred.fromCoroutine(migrate(pool, (*BOTH, slow))) for pool in pools]
        )
    finally:
        for pool in pools:
            await pool.close()
    assert sorted(name for names in answers for name in names) == ["0001_initial", "0002_more", "0003_slow"]


@pytest_twisted.ensureDeferred
async def test_statement_timeout_does_not_count_for_migrations(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        await pool.session(lambda session: session.run("SET statement_timeout = '50ms'"))
        assert await migrate(pool, [Migration(1, "slow", "SELECT pg_sleep(0.2)")]) == ["0001_slow"]


@pytest_twisted.ensureDeferred
async def test_a_failed_migration_leaves_nothing_and_names_itself(empty_database: str) -> None:
    broken = Migration(2, "broken", "CREATE TABLE half (x integer); SELECT nonsense")
    async with pool_of(empty_database) as pool:
        with pytest.raises(SchemaError, match='0002_broken failed: column "nonsense" does not exist'):
            await migrate(pool, (FIRST, broken))
        assert await pool.query("SELECT to_regclass('half'), to_regclass('thing')") == [(None, "thing")]
        assert await migrate(pool, BOTH) == ["0002_more"]


@pytest_twisted.ensureDeferred
async def test_a_changed_migration_is_an_error(empty_database: str) -> None:
    changed = Migration(1, "initial", FIRST.sql + " ")
    async with pool_of(empty_database) as pool:
        await migrate(pool, BOTH)
        with pytest.raises(SchemaError, match="0001_initial was applied to the database with another text"):
            await migrate(pool, (changed, SECOND))
        assert await current(pool, (changed, SECOND)) is False


@pytest_twisted.ensureDeferred
async def test_a_newer_database_is_an_error_that_says_to_upgrade(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        await migrate(pool, BOTH)
        with pytest.raises(SchemaError, match=r"too new for this regiond: it has migration 0002_more.*upgrade regiond"):
            await migrate(pool, [FIRST])
        assert await current(pool, [FIRST]) is False


@pytest_twisted.ensureDeferred
async def test_a_hole_in_the_databases_history_is_an_error(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        await migrate(pool, BOTH)
        await pool.execute("DELETE FROM migration WHERE number = 1")
        with pytest.raises(SchemaError, match="later migrations than 0001_initial"):
            await migrate(pool, BOTH)


@pytest_twisted.ensureDeferred
async def test_a_migration_may_not_end_its_transaction(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        with pytest.raises(SchemaError, match="ends its transaction by itself"):
            await migrate(pool, [Migration(1, "sneaky", "COMMIT")])


@pytest_twisted.ensureDeferred
async def test_a_number_may_be_left_out(empty_database: str) -> None:
    async with pool_of(empty_database) as pool:
        steps = (Migration(1, "x", "SELECT 1"), Migration(7, "y", "SELECT 1"))
        assert await migrate(pool, steps) == ["0001_x", "0007_y"]
        assert await current(pool, steps) is True


@pytest_twisted.ensureDeferred
async def test_an_old_regiond_works_on_the_next_schema_where_that_says_so(empty_database: str) -> None:
    additive = Migration(
        2, "wider", "-- Room for a name.\n-- works for regionds that know 0001\nALTER TABLE thing ADD n text"
    )
    strict = Migration(5, "narrower", "-- works for regionds that know 0002\nALTER TABLE thing DROP id")
    async with pool_of(empty_database) as pool:
        await migrate(pool, (FIRST, additive))
        with logged() as events:
            assert await migrate(pool, [FIRST]) == []
        assert [(e["event"], e["migration"]) for e in events if "event" in e] == [("schema.newer", "0002_wider")]
        assert await current(pool, [FIRST]) is True
        assert await migrate(pool, (FIRST, additive, strict)) == ["0005_narrower"]
        assert await current(pool, (FIRST, additive)) is True
        with pytest.raises(SchemaError, match=r"it has migration 0005_narrower, which .*knows those up to 0001"):
            await migrate(pool, [FIRST])


@pytest.mark.parametrize("numbers", [(2,), (1, 1), (1, 3, 2), (2, 1)])
@pytest_twisted.ensureDeferred
async def test_numbers_rise_from_one(empty_database: str, numbers: tuple[int, ...]) -> None:
    async with pool_of(empty_database) as pool:
        with pytest.raises(SchemaError, match="numbered upwards from 1"):
            await migrate(pool, [Migration(number, "x", "SELECT 1") for number in numbers])


@pytest_twisted.ensureDeferred
async def test_the_database_fixture_is_current(database: str) -> None:
    async with pool_of(database) as pool:
        assert await current(pool) is True
        assert await migrate(pool) == []


def test_the_package_brings_its_migrations() -> None:
    assert [migration.number for migration in load_migrations()][:1] == [1]
