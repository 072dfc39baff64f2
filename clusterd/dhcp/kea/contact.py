"""First contact with Kea: what its servers run with, and the reservations that stand in no configuration.

A server that runs is asked: its configuration with everything included (`config-get`), and its reservations page by
page where the hook host_cmds is loaded. One that is away is known by its configuration file. The tables of hosts
databases in PostgreSQL are read where the hook does not tell what is in them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.first_contact import ServerPicture, Unreadable, read_text
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.kea.configuration import Configuration, HostsDatabase, parse_configuration
from clusterd.dhcp.kea.control_socket import KeaUnreachable
from clusterd.dhcp.kea.findings import Findings, parse
from clusterd.dhcp.kea.reservation_commands import NEEDED, all_reservations
from clusterd.dhcp.kea.rows import Row
from clusterd.dhcp.kea.server import KeaServer
from clusterd.protocol.addresses import Family

MAX_ROWS = 1_000_000

_BY_HAND = (
    "keep its addresses out by hand (regionctl ranges add), then declare the subnets claimable "
    "(regionctl subnets set SUBNET --claimable-anyway)"
)


class ForeignRows(Protocol):
    """The rows of hosts databases that are not ours."""

    async def __call__(self, family: Family, database: HostsDatabase, first: bool, /) -> Sequence[Row]:
        """`first`: whether it is the first PostgreSQL among the server's. Raises BackendError."""


@dataclass(frozen=True, slots=True)
class KnownServer:
    """One of Kea's servers that this host should have."""

    server: KeaServer
    config_file: Path


class KeaReader:
    """Reads what the Kea servers of this host have. Every one of them has to be known: asked, or by its file.

    `is_ours` knows the reservations, JSON objects, that clusterd makes.
    """

    def __init__(
        self,
        servers: Sequence[KnownServer],
        is_ours: Callable[[Mapping[str, Any]], bool],
        rows: ForeignRows,
        run_in_thread: RunInThread,
    ) -> None:
        self._servers = servers
        self._is_ours = is_ours
        self._rows = rows
        self._run_in_thread = run_in_thread

    async def read(self) -> ServerPicture:
        """See ServerReader."""
        findings = Findings(self._is_ours)
        for server in self._servers:
            try:
                await self._one(server, findings)
            except BackendError as error:
                raise Unreadable(f"what Kea has of its own cannot be read: {error}") from error
        return findings.picture

    async def _one(self, known: KnownServer, findings: Findings) -> None:
        server = known.server
        commands: frozenset[str] = frozenset()
        source = server.name
        try:
            document: Mapping[str, Any] = (await server.running()).document
            commands = await server.commands()
        except KeaUnreachable as error:
            source = str(known.config_file)
            document = await self._run_in_thread(partial(_of_file, known, error))
        configuration = await self._run_in_thread(partial(_taken, server.family, document, source, findings))
        if commands >= NEEDED:
            entries = await all_reservations(server.control)
            await self._run_in_thread(partial(findings.reservations, entries, f"{source}: reservation-get-page"))
            return
        for number, database in enumerate(configuration.databases):
            if database.kind != "postgresql":
                raise Unreadable(
                    f"{source} names a hosts database of type {database.kind}, which only the hook host_cmds can list: "
                    f"load libdhcp_host_cmds.so, or {_BY_HAND}"
                )
            rows = await self._rows(server.family, database, number == 0)
            where = f"{source}: hosts database {database.parameters.get('dbname', '?')}"
            await self._run_in_thread(partial(findings.rows, rows, where))


def _of_file(known: KnownServer, away: KeaUnreachable) -> Mapping[str, Any]:
    try:
        return parse(read_text(known.config_file), lambda name: read_text(Path("/") / name))
    except Unreadable as error:
        raise Unreadable(f"{away}, and without it {error}") from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{away}, and {known.config_file} is no configuration: {error}") from error


def _taken(family: Family, document: Mapping[str, Any], source: str, findings: Findings) -> Configuration:
    try:
        configuration = parse_configuration(family, document)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{source}: {error}") from error
    findings.take(document, source)
    return configuration


def bounded(rows: Iterable[Row]) -> list[Row]:
    """At most so many rows as can be reported. Raises BackendError."""
    taken = list(islice(rows, MAX_ROWS + 1))
    if len(taken) > MAX_ROWS:
        raise BackendError(f"the hosts table has more than {MAX_ROWS} rows that are not hostmap's")
    return taken
