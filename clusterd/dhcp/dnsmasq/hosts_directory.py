"""The directory that dnsmasq watches, and what it is shown there; see Note [Two ways to dnsmasq]."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_lines import OWNER_MARK
from clusterd.dhcp.host_system import READABLE_BY_ALL, RunInThread, writing_obstacles
from clusterd.dhcp.signalled_server import RunningServer, SignalledServer

SHOWN_PREFIX = "hostmap-"


class HostsDirectory:
    """Files in which dnsmasq is shown lines of host maps; nothing stays in it."""

    def __init__(self, path: Path, server: SignalledServer, run_in_thread: RunInThread, timeout: float) -> None:
        self.path = path
        self._server = server
        self._run_in_thread = run_in_thread
        self._timeout = timeout
        self._shown = 0

    async def show(self, to: RunningServer, lines: Collection[str]) -> None:
        """Return when dnsmasq has read these lines. Raises BackendError."""
        self._shown += 1
        await self._show(to, f"{SHOWN_PREFIX}{self._shown}", lines)

    async def clear(self) -> None:
        """Take away what was shown, which dnsmasq does not notice. Raises BackendError."""
        await self._run_in_thread(lambda: take_away(self.path))

    async def obstacles(self, to: RunningServer) -> list[str]:
        """What is missing, one sentence each: dnsmasq is shown a file without host maps."""
        name = f"check-{os.getpid()}-of-hostmap"  # also beside a clusterd that takes away what it has shown
        obstacles = await self._run_in_thread(lambda: writing_obstacles(self.path / name))
        if obstacles:
            return obstacles
        forbidden = self._server.why_forbidden(to, self.path)
        if forbidden is not None:
            return [f"Additions wait for SIGHUP: {forbidden}"]
        try:
            await self._show(to, name, ())
        except BackendError as error:
            why = self._server.why_unreadable(to, self.path)
            why = why or f"If {self.path} was made again since dnsmasq was started, restart it."
            return [f"{error}: additions wait for SIGHUP. {why}"]
        finally:
            await self._run_in_thread(lambda: _remove(self.path, name))
        return []

    async def _show(self, to: RunningServer, name: str, lines: Collection[str]) -> None:
        hidden = self.path / f".{name}"
        await self._run_in_thread(lambda: write_shown(hidden, lines))
        await self._server.show(to, hidden, self.path / name, self._timeout)


def write_shown(path: Path, lines: Collection[str]) -> None:
    """Marked as ours; not flushed to the disk, for after a power cut dnsmasq starts with the hosts file. Blocks."""
    try:
        with path.open("w") as file:
            os.fchmod(file.fileno(), READABLE_BY_ALL)
            file.write("\n".join([OWNER_MARK, *lines]) + "\n")
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror or error}") from error


def take_away(directory: Path) -> None:
    """Everything that clusterd has shown. Blocks."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.removeprefix(".").startswith(SHOWN_PREFIX):
                    Path(entry.path).unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(f"cannot clear {directory}: {error.strerror or error}") from error


def _remove(directory: Path, name: str) -> None:
    """One file, shown or not yet."""
    for each in (name, f".{name}"):
        with suppress(OSError):
            (directory / each).unlink()
