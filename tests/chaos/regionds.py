"""regiond processes that share an external database, and the supervisor that starts them again."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from tests.end_to_end.daemons import TWISTD, Api
from tests.lab.namespaces import LaboratoryError
from tests.lab.servers import wait_until

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
# what a regiond says when it is told the truth: its database is away. Everything else with a traceback is a bug.
FORGIVEN: Final = frozenset({"regiond.start-failed"})


class Regiond:
    """One regiond: a state directory, and a process while there is one. Each start has a log of its own.

    Start it from the main thread: it ends with that.
    """

    def __init__(self, directory: Path, name: str, database: str) -> None:
        """`database` is the text of the table [database] of its configuration."""
        self.name = name
        self.state = directory / name
        self.link = directory / f"{name}-link.sock"
        self.socket = self.state / "api.sock"
        self.api = Api(self.socket)
        self._directory = directory
        self._config = directory / f"{name}.toml"
        self._config.write_text(
            f'state_directory = "{self.state}"\n[http]\nlisten = []\n'
            f'[clusters]\nlisten = ["unix:{self.link}"]\n[database]\n{database}\n'
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.exit_codes: list[int] = []

    def start(self) -> None:
        """Start it without waiting."""
        self.starts += 1
        command = [
            *(sys.executable, "-I", "-S", "-B", str(files("regiond.postgres") / "exec_child.py")),
            *map(str, (os.getpid(), int(signal.SIGKILL), -1, -1)),
            *(str(TWISTD), "--nodaemon", "--pidfile=", "regiond", "--config", str(self._config)),
        ]
        with self.log(self.starts).open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def supervise(self) -> None:
        """What an init system does: start it again when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self.exit_codes.append(self._process.returncode)
            self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself, None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def open(self) -> bool:
        """Whether its door is open."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return self.alive

    @property
    def ready(self) -> bool:
        """Whether it says that it can serve."""
        if not self.open:
            return False
        try:
            return self.api.request("GET", "/readyz").status == 200
        except (OSError, ValueError):
            return False

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until it is ready. Raises LaboratoryError with its last words when it ends or does not get ready."""

        def look() -> bool:
            if not self.alive:
                raise LaboratoryError(f"{self.name} ended with {self.exit_code}:\n{self.tail()}")
            return self.ready

        wait_until(look, f"{self.name} is ready", seconds)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def freeze(self) -> int:
        """Stop it without ending it; whom to `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)
        return self.pid

    def thaw(self, pid: int) -> None:
        """Let it go on, if it is the one that was frozen and not killed since."""
        if self._process is not None and self._process.pid == pid:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """As an init system would; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def resident_bytes(self) -> int:
        """The memory that it has now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def log(self, start: int) -> Path:
        return self._directory / f"{self.name}.{start}.log"

    def lines(self) -> Iterator[dict[str, Any]]:
        """What all of its lives logged. The last words of a killed one may be cut off."""
        for start in range(1, self.starts + 1):
            *complete, _ = self.log(start).read_text(errors="replace").split("\n")
            for line in complete:
                yield json.loads(line) if line.startswith("{") else {"level": "critical", "message": line}

    def bugs(self) -> list[str]:
        """What it logged that no violence excuses: a traceback, an error, a word that is not a log line."""
        return [
            f"{self.name}: {line}"
            for line in self.lines()
            if line.get("event") not in FORGIVEN and ("traceback" in line or line.get("level") in ("error", "critical"))
        ]

    def tail(self) -> str:
        path = self.log(self.starts)
        return "".join(path.read_text(errors="replace").splitlines(keepends=True)[-10:]) if path.exists() else ""
