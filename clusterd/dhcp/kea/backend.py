"""The backend `kea`: the DHCPv4 and the DHCPv6 server of this host, each given its host maps the best way it offers.

In this order: rows in the PostgreSQL hosts database that its configuration names; the commands of the hook host_cmds;
files that its configuration includes. The way is chosen once, at the first call that reaches the server.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError, Capabilities, NoLeases, Rejection
from clusterd.dhcp.host_system import RunInThread, run_in_threads_of
from clusterd.dhcp.kea import reservation_commands
from clusterd.dhcp.kea.configuration import Configuration
from clusterd.dhcp.kea.contact import KeaReader, KnownServer
from clusterd.dhcp.kea.control_socket import ControlSocket, KeaUnreachable
from clusterd.dhcp.kea.database_access import HostsTables, NoAccess, access
from clusterd.dhcp.kea.include_files import IncludeFilesStore
from clusterd.dhcp.kea.lease_pages import end, page_of
from clusterd.dhcp.kea.leases import MISSING_HOOK, end_leases, lease_commands
from clusterd.dhcp.kea.reservation_commands import ReservationCommandsStore
from clusterd.dhcp.kea.reservations import is_ours
from clusterd.dhcp.kea.rows import Placed
from clusterd.dhcp.kea.server import KeaServer
from clusterd.dhcp.kea.settings import KeaSettings, Way
from clusterd.dhcp.kea.ways import ReservationStore, place_all, where_found
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol.addresses import Family
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, IdentifierKind

T = TypeVar("T")

MAX_HOST_MAPS = 100_000
MANY = 500  # host maps are placed at about 200 a millisecond


class _NotOffered(Exception):
    """Why the server cannot be given host maps this way."""


class KeaFamily:
    """One server and the way it is given host maps."""

    _log = Logger()

    def __init__(self, server: KeaServer, settings: KeaSettings, config_file: Path, reactor: Any) -> None:
        self.server = server
        self.include = IncludeFilesStore(server, settings.include_directory, config_file)
        self._settings = settings
        self._reactor = reactor
        self._choosing = DeferredLock()
        self._store: ReservationStore | None = None
        self._told_of_leases = False

    async def store(self) -> ReservationStore:
        """The way chosen, which it is at the first call. Raises BackendError."""
        await self._choosing.acquire()
        try:
            if self._store is None:
                self._store = await self._choose()
            return self._store
        finally:
            self._choosing.release()

    @property
    def chosen(self) -> ReservationStore | None:
        """The way, where it is chosen already."""
        return self._store

    async def _choose(self) -> ReservationStore:
        configuration = await self.server.configuration()
        commands = await self.server.commands()
        forced = self._settings.way
        passed_over: list[str] = []
        for way in Way if forced is None else (forced,):
            try:
                store = await self._offered(way, configuration, commands)
            except _NotOffered as reason:
                passed_over.append(f"{way.value}: {reason}")
                continue
            self._log.info(
                "{server} is given host maps by {way}",
                event="kea.way-chosen",
                server=self.server.name,
                way=way.value,
                forced=forced is not None,
                passed_over=passed_over,
            )
            return store
        raise BackendError(f"{self.server.name} cannot be given host maps by {'; '.join(passed_over)}")

    async def _offered(self, way: Way, configuration: Configuration, commands: frozenset[str]) -> ReservationStore:
        match way:
            case Way.HOSTS_DATABASE:
                return self._hosts_database(configuration)
            case Way.RESERVATION_COMMANDS:
                missing = sorted(reservation_commands.NEEDED - commands)
                if missing:
                    raise _NotOffered(f"it has not loaded the hook libdhcp_host_cmds.so, and lacks {missing[0]}")
                if configuration.databases:
                    return ReservationCommandsStore(self.server, commands, None)
                target = await reservation_commands.memory_target(self.server)
                if target is None:
                    raise _NotOffered("its reservation commands need a hosts database, and its configuration has none")
                return ReservationCommandsStore(self.server, commands, target)
            case Way.INCLUDE_FILES:
                return self.include

    def _hosts_database(self, configuration: Configuration) -> ReservationStore:
        databases = [database for database in configuration.databases if database.kind == "postgresql"]
        if not databases:
            raise _NotOffered("its configuration names no hosts-database of type postgresql")
        try:
            from clusterd.dhcp.kea.database import Database
            from clusterd.dhcp.kea.hosts_database import HostsDatabaseStore
        except ImportError as error:
            raise _NotOffered(f"{error.name} is not installed (pip install 'hostmap[kea]')") from error
        try:
            parameters = access(self._settings, databases[0], first=True)
        except NoAccess as error:
            raise _NotOffered(str(error)) from error
        return HostsDatabaseStore(self.server.family, Database(parameters, self._reactor, self.server.run_in_thread))

    # ---- Backend, for one family ----

    async def check(self) -> list[str]:
        try:
            store = await self.store()
            configuration = await self.server.configuration()
            commands = await self.server.commands()
            obstacles = configuration.obstacles() + await store.check(configuration)
        except KeaUnreachable as error:
            return [f"{error}. Start it, or say with dhcp{self.server.family}_socket where its control socket is."]
        except BackendError as error:
            return [f"{error}."]
        if not lease_commands(self.server.family) <= commands:
            obstacles.append(MISSING_HOOK.format(server=self.server.name))
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        try:
            configuration = await self.server.configuration()
            store = await self.store()
        except KeaUnreachable:
            if self._store in (None, self.include):
                await self.include.restore_last_good()
            raise
        if store.way is Way.HOSTS_DATABASE and self._has_leftovers(configuration):
            configuration = await self._retire_files(configuration)
        return await store.read(configuration)

    def _has_leftovers(self, configuration: Configuration) -> bool:
        return any(is_ours(entry) for subnet in configuration.subnets for entry in subnet.entries)

    async def _retire_files(self, configuration: Configuration) -> Configuration:
        """Empty the files from which the server had its host maps before: they would stay served beside the rows."""
        self._log.info(
            "{server} still serves host maps from included files: they are emptied",
            event="kea.include-retired",
            server=self.server.name,
        )
        await self.include.retire(configuration)
        configuration = await self.server.configuration()
        if self._has_leftovers(configuration):
            raise BackendError(
                f"{self.server.name} has host maps of hostmap's in its configuration beside those in its hosts "
                "database: remove the reservations marked managed-by hostmap there"
            )
        return configuration

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        configuration = await self.server.configuration()
        store = await self.store()

        def place() -> tuple[list[Placed], list[Placed], tuple[Rejection, ...]]:
            return where_found(configuration, removed), *place_all(configuration, added)

        gone, placed, rejections = await self._beside(len(removed) + len(added), place)
        return rejections + await store.apply(configuration, gone, placed)

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        configuration = await self.server.configuration()
        store = await self.store()
        placed, rejections = await self.server.run_in_thread(lambda: place_all(configuration, host_maps))
        if len(placed) > store.max_host_maps:
            raise BackendError(
                f"{len(placed)} host maps are more than the {store.max_host_maps} that this backend takes"
            )
        return rejections + await store.replace(configuration, placed)

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        configuration = await self.server.configuration()
        store = await self.store()
        placed = await self._beside(len(host_maps), lambda: where_found(configuration, host_maps))
        return await store.verify(configuration, placed)

    async def _beside(self, count: int, work: Callable[[], T]) -> T:
        """Do what takes time for many host maps in a thread, and for a few at once: a thread costs more then."""
        return await self.server.run_in_thread(work) if count > MANY else work()

    async def release(self, removed: Collection[HostMap]) -> None:
        if lease_commands(self.server.family) <= await self.server.commands():
            await end_leases(self.server.control, self.server.family, removed)
        elif not self._told_of_leases:
            self._told_of_leases = True
            self._log.warn(
                "{server} cannot be made to end leases: a removed host map's client keeps its address until then",
                event="kea.no-lease-commands",
                server=self.server.name,
            )

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()


class KeaBackend:
    """Both servers, or the one that there is. A call fails when one of those that it concerns does."""

    name = "kea"

    def __init__(self, families: Sequence[KeaFamily]) -> None:
        self._families = {one.server.family: one for one in families}
        self.capabilities = Capabilities(
            families=frozenset(self._families), identifiers=frozenset(IdentifierKind), max_host_maps=MAX_HOST_MAPS
        )

    @property
    def ways(self) -> dict[Family, Way]:
        """How each server is given host maps, as far as that is chosen."""
        return {number: one.chosen.way for number, one in self._families.items() if one.chosen is not None}

    async def check(self) -> list[str]:
        """What is missing, one sentence each."""
        obstacles = [obstacle for one in self._families.values() for obstacle in await one.check()]
        self._limit()
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        """What the servers have of ours. Raises BackendError, also when only one of them cannot be asked."""
        read: frozenset[HostMap] = frozenset()
        for one in self._families.values():
            read |= await one.read()
        self._limit()
        return read

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend."""
        rejections: tuple[Rejection, ...] = ()
        for number, one in self._families.items():
            mine = _of(number, removed), _of(number, added)
            if any(mine):
                rejections += await one.apply(*mine)
        return rejections

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        """See Backend: for a server that loads files only."""
        concerned = {host_map.family for host_map in (*removed, *added)}
        stores = [one.chosen for number, one in self._families.items() if number in concerned]
        return max((store.pause() for store in stores if store is not None), default=0.0)

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend."""
        rejections: tuple[Rejection, ...] = ()
        for number, one in self._families.items():
            rejections += await one.replace(_of(number, host_maps))
        return rejections

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """See Backend. The server's own configuration or the database is asked, never what we remember."""
        there: frozenset[HostMap] = frozenset()
        for number, one in self._families.items():
            if mine := _of(number, host_maps):
                there |= await one.verify(mine)
        return there

    async def release(self, removed: Collection[HostMap]) -> None:
        """See Backend. Without the hook lease_cmds nothing can be done; `check` says so."""
        for number, one in self._families.items():
            if mine := _of(number, removed):
                await one.release(mine)

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """See Backend. Asked of the server, beside whatever else it is asked."""
        return await page_of(self._server_of(question.family), question, time.time())

    async def end_lease(self, lease: ServerLease) -> None:
        """See Backend."""
        await end(self._server_of(6 if ":" in lease.address else 4), lease)

    def _server_of(self, family: Family) -> KeaServer:
        one = self._families.get(family)
        if one is None:
            raise NoLeases(f"Kea does not serve IPv{family} here: dhcp{family}_socket is empty")
        return one.server

    async def close(self) -> None:
        """See Backend."""
        for one in self._families.values():
            await one.close()

    def _limit(self) -> None:
        stores = [one.chosen for one in self._families.values() if one.chosen is not None]
        if stores:
            limit = min(store.max_host_maps for store in stores)
            self.capabilities = replace(self.capabilities, max_host_maps=limit)


def _of(family: Family, host_maps: Iterable[HostMap]) -> list[HostMap]:
    return [host_map for host_map in host_maps if host_map.family == family]


def kea_backend(settings: KeaSettings, reactor: Any, run_in_thread: RunInThread | None = None) -> KeaBackend:
    """The backend for the servers that the settings name."""
    run = run_in_thread or run_in_threads_of(reactor)
    return KeaBackend(
        [
            KeaFamily(known.server, settings, known.config_file, reactor)
            for known in _known_servers(settings, reactor, run)
        ]
    )


def kea_reader(settings: KeaSettings, reactor: Any, run_in_thread: RunInThread) -> KeaReader:
    """What reads what these servers have of their own."""
    rows = HostsTables(settings, reactor, run_in_thread)
    return KeaReader(_known_servers(settings, reactor, run_in_thread), is_ours, rows, run_in_thread)


def _known_servers(settings: KeaSettings, reactor: Any, run_in_thread: RunInThread) -> list[KnownServer]:
    places: list[tuple[Family, Path | str, Path]] = [
        (4, settings.dhcp4_socket, settings.dhcp4_config),
        (6, settings.dhcp6_socket, settings.dhcp6_config),
    ]
    return [
        KnownServer(
            KeaServer(family, ControlSocket(path, family, reactor, run_in_thread), reactor, run_in_thread), config_file
        )
        for family, path, config_file in places
        if isinstance(path, Path)
    ]
