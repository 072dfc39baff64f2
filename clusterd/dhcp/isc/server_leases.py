"""The leases that a dhcpd has given from its pools: listed from its leases files, single ones asked for over OMAPI.

For host maps dhcpd keeps no leases: their clients use their addresses without a record.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clusterd.dhcp.backend import BackendError, NoLeases
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.isc.lease_pages import identifiers_of, page_of_v4, page_of_v6
from clusterd.dhcp.isc.omapi import NOT_FOUND, OmapiObject, OmapiRefused, open_message, update_message
from clusterd.dhcp.isc.omapi_client import OmapiClient
from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind

MAX_LEASES_FILE_BYTES = 256 << 20
FEW = 16  # so many addresses are asked for one by one

PageOf = Callable[[bytes, LeaseQuestion, float], LeasePage]

_ACTIVE = 2  # the binding state of a lease that somebody has
_ETHERNET = 1


class IscLeases:
    """The leases of the dhcpd of this host. `leases_file6` is None where it does not serve IPv6."""

    def __init__(
        self,
        client: OmapiClient,
        leases_file: Path,
        leases_file6: Path | None,
        run_in_thread: RunInThread,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._leases_file = leases_file
        self._leases_file6 = leases_file6
        self._run_in_thread = run_in_thread
        self._now = now

    async def page(self, question: LeaseQuestion) -> LeasePage:
        """See Backend.leases. Raises BackendError."""
        if question.family == 6:
            path6 = self._leases_file6
            if path6 is None:
                raise NoLeases("dhcpd does not serve IPv6 here: there is no [dhcp.ipv6]")
            return await self._run_in_thread(partial(_page_in, path6, page_of_v6, question, self._now()))
        asked_for = question.asked_for
        if asked_for is None or len(asked_for) > FEW:
            return await self._run_in_thread(partial(_page_in, self._leases_file, page_of_v4, question, self._now()))
        found = [await self._find(address) for address in asked_for]
        rows = [(pack_address(address), (address, one)) for address, one in zip(asked_for, found, strict=True)]
        return choose(rows, lambda row: _lease(*row), question, self._now())

    async def end(self, lease: ServerLease) -> None:
        """See Backend.end_lease. Raises BackendError."""
        if ":" in lease.address:
            raise NoLeases("dhcpd cannot be told to end an IPv6 lease: it stays until it expires")
        found = await self._find(lease.address)
        held = _lease(lease.address, found)
        if found is None or held is None or held.identifiers != lease.identifiers:
            return
        try:
            await self._client.call(update_message(found.handle, {b"ends": found.values[b"starts"]}))
        except OmapiRefused as error:
            raise BackendError(f"dhcpd did not end the lease on {lease.address}: {error}") from error
        if _lease(lease.address, await self._find(lease.address)) is not None:
            raise BackendError(f"dhcpd did not end the lease on {lease.address}")

    async def _find(self, address: str) -> OmapiObject | None:
        try:
            return await self._client.call(open_message(b"lease", {b"ip-address": pack_address(address)}))
        except OmapiRefused as error:
            if error.code == NOT_FOUND:
                return None
            raise BackendError(f"dhcpd: {error}") from error


def _lease(address: str, found: OmapiObject | None) -> ServerLease | None:
    """What dhcpd says of an address, if somebody has it."""
    if found is None or found.number(b"state") != _ACTIVE:
        return None
    values = found.values
    identifiers: list[Identifier] = []
    if found.number(b"hardware-type") == _ETHERNET:
        identifiers += identifiers_of(IdentifierKind.MAC, values.get(b"hardware-address", b""))
    identifiers += identifiers_of(IdentifierKind.CLIENT_ID, values.get(b"dhcp-client-identifier", b""))
    name = values.get(b"client-hostname")
    ends = values.get(b"ends", b"")
    expires = int.from_bytes(ends) if len(ends) == 4 and ends != b"\xff\xff\xff\xff" else None
    return ServerLease(address, tuple(identifiers), None if name is None else name.decode("utf-8", "replace"), expires)


def _page_in(path: Path, page_of: PageOf, question: LeaseQuestion, now: float) -> LeasePage:
    return page_of(_content(path), question, now)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LEASES_FILE_BYTES + 1)
    except OSError as error:
        raise BackendError(f"dhcpd's leases file {path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_LEASES_FILE_BYTES:
        raise BackendError(f"dhcpd's leases file {path} has more than {MAX_LEASES_FILE_BYTES} bytes")
    return content
