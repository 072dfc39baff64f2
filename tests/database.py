"""Fixtures with a real PostgreSQL: `postgres` (the server), `empty_database`, `database` (with all migrations).

One embedded server serves the whole session. A database is a copy of a template, made in some milliseconds and dropped
after its test.
"""

import json
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from psycopg2 import extensions
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from regiond.postgres.embedded import EmbeddedPostgres
from regiond.storage.connector import Connector
from regiond.storage.pool import Pool
from regiond.storage.schema import migrate
from tests.lab.unprivileged import as_nobody_special

UNDURABLE = {"fsync": "off"}
START_SECONDS = 120.0
STOP_SECONDS = 60.0

T = TypeVar("T")


def run_in_reactor(function: Callable[[], Awaitable[T]]) -> T:
    """Run an async function from a synchronous fixture."""

    async def run() -> T:
        return await function()

    result: T = pytest_twisted.blockon(Deferred.fromCoroutine(run()))
    return result


class TestServer:
    """A running server on which databases are made and dropped."""

    __test__ = False

    def __init__(self, reactor: Any, dsn: str) -> None:
        self._reactor = reactor
        self.dsn = dsn
        self._numbers = count(1)
        self._template: str | None = None

    def dsn_for(self, database: str) -> str:
        """The DSN of another database of the server."""
        return str(extensions.make_dsn(self.dsn, dbname=database))

    def name_of(self, dsn: str) -> str:
        """The database that a DSN names."""
        return str(extensions.parse_dsn(dsn)["dbname"])

    async def run(self, sql: str, args: Any = None, database: str = "hostmap") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own."""
        connection = await Connector(self._reactor, self.dsn_for(database)).connect()
        try:
            return await connection.run(sql, args)
        finally:
            connection.close()

    async def create(self, template: str = "template1") -> str:
        """A new database; its name."""
        name = f"test_{next(self._numbers)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    async def drop(self, name: str) -> None:
        """Drop a database with whoever is connected to it."""
        await self.run(f"DROP DATABASE {name} WITH (FORCE)")

    async def migrated_template(self) -> str:
        """A database with all migrations, made once."""
        if self._template is None:
            name = await self.create()
            pool = Pool(self._reactor, self.dsn_for(name), size=1)
            pool.start()
            try:
                await migrate(pool)
            finally:
                await pool.close()
            self._template = name
        return self._template


@pytest.fixture
def logged_failures() -> Iterator[list[LogEvent]]:
    """The events with a failure that are logged during the test."""
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


@pytest.fixture(autouse=True)
def documented_answers() -> Iterator[None]:
    """No test gets an answer of the HTTP API that its documentation does not name."""
    found: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("event") == "http.undocumented":
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield
    globalLogPublisher.removeObserver(observe)
    assert not found, [(each["method"], each["route"], each["status"], each["type"]) for each in found]


@pytest.fixture(scope="session")
def session_state_directory() -> Iterator[Path]:
    """A directory below which PostgreSQL can live: pytest's own are closed to other users than root."""
    with tempfile.TemporaryDirectory(prefix="hostmap-test-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture(scope="module")
def module_state_directory() -> Iterator[Path]:
    """As `session_state_directory`, for a module's fixtures: they are made again where others' tests come between."""
    with tempfile.TemporaryDirectory(prefix="hostmap-test-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def state_directory() -> Iterator[Path]:
    """As `session_state_directory`, for one test."""
    path = Path(tempfile.mkdtemp(prefix="hostmap-test-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres(session_state_directory: Path) -> Iterator[TestServer]:
    """The server. Durability is off: no test of a crash uses this one."""
    from twisted.internet import reactor

    state = session_state_directory / "state"
    enter = as_nobody_special()
    if enter:
        with _held(enter, state) as dsn:
            yield TestServer(reactor, dsn)
        return
    server = EmbeddedPostgres(reactor, state, settings=UNDURABLE)
    dsn = run_in_reactor(server.start)
    yield TestServer(reactor, dsn)
    run_in_reactor(server.stop)


@contextmanager
def _held(enter: list[str], state: Path) -> Iterator[str]:
    """The DSN of a server that a process of another user runs."""
    command = [*enter, sys.executable, "-m", "tests.regiond.postgres.holder", str(state), "", json.dumps(UNDURABLE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        ready, _, _ = select.select([holder.stdout], [], [], START_SECONDS)
        line = holder.stdout.readline() if ready else ""
        answer = json.loads(line) if line else {"error": "the process that starts PostgreSQL does not say anything"}
        assert "dsn" in answer, answer
        named = extensions.parse_dsn(answer["dsn"])
        del named["requirepeer"]  # that user has another name here
        yield str(extensions.make_dsn(**named))
        holder.communicate(timeout=STOP_SECONDS)  # the end of its input tells it to stop


@pytest.fixture
def empty_database(postgres: TestServer) -> Iterator[str]:
    """The DSN of a database without tables, the test's own."""
    name = run_in_reactor(postgres.create)
    yield postgres.dsn_for(name)
    run_in_reactor(lambda: postgres.drop(name))


@pytest.fixture
def database(postgres: TestServer) -> Iterator[str]:
    """The DSN of a database with all migrations applied, the test's own."""
    template = run_in_reactor(postgres.migrated_template)
    name = run_in_reactor(lambda: postgres.create(template))
    yield postgres.dsn_for(name)
    run_in_reactor(lambda: postgres.drop(name))
