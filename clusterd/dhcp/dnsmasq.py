"""The backend `dnsmasq`: the host maps in its `dhcp-hostsfile`, and a SIGHUP after each change; IPv4 and IPv6.

dnsmasq answers nobody while it parses, and parsing IPv4 lines costs the square of their number (0.01 s at 1,000
lines, 0.15 s at 10,000, 3.8 s at 50,000; IPv6 lines are linear). Hence a limit, a warning, and a pause between
SIGHUPs that follows the last parse.

dnsmasq cannot be asked what it holds. A change counts as in effect when the process that runs has read the file's
present version to its end (see `clusterd.dhcp.signalled_server`); until then every call tries again.

What its configuration needs: `dhcp-hostsfile=` with this path, `pid-file=` with this path, a `dhcp-range=…,static`
per subnet, and a `dhcp-lease-max` above the number of host maps (the default, 1000, is a silent limit).
"""

from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.file import FileBackend
from clusterd.dhcp.host_system import FileVersion, RunInThread, run_at_once, run_in_threads_of
from clusterd.dhcp.signalled_server import RunningServer, ServerWithPidFile, SignalledServer
from clusterd.protocol.values import HostMap

MAX_HOST_MAPS = 50_000
MANY_IPV4_HOST_MAPS = 20_000
SHORTEST_PAUSE_SECONDS = 0.25
PAUSE_PER_PARSE = 4.0  # dnsmasq is deaf for at most a fifth of the time, whatever the rate of changes
READ_TIMEOUT_SECONDS = 20.0

_log = Logger()

T = TypeVar("T")


class DnsmasqBackend:
    """One dnsmasq that reads `hosts_file`."""

    name = "dnsmasq"

    def __init__(
        self,
        hosts_file: Path,
        server: SignalledServer,
        clock: IReactorTime,
        *,
        run_in_thread: RunInThread = run_at_once,
        max_host_maps: int = MAX_HOST_MAPS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
    ) -> None:
        self._file = FileBackend(hosts_file, run_in_thread=run_in_thread, max_host_maps=max_host_maps)
        self.capabilities = self._file.capabilities
        self._hosts_file = hosts_file
        self._server = server
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._read_timeout = read_timeout
        self._one_at_a_time = DeferredLock()
        self._in_effect: tuple[FileVersion, RunningServer] | None = None
        self._next_reload = 0.0
        self._many = False

    async def check(self) -> list[str]:
        """What is missing, one sentence each. Tries it out: dnsmasq is made to read the file."""
        obstacles = await self._file.check()
        if not obstacles:
            try:
                await self.read()
            except BackendError as error:
                obstacles.append(f"{error}.")
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        """What the file says, once dnsmasq has read it. Raises BackendError."""
        return await self._settled(self._file.read)

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. The file is written also when dnsmasq is away: it reads it when it comes."""
        return await self._settled(lambda: self._file.apply(removed, added))

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend."""
        return await self._settled(lambda: self._file.replace(host_maps))

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """Which of these the file has, once dnsmasq has read it. Raises BackendError."""
        return await self._settled(lambda: self._file.verify(host_maps))

    async def release(self, removed: Collection[HostMap]) -> None:
        """See Backend."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def _settled(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do the step with the file, then see to it that dnsmasq has read it."""
        await self._one_at_a_time.acquire()
        try:
            result = await step()
            self._warn_of_many()
            await self._bring_into_effect()
        finally:
            self._one_at_a_time.release()
        return result

    async def _bring_into_effect(self) -> None:
        version = await self._file.version()
        if version is None:  # dnsmasq keeps what it has read from a file that is gone; it does not from an empty one
            await self._file.replace(())
            version = await self._file.version()
        server = self._server.find()
        if version is None or self._in_effect == (version, server):
            return
        await self._pause()
        self._in_effect = None
        seconds = await self._server.reload(server, self._hosts_file, self._read_timeout)
        self._next_reload = self._clock.seconds() + max(SHORTEST_PAUSE_SECONDS, PAUSE_PER_PARSE * seconds)
        self._in_effect = (version, server)
        _log.debug(
            "dnsmasq has read {path} in {seconds} s",
            event="dnsmasq.reloaded",
            path=str(self._hosts_file),
            pid=server.pid,
            seconds=round(seconds, 4),
        )

    async def _pause(self) -> None:
        wait = self._next_reload - self._clock.seconds()
        if wait > 0:
            await deferLater(self._clock, wait)

    def _warn_of_many(self) -> None:
        count = self._file.count(4)
        many = count > MANY_IPV4_HOST_MAPS
        if many and not self._many:
            _log.warn(
                "{count} IPv4 host maps: dnsmasq answers nobody for about {seconds} s after each change",
                event="dnsmasq.many-host-maps",
                count=count,
                seconds=round(0.6 * (count / 20_000) ** 2, 1),
                limit=self.capabilities.max_host_maps,
            )
        self._many = many


def dnsmasq_backend(hosts_file: Path, pid_file: Path, reactor: Any) -> DnsmasqBackend:
    """The backend for the dnsmasq of this host that `pid_file` names."""
    server = ServerWithPidFile(pid_file, "dnsmasq", reactor)
    return DnsmasqBackend(hosts_file, server, reactor, run_in_thread=run_in_threads_of(reactor))
