"""The IPv6 half of the backend `isc`: an include file of dhcpd's configuration, its checker, and a paced restart.

dhcpd cannot be told of IPv6 hosts while it runs, and SIGHUP ends it. So: write the file, let `dhcpd -t` check the whole
configuration, restart, and see that a new process serves. What dhcpd was last restarted with is kept beside the file,
as `.served`: when the checker or the restart refuses, the file is brought back to that, and a crash of clusterd in
between is noticed because the two differ.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clusterd.dhcp.apparmor import why_confined
from clusterd.dhcp.backend import BackendError, Rejection
from clusterd.dhcp.commands import Command
from clusterd.dhcp.first_contact import Unreadable
from clusterd.dhcp.host_system import RunInThread, replace_file, writing_obstacles
from clusterd.dhcp.isc.contact import includes
from clusterd.dhcp.isc.include import parse, render
from clusterd.dhcp.isc.settings import Ipv6Settings
from clusterd.dhcp.pacing import Pause, sit_out
from clusterd.dhcp.signalled_server import RunningServer
from clusterd.protocol.values import HostMap

PAUSE_BETWEEN_RESTARTS_SECONDS = 3.0
CHECK_SECONDS = 60.0
RESTART_SECONDS = 60.0
START_SECONDS = 20.0
LOOK_SECONDS = 0.05

_log = Logger()

T = TypeVar("T")


class FindsServer(Protocol):
    """Who knows which process serves."""

    def find(self) -> RunningServer:
        """The process that serves now. Raises BackendError."""


class IncludedHosts:
    """The IPv6 host maps of one dhcpd, in a file that its configuration includes."""

    def __init__(
        self,
        settings: Ipv6Settings,
        server: FindsServer,
        run: Command,
        clock: IReactorTime,
        run_in_thread: RunInThread,
        pause_between_restarts: float = PAUSE_BETWEEN_RESTARTS_SECONDS,
    ) -> None:
        self._settings = settings
        self._path = settings.include_file
        self._served = self._path.with_name(f"{self._path.name}.served")
        self._server = server
        self._run = run
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._pause = Pause(pause_between_restarts)

    async def obstacles(self) -> list[str]:
        """What is missing, one sentence each."""
        obstacles = await self._run_in_thread(lambda: writing_obstacles(self._path))
        if obstacles:
            return obstacles
        try:
            await self._host_maps()
            if not await self._run_in_thread(self._path.exists):
                await self._write(())  # dhcpd refuses a configuration that includes what is not there
            await self._check()
            if not await self._run_in_thread(self._is_included):
                obstacles.append(
                    f'IPv6 host maps would have no effect: add include "{self._path}"; to '
                    f"{self._settings.configuration_file} and restart dhcpd."
                )
            self._server.find()
        except BackendError as error:
            obstacles.append(sentence(error))
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        """What dhcpd was last restarted with. Somebody else's edits of the file are undone. Raises BackendError."""
        host_maps = await self._served_host_maps()
        self._server.find()
        if not await self._files(self._is_in_effect):
            _log.warn("{path} was edited; it is put right", event="dhcpd6.edited", path=str(self._path))
            await self._go_back()
            await self._bring_into_effect(host_maps)
        return host_maps

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. Raises BackendError."""
        before = await self._served_host_maps()
        return await self.replace((before - frozenset(removed)) | frozenset(added))

    def pause_left(self) -> float:
        """The seconds until dhcpd may be restarted again."""
        return self._pause.left(self._clock.seconds())

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. No restart when nothing changes. Raises BackendError."""
        desired = frozenset(host_maps)
        await self._host_maps()  # never over a file that is not ours
        await self._write(desired)
        self._server.find()
        if not await self._files(self._is_in_effect):
            await self._bring_into_effect(desired)
        return ()

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """See Backend: what dhcpd was last restarted with. Raises BackendError."""
        if not host_maps:
            return frozenset()
        return await self.read() & frozenset(host_maps)

    # ---- from file to server ----

    async def _bring_into_effect(self, host_maps: frozenset[HostMap]) -> None:
        """Check, restart, and go back to what was served when either is refused. Raises BackendError."""
        await sit_out(self._pause, self._clock)
        try:
            await self._check()
        except BackendError:
            await self._go_back()
            raise
        try:
            await self._restart()
        except BackendError as error:
            await self._go_back()
            await self._restart_as_before(error)
            raise
        await self._files(lambda: replace_file(self._served, self._path.read_bytes()), "cannot write")
        _log.info("dhcpd was restarted for IPv6 host maps", event="dhcpd6.restarted", count=len(host_maps))

    async def _check(self) -> None:
        configuration = self._settings.configuration_file
        done = await self._run([str(self._settings.program), "-6", "-t", "-cf", str(configuration)], CHECK_SECONDS)
        if done.status != 0:
            refused = f"dhcpd's own check refuses {configuration}: {words_of_dhcpd(done.output)}"
            program = str(self._settings.program)
            confined = await self._run_in_thread(lambda: why_confined(program, self._path))
            raise BackendError(refused if confined is None else f"{refused}. {confined.removesuffix('.')}")

    async def _restart(self) -> None:
        self._pause = self._pause.after(self._clock.seconds(), 0.0)
        former: RunningServer | None = None
        with suppress(BackendError):
            former = self._server.find()
        done = await self._run(self._settings.restart_command, RESTART_SECONDS)
        if done.status != 0:
            words = words_of_dhcpd(done.output)
            raise BackendError(f"{self._settings.restart_command[0]} did not restart dhcpd for IPv6: {words}")
        await self._wait_for_another(former)

    async def _wait_for_another(self, former: RunningServer | None) -> None:
        deadline = self._clock.seconds() + START_SECONDS
        while True:
            try:
                if self._server.find() != former:
                    return
                words = "the process of before still serves"
            except BackendError as error:
                words = str(error)
            if self._clock.seconds() > deadline:
                raise BackendError(f"no new dhcpd for IPv6 after the restart: {words}")
            await deferLater(self._clock, LOOK_SECONDS)  # between two looks at a condition, bounded

    async def _go_back(self) -> None:
        """Make the file what it was when dhcpd was last restarted with it."""
        await self._files(lambda: replace_file(self._path, self._read_served()), "cannot write")

    async def _restart_as_before(self, reason: BackendError) -> None:
        _log.warn(
            "dhcpd did not come back with new IPv6 host maps ({reason}): it is started with those of before",
            event="dhcpd6.rolled-back",
            reason=str(reason),
        )
        try:
            await self._restart()
        except BackendError as error:
            raise BackendError(f"{reason}; nor with the host maps of before: {error}") from error

    # ---- the files ----

    async def _host_maps(self) -> frozenset[HostMap]:
        host_maps = await self._files(lambda: parse(self._text()))
        if host_maps is None:
            raise BackendError(
                f"{self._path} was not written by clusterd and is left alone: move it away or name another path"
            )
        return host_maps

    async def _served_host_maps(self) -> frozenset[HostMap]:
        await self._host_maps()  # a file that is not ours is not a state of ours either
        return await self._files(lambda: parse(self._read_served().decode("latin-1")) or frozenset())

    async def _write(self, host_maps: Collection[HostMap]) -> None:
        def write() -> None:
            text = render(host_maps)
            if text != self._text():
                replace_file(self._path, text.encode("ascii"))

        await self._files(write, "cannot write")

    async def _files(self, work: Callable[[], T], trouble: str = "cannot read") -> T:
        def guarded() -> T:
            try:
                return work()
            except OSError as error:
                raise BackendError(f"{trouble} {error.filename or self._path}: {error.strerror or error}") from error

        return await self._run_in_thread(guarded)

    def _text(self) -> str:
        try:
            return self._path.read_bytes().decode("latin-1")
        except FileNotFoundError:
            return ""

    def _read_served(self) -> bytes:
        try:
            return self._served.read_bytes()
        except FileNotFoundError:
            return render(()).encode("ascii")

    def _is_in_effect(self) -> bool:
        if not self._served.exists():  # not restarted by us yet: nothing of ours is served, and nothing need be
            return not parse(self._text())
        return self._text().encode("latin-1") == self._read_served()

    def _is_included(self) -> bool:
        try:
            return includes(self._settings.configuration_file, self._path)
        except Unreadable:
            return True  # the checker, which may read it as somebody else, found it good


def sentence(error: Exception) -> str:
    """An error as one of the sentences that `check` answers with."""
    words = str(error)
    return words if words.endswith((".", "?", ")")) else f"{words}."


_IMPRINT = (
    "Internet Systems Consortium",
    "Copyright",
    "All rights reserved",
    "For info,",
    "Config file:",
    "Database file:",
    "PID file:",
    "If you think you have received this message",
    "than a configuration issue",
    "bugs on either our web page",
    "before submitting a bug",
    "process and the information",
    "exiting.",
)


def words_of_dhcpd(output: str) -> str:
    """The complaint in what dhcpd printed, without its imprint; one line."""
    lines = [line.strip() for line in output.splitlines()]
    telling = [line for line in lines if line.strip("^") and not line.startswith(_IMPRINT)]
    return "; ".join(telling[:6])[:500] or "it did not say why"
