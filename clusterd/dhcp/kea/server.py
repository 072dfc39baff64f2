"""One of Kea's servers as it runs: what it can do, its configuration, and whether that is still the one we know."""

from dataclasses import dataclass
from typing import Any

from twisted.internet.interfaces import IReactorTime

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.kea.configuration import Configuration, parse_configuration
from clusterd.dhcp.kea.control_socket import ControlSocket
from clusterd.protocol.addresses import Family

CONFIG_TIMEOUT_SECONDS = 60.0  # with 100,000 reservations in it, config-get takes some seconds
_AGE_GRAIN_SECONDS = 2.0  # Kea tells the age of its configuration in whole seconds


@dataclass(frozen=True, slots=True)
class Running:
    """One configuration of one process. `document` is the whole answer to config-get."""

    pid: int
    fetched: float
    configuration: Configuration
    document: dict[str, Any]


class KeaServer:
    """The DHCPv4 or the DHCPv6 server. Every call raises BackendError when it cannot be asked."""

    def __init__(self, family: Family, control: ControlSocket, clock: IReactorTime, run_in_thread: RunInThread) -> None:
        self.family = family
        self.control = control
        self.clock = clock
        self.run_in_thread = run_in_thread
        self._running: Running | None = None

    @property
    def name(self) -> str:
        return self.control.server

    async def commands(self) -> frozenset[str]:
        """The commands that it takes, those of its hooks included."""
        reply = await self.control.order("list-commands")
        if not isinstance(reply.arguments, list):
            raise BackendError(f"{self.name} answered list-commands without a list")
        return frozenset(map(str, reply.arguments))

    async def configuration(self) -> Configuration:
        """What it runs with now. Costs one short question as long as that has not changed."""
        return (await self.running()).configuration

    async def running(self) -> Running:
        """As `configuration`, with all that it said."""
        pid, age = await self._status()
        known = self._running
        if known is not None and known.pid == pid:
            elapsed = self.clock.seconds() - known.fetched
            if age is not None and age > elapsed + _AGE_GRAIN_SECONDS:
                return known
        return await self.fetch()

    async def fetch(self) -> Running:
        """Ask for the whole configuration."""
        pid, _ = await self._status()
        began = self.clock.seconds()
        reply = await self.control.order("config-get", timeout=CONFIG_TIMEOUT_SECONDS)
        document = reply.arguments
        try:
            if not isinstance(document, dict):
                raise ValueError("no JSON object")
            configuration = await self.run_in_thread(lambda: parse_configuration(self.family, document))
        except ValueError as error:
            raise BackendError(f"{self.name} answered config-get with {error}") from error
        self._running = Running(pid, began, configuration, document)
        return self._running

    async def _status(self) -> tuple[int, float | None]:
        """Its process, and for how many seconds it has had its configuration."""
        reply = await self.control.ask("status-get")
        facts = reply.arguments if isinstance(reply.arguments, dict) else {}
        age = facts.get("reload")
        return int(facts.get("pid", 0)), float(age) if isinstance(age, int) else None
