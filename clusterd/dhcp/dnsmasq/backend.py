"""The backend `dnsmasq`: host maps in its `dhcp-hostsfile`, additions also by its `dhcp-hostsdir`; IPv4 and IPv6.

# Note [Two ways to dnsmasq]
The hosts file always says everything: it is what a dnsmasq that starts reads, and what is read back. dnsmasq reads it
again on SIGHUP only, and answers nobody meanwhile. Parsing IPv4 lines costs the square of their number (0.01 s at
1,000 lines, 0.15 s at 10,000, 3.8 s at 50,000; IPv6 lines are linear). Hence a limit, a warning, and a pause between
SIGHUPs that follows the last parse.

Additions do not have to wait for that. dnsmasq watches the hosts directory and reads a new file there within a
millisecond, without forgetting anything: the lines of new addresses are shown to it in a file of their own, then
written to the hosts file, and then that file is taken away again, which dnsmasq does not notice. It never takes back
what it has read, and the first host map of an address wins (`duplicate dhcp-host IP address`). So removals, moves and
changes of a line are a SIGHUP, and so is everything whose effect is not certain: a step that failed, a process of
dnsmasq or of ours that is new. Whatever step a crash comes after, the hosts file and a SIGHUP put it right.

Whatever it has read, dnsmasq then compares every lease with every host map, for names, and answers nobody meanwhile
(15 ns a pair: 0.15 s with 1,000 leases and 10,000 host maps; lease_update_from_configs of 2.90). So where there are
many leases, additions pause as SIGHUPs do, and those that come meanwhile share a file.

`pause` tells these pauses beforehand (`clusterd.dhcp.dnsmasq.pacing`): the driver lets additions pass the removals that
wait for theirs.

dnsmasq cannot be asked what it holds. A change counts as in effect when the process that runs has read the file's
present version to its end (see `clusterd.dhcp.signalled_server`); until then every call tries again.
"""

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.dnsmasq.hosts_directory import HostsDirectory
from clusterd.dhcp.dnsmasq.lease_pages import leases_of, page_of
from clusterd.dhcp.dnsmasq.leases import stale_leases
from clusterd.dhcp.dnsmasq.own_settings import Configuration, read_configuration, refusals, settings_obstacles
from clusterd.dhcp.dnsmasq.pacing import Pacing, longest_comparison
from clusterd.dhcp.dnsmasq.release import LeaseEnding
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.host_system import (
    FileVersion,
    RunInThread,
    run_at_once,
    run_in_threads_of,
    size_of,
)
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.dhcp.pacing import sit_out
from clusterd.dhcp.signalled_server import RunningServer, ServerWithPidFile, SignalledServer
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap

MAX_HOST_MAPS = 50_000
MANY_IPV4_HOST_MAPS = 20_000
MAX_SHOWN = 100  # lines shown in one file: each is compared with all that dnsmasq has
READ_TIMEOUT_SECONDS = 20.0
SHOW_TIMEOUT_SECONDS = 5.0
TRIAL_SECONDS = 5.0  # in which a check sees dnsmasq begin to read, unless it does not at all

_log = Logger()


@dataclass(frozen=True, slots=True)
class _Shown:
    """Who was shown something, and whether that is all of the change."""

    server: RunningServer
    is_all: bool


class DnsmasqBackend:
    """One dnsmasq that reads `hosts_file` and watches `hosts_directory`; see Note [Two ways to dnsmasq]."""

    name = "dnsmasq"

    def __init__(
        self,
        hosts_file: Path,
        hosts_directory: Path,
        server: SignalledServer,
        clock: IReactorTime,
        leases: LeaseEnding,
        *,
        run_in_thread: RunInThread = run_at_once,
        max_host_maps: int = MAX_HOST_MAPS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        show_timeout: float = SHOW_TIMEOUT_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = FileBackend(hosts_file, run_in_thread=run_in_thread, max_host_maps=max_host_maps)
        self.capabilities = self._file.capabilities
        self._hosts_file = hosts_file
        self._directory = HostsDirectory(hosts_directory, server, run_in_thread, show_timeout)
        self._server = server
        self._clock = clock
        self._leases = leases
        self._run_in_thread = run_in_thread
        self._read_timeout = read_timeout
        self._now = now
        self._one_at_a_time = DeferredLock()
        self._in_effect: tuple[FileVersion, RunningServer] | None = None
        self._configured: tuple[RunningServer, Configuration] | None = None
        self._blind: RunningServer | None = None  # it did not see what it was shown
        self._pacing = Pacing()
        self._many = False
        self._told: tuple[str, ...] = ()

    async def check(self) -> list[str]:
        """What is missing, one sentence each. Tries it out: dnsmasq is made to read the file that there is."""
        obstacles = await self._file.check()
        if obstacles:
            return obstacles
        try:
            async with self._turn():
                server = self._server.find()
                host_maps = await self._file.parsed()
                obstacles = await self._settings_obstacles(server, host_maps)
                await self._try_reading(server)
                if self._looks(await self._configuration(server)):
                    obstacles += await self._directory.obstacles(server)
                await self._leases.read((await self._configuration(server)).lease_file)
        except BackendError as error:
            obstacles.append(f"{error}.")
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        """What the file says, once dnsmasq has read it, without what dnsmasq refuses. Raises BackendError."""
        async with self._turn():
            host_maps = await self._file.read()
            self._warn_of_many()
            await self._bring_into_effect()
            server = self._server.find()
            self._tell_obstacles(await self._settings_obstacles(server, host_maps))
            return host_maps.difference(refusals(await self._configuration(server), host_maps))

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. The file is written also when dnsmasq is away: it reads it when it comes."""
        async with self._turn():
            refused = await self._refused_by_server(added)
            wanted = [host_map for host_map in added if host_map not in refused]
            shown = await self._show(removed, wanted)
            rejections = await self._file.apply([*removed, *refused], wanted)
            self._warn_of_many()
            if shown is not None:
                if shown.is_all:
                    await self._is_shown_to(shown.server)
                comparing = await self._comparison(shown.server)
                self._pacing = self._pacing.after_showing(self._clock.seconds(), comparing)
            await self._bring_into_effect()
            return (*rejections, *_rejections(refused))

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        """See Backend: additions wait only where dnsmasq has many leases; see Note [Two ways to dnsmasq]."""
        now = self._clock.seconds()
        quick = not removed and self._shows_to() is not None and self._file.would_be_new(added)
        return (self._pacing.show if quick else self._pacing.reload).left(now)

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend."""
        async with self._turn():
            refused = await self._refused_by_server(host_maps)
            rejections = await self._file.replace([host_map for host_map in host_maps if host_map not in refused])
            self._warn_of_many()
            await self._bring_into_effect()
            return (*rejections, *_rejections(refused))

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """Which of these the file has, once dnsmasq has read it. Raises BackendError."""
        async with self._turn():
            present = await self._file.verify(host_maps)
            await self._bring_into_effect()
            return present

    async def release(self, removed: Collection[HostMap]) -> None:
        """End the leases of former owners, in their name; one that stays is logged. Raises BackendError."""
        async with self._turn():
            configuration = await self._configuration(self._server.find())
            try:
                known = await self._leases.read(configuration.lease_file)
            except BackendError as error:  # the removal is in effect all the same
                _log.warn("leases of former clients stay: {reason}", event="dnsmasq.leases-unread", reason=str(error))
                return
            at = await self._file.at([lease.address for lease in known.leases])
            stale = stale_leases(known.leases, removed, lambda address: at[address], configuration.only_static)
            if stale:
                await self._leases.end(stale, known.server_duid, configuration.lease_file)

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """What the lease file says now. Raises BackendError."""
        content = await self._leases.read_bytes(await self._lease_file())
        return await self._run_in_thread(lambda: page_of(content, question, self._now()))

    async def end_lease(self, lease: ServerLease) -> None:
        """Give it back in its client's name. Raises BackendError."""
        lease_file = await self._lease_file()
        content = await self._leases.read_bytes(lease_file)
        held = await self._run_in_thread(lambda: leases_of(content, lease))
        if held:
            server_duid = (await self._leases.read(lease_file)).server_duid if held[0].is_v6 else None
            if await self._leases.end(held, server_duid, lease_file):
                raise BackendError(f"dnsmasq did not take back the lease on {lease.address}: it stays until it expires")

    async def _lease_file(self) -> Path:
        return (await self._configuration(self._server.find())).lease_file

    async def close(self) -> None:
        """Nothing to give back."""

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        await self._one_at_a_time.acquire()
        try:
            yield
        finally:
            self._one_at_a_time.release()

    # ---- the hosts directory ----

    async def _show(self, removed: Collection[HostMap], added: Collection[HostMap]) -> "_Shown | None":
        """Have dnsmasq serve what is new at once, where it can."""
        server = self._shows_to()
        if server is None or len(added) > MAX_SHOWN:
            return None
        if self._in_effect != (await self._file.version(), self._running()):
            return None
        lines = await self._file.lines_of_new(added)
        if not lines or self._file.count(4) + self._file.count(6) + len(lines) > self.capabilities.max_host_maps:
            return None
        already = await self._file.verify({*removed, *added})
        await sit_out(self._pacing.show, self._clock)
        self._in_effect = None  # dnsmasq has what the file has not, until the file is written
        try:
            await self._directory.show(server, lines)
        except BackendError as error:
            self._blind = server
            _log.warn(
                "additions wait for SIGHUP from now on: {reason}",
                event="dnsmasq.directory-unread",
                path=str(self._directory.path),
                reason=str(error),
            )
            return None
        is_all = not already.intersection(removed) and len(lines) == len(set(added) - already)
        return _Shown(server, is_all)

    def _shows_to(self) -> RunningServer | None:
        """The dnsmasq that has all of the file and looks into the directory, as far as is known."""
        if self._in_effect is None or self._configured is None:
            return None
        server = self._in_effect[1]
        if server == self._blind or self._configured[0] != server:
            return None
        return server if self._looks(self._configured[1]) else None

    def _looks(self, configuration: Configuration) -> bool:
        return configuration.reads("dhcp-hostsdir", self._directory.path)

    async def _is_shown_to(self, server: RunningServer) -> None:
        """The file is written, and says what this process has: nothing else is needed."""
        version = await self._file.version()
        await self._directory.clear()
        self._in_effect = None if version is None else (version, server)

    # ---- SIGHUP ----

    async def _bring_into_effect(self) -> None:
        """See to it that the dnsmasq that runs has what the file says; nothing to do where that is known."""
        version = await self._file.version()
        if version is None:  # dnsmasq keeps what it has read from a file that is gone; it does not from an empty one
            await self._file.replace(())
            version = await self._file.version()
        server = self._server.find()
        if version is None or self._in_effect == (version, server):
            return
        self._in_effect = None
        await self._directory.clear()
        await self._reload(server)
        self._in_effect = (version, server)

    async def _try_reading(self, server: RunningServer) -> None:
        """Have dnsmasq read the file that there is, unless it surely has or surely may not; nobody waits long."""
        version = await self._file.version()
        if version is None or self._in_effect == (version, server):
            return
        forbidden = self._server.why_forbidden(server, self._hosts_file)
        if forbidden is not None:
            raise BackendError(forbidden.removesuffix("."))
        await self._reload(server, TRIAL_SECONDS)

    async def _reload(self, server: RunningServer, opening: float | None = None) -> None:
        await sit_out(self._pacing.reload, self._clock)
        try:
            parsing = await self._server.reload(server, self._hosts_file, self._read_timeout, opening)
        except BackendError as error:
            why = self._server.why_unreadable(server, self._hosts_file)
            raise error if why is None else BackendError(f"{error} {why.removesuffix('.')}") from None
        comparing = await self._comparison(server)
        self._pacing = self._pacing.after_reload(self._clock.seconds(), parsing, comparing)
        _log.debug(
            "dnsmasq has read {path} in {seconds} s",
            event="dnsmasq.reloaded",
            path=str(self._hosts_file),
            pid=server.pid,
            seconds=round(parsing + comparing, 4),
        )

    async def _comparison(self, server: RunningServer) -> float:
        """Wait while dnsmasq compares its leases with what it has read; the seconds."""
        lease_file = (await self._configuration(server)).lease_file
        octets = await self._run_in_thread(lambda: size_of(lease_file))
        longest = longest_comparison(octets, self._file.count(4) + self._file.count(6))
        return await self._server.busy(server, longest) if longest else 0.0

    def _running(self) -> RunningServer | None:
        try:
            return self._server.find()
        except BackendError:
            return None

    # ---- dnsmasq's own settings ----

    async def _configuration(self, server: RunningServer) -> Configuration:
        """What this process was told at its start."""
        if self._configured is None or self._configured[0] != server:
            words = self._server.command_line(server)
            configuration = await self._run_in_thread(lambda: read_configuration(words))
            self._configured = (server, configuration)
            if not self._looks(configuration):
                _log.info(
                    "additions wait for SIGHUP: with dhcp-hostsdir={path} dnsmasq would take them at once",
                    event="dnsmasq.no-hosts-directory",
                    path=str(self._directory.path),
                )
        return self._configured[1]

    async def _refused_by_server(self, added: Collection[HostMap]) -> dict[HostMap, str]:
        server = self._running()  # what one that is away refuses is found at its return
        return {} if server is None else refusals(await self._configuration(server), added)

    async def _settings_obstacles(self, server: RunningServer, host_maps: Collection[HostMap]) -> list[str]:
        configuration = await self._configuration(server)
        return await self._run_in_thread(
            lambda: settings_obstacles(configuration, self._hosts_file, [one.address for one in host_maps])
        )

    def _tell_obstacles(self, obstacles: Collection[str]) -> None:
        for obstacle in obstacles:
            if obstacle not in self._told:
                _log.warn("{obstacle}", event="dhcp-server.obstacle", backend=self.name, obstacle=obstacle)
        self._told = tuple(obstacles)

    def _warn_of_many(self) -> None:
        count = self._file.count(4)
        many = count > MANY_IPV4_HOST_MAPS
        if many and not self._many:
            _log.warn(
                "{count} IPv4 host maps: dnsmasq answers nobody for about {seconds} s after each removal",
                event="dnsmasq.many-host-maps",
                count=count,
                seconds=round(0.6 * (count / 20_000) ** 2, 1),
                limit=self.capabilities.max_host_maps,
            )
        self._many = many


def _rejections(refused: dict[HostMap, str]) -> tuple[Rejection, ...]:
    return tuple(Rejection(host_map, refused[host_map]) for host_map in sorted(refused))


def dnsmasq_backend(
    hosts_file: Path,
    hosts_directory: Path,
    pid_file: Path,
    reactor: Any,
    *,
    in_its_network: RunInThread | None = None,
    read_timeout: float = READ_TIMEOUT_SECONDS,
) -> DnsmasqBackend:
    """The backend for the dnsmasq of this host that `pid_file` names.

    `in_its_network` does blocking work in dnsmasq's network namespace, where that is not this process's.
    """
    in_thread = run_in_threads_of(reactor)
    return DnsmasqBackend(
        hosts_file,
        hosts_directory,
        ServerWithPidFile(pid_file, "dnsmasq", reactor),
        reactor,
        LeaseEnding(reactor, in_thread, in_its_network or in_thread),
        run_in_thread=in_thread,
        read_timeout=read_timeout,
        show_timeout=min(read_timeout, SHOW_TIMEOUT_SECONDS),
    )
