"""A dnsmasq in memory, as its backend sees it: it reads files when told."""

from pathlib import Path

from twisted.internet.task import Clock, deferLater

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_lines import parse
from clusterd.dhcp.signalled_server import RunningServer
from clusterd.protocol.values import HostMap


class FakeSignalledServer:
    """A server that reads when told, in no time or in `parse_seconds` of the clock, and is busy with it afterwards."""

    def __init__(self, clock: Clock) -> None:
        self.running: RunningServer | None = RunningServer(100, 1)
        self.parse_seconds = 0.0
        self.deaf = False
        self.reload_times: list[float] = []
        self.serves: frozenset[HostMap] = frozenset()
        self.configuration: Path | None = None
        self.unreadable: str | None = None
        self.forbidden: dict[str, str] = {}  # why, by the name of the file or directory
        self.busy_seconds = 0.0
        self.asked_busy: list[float] = []
        self.show_times: list[float] = []
        self.blind = False
        self._clock = clock

    @property
    def shown(self) -> int:
        return len(self.show_times)

    def find(self) -> RunningServer:
        if self.running is None:
            raise BackendError("it is not running")
        return self.running

    async def reload(self, server: RunningServer, path: Path, timeout: float, opening: float | None = None) -> float:
        self.reload_times.append(self._clock.seconds())
        if self.deaf:
            await deferLater(self._clock, timeout if opening is None else opening)
            raise BackendError("it did not read")
        if self.parse_seconds:
            await deferLater(self._clock, self.parse_seconds)
        directory = path.with_name(f"{path.name}.new")
        shown = sorted(directory.glob("[!.]*"))
        self.serves = frozenset().union(*(parse(file.read_text()).host_maps for file in (path, *shown)))
        return self.parse_seconds

    async def show(self, server: RunningServer, hidden: Path, path: Path, timeout: float) -> None:
        hidden.replace(path)
        self.show_times.append(self._clock.seconds())
        if self.blind:
            await deferLater(self._clock, timeout)
            raise BackendError("it did not look")
        taken = {host_map.address for host_map in self.serves if host_map.family == 4}
        self.serves |= {host_map for host_map in parse(path.read_text()).host_maps if host_map.address not in taken}

    async def busy(self, server: RunningServer, timeout: float) -> float:
        seconds = min(self.busy_seconds, timeout)
        self.asked_busy.append(timeout)
        if seconds:
            await deferLater(self._clock, seconds)
        return seconds

    def command_line(self, server: RunningServer) -> tuple[str, ...]:
        return ("dnsmasq", f"--conf-file={self.configuration}")

    def why_forbidden(self, server: RunningServer, path: Path) -> str | None:
        return self.forbidden.get(path.name)

    def why_unreadable(self, server: RunningServer, path: Path) -> str | None:
        return self.unreadable
