"""The IPv4 half of the backend `isc`: host objects of a running dhcpd, over OMAPI, and its leases file to read back.

dhcpd lists nothing over OMAPI; what it acknowledged is in its leases file, flushed to the disk. Single objects are
looked up. dhcpd checks neither that a reserved address lies outside its pools nor that nobody leased it, and would give
it to two clients: each address is looked up among dhcpd's leases first (every address of a pool has one there).
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from pypureomapi import OmapiMessage
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.dhcp.backend import BackendError, Rejection, diff
from clusterd.dhcp.host_system import RunInThread
from clusterd.dhcp.isc.hosts import PREFIX, ClientChange, HostObject, by_client, client_values, is_ours, plan
from clusterd.dhcp.isc.leases import ActiveLease, LeasesFile, parse
from clusterd.dhcp.isc.omapi import (
    EXISTS,
    KEY_CONFLICT,
    NOT_FOUND,
    OmapiObject,
    OmapiRefused,
    delete_message,
    open_message,
    update_message,
)
from clusterd.dhcp.isc.omapi_client import WINDOW, OmapiClient
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, format_mac

MAX_HOST_MAPS = 100_000
MAX_SAID_LEASES = 100
NOBODYS_ADDRESS = "192.0.0.8"  # RFC 7600: the dummy address, which no host has

_ACTIVE = 2  # the binding state of a lease that somebody has
_SERVER_TROUBLE = frozenset({0x01, 0x06, 0x13, 0x1A, 0x22})
"""Results that are not about the one host map: no memory, no permission, no space, I/O error, unexpected error."""

_log = Logger()

T = TypeVar("T")


class OmapiHosts:
    """The host objects of ours in one dhcpd. What it has is remembered between calls, until anything goes wrong."""

    def __init__(self, client: OmapiClient, leases_file: Path, run_in_thread: RunInThread) -> None:
        self._client = client
        self._leases_file = leases_file
        self._run_in_thread = run_in_thread
        self._known: dict[Identifier, HostObject] | None = None
        self._known_since = 0
        self._said: set[ActiveLease] = set()

    async def read(self) -> frozenset[HostMap]:
        """What the leases file says, once dhcpd answers. Raises BackendError."""
        await self._find(b"host", {b"name": PREFIX.encode("ascii")})  # is it there? There is no such host
        found = await self._read_leases()
        self._say_leased(found)
        for name in found.strays:
            _log.warn("{name} is no host of ours as we write them; removed", event="dhcpd.stray-host", name=name)
            await self._delete({b"name": name.encode("ascii")})
        self._known, self._known_since = found.objects, self._client.connections
        return await self._run_in_thread(
            lambda: frozenset(
                host_map
                for found_one in found.objects.values()
                for host_map in found_one.host_maps
                if host_map.address != NOBODYS_ADDRESS  # a check is being made
            )
        )

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. Raises BackendError."""
        if not removed and not added:
            return ()
        known = await self._current()
        changes = await self._run_in_thread(lambda: plan(known, removed, added))
        rejections: list[Rejection] = []
        try:
            await _several(changes, lambda change: self._take_away(known, change))
            await _several(changes, lambda change: self._give(known, change, rejections))
        except BackendError:
            self._known = None
            raise
        return tuple(sorted(rejections, key=lambda rejection: rejection.host_map))

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """See Backend. What is right already is left alone. Raises BackendError."""
        actual = await self.read()
        change = await self._run_in_thread(lambda: diff(actual, frozenset(host_maps)))
        return await self.apply(change.removed, change.added)

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """See Backend: asked of dhcpd, one question for each client. Raises BackendError."""
        known = await self._current()
        there: set[HostMap] = set()
        await _several(by_client(host_maps).values(), lambda asked: self._look(known, asked, there))
        return frozenset(there)

    async def release(self, removed: Collection[HostMap]) -> None:
        """End leases from pools that these clients have on these addresses. Raises BackendError.

        For its host objects dhcpd keeps no leases: a client of theirs uses its address until its lease time is over.
        """
        await _several(removed, self._end_lease)

    async def try_out(self, client_id: str) -> None:
        """Make a host for a client-id that no client has, find it in the leases file, delete it.

        Raises BackendError.
        """
        probe = HostObject((HostMap(Identifier(IdentifierKind.CLIENT_ID, client_id.encode("ascii")), NOBODYS_ADDRESS),))
        try:
            await self._create(probe)
            try:
                found = await self._read_leases()
            finally:
                await self._delete({b"name": probe.name.encode("ascii")})
        except OmapiRefused as error:
            raise BackendError(f"dhcpd does not take hosts over OMAPI: {error}") from error
        if probe.identifier not in found.objects:
            raise BackendError(
                f"dhcpd took a host over OMAPI, and {self._leases_file} does not show it: is it the leases file of "
                "this dhcpd, and was it replaced while dhcpd was running? (dhcpd writes a new one when it is restarted)"
            )

    # ---- what is known ----

    async def _current(self) -> dict[Identifier, HostObject]:
        former = self._known
        if former is None or self._known_since != self._client.connections:
            await self.read()
            if former is not None and former != self._known:
                raise BackendError("dhcpd was restarted and came back with other host maps than it had")
        assert self._known is not None
        return self._known

    async def _read_leases(self) -> LeasesFile:
        def read() -> LeasesFile:
            try:
                text = self._leases_file.read_bytes().decode("latin-1")
            except OSError as error:
                raise BackendError(
                    f"dhcpd's leases file {self._leases_file} cannot be read: {error.strerror or error}"
                ) from error
            return parse(text)

        return await self._run_in_thread(read)

    def _say_leased(self, found: LeasesFile) -> None:
        news = set(found.leased) - self._said
        self._said = set(found.leased)
        for lease in sorted(news, key=lambda one: one.address)[:MAX_SAID_LEASES]:
            _log.warn(
                "{address} has a host map, and {mac} has a lease on it from a pool of dhcpd",
                event="dhcpd.address-leased",
                address=lease.address,
                mac=lease.mac,
            )

    # ---- changes of one client ----

    async def _take_away(self, known: dict[Identifier, HostObject], change: ClientChange) -> None:
        if change.forgotten:
            # dhcpd may have what its leases file does not say; made again below, from what should stay.
            await self._delete(client_values(change.identifier))
            if change.between is not None:
                await self._keep(change.between)
        elif change.before is not None and change.between != change.before:
            try:
                await self._change(change.before, change.between)
            except OmapiRefused as error:
                raise BackendError(f"dhcpd did not take an address from a host: {error}") from error
        _remember(known, change.identifier, change.between)

    async def _give(
        self, known: dict[Identifier, HostObject], change: ClientChange, rejections: list[Rejection]
    ) -> None:
        rejections += [
            Rejection(host_map, f"dhcpd gives a client one host name, and {host_map.address} has another one already")
            for host_map in change.refused
        ]
        if change.after is None or change.after == change.between:
            return
        after, between = change.after, change.between
        kept = set(between.host_maps) if between is not None else set()
        for host_map in after.host_maps:
            if host_map not in kept and (reason := await self._why_not(host_map)) is not None:
                rejections.append(Rejection(host_map, reason))
                remaining = HostObject.of(other for other in after.host_maps if other != host_map)
                if remaining is None:
                    return
                after = remaining
        if after == between:
            return
        try:
            await (self._create(after) if between is None else self._change(between, after))
        except OmapiRefused as error:
            reason = f"dhcpd: {error}"
            rejections += [Rejection(host_map, reason) for host_map in after.host_maps if host_map not in kept]
            if between is not None:
                await self._keep(between)
        else:
            _remember(known, change.identifier, after)

    async def _why_not(self, host_map: HostMap) -> str | None:
        """Why dhcpd must not have this host map: it would give the address to somebody else too."""
        lease = await self._find(b"lease", {b"ip-address": pack_address(host_map.address)})
        if lease is None:
            return None
        mac = lease.values.get(b"hardware-address", b"")
        holder = f", leased to {format_mac(mac)}" if lease.number(b"state") == _ACTIVE and len(mac) == 6 else ""
        return (
            f"{host_map.address} lies in a pool of dhcpd{holder}, so that dhcpd would give it to two clients: "
            "take it out of the pool's range"
        )

    async def _keep(self, wanted: HostObject) -> None:
        """Make again what was there before."""
        try:
            await self._create(wanted)
        except OmapiRefused as error:
            raise BackendError(f"dhcpd did not take a host back: {error}") from error

    async def _create(self, wanted: HostObject) -> None:
        """Make the object; what stands in its way is put right if it is ours. Raises OmapiRefused."""
        try:
            await self._ask(open_message(b"host", wanted.values(), create=True))
            return
        except OmapiRefused as error:
            if error.code not in (EXISTS, KEY_CONFLICT):
                raise
        same_name = await self._find(b"host", {b"name": wanted.name.encode("ascii")})
        if same_name is not None and _is_client_of(same_name, wanted.identifier):
            # Also when it is right already: dhcpd then writes it to its leases file again, which may lack it.
            await self._ask(update_message(same_name.handle, {b"ip-address": wanted.packed_addresses}))
            return
        if same_name is not None:
            await self._delete({b"name": wanted.name.encode("ascii")})
        same_client = await self._find(b"host", client_values(wanted.identifier))
        if same_client is not None:
            name = same_client.values.get(b"name", b"")
            if not is_ours(name):
                shown = name.decode("ascii", "replace")
                raise OmapiRefused(KEY_CONFLICT, f"its host {shown!r}, which is not ours, is for the same client")
            await self._delete(client_values(wanted.identifier))
        await self._ask(open_message(b"host", wanted.values(), create=True))

    async def _change(self, before: HostObject, after: HostObject | None) -> None:
        """Raises OmapiRefused; the object is then gone."""
        if after is not None and after.name == before.name:
            found = await self._find(b"host", {b"name": before.name.encode("ascii")})
            if found is not None and _is_client_of(found, after.identifier):
                await self._ask(update_message(found.handle, {b"ip-address": after.packed_addresses}))
                return
        else:
            await self._delete({b"name": before.name.encode("ascii")})
        if after is not None:
            await self._create(after)

    async def _delete(self, key: Mapping[bytes, bytes]) -> None:
        """Delete the object that is found by this, if it is ours."""
        found = await self._find(b"host", key)
        if found is None or not is_ours(found.values.get(b"name", b"")):
            return
        try:
            await self._ask(delete_message(found.handle))
        except OmapiRefused as error:
            if error.code != NOT_FOUND:
                raise BackendError(f"dhcpd did not delete a host: {error}") from error

    async def _look(self, known: Mapping[Identifier, HostObject], asked: HostObject, there: set[HostMap]) -> None:
        expected = known.get(asked.identifier)
        if expected is not None:
            found = await self._find(b"host", {b"name": expected.name.encode("ascii")})
            if (
                found is not None
                and _is_client_of(found, expected.identifier)
                and found.values.get(b"ip-address") == expected.packed_addresses
            ):
                there.update(host_map for host_map in asked.host_maps if host_map in expected.host_maps)
                return
            self._known = None
        found = await self._find(b"host", client_values(asked.identifier))
        if found is not None and is_ours(found.values.get(b"name", b"")):
            # Not what was given: none of the wanted ones is there for sure, but an unwanted address is still served.
            served = found.values.get(b"ip-address", b"")
            addresses = {served[start : start + 4] for start in range(0, len(served), 4)}
            wanted = expected.host_maps if expected is not None else ()
            there.update(m for m in asked.host_maps if m not in wanted and pack_address(m.address) in addresses)

    async def _end_lease(self, host_map: HostMap) -> None:
        lease = await self._find(b"lease", {b"ip-address": pack_address(host_map.address)})
        if lease is None or lease.number(b"state") != _ACTIVE:
            return
        kind = b"hardware-address" if host_map.identifier.kind is IdentifierKind.MAC else b"dhcp-client-identifier"
        if lease.values.get(kind) != host_map.identifier.value:
            return
        try:
            await self._ask(update_message(lease.handle, {b"ends": lease.values[b"starts"]}))
        except OmapiRefused as error:
            raise BackendError(f"dhcpd did not end the lease on {host_map.address}: {error}") from error

    # ---- single questions ----

    async def _find(self, kind: bytes, key: Mapping[bytes, bytes]) -> OmapiObject | None:
        try:
            return await self._ask(open_message(kind, key))
        except OmapiRefused as error:
            if error.code == NOT_FOUND:
                return None
            raise BackendError(f"dhcpd: {error}") from error

    async def _ask(self, message: OmapiMessage) -> OmapiObject:
        """Raises OmapiRefused for what is about this one object, BackendError for everything else."""
        try:
            return await self._client.call(message)
        except OmapiRefused as error:
            if error.code in _SERVER_TROUBLE:
                raise BackendError(f"dhcpd: {error}") from error
            raise


def _remember(known: dict[Identifier, HostObject], identifier: Identifier, now: HostObject | None) -> None:
    if now is None:
        known.pop(identifier, None)
    else:
        known[identifier] = now


def _is_client_of(found: OmapiObject, identifier: Identifier) -> bool:
    return all(found.values.get(key) == value for key, value in client_values(identifier).items())


async def _several(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for each, as many at a time as dhcpd takes. After an error no more is begun; the first is raised."""
    waiting = iter(items)
    failed = False

    async def worker() -> None:
        nonlocal failed
        for item in waiting:
            if failed:
                return
            try:
                await work(item)
            except BaseException:
                failed = True
                raise

    workers = [Deferred.fromCoroutine(worker()) for _ in range(WINDOW)]
    for succeeded, result in await DeferredList(workers, consumeErrors=True):
        if not succeeded:
            cast(Failure, result).raiseException()
