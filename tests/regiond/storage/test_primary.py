"""Which server is the newest primary: older timelines and foreign databases are refused, and that is remembered."""

from pathlib import Path
from typing import Any

import psycopg2
import pytest
import pytest_twisted
from psycopg2 import errors as sql_errors
from psycopg2 import extensions
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import SETTLE
from regiond.storage.primary import NewestPrimary
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.database import TestServer

reactor: Any = global_reactor

OURS = "7000000000000000001"
FOREIGN = "7000000000000000002"


class Server:
    """A connection to a server that tells this of itself."""

    def __init__(self, timeline: int, system: str = OURS, *, recovering: bool = False) -> None:
        self.aborted: str | None = None
        self._answer = [(system, recovering, timeline)]
        self.refusal: psycopg2.Error | None = None

    async def run(self, sql: str) -> list[tuple[Any, ...]]:
        if self.refusal is not None:
            raise self.refusal
        return self._answer

    def abort(self, reason: str) -> None:
        self.aborted = reason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "database-timeline.json"


def started(file: Path) -> NewestPrimary:
    """One of a regiond that has just started, with a single host."""
    newest = NewestPrimary(Clock(), file)
    outcome = Outcome(Deferred.fromCoroutine(newest.look_around("host=/nowhere")))
    assert outcome.error is None
    return newest


def vetted(newest: NewestPrimary, server: Server) -> Exception | None:
    error = Outcome(Deferred.fromCoroutine(newest.vet(server))).error  # type: ignore[arg-type]
    assert error is None or isinstance(error, DatabaseUnavailable)
    return error


def test_the_first_server_is_taken_as_it_is_and_every_promotion_is_followed(file: Path) -> None:
    newest = started(file)
    assert [vetted(newest, Server(timeline)) for timeline in (3, 3, 4)] == [None, None, None]


def test_a_former_primary_is_refused_and_the_log_says_so_once(file: Path) -> None:
    newest = started(file)
    vetted(newest, Server(4))
    with logged() as events:
        refusals = [vetted(newest, Server(3)) for _ in range(3)]
    assert all("former primary" in str(refusal) for refusal in refusals)
    assert [event["event"] for event in events] == ["database.former-primary"]


def test_what_was_seen_outlives_the_process_and_can_be_given_up(file: Path) -> None:
    vetted(started(file), Server(4))
    assert vetted(started(file), Server(3)) is not None
    file.unlink()
    assert vetted(started(file), Server(3)) is None


@pytest.mark.parametrize("content", ["", "[]", '{"system": 1}', "\0"])
def test_a_file_that_cannot_be_read_is_told_of_and_replaced(file: Path, content: str) -> None:
    file.write_text(content)
    with logged() as events:
        assert vetted(started(file), Server(2)) is None
    assert "database.timeline-unread" in [event["event"] for event in events]
    assert vetted(started(file), Server(1)) is not None


def test_connections_to_the_former_primary_end_when_the_new_one_is_seen(file: Path) -> None:
    newest = started(file)
    former, current = Server(1), Server(2)
    vetted(newest, former)
    vetted(newest, current)
    assert former.aborted is not None
    assert current.aborted is None


def test_another_cluster_of_databases_is_taken_at_a_start_only(file: Path) -> None:
    newest = started(file)
    vetted(newest, Server(4))
    assert "another cluster of databases" in str(vetted(newest, Server(9, FOREIGN)))
    again = started(file)
    assert vetted(again, Server(1, FOREIGN)) is None
    assert vetted(again, Server(9)) is not None


def test_a_standby_is_left_to_readiness(file: Path) -> None:
    newest = started(file)
    vetted(newest, Server(4))
    assert vetted(newest, Server(3, recovering=True)) is None


def test_a_service_that_does_not_tell_is_used_all_the_same(file: Path) -> None:
    server = Server(1)
    server.refusal = sql_errors.InsufficientPrivilege("permission denied for function pg_control_system")
    with logged() as events:
        assert vetted(started(file), server) is None
    assert [event["event"] for event in events] == ["database.timeline-untold"]


@pytest_twisted.ensureDeferred
async def test_an_ordinary_role_may_ask_and_may_settle(postgres: TestServer, database: str, file: Path) -> None:
    name = postgres.name_of(database)
    await postgres.run("CREATE ROLE ordinary LOGIN", database=name)
    try:
        newest = NewestPrimary(reactor, file)
        connector = Connector(reactor, database, vet=newest.vet)
        connection = await connector.connect()
        await connection.run("SET SESSION AUTHORIZATION ordinary")
        with logged() as events:
            await newest.vet(connection)
        assert events == []
        await connection.run(SETTLE)
        assert connection.transaction_status == extensions.TRANSACTION_STATUS_IDLE
        connection.close()
    finally:
        await postgres.run("DROP ROLE ordinary", database=name)
