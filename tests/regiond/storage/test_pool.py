"""The pool does not suffer from what txpostgres and libpq leave to their users."""

import select
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from psycopg2 import errorcodes, extensions
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from regiond.storage.connection import Connection
from regiond.storage.connector import SESSION_SETTINGS, Connector
from regiond.storage.pool import ConnectionLost, DatabaseUnavailable, Pool, Session, TransactionLeftOpen
from tests.database import TestServer
from tests.waiting import until

reactor: Any = global_reactor


@asynccontextmanager
async def running_pool(dsn: str, size: int = 2, **options: Any) -> Any:
    """A started pool, closed at the end."""
    pool = Pool(reactor, dsn, size, **options)
    pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def at_once(coroutine: Any) -> Any:
    """Start an async call without waiting for it."""
    return Deferred.fromCoroutine(coroutine)


def patient_connector(dsn: str, **settings: str) -> Connector:
    """A connector whose server-side limits are out of the way."""
    return Connector(reactor, dsn, {**SESSION_SETTINGS, "statement_timeout": "0", **settings})


@pytest.fixture
def deaf_server() -> Iterator[int]:
    """A port on which connections are accepted by the kernel and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def kill_all(postgres: TestServer, dsn: str) -> int:
    """End every server process of the database; how many there were."""
    name = postgres.name_of(dsn)
    rows = await postgres.run("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    return len(rows)


@pytest_twisted.ensureDeferred
async def test_query_answers_rows_of_the_last_statement(empty_database: str) -> None:
    async with running_pool(empty_database) as pool:
        assert await pool.query("SELECT %s + 1, 'x'", [41]) == [(42, "x")]
        assert await pool.query("SELECT 1; SELECT 2, '100%'") == [(2, "100%")]


@pytest_twisted.ensureDeferred
async def test_a_statement_without_rows_has_no_rows(empty_database: str) -> None:
    async with running_pool(empty_database) as pool:
        assert await pool.query("CREATE TABLE t (x integer)") == []
        await pool.execute("INSERT INTO t VALUES (1), (2)")
        assert await pool.query("SELECT count(*) FROM t") == [(2,)]
        assert pool.stats.deaths == 0


@pytest_twisted.ensureDeferred
async def test_settings_are_applied_to_every_connection(empty_database: str) -> None:
    async with running_pool(empty_database, 3) as pool:
        await until(lambda: pool.stats.idle == 3)
        for name, value in SESSION_SETTINGS.items():
            shown = await gatherResults([at_once(pool.query(f"SHOW {name}")) for _ in range(3)])
            assert shown == [[(value,)]] * 3


@pytest_twisted.ensureDeferred
async def test_a_transaction_commits_what_its_function_did(empty_database: str) -> None:
    async def work(session: Session) -> int:
        await session.run("CREATE TABLE t (x integer)")
        return await session.execute("INSERT INTO t SELECT generate_series(1, 5)")

    async with running_pool(empty_database) as pool:
        assert await pool.transaction(work) == 5
        assert await pool.query("SELECT count(*) FROM t") == [(5,)]


@pytest_twisted.ensureDeferred
async def test_a_transaction_is_undone_when_its_function_raises(empty_database: str) -> None:
    class Oops(Exception):
        pass

    async def work(session: Session) -> None:
        await session.run("INSERT INTO t VALUES (1)")
        raise Oops

    async with running_pool(empty_database, 1) as pool:
        await pool.execute("CREATE TABLE t (x integer)")
        with pytest.raises(Oops):
            await pool.transaction(work)
        assert await pool.query("SELECT count(*) FROM t") == [(0,)]
        assert pool.stats.deaths == 0


@pytest_twisted.ensureDeferred
async def test_errors_of_statements_pass_through_and_the_connection_stays(empty_database: str) -> None:
    async def work(session: Session) -> None:
        await session.run("SELECT 1 / 0")

    async with running_pool(empty_database, 1) as pool:
        with pytest.raises(psycopg2.errors.DivisionByZero):
            await pool.transaction(work)
        with pytest.raises(psycopg2.errors.UndefinedTable):
            await pool.query("SELECT * FROM nowhere")
        assert await pool.query("SELECT 1") == [(1,)]
        assert pool.stats.deaths == 0


@pytest_twisted.ensureDeferred
async def test_isolation_is_of_that_transaction_only(empty_database: str) -> None:
    async def look(session: Session) -> Any:
        return await session.run("SHOW transaction_isolation")

    async with running_pool(empty_database, 1) as pool:
        assert await pool.transaction(look, isolation="SERIALIZABLE") == [("serializable",)]
        assert await pool.transaction(look) == [("read committed",)]
        with pytest.raises(ValueError, match="no such isolation level"):
            await pool.transaction(look, isolation="CHAOS; DROP TABLE t")


@pytest_twisted.ensureDeferred
async def test_a_session_begins_and_commits_by_itself(empty_database: str) -> None:
    async def work(session: Session) -> list[Any]:
        rows = await session.run("BEGIN; CREATE TABLE t (x integer); SELECT 7")
        states = [session.in_transaction]
        assert await session.run("INSERT INTO t VALUES (%s); COMMIT", rows[0]) == []
        assert [*states, session.in_transaction] == [True, False]
        return await session.run("SELECT x FROM t")

    async with running_pool(empty_database) as pool:
        assert await pool.session(work) == [(7,)]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("last", ["SELECT 1", "SELECT 1 / 0"])
async def test_no_open_transaction_returns_to_the_pool(empty_database: str, last: str) -> None:
    async def work(session: Session) -> None:
        await session.run("BEGIN; CREATE TABLE t (x integer)")
        await session.run(last)

    async with running_pool(empty_database, 1) as pool:
        with pytest.raises((TransactionLeftOpen, psycopg2.errors.DivisionByZero)):
            await pool.session(work)
        assert await pool.query("SELECT to_regclass('t'), pg_current_xact_id_if_assigned()") == [(None, None)]


@pytest_twisted.ensureDeferred
async def test_a_function_that_does_not_wait_for_its_statement_commits_nothing(empty_database: str) -> None:
    started = []

    async def work(session: Session) -> None:
        statement = at_once(session.run("INSERT INTO t SELECT 1 FROM pg_sleep(0.05)"))
        statement.addErrback(lambda failure: failure.trap(ConnectionLost))
        started.append(statement)

    async with running_pool(empty_database, 1) as pool:
        await pool.execute("CREATE TABLE t (x integer)")
        with pytest.raises(RuntimeError, match="one statement at a time"):
            await pool.transaction(work)
        assert started[0].called
        assert await pool.query("SELECT count(*) FROM t") == [(0,)]


@pytest_twisted.ensureDeferred
async def test_a_session_is_over_when_its_function_returned(empty_database: str) -> None:
    async def work(session: Session) -> Session:
        return session

    async with running_pool(empty_database) as pool:
        kept = await pool.session(work)
        with pytest.raises(RuntimeError, match="the session is over"):
            await kept.run("SELECT 1")


@pytest_twisted.ensureDeferred
async def test_a_function_that_ends_the_transaction_is_a_bug(empty_database: str) -> None:
    async def work(session: Session) -> None:
        await session.run("COMMIT")

    async with running_pool(empty_database) as pool:
        with pytest.raises(RuntimeError, match="ended the transaction by itself"):
            await pool.transaction(work)


@pytest_twisted.ensureDeferred
async def test_connections_that_die_while_idle_are_replaced(postgres: TestServer, empty_database: str) -> None:
    async with running_pool(empty_database, 3) as pool:
        await until(lambda: pool.stats.idle == 3)
        assert await kill_all(postgres, empty_database) == 3
        await until(lambda: pool.stats.deaths == 3)
        assert await pool.query("SELECT 1") == [(1,)]
        await until(lambda: pool.stats.idle == 3)


@pytest_twisted.ensureDeferred
async def test_a_dead_connection_is_not_lent_even_before_the_reactor_noticed(empty_database: str) -> None:
    """Everything between the death and the call happens in one turn of the reactor."""
    async with running_pool(empty_database, 1) as pool:
        [(pid,)] = await pool.query("SELECT pg_backend_pid()")
        await until(lambda: pool.stats.idle == 1)
        with psycopg2.connect(empty_database) as other, other.cursor() as cursor:  # blocks the reactor on purpose
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        other.close()
        assert await pool.query("SELECT 1") == [(1,)]
        assert (pool.stats.deaths, pool.stats.retries) == (1, 0)


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_is_lost_before_its_commit_is_tried_again(empty_database: str) -> None:
    runs = []

    async def work(session: Session) -> str:
        runs.append(1)
        await session.run("INSERT INTO t VALUES (1)")
        if len(runs) == 1:
            await session.run("SELECT pg_terminate_backend(pg_backend_pid())")
        return "done"

    async with running_pool(empty_database) as pool:
        await pool.execute("CREATE TABLE t (x integer)")
        assert await pool.transaction(work) == "done"
        assert pool.stats.retries == 1
        assert await pool.query("SELECT x FROM t") == [(1,)]


DIES_AT_COMMIT = """
    CREATE TABLE t (x integer);
    CREATE SEQUENCE run;
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF nextval('run') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END $$;
    CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()
"""


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_is_unknown_and_tried_again_only_for_idempotent_work(empty_database: str) -> None:
    async def insert(session: Session) -> None:
        await session.run("INSERT INTO t VALUES (1)")

    async with running_pool(empty_database) as pool:
        await pool.execute(DIES_AT_COMMIT)
        with pytest.raises(DatabaseUnavailable) as caught:
            await pool.transaction(insert)
        assert caught.value.outcome_unknown
        assert pool.stats.retries == 0
        await pool.execute("ALTER SEQUENCE run RESTART")
        await pool.transaction(insert, retry=True)
        assert pool.stats.retries == 1
        assert await pool.query("SELECT x FROM t") == [(1,)]
        await pool.execute("ALTER SEQUENCE run RESTART")
        with pytest.raises(DatabaseUnavailable):
            await pool.query("INSERT INTO t VALUES (2)")
        await pool.execute("ALTER SEQUENCE run RESTART")
        with pytest.raises(DatabaseUnavailable) as caught:
            await pool.session(insert)
        assert caught.value.outcome_unknown
        assert pool.stats.retries == 1


@pytest_twisted.ensureDeferred
async def test_what_may_be_committed_stays_unknown_when_the_next_attempt_runs_into_a_limit(empty_database: str) -> None:
    attempts = 0

    async def insert(session: Session) -> None:
        nonlocal attempts
        attempts += 1
        await session.run("INSERT INTO t VALUES (1)")
        if attempts > 1:
            await session.run("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)")

    async with running_pool(empty_database) as pool:
        await pool.execute(DIES_AT_COMMIT)
        with pytest.raises(DatabaseUnavailable, match="statement timeout") as caught:
            await pool.transaction(insert, retry=True)
        assert (attempts, caught.value.outcome_unknown) == (2, True)
        with pytest.raises(DatabaseUnavailable, match="statement timeout") as caught:
            await pool.transaction(insert, retry=True)
        assert (attempts, caught.value.outcome_unknown) == (3, False)


@pytest_twisted.ensureDeferred
async def test_the_cause_is_told_when_even_the_rollback_fails(empty_database: str) -> None:
    async def work(session: Session) -> None:
        try:
            await session.run("SELECT pg_terminate_backend(pg_backend_pid())")
        except DatabaseUnavailable:
            raise LookupError("the function's own words") from None

    async with running_pool(empty_database) as pool:
        with pytest.raises(LookupError, match="own words"):
            await pool.transaction(work)
        assert await pool.query("SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("code", [errorcodes.SERIALIZATION_FAILURE, errorcodes.DEADLOCK_DETECTED])
async def test_conflicts_are_tried_again(empty_database: str, code: str) -> None:
    async with running_pool(empty_database, jitter=lambda: 0.0) as pool:
        await pool.execute("CREATE TABLE t (x integer); CREATE SEQUENCE run")
        raising = (
            "DO $$ BEGIN INSERT INTO t VALUES (1); IF nextval('run') < 3 THEN "
            f"RAISE EXCEPTION 'conflict' USING ERRCODE = '{code}'; END IF; END $$"
        )
        await pool.transaction(lambda session: session.run(raising))
        assert await pool.query("SELECT count(*) FROM t") == [(1,)]
        assert pool.stats.retries == 2
        await pool.execute("ALTER SEQUENCE run RESTART")
        with pytest.raises(psycopg2.Error):
            await pool.session(lambda session: session.run(raising))
        assert await pool.session(lambda session: session.run(raising), retry=True) == []


@pytest_twisted.ensureDeferred
async def test_real_deadlocks_are_resolved(empty_database: str) -> None:
    both_have_one: Deferred[None] = Deferred()
    first_locks = []

    def locks(first: int, second: int) -> Callable[[Session], Awaitable[None]]:
        async def work(session: Session) -> None:
            await session.run("SET LOCAL deadlock_timeout = '50ms'")
            await session.run("UPDATE t SET n = n + 1 WHERE x = %s", [first])
            first_locks.append(first)
            if len(first_locks) == 2:
                both_have_one.callback(None)
            elif len(first_locks) == 1:
                await both_have_one
            await session.run("UPDATE t SET n = n + 1 WHERE x = %s", [second])

        return work

    async with running_pool(empty_database, 2) as pool:
        await pool.execute("CREATE TABLE t (x integer, n integer); INSERT INTO t VALUES (1, 0), (2, 0)")
        await gatherResults([at_once(pool.transaction(locks(1, 2))), at_once(pool.transaction(locks(2, 1)))])
        assert await pool.query("SELECT n FROM t") == [(2,), (2,)]
        assert pool.stats.retries == 1


@pytest_twisted.ensureDeferred
async def test_a_conflict_that_does_not_end_is_told(empty_database: str) -> None:
    async with running_pool(empty_database, 1, jitter=lambda: 0.0) as pool:
        with pytest.raises(DatabaseUnavailable, match="conflict"):
            await pool.execute("DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$")
        assert pool.stats.retries == 5


@pytest_twisted.ensureDeferred
async def test_the_deadline_closes_the_socket_and_the_server_stops(postgres: TestServer, empty_database: str) -> None:
    pool_options = {"connector": patient_connector(empty_database), "deadline": 0.2}
    async with running_pool(empty_database, 1, **pool_options) as pool:
        await until(lambda: pool.stats.idle == 1)
        with pytest.raises(DatabaseUnavailable, match="deadline") as caught:
            await pool.query("SELECT pg_sleep(600)", retry=True)
        assert caught.value.outcome_unknown
        assert pool.stats.deadlines == 1
        assert await pool.query("SELECT 1", deadline=5) == [(1,)]

    async def sleeper_is_gone() -> bool:
        return await postgres.run("SELECT FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(600)' AND pid <> 0") == []

    await until(sleeper_is_gone)


@pytest_twisted.ensureDeferred
async def test_the_deadline_ends_a_function_that_waits_for_something_else(empty_database: str) -> None:
    async def work(session: Session) -> None:
        await session.run("SELECT 1")
        await Deferred()

    async with running_pool(empty_database, 1) as pool:
        with pytest.raises(DatabaseUnavailable, match="deadline"):
            await pool.transaction(work, deadline=0.1)
        assert await pool.query("SELECT 1") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_sockets_of_closed_connections_do_not_spoil_the_next_ones(empty_database: str) -> None:
    """The kernel gives the next connection the same file number that the closed one with its cursor had."""
    connector = patient_connector(empty_database)
    async with running_pool(empty_database, 4, connector=connector, jitter=lambda: 0.0) as pool:
        for _ in range(5):
            await until(lambda: pool.stats.idle == 4)
            calls = [at_once(pool.query("SELECT pg_sleep(600)", deadline=0.05)) for _ in range(4)]
            for call in calls:
                with pytest.raises(DatabaseUnavailable):
                    await call
            answers = await gatherResults([at_once(pool.query("SELECT 1")) for _ in range(8)])
            assert answers == [[(1,)]] * 8


@pytest_twisted.ensureDeferred
async def test_statement_timeout_is_the_servers_limit(empty_database: str) -> None:
    connector = patient_connector(empty_database, statement_timeout="300ms")
    async with running_pool(empty_database, 1, connector=connector) as pool:
        with pytest.raises(DatabaseUnavailable, match="statement timeout") as caught:
            await pool.query("SELECT pg_sleep(600)")
        assert not caught.value.outcome_unknown
        with pytest.raises(psycopg2.errors.QueryCanceled):
            await pool.session(lambda session: session.run("SELECT pg_sleep(600)"))
        assert await pool.query("SELECT 1") == [(1,)]
        assert pool.stats.deaths == 0


@pytest_twisted.ensureDeferred
async def test_a_lock_that_somebody_holds_for_long_is_no_bug(empty_database: str) -> None:
    """An admin changes a subnet while an import has it: that is to be tried again, not an internal error."""
    connector = patient_connector(empty_database, statement_timeout="300ms")
    async with running_pool(empty_database, 2, connector=connector) as pool:

        async def wait(session: Session) -> None:
            await session.run("SELECT pg_advisory_xact_lock(7)")

        async def hold(session: Session) -> None:
            await session.run("SELECT pg_advisory_xact_lock(7)")
            with pytest.raises(DatabaseUnavailable, match="statement timeout") as caught:
                await pool.transaction(wait)
            assert not caught.value.outcome_unknown

        await pool.transaction(hold)
        await pool.transaction(wait)


@pytest_twisted.ensureDeferred
async def test_cancelling_a_call_neither_blocks_nor_poisons(empty_database: str) -> None:
    async with running_pool(empty_database, 1) as pool:
        await until(lambda: pool.stats.idle == 1)
        call = at_once(pool.query("SELECT pg_sleep(600)", retry=True))
        call.cancel()
        with pytest.raises(CancelledError):
            await call
        assert await pool.query("SELECT 2") == [(2,)]
        assert pool.stats.retries == 0


@pytest_twisted.ensureDeferred
async def test_a_cancelled_waiter_gets_no_connection(empty_database: str) -> None:
    async with running_pool(empty_database, 1) as pool:
        await until(lambda: pool.stats.idle == 1)
        busy = at_once(pool.query("SELECT pg_sleep(0.1)"))
        waiting = at_once(pool.query("SELECT 1"))
        assert pool.stats.waiting == 1
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
        assert pool.stats.waiting == 0
        await busy
        assert await pool.query("SELECT 3") == [(3,)]


@pytest_twisted.ensureDeferred
async def test_waiting_is_bounded_in_time_and_number(empty_database: str) -> None:
    async with running_pool(empty_database, 1, patience=0.1, max_waiting=2) as pool:
        await until(lambda: pool.stats.idle == 1)
        busy = at_once(pool.query("SELECT pg_sleep(0.5)"))
        waiting = [at_once(pool.query("SELECT 1")) for _ in range(2)]
        with pytest.raises(DatabaseUnavailable, match="2 calls wait") as refused:
            await pool.query("SELECT 1")
        assert not refused.value.outcome_unknown
        for call in waiting:
            with pytest.raises(DatabaseUnavailable, match="all 1 connections to the database were busy for"):
                await call
        await busy


@pytest_twisted.ensureDeferred
async def test_waiters_are_served_in_their_order(empty_database: str) -> None:
    served: list[int] = []

    def note(number: int) -> Callable[[Session], Awaitable[None]]:
        async def work(session: Session) -> None:
            served.append(number)

        return work

    async with running_pool(empty_database, 1) as pool:
        await gatherResults([at_once(pool.session(note(number))) for number in range(5)])
    assert served == [0, 1, 2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_no_database_is_told_in_its_own_words(state_directory: Any) -> None:
    async with running_pool(f"host={state_directory} user=x dbname=x", patience=0.3) as pool:
        with pytest.raises(DatabaseUnavailable, match="No such file or directory") as caught:
            await pool.query("SELECT 1")
        assert not caught.value.outcome_unknown
        assert 2 <= pool.stats.connect_failures <= 10


@pytest_twisted.ensureDeferred
async def test_a_server_that_never_answers_meets_our_connect_deadline(deaf_server: int) -> None:
    dsn = f"host=127.0.0.1 port={deaf_server} user=x dbname=x connect_timeout=1"
    connector = Connector(reactor, dsn, deadline=0.2)
    with pytest.raises(DatabaseUnavailable, match=r"did not accept the connection within 0\.2 s"):
        await connector.connect()


@pytest_twisted.ensureDeferred
async def test_a_silent_first_host_does_not_hide_the_second(empty_database: str) -> None:
    parts = extensions.parse_dsn(empty_database)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = extensions.make_dsn(
            **{**parts, "host": f"127.0.0.1,{parts['host']}", "port": f"{silent.getsockname()[1]},{parts['port']}"},
            target_session_attrs="read-write",
        )
        connector = Connector(reactor, dsn, deadline=0.3)
        async with running_pool(dsn, 2, connector=connector) as pool:
            assert await pool.query("SELECT 1") == [(1,)]
            await until(lambda: pool.stats.idle == 2)
            while select.select([silent], [], [], 0)[0]:
                silent.accept()[0].close()
            connector.deadline = 30.0
            (await connector.connect()).close()
            assert not select.select([silent], [], [], 0)[0], "the host that answered last time comes first"


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_write_is_left(postgres: TestServer, empty_database: str) -> None:
    name = postgres.name_of(empty_database)
    async with running_pool(empty_database, 1) as pool:
        await pool.execute("CREATE TABLE t (x integer)")
        await postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await kill_all(postgres, empty_database)
        await until(lambda: pool.stats.connects == 2)
        await postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        await pool.execute("INSERT INTO t VALUES (1)")
        assert await pool.query("SELECT x FROM t") == [(1,)]
        assert pool.stats.retries == 1


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_refused_by_the_vet_is_never_lent(empty_database: str) -> None:
    seen: list[Connection] = []

    async def vet(connection: Connection) -> None:
        seen.append(connection)
        await connection.run("SELECT 1")
        if len(seen) < 3:
            raise DatabaseUnavailable("a server of another history")

    async with running_pool(empty_database, 1, vet=vet, jitter=lambda: 0.0) as pool:
        assert await pool.query("SELECT 1") == [(1,)]
        assert (pool.stats.connects, pool.stats.connect_failures) == (1, 2)


@pytest_twisted.ensureDeferred
async def test_close_waits_for_running_calls_and_refuses_new_ones(empty_database: str) -> None:
    pool = Pool(reactor, empty_database, 2)
    pool.start()
    await until(lambda: pool.stats.idle == 2)
    running = at_once(pool.query("SELECT 5 FROM pg_sleep(0.1)"))
    closing = at_once(pool.close())
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await pool.query("SELECT 1")
    assert await running == [(5,)]
    await closing
    assert (pool.stats.size, pool.stats.deaths) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_close_does_not_wait_for_ever(empty_database: str) -> None:
    pool = Pool(reactor, empty_database, 1)
    pool.start()
    await until(lambda: pool.stats.idle == 1)
    running = at_once(pool.query("SELECT pg_sleep(600)"))
    await pool.close(grace=0.1)
    with pytest.raises(DatabaseUnavailable):
        await running


@pytest_twisted.ensureDeferred
async def test_close_while_connecting_leaves_nothing_behind(deaf_server: int) -> None:
    before = set(reactor.getDelayedCalls())
    pool = Pool(reactor, f"host=127.0.0.1 port={deaf_server} user=x dbname=x", 3)
    pool.start()
    await pool.close()
    assert set(reactor.getDelayedCalls()) <= before
    assert not [reader for reader in reactor.getReaders() if "txpostgres" in type(reader).__mro__[1].__module__]


@pytest_twisted.ensureDeferred
async def test_every_acknowledged_row_is_there_after_many_kills(postgres: TestServer, empty_database: str) -> None:
    clients, kills = 16, 20
    acknowledged: list[int] = []
    finished: list[bool] = []

    async def client(number: int) -> None:
        row = number
        while not finished:
            row += clients
            # the key makes the insert idempotent, as idempotency keys do for claims
            await pool.execute("INSERT INTO t VALUES (%s) ON CONFLICT DO NOTHING", [row], retry=True)
            acknowledged.append(row)

    def has(rows: int) -> bool:
        return len(acknowledged) >= rows

    async with running_pool(empty_database, 4, jitter=lambda: 0.5) as pool:
        await pool.execute("CREATE TABLE t (x integer PRIMARY KEY)")
        running = [at_once(client(number)) for number in range(clients)]
        for kill in range(kills):
            target = len(acknowledged) + 20
            await until(partial(has, target))
            await postgres.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s ORDER BY random() LIMIT %s",
                [postgres.name_of(empty_database), 1 + kill % 4],
            )
        finished.append(True)
        await gatherResults(running)
        rows = await pool.query("SELECT x FROM t")
        assert sorted(x for (x,) in rows) == sorted(acknowledged)
        assert pool.stats.deaths >= kills


def test_a_bad_dsn_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="neither key=value pairs") as caught:
        Pool(reactor, "password=hunter2 what")
    assert "hunter2" not in str(caught.value)
