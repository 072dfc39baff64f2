"""Programs of PostgreSQL as children of the reactor that die with it, and their words."""

import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

LONGEST_LINE_BYTES: Final = 2000
LAST_WORDS: Final = 12
LINES_PER_SECOND: Final = 100
OUTPUT_GRACE_SECONDS: Final = 2.0

_SERIOUS: Final = re.compile(r"(?:WARNING|ERROR|FATAL|PANIC):  |.*: (?:error|warning|fatal): ")


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that PostgreSQL runs as."""

    name: str
    uid: int
    gid: int

    @property
    def is_us(self) -> bool:
        """Whether that is this process's own user."""
        return self.uid == os.geteuid()


class LineSplitter:
    """Bytes in, decoded lines out; a line longer than `limit` bytes is cut, the rest of it skipped."""

    def __init__(self, limit: int = LONGEST_LINE_BYTES) -> None:
        self._limit = limit
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now, without their ends."""
        lines = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            whole, self._rest = self._rest + piece, b""
            if not self._skipping:
                lines.append(self._decode(whole))
            self._skipping = False
        self._rest += rest
        if self._skipping:
            self._rest = b""
        elif len(self._rest) > self._limit:
            lines.append(self._decode(self._rest))
            self._rest, self._skipping = b"", True
        return lines

    def finish(self) -> list[str]:
        """The last line, when it had no end."""
        rest, self._rest = self._rest, b""
        return [self._decode(rest)] if rest else []

    def _decode(self, line: bytes) -> str:
        return line[: self._limit].decode("utf-8", "replace").rstrip("\r")


class Child(ProcessProtocol):
    """One running program. `ended` fires with its exit status (negative: the signal) once; see `last_words`."""

    _log = Logger(namespace="postgres")

    def __init__(self, reactor: Any, program: str) -> None:
        self._reactor = reactor
        self._program = program
        self._splitters = {1: LineSplitter(), 2: LineSplitter()}
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._second, self._this_second, self._suppressed = -1, 0, 0
        self._draining: IDelayedCall | None = None
        self.status: int | None = None
        self.told_to_end = False
        self.ended: Deferred[int] = Deferred()

    @property
    def pid(self) -> int:
        """The process, also after it ended."""
        return self._pid

    @property
    def last_words(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._words)

    def send(self, signal_number: int) -> None:
        """Send a signal that ends it; a process that has ended already is not an error."""
        self.told_to_end = True
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(signal_number)  # type: ignore[union-attr]

    def connectionMade(self) -> None:
        self._pid: int = self.transport.pid  # type: ignore[union-attr]
        self.transport.closeStdin()  # type: ignore[union-attr]

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        for line in self._splitters[childFD].feed(data):
            self._say(line)

    def processExited(self, reason: Failure) -> None:
        value: Any = reason.value
        self.status = value.exitCode if value.exitCode is not None else -value.signal
        # grandchildren may hold the pipes open a little longer
        self._draining = self._reactor.callLater(OUTPUT_GRACE_SECONDS, self._finish)

    def processEnded(self, reason: Failure) -> None:
        self._finish()

    def _finish(self) -> None:
        if self.ended.called:
            return
        if self._draining is not None and self._draining.active():
            self._draining.cancel()
        for splitter in self._splitters.values():
            for line in splitter.finish():
                self._say(line)
        self._tell_suppressed()
        assert self.status is not None
        self.ended.callback(self.status)

    def _say(self, line: str) -> None:
        if not line.strip():
            return
        self._words.append(line)
        second = int(self._reactor.seconds())
        if second != self._second:
            self._tell_suppressed()
            self._second, self._this_second = second, 0
        self._this_second += 1
        if self._this_second > LINES_PER_SECOND:
            self._suppressed += 1
            return
        # A server that is told to stop calls the end of each connection FATAL.
        emit = self._log.warn if _SERIOUS.match(line) and not self.told_to_end else self._log.debug
        emit("{program}: {line}", event="postgres.log", program=self._program, line=line)

    def _tell_suppressed(self) -> None:
        if self._suppressed:
            self._log.warn(
                "{program} wrote {lines} more lines in one second",
                event="postgres.log-suppressed",
                program=self._program,
                lines=self._suppressed,
            )
            self._suppressed = 0


def spawn(
    reactor: Any, identity: Identity, directory: Path, arguments: Sequence[str], *, dies_of: int = signal.SIGINT
) -> Child:
    """Start `arguments[0]` (a path) as `identity` in `directory`; it gets the signal `dies_of` when this process ends.

    Must be called from the main thread: the kernel ties the signal to the thread that forks.
    """
    child = Child(reactor, Path(arguments[0]).name)
    uid, gid = (-1, -1) if identity.is_us else (identity.uid, identity.gid)
    helper = str(files("regiond.postgres") / "exec_child.py")
    reactor.spawnProcess(
        child,
        sys.executable,
        [sys.executable, "-I", "-S", "-B", helper, *map(str, (os.getpid(), dies_of, uid, gid)), *arguments],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        path=str(directory),
    )
    return child
