"""The backend `isc`: ISC dhcpd, one process for IPv4 and, where `[dhcp.ipv6]` is set, one for IPv6.

IPv4 host maps are host objects that dhcpd is given while it runs, over OMAPI, and that it keeps in its leases file:
nothing is ever restarted for them. IPv6 host maps are declarations in an include file, and each change restarts the
IPv6 server, at most once in 3 s.

A client whose host map is gone keeps its address until its lease time is over: dhcpd does not answer its renewals.
"""

import secrets
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint

from clusterd.dhcp.backend import BackendError, Capabilities, Rejection
from clusterd.dhcp.commands import commands_of
from clusterd.dhcp.host_system import run_in_threads_of
from clusterd.dhcp.isc.key import KeyUnusable, read_key
from clusterd.dhcp.isc.omapi_client import CONNECT_SECONDS, OmapiClient
from clusterd.dhcp.isc.server_leases import IscLeases
from clusterd.dhcp.isc.settings import IscSettings
from clusterd.dhcp.isc.v4 import MAX_HOST_MAPS, OmapiHosts
from clusterd.dhcp.isc.v6 import PAUSE_BETWEEN_RESTARTS_SECONDS, IncludedHosts, sentence
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.dhcp.signalled_server import ServerWithPidFile
from clusterd.protocol.addresses import Family
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, IdentifierKind

_HOST = "127.0.0.1"


class IscBackend:
    """One or two dhcpd processes on this host."""

    name = "isc"

    def __init__(
        self,
        client: OmapiClient,
        v4: OmapiHosts,
        v6: IncludedHosts | None,
        leases: IscLeases,
        read_key: Callable[[], object],
    ) -> None:
        self._client = client
        self._v4 = v4
        self._v6 = v6
        self._leases = leases
        self._read_key = read_key
        families: set[Family] = {4} if v6 is None else {4, 6}
        self.capabilities = Capabilities(
            frozenset(families),
            frozenset(IdentifierKind) - ({IdentifierKind.DUID} if v6 is None else set()),
            MAX_HOST_MAPS,
            needs_restart=frozenset() if v6 is None else frozenset({6}),
        )

    async def check(self) -> list[str]:
        """What is missing, one sentence each. Makes a host that no client can be, finds it again and deletes it."""
        obstacles = []
        try:
            self._read_key()
        except KeyUnusable as error:
            obstacles.append(f"The OMAPI key cannot be used: {error}.")
        else:
            try:
                await self._v4.try_out(f"check-{secrets.token_hex(8)}")
            except BackendError as error:
                obstacles.append(sentence(error))
        if self._v6 is not None:
            obstacles += await self._v6.obstacles()
        return obstacles

    async def read(self) -> frozenset[HostMap]:
        """See Backend. Raises BackendError."""
        host_maps = await self._v4.read()
        return host_maps if self._v6 is None else host_maps | await self._v6.read()

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. IPv4 first: it does not wait for a restart. Raises BackendError."""
        removed4, removed6 = _by_family(removed)
        added4, added6 = _by_family(added)
        rejections = await self._v4.apply(removed4, added4)
        if self._v6 is not None and (removed6 or added6):
            rejections += await self._v6.apply(removed6, added6)
        return rejections

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        """See Backend: for IPv6 only."""
        restarts = self._v6 is not None and any(host_map.family == 6 for host_map in (*removed, *added))
        return self._v6.pause_left() if self._v6 is not None and restarts else 0.0

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. Raises BackendError."""
        host_maps4, host_maps6 = _by_family(host_maps)
        rejections = await self._v4.replace(host_maps4)
        if self._v6 is not None:
            rejections += await self._v6.replace(host_maps6)
        return rejections

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """See Backend. Raises BackendError."""
        host_maps4, host_maps6 = _by_family(host_maps)
        there = await self._v4.verify(host_maps4)
        return there if self._v6 is None else there | await self._v6.verify(host_maps6)

    async def release(self, removed: Collection[HostMap]) -> None:
        """See Backend. For IPv6 dhcpd keeps no leases that others would have to wait for. Raises BackendError."""
        await self._v4.release(_by_family(removed)[0])

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """See Backend: what dhcpd leased from pools; for host maps it keeps no leases. Raises BackendError."""
        return await self._leases.page(question)

    async def end_lease(self, lease: ServerLease) -> None:
        """See Backend. Raises BackendError."""
        await self._leases.end(lease)

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()


def _by_family(host_maps: Collection[HostMap]) -> tuple[list[HostMap], list[HostMap]]:
    v4: list[HostMap] = []
    v6: list[HostMap] = []
    for host_map in host_maps:
        (v6 if host_map.family == 6 else v4).append(host_map)
    return v4, v6


def isc_backend(
    settings: IscSettings,
    reactor: Any,
    endpoint: Any = None,
    *,
    pause_between_restarts: float = PAUSE_BETWEEN_RESTARTS_SECONDS,
) -> IscBackend:
    """The backend for the dhcpd of this host. `endpoint` is how to reach its OMAPI port, where not simply by TCP."""
    in_thread = run_in_threads_of(reactor)
    where = f"{_HOST}:{settings.omapi_port}"
    client = OmapiClient(
        endpoint or TCP4ClientEndpoint(reactor, _HOST, settings.omapi_port, timeout=CONNECT_SECONDS),
        where,
        lambda: read_key(settings.omapi_key_file),
        reactor,
    )
    v6 = None
    if settings.ipv6 is not None:
        server = ServerWithPidFile(settings.ipv6.pid_file, settings.ipv6.program.name, reactor)
        v6 = IncludedHosts(settings.ipv6, server, commands_of(reactor), reactor, in_thread, pause_between_restarts)
    v4 = OmapiHosts(client, settings.leases_file, in_thread)
    leases_file6 = None if settings.ipv6 is None else settings.ipv6.leases_file
    leases = IscLeases(client, settings.leases_file, leases_file6, in_thread)
    return IscBackend(client, v4, v6, leases, lambda: read_key(settings.omapi_key_file))
