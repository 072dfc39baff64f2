"""Other processes for the tests of the embedded PostgreSQL."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.waiting import until

reactor: Any = global_reactor

PROJECT = Path(__file__).parents[3]
HOLDER = Path(__file__).parent / "holder.py"


class Process(ProcessProtocol):
    """A running program; `ended` fires with its exit status, negative for a signal."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.ended.callback(value.exitCode if value.exitCode is not None else -value.signal)

    def kill(self) -> None:
        """Kill -9, now."""
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal.SIGKILL)  # type: ignore[union-attr]

    def close_input(self) -> None:
        """Ask the holder to stop."""
        self.transport.closeStdin()  # type: ignore[union-attr]


def start(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None, interpreter: Path | None = None
) -> Process:
    """Run this interpreter, or another one, with these arguments."""
    process = Process()
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **(environment or {})}
    program = str(interpreter or sys.executable)
    reactor.spawnProcess(process, program, [program, "-B", *arguments], env=variables)
    return process


async def said(process: Process) -> dict[str, Any]:
    """The line of JSON that a holder prints."""
    await until(lambda: b"\n" in process.output or process.ended.called)
    assert process.output, process.errors.decode()
    answer: dict[str, Any] = json.loads(process.output)
    return answer


def working_in(directory: Path) -> set[int]:
    """The processes whose working directory is this one or below it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = Path(entry, "cwd").readlink()
            except OSError:
                continue
            if where == directory or directory in where.parents:
                found.add(int(entry.name))
    return found
