"""What benchmarks share: a PostgreSQL, a measured regiond on it, and ways to look at both."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from tests.end_to_end.daemons import Api, Daemon

POSTGRES_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}


def tell(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """The DSN of a durable PostgreSQL, a process of its own."""
    settings = [f"{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.database", str(directory / "database"), *settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@contextmanager
def cursor_on(dsn: str) -> Iterator[Any]:
    """One transaction on a connection of its own."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


class MeasuredRegion(Daemon):
    """A regiond whose longest reactor turn is written down when it stops."""

    def __init__(self, directory: Path, name: str, dsn: str, cluster_listen: Sequence[str] = ()) -> None:
        config = directory / f"{name}.toml"
        config.write_text(
            f'state_directory = "{directory / name}"\n[database]\ndsn = "{dsn}"\n'
            f'[http]\nlisten = ["tcp:127.0.0.1:0"]\n[clusters]\nlisten = {json.dumps(list(cluster_listen))}\n'
        )
        self._stall_file = directory / f"{name}.stall"
        super().__init__(
            "regiond",
            config,
            directory / f"{name}.log",
            program=[sys.executable, "-m", "tests.bench.measured_twistd"],
            environment={"REACTOR_STALL_FILE": str(self._stall_file)},
        )
        self.api = Api(directory / name / "api.sock")

    def up(self) -> None:
        """Return when it serves."""
        self.start("regiond.started")

    @property
    def port(self) -> int:
        """Where its HTTP API is, on the loopback, since its last start."""
        started = [line for line in self.lines() if line.get("event") == "regiond.started"][-1]
        return int(started["http"][0].rpartition(":")[2])

    def stopped(self) -> float:
        """Stop it; the longest turn of its reactor in milliseconds of CPU time."""
        self.stop()
        return float(json.loads(self._stall_file.read_text())["max_reactor_stall_ms"])

    def new_token(self) -> str:
        """A bearer token of a new admin."""
        account = self.api.post("users", {"name": "bench", "role": "admin"})
        return str(self.api.post("tokens", {"account": account["name"], "name": "bench"})["token"])
