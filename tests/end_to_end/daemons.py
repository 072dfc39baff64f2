"""regiond and clusterd as processes started by twistd, and a client of the HTTP API. Everything blocks, bounded."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import Any

from tests.lab.namespaces import within
from tests.lab.servers import wait_until
from tests.lab.unprivileged import as_nobody_special

START_SECONDS = 60.0
STOP_SECONDS = 30.0
TWISTD = Path(sys.executable).parent / "twistd"
REGIONCTL = TWISTD.with_name("regionctl")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer; `body` is the parsed JSON, None when there is none."""

    status: int
    body: Any
    headers: dict[str, str]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(slots=True)
class Api:
    """The HTTP API at a UNIX socket (as the local admin) or, with a token, at a TCP port."""

    where: Path | int
    token: str | None = None
    timeout: float = 40.0

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        raw: bytes | None = None,
    ) -> Reply:
        """One request on a connection of its own. `body` is sent as JSON, `raw` as it is."""
        if isinstance(self.where, Path):
            connection: http.client.HTTPConnection = UnixConnection(self.where, self.timeout)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.where, timeout=self.timeout)
        sent = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        try:
            connection.request(method, path if path.startswith("/") else f"/api/v1/{path}", raw, sent)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        parsed = json.loads(content) if content else None
        return Reply(response.status, parsed, {name.lower(): value for name, value in response.getheaders()})

    def get(self, path: str) -> Any:
        reply = self.request("GET", path)
        assert reply.status == 200, reply
        return reply.body

    def post(self, path: str, body: Any, expected: int = 201, **headers: str) -> Any:
        reply = self.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        assert reply.status == expected, reply
        return reply.body

    def patch(self, path: str, body: Any) -> Any:
        reply = self.request("PATCH", path, body)
        assert reply.status == 200, reply
        return reply.body

    def delete(self, path: str, expected: int = 204) -> Any:
        reply = self.request("DELETE", path)
        assert reply.status == expected, reply
        return reply.body


@dataclass(slots=True)
class Daemon:
    """One twistd process; its structured log goes to a file that is appended to by each start."""

    plugin: str
    config: Path
    log: Path
    namespace: str | None = None
    enter: Sequence[str] = ()  # what is put before the command, besides
    environment: dict[str, str] = field(default_factory=dict)
    program: Sequence[str] = (str(TWISTD),)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, *events: str) -> None:
        """Start it and wait for each of these events in its log."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        inside = within(self.namespace) if self.namespace is not None else []
        command = [
            *inside,
            *self.enter,
            *self.program,
            "--nodaemon",
            "--pidfile=",
            self.plugin,
            "--config",
            str(self.config),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )
        for event in events:
            self.wait_for(event, offset)

    def wait_for(self, event: str, offset: int = 0, **fields: Any) -> dict[str, Any]:
        """The first such line of the log after `offset` bytes."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            assert self.process is None or self.process.poll() is None, f"{self.plugin} ended:\n{self.tail()}"
            found.extend(
                line
                for line in self.lines(offset)
                if line.get("event") == event and all(line.get(name) == value for name, value in fields.items())
            )
            return bool(found)

        wait_until(look, f"{event} {fields} in the log of {self.plugin}:\n{self.tail()}", START_SECONDS)
        return found[0]

    def lines(self, offset: int = 0) -> Iterator[dict[str, Any]]:
        """The complete lines of the log; raises ValueError for one that is not JSON."""
        with self.log.open("rb") as log:
            log.seek(offset)
            for line in log:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def tail(self) -> str:
        return (
            "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-12:]) if self.log.exists() else ""
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As a power cut would: kill -9."""
        self._end(SIGKILL)

    def stop(self) -> int:
        """As an init system would; the exit code."""
        return self._end(SIGTERM)

    def _end(self, how: Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        with suppress(ProcessLookupError):
            os.kill(process.pid, SIGCONT)
        process.send_signal(how)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class Region(Daemon):
    """A regiond with its own PostgreSQL below `directory`, reached over UNIX sockets and, if told so, over TCP.

    `clusters` are more addresses where it listens for clusters; `dsn` names a PostgreSQL to use instead.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "region",
        *,
        listen: Sequence[str] = (),
        clusters: Sequence[str] = (),
        dsn: str | None = None,
        namespace: str | None = None,
    ) -> None:
        self.state = directory / name
        config = directory / f"{name}.toml"
        config.write_text(
            f'state_directory = "{self.state}"\n[http]\nlisten = {json.dumps(list(listen))}\n'
            f"[clusters]\nlisten = {json.dumps([f'unix:{directory}/link.sock', *clusters])}\n"
            + ("" if dsn is None else f"[database]\ndsn = {json.dumps(dsn)}\n")
        )
        super().__init__("regiond", config, directory / f"{name}.log", namespace, as_nobody_special())
        self.link = directory / "link.sock"
        self.api = Api(self.state / "api.sock")

    def up(self) -> None:
        self.start("regiond.started")

    def ctl(self, *arguments: str) -> str:
        """What regionctl prints as the local admin."""
        command = [str(REGIONCTL), "--socket", str(self.api.where), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_SECONDS).stdout


@contextmanager
def running_region(directory: Path) -> Iterator[Region]:
    """A region from when it serves until it has ended, in a directory that is made for it."""
    directory.mkdir(mode=0o711)
    region = Region(directory)
    try:
        region.up()
        yield region
    finally:
        region.stop()


class Cluster(Daemon):
    """A clusterd, possibly in a network namespace. `dhcp` is the text of its [dhcp] table.

    `link` is the region's UNIX socket; without one it has to `join` first.
    """

    def __init__(
        self,
        directory: Path,
        link: Path | None,
        name: str = "rack-a",
        *,
        namespace: str | None = None,
        nics: Sequence[str] = ("s*",),
        dhcp: str = "",
    ) -> None:
        self.name = name
        self.state = directory / name
        config = directory / f"{name}.toml"
        config.write_text(
            f'name = "{name}"\nstate_directory = "{self.state}"\n'
            + ("" if link is None else f'[region]\nendpoints = ["unix:{link}"]\n')
            + f"[topology]\nwatch = {json.dumps(list(nics))}\n[dhcp]\n{dhcp}\n"
        )
        super().__init__("clusterd", config, directory / f"{name}.log", namespace)

    def up(self) -> None:
        self.start("topology.reported")

    def join(self, printed: str) -> "subprocess.CompletedProcess[str]":
        """Run here what `regionctl clusters enrol` printed, with this host's Python and these settings."""
        command = f"{printed.strip().replace('python3', sys.executable)} --config {self.config}"
        inside = within(self.namespace) if self.namespace is not None else []
        return subprocess.run(
            [*inside, "sh", "-c", command], check=False, capture_output=True, text=True, timeout=START_SECONDS, cwd=ROOT
        )


def eventually(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition, bounded."""
    wait_until(condition, what, seconds)
