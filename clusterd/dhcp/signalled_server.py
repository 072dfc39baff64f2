"""A DHCP server on this host that reads files when told: which process it is, and when it has read them.

It reads a file again on SIGHUP, and a new file in a directory that it watches.

SIGHUP is handled some time after it is sent and is not answered. The kernel tells when it has taken effect: inotify
reports that the file was opened, and that it was closed again. The watch is on the file itself and not on its
name, so that an older version being read cannot be mistaken for this one. Servers that are meant here read and
answer in one thread: from the moment of opening on they answer no request from what they knew before.

Whoever else reads the file between signal and answer, a person with a pager, is taken for the server. The report
is then early by the time that the server takes to handle the signal.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.inotify import IN_CLOSE_NOWRITE, IN_OPEN, INotify, INotifyError
from twisted.internet.task import deferLater
from twisted.python.filepath import FilePath

from clusterd.dhcp.apparmor import why_confined
from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import unreadable_place

LOOK_SECONDS = 0.002
_WAITING = frozenset("SIZX")  # asleep, idle, or gone; proc_pid_stat(5)
_READS_EVERYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; capabilities(7)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One process and no later one with the same number: `started` counts clock ticks since boot (proc(5))."""

    pid: int
    started: int


class SignalledServer(Protocol):
    """The seam between a backend and its server. Every method raises BackendError."""

    def find(self) -> RunningServer:
        """The process that serves now."""

    async def reload(self, server: RunningServer, path: Path, timeout: float, opening: float | None = None) -> float:
        """Make the server read the file again. Returns when it has, with the seconds that it took for reading.

        All of it may take `timeout` seconds; the server has to begin within `opening` of them, where that is given.
        """

    async def show(self, server: RunningServer, hidden: Path, path: Path, timeout: float) -> None:
        """Rename a file so that the server, which watches that directory, reads it. Returns when it has."""

    async def busy(self, server: RunningServer, timeout: float) -> float:
        """Return when the server has nothing to do, with the seconds that this took; at most `timeout` of them."""

    def command_line(self, server: RunningServer) -> tuple[str, ...]:
        """The words with which the process was started."""

    def why_forbidden(self, server: RunningServer, path: Path) -> str | None:
        """What keeps the server from reading the path for certain; None where only trying tells."""

    def why_unreadable(self, server: RunningServer, path: Path) -> str | None:
        """What may have kept the server from reading the path: as `why_forbidden`, or AppArmor's profile of it."""


class _NotRead(Exception):
    """A file was not opened, or not read to its end, within so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class ServerWithPidFile:
    """The server that a pid file names. It is signalled only when the process is what it should be."""

    def __init__(self, pid_file: Path, program: str, reactor: Any) -> None:
        self._pid_file = pid_file
        self._program = program
        self._reactor = reactor

    def find(self) -> RunningServer:
        """See SignalledServer."""
        pid = self._read_pid_file()
        try:
            name, state, started = _process_facts(pid)
        except (FileNotFoundError, ProcessLookupError):
            state = "gone"
        if state in ("gone", "Z", "X"):
            raise BackendError(
                f"{self._program} is not running: {self._pid_file} names process {pid}, which does not exist"
            )
        if name != self._program:
            raise BackendError(f"process {pid}, which {self._pid_file} names, is {name!r} and not {self._program}")
        return RunningServer(pid, started)

    async def reload(self, server: RunningServer, path: Path, timeout: float, opening: float | None = None) -> float:
        """See SignalledServer."""
        with self._watching(path) as (opened, closed):
            self._signal(server)
            try:
                return await self._time_of_reading(opened, closed, timeout, opening)
            except _NotRead as error:
                raise BackendError(
                    f"{self._program} (process {server.pid}) did not read {path} within {error.seconds:g} s of SIGHUP: "
                    "it has to be the file that its configuration names, and one that its user may read"
                ) from None

    async def show(self, server: RunningServer, hidden: Path, path: Path, timeout: float) -> None:
        """See SignalledServer."""
        with self._watching(hidden) as (opened, closed):
            try:
                hidden.replace(path)
            except OSError as error:
                raise BackendError(f"cannot write {path}: {error.strerror or error}") from error
            try:
                await self._time_of_reading(opened, closed, timeout)
            except _NotRead as error:
                words = f"{self._program} (process {server.pid}) did not read {path} within {error.seconds:g} s"
                raise BackendError(words) from None

    async def busy(self, server: RunningServer, timeout: float) -> float:
        """See SignalledServer."""
        began = self._reactor.seconds()
        while (elapsed := self._reactor.seconds() - began) < timeout and self._state(server) not in _WAITING:
            await deferLater(self._reactor, LOOK_SECONDS)  # between two looks at a condition, bounded
        return float(min(elapsed, timeout))

    def _state(self, server: RunningServer) -> str:
        try:
            _, state, started = _process_facts(server.pid)
        except OSError:
            return "X"
        return state if started == server.started else "X"

    def command_line(self, server: RunningServer) -> tuple[str, ...]:
        """See SignalledServer."""
        try:
            words = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
        except OSError as error:
            raise BackendError(f"{self._program} (process {server.pid}) is gone: {error.strerror}") from error
        return tuple(os.fsdecode(word) for word in words[:-1])

    def why_forbidden(self, server: RunningServer, path: Path) -> str | None:
        """See SignalledServer."""
        try:
            status = Path(f"/proc/{server.pid}/status").read_text(errors="replace")
        except OSError as error:
            raise BackendError(f"{self._program} (process {server.pid}) is gone: {error.strerror}") from error
        facts = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
        user = int(facts["Uid"][1])
        groups = {int(facts["Gid"][1]), *map(int, facts["Groups"])}
        place = None if int(facts["CapEff"][0], 16) & _READS_EVERYTHING else unreadable_place(path, user, groups)
        if place is None:
            return None
        what = "enter the directory" if place.is_dir() else "read"
        return (
            f"{self._program}'s user (uid {user}) may not {what} {place}, which keeps it from its host maps: "
            "change that one's mode, owner or group."
        )

    def why_unreadable(self, server: RunningServer, path: Path) -> str | None:
        """See SignalledServer."""
        return self.why_forbidden(server, path) or why_confined(self._program, path)

    async def _time_of_reading(
        self, opened: Deferred[float], closed: Deferred[float], timeout: float, opening: float | None = None
    ) -> float:
        """The seconds from opening to closing. Raises _NotRead when that does not happen in time."""
        patience = timeout if opening is None else min(opening, timeout)

        async def both() -> float:
            nonlocal patience
            began = await opened.addTimeout(patience, self._reactor)
            patience = timeout
            return await closed - began

        try:
            return await Deferred.fromCoroutine(both()).addTimeout(timeout, self._reactor)
        except DeferredTimeout:
            raise _NotRead(patience) from None

    @contextmanager
    def _watching(self, path: Path) -> Iterator[tuple[Deferred[float], Deferred[float]]]:
        """Deferreds of the moments at which the file at this path is next opened, and after that closed."""
        opened: Deferred[float] = Deferred()
        closed: Deferred[float] = Deferred()

        def notice(watch: INotify, watched: FilePath[bytes], events: int) -> None:
            if events & IN_OPEN and not opened.called:
                opened.callback(self._reactor.seconds())
            if events & IN_CLOSE_NOWRITE and opened.called and not closed.called:
                closed.callback(self._reactor.seconds())

        try:
            watch = INotify(self._reactor)
        except INotifyError as error:
            raise BackendError(f"the kernel grants no inotify instance: {error}") from error
        watch.startReading()
        try:
            watch.watch(FilePath(os.fsencode(path)), IN_OPEN | IN_CLOSE_NOWRITE, callbacks=[notice])
            yield opened, closed
        except INotifyError as error:
            raise BackendError(f"{path} cannot be watched: {error}") from error
        finally:
            watch.loseConnection()

    def _signal(self, server: RunningServer) -> None:
        try:
            descriptor = os.pidfd_open(server.pid)
        except OSError as error:
            raise BackendError(f"{self._program} (process {server.pid}) is gone: {error.strerror}") from error
        try:
            # Asked after the process is held: its number cannot have gone to another program meanwhile.
            if self.find() != server:
                raise BackendError(f"{self._program} was restarted just now")
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
        except PermissionError as error:
            raise BackendError(
                f"{self._program} (process {server.pid}) may not be signalled by clusterd's user: {error.strerror}; "
                "run clusterd as root, as that process's user, or with CAP_KILL"
            ) from error
        except OSError as error:
            raise BackendError(f"{self._program} (process {server.pid}): {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _read_pid_file(self) -> int:
        try:
            text = self._pid_file.read_text(errors="replace").strip()
        except FileNotFoundError as error:
            raise BackendError(f"{self._program} is not running: there is no {self._pid_file}") from error
        except OSError as error:
            raise BackendError(f"{self._pid_file} cannot be read: {error.strerror}") from error
        if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**31:
            raise BackendError(f"{self._pid_file} holds no process id: {text[:40]!r}")
        return int(text)


def _process_facts(pid: int) -> tuple[str, str, int]:
    """Program name, state letter and start time of a process (proc_pid_stat(5)). Raises OSError when it is gone."""
    before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    fields = after.split()
    return before.partition("(")[2], fields[0], int(fields[19])
