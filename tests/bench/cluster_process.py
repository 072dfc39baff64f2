"""The process of `tests.bench.clusters`, started and ended at will."""

import subprocess
import sys
from pathlib import Path
from typing import IO


class ClusterProcess:
    """All clusters of a directory; the log of each life is appended to one file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] = (directory / "clusters.log").open("a")

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.clusters", str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            text=True,
        )

    def stop(self) -> None:
        """In order, as an init system would."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._log.close()
