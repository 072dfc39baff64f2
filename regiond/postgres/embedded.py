"""PostgreSQL as a child of this process: made at the first start, gone when this process is, however that ends."""

import re
import signal
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from regiond.postgres.binaries import programs_for
from regiond.postgres.children import Child, Identity, spawn
from regiond.postgres.errors import PostgresUnavailable
from regiond.postgres.place import DATABASE, PORT, ROLE, Place, server_identity
from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable

__all__ = ["EmbeddedPostgres", "PostgresUnavailable"]

START_DEADLINE_SECONDS: Final = 300.0
PREVIOUS_DEADLINE_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.02
# fast shutdown, immediate shutdown, the end; each with the seconds it is given
STOP_STEPS: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))

TUNABLE_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "max_connections": "64",
        "shared_buffers": "128MB",
        "max_wal_size": "2GB",
        "fsync": "on",
        "client_connection_check_interval": "1s",
    }
)
"""What the caller may change, in PostgreSQL's own words."""


class EmbeddedPostgres:
    """One PostgreSQL server on one state directory.

    `run_as` names the user that it runs as when this process is root. `ended` fires once, with a sentence, when a
    server that had started ends without having been told to: the process should then stop, so that its supervisor
    starts it again. `start` must be called from the main thread.
    """

    _log = Logger(namespace="postgres")

    def __init__(
        self,
        reactor: Any,
        state_directory: Path,
        run_as: str | None = None,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._state_directory = state_directory
        self._run_as = run_as
        self._settings = {**TUNABLE_SETTINGS, **(settings or {})}
        self._place: Place | None = None
        self._child: Child | None = None
        self._stopping = False
        self.ended: Deferred[str] = Deferred()

    @property
    def pid(self) -> int | None:
        """The server's process, while there is one."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> str:
        """Start the server, after making its data directory if there is none; the DSN of its database.

        Raises PostgresUnavailable; nothing of ours runs then.
        """
        identity = server_identity(self._run_as)
        self._place = place = Place(self._state_directory, identity)
        self._stopping = False
        began = self._reactor.seconds()
        try:
            place.take()
            programs = await programs_for(self._reactor, identity, place.root)
            await self._prepare_data(place, identity, programs)
            place.open_socket_directory()
            place.write_access_rules()
            command = (str(programs / "postgres"), "-D", str(place.data), *self._options(place))
            child = self._spawn(identity, place.data, *command)
            await self._ready(place, child)
            dsn = await self._database(place, identity, child)
        except OSError as error:
            await self.stop()
            raise PostgresUnavailable(f"the embedded PostgreSQL cannot start: {error}") from error
        except BaseException:
            await self.stop()
            raise
        child.ended.addCallback(self._child_ended, child)
        self._log.info(
            "PostgreSQL runs as process {pid}",
            event="postgres.started",
            pid=child.pid,
            user=identity.name,
            seconds=round(self._reactor.seconds() - began, 3),
        )
        return dsn

    async def stop(self) -> None:
        """Stop the server (or the attempt to start it) and wait until it has ended. Fine to call at any time."""
        self._stopping = True
        child = self._child
        if child is not None:
            for signal_number, patience in STOP_STEPS:
                if child.status is None:
                    child.send(signal_number)
                if await self._ended_within(child, patience):
                    break
                self._log.warn(
                    "PostgreSQL did not stop within {seconds} s of signal {signal_number}",
                    event="postgres.stop-slow",
                    seconds=patience,
                    signal_number=int(signal_number),
                )
            if self._child is child:
                self._child = None
                self._log.info("PostgreSQL has stopped", event="postgres.stopped", status=child.status)
        if self._place is not None:
            self._place.leave()

    # The steps of a start

    async def _prepare_data(self, place: Place, identity: Identity, programs: Path) -> None:
        await self._wait_for_previous(place)
        await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), place.remove_unfinished)
        found = place.data_version()
        if found is None:
            await self._make_data(place, identity, programs)
            return
        major = await self._major_version(place, identity, programs)
        if found != major:
            raise PostgresUnavailable(
                f"{place.data} was written by PostgreSQL {found}, but this regiond brings PostgreSQL {major}: dump it "
                f"with the regiond or the PostgreSQL that wrote it (pg_dump), move the directory away, start again and "
                f"restore the dump"
            )
        place.forget_postmaster()

    async def _make_data(self, place: Place, identity: Identity, programs: Path) -> None:
        fresh = place.new_data_directory()
        child = self._spawn(
            identity,
            fresh,
            *(str(programs / "initdb"), "-D", str(fresh), "-U", ROLE, "--auth-local=peer", "--auth-host=reject"),
            *("--data-checksums", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"),
        )
        if not await self._ended_within(child, START_DEADLINE_SECONDS):
            raise PostgresUnavailable(f"initdb did not finish within {START_DEADLINE_SECONDS:g} s")
        if child.status != 0 or self._stopping:
            raise self._failed("initdb", child)
        self._child = None
        place.adopt(fresh)
        self._log.info("made a new database", event="postgres.initialized", directory=str(place.data))

    async def _major_version(self, place: Place, identity: Identity, programs: Path) -> str:
        child = self._spawn(identity, place.root, str(programs / "postgres"), "--version")
        await self._ended_within(child, START_DEADLINE_SECONDS)
        match = re.search(r"\(PostgreSQL\) (\d+)", child.last_words)
        if match is None or self._stopping:
            raise self._failed("postgres --version", child)
        self._child = None
        return match[1]

    async def _wait_for_previous(self, place: Place) -> None:
        """Let the server or the initdb of a regiond that was killed finish going away. We hold the lock by now."""
        if not place.may_have_living():
            return
        end = self._reactor.seconds() + PREVIOUS_DEADLINE_SECONDS
        while living := place.living():
            if self._reactor.seconds() > end or self._stopping:
                raise PostgresUnavailable(
                    f"a PostgreSQL server that this regiond did not start works in {place.data} "
                    f"(processes {', '.join(map(str, sorted(living)))}): stop it first"
                )
            await deferLater(self._reactor, POLL_SECONDS)

    async def _ready(self, place: Place, child: Child) -> None:
        """Wait until the server's own status file says that it is this child and that it takes connections."""
        end = self._reactor.seconds() + START_DEADLINE_SECONDS
        while place.postmaster() != (child.pid, "ready"):
            if child.ended.called or self._stopping:
                raise self._failed("postgres", child)
            if self._reactor.seconds() > end:
                raise PostgresUnavailable(
                    f"PostgreSQL was not ready within {START_DEADLINE_SECONDS:g} s; its last words:\n{child.last_words}"
                )
            await deferLater(self._reactor, POLL_SECONDS)

    async def _database(self, place: Place, identity: Identity, child: Child) -> str:
        """Make sure that it is this child that answers, and that it has our database; the DSN of that."""
        parameters = {
            "host": str(place.socket_directory),
            "port": str(PORT),
            "user": ROLE,
            "requirepeer": identity.name,
        }
        try:
            connection = await Connector(self._reactor, extensions.make_dsn(**parameters, dbname="postgres")).connect()
            try:
                with socket.socket(fileno=connection.duplicate_descriptor()) as endpoint:
                    credentials = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                listener, _, _ = struct.unpack("3i", credentials)
                if listener != child.pid:
                    raise PostgresUnavailable(
                        f"another regiond already runs on this state directory: process {listener} answers on the "
                        f"socket in {place.socket_directory}, not our process {child.pid}"
                    )
                if not await connection.run("SELECT FROM pg_database WHERE datname = %s", [DATABASE]):
                    await connection.run(f"CREATE DATABASE {DATABASE}")
            finally:
                connection.close()
        except (psycopg2.Error, DatabaseUnavailable) as error:
            raise PostgresUnavailable(
                f"PostgreSQL started but does not answer: {error}; its last words:\n{child.last_words}"
            ) from error
        return str(extensions.make_dsn(**parameters, dbname=DATABASE))

    # Children

    def _options(self, place: Place) -> list[str]:
        quoted = str(place.socket_directory).replace('"', '""')
        settings = {
            **self._settings,
            "listen_addresses": "",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "port": str(PORT),
            "hba_file": str(place.hba_file),
            "ident_file": str(place.ident_file),
            "log_destination": "stderr",
            "logging_collector": "off",
            "log_line_prefix": "",
            # statements may hold what must not be in a log
            "log_min_error_statement": "panic",
            "lc_messages": "C",
        }
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _spawn(self, identity: Identity, directory: Path, *arguments: str) -> Child:
        if self._stopping:
            raise PostgresUnavailable("stopped while starting")
        self._child = spawn(self._reactor, identity, directory, arguments)
        return self._child

    async def _ended_within(self, child: Child, seconds: float) -> bool:
        end = self._reactor.seconds() + seconds
        while not child.ended.called and self._reactor.seconds() < end:
            waiter: Deferred[None] = Deferred()
            timer = self._reactor.callLater(end - self._reactor.seconds(), waiter.callback, None)
            child.ended.addCallback(_passing_on(waiter))
            await waiter
            if timer.active():
                timer.cancel()
        return child.ended.called

    def _failed(self, program: str, child: Child) -> PostgresUnavailable:
        if self._stopping:
            return PostgresUnavailable("stopped while starting")
        return PostgresUnavailable(
            f"{program} {_how_it_ended(child.status)}; its last words:\n{child.last_words or '(none)'}"
        )

    def _child_ended(self, status: int, child: Child) -> int:
        if not self._stopping:
            self._child = None
            sentence = f"PostgreSQL {_how_it_ended(status)}"
            self._log.error(
                "PostgreSQL ended by itself: {last_words}",
                event="postgres.ended",
                status=status,
                last_words=child.last_words,
            )
            self.ended.callback(sentence)
        return status


def _passing_on(waiter: "Deferred[None]") -> Any:
    def pass_on(status: int) -> int:
        if not waiter.called:
            waiter.callback(None)
        return status

    return pass_on


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "runs still"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
