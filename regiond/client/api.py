"""The region's HTTP API for programs on Twisted: typed, with bounded waits, and safe to repeat.

Every change carries an idempotency key, so that a request whose answer was lost is sent again and done once. Lost
connections, and refusals that say when to come again (503, 429), are tried again for `patience` seconds, with longer
and longer pauses. What the region refuses is raised as one of the errors of `regiond.client.answers`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast

from twisted.internet.task import deferLater

from regiond.client.answers import segment
from regiond.client.requests import Requests
from regiond.client.transport import Transport
from regiond.domain.lines import LineFormat
from regiond.http.shapes.batch import MemberResult
from regiond.http.shapes.devices import Device
from regiond.http.shapes.imports import Import
from regiond.http.shapes.networks import Cluster, ClusterInterface
from regiond.http.shapes.nodes import Node
from regiond.http.shapes.reservations import Group, Reservation
from regiond.http.shapes.subnets import Subnet

TIMEOUT_SECONDS: Final = 20.0
PATIENCE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.5

Filter = str | Sequence[str] | None


class Client:
    """A region at a URL, with a token, or at its UNIX socket, whose owner is the admin `local`.

    `ca_file` has the certificates (PEM) of whoever vouches for an https URL; without it, the operating system's count.
    `timeout` is for one attempt, `patience` for all of them, in seconds. `wait`, where a method has it, is how long the
    region may wait until the clusters have applied a host map before it answers; `probe`, whether it finds out on the
    wire that nobody uses an address before it hands it out (None: as the subnet says); `etag`, the version of a thing
    that may be changed; `force`, of a claim, takes an address that is leased or in use, and of a release frees it
    without the clusters' word (both admin).
    """

    def __init__(
        self,
        reactor: Any,
        url: str | None = None,
        *,
        socket: str | None = None,
        token: str | None = None,
        ca_file: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._reactor = reactor
        self._transport = Transport(reactor, url, socket=socket, ca_file=ca_file)
        self._requests = Requests(reactor, self._transport, token, timeout=timeout, patience=patience)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._transport.close()

    # ---- unmanaged devices ----

    async def claim_device(
        self,
        interface: str,
        *,
        mac: str | None = None,
        macs: Sequence[str] | None = None,
        duid: str | None = None,
        address: str | None = None,
        hostname: str | None = None,
        owner: str | None = None,
        comment: str | None = None,
        force: bool = False,
        probe: bool | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> Device:
        """A device with an address and a host map (admin). `interface` is a selector, e.g. `192.0.2.0/24`."""
        body = _given(
            interface=interface,
            mac=mac,
            macs=None if macs is None else list(macs),
            duid=duid,
            address=address,
            hostname=hostname,
            owner=owner,
            comment=comment,
        )
        return cast(Device, await self._requests.make("/devices", body, wait=wait, key=key, probe=probe, force=force))

    async def device(self, device: str) -> Device:
        return cast(Device, await self._requests.read(f"/devices/{segment(device)}"))

    def devices(self) -> AsyncIterator[Device]:
        return self._requests.pages("/devices", ())

    async def change_device(
        self,
        device: str,
        changes: Mapping[str, Any],
        *,
        etag: str | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> Device:
        """Another `hostname`, `comment` or `owner`, or other `macs` at the same address (admin)."""
        path = f"/devices/{segment(device)}"
        return cast(Device, await self._requests.change(path, changes, wait=wait, etag=etag, key=key))

    async def release_device(self, device: str, *, force: bool = False, key: str | None = None) -> list[Reservation]:
        """Give up a device with its addresses; those that clusters have yet to confirm."""
        gone = await self._requests.delete(f"/devices/{segment(device)}", force=force, key=key)
        return [] if gone is None else cast(list[Reservation], gone["releasing"])

    # ---- nodes and their extra addresses ----

    async def make_node(
        self,
        hostname: str,
        *,
        macs: Sequence[str] = (),
        owner: str | None = None,
        comment: str | None = None,
        key: str | None = None,
    ) -> Node:
        """A machine that gets extra addresses (admin)."""
        body = _given(hostname=hostname, macs=list(macs), owner=owner, comment=comment)
        return cast(Node, await self._requests.make("/nodes", body, key=key))

    async def node(self, node: str) -> Node:
        return cast(Node, await self._requests.read(f"/nodes/{segment(node)}"))

    def nodes(self) -> AsyncIterator[Node]:
        return self._requests.pages("/nodes", ())

    async def change_node(
        self,
        node: str,
        changes: Mapping[str, Any],
        *,
        etag: str | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> Node:
        """Another `hostname`, `comment` or `owner`, other `macs`, or `replaced_macs` (admin)."""
        path = f"/nodes/{segment(node)}"
        return cast(Node, await self._requests.change(path, changes, wait=wait, etag=etag, key=key))

    async def release_node(self, node: str, *, force: bool = False, key: str | None = None) -> list[Reservation]:
        """Give up a node with its extra addresses (admin); those that clusters have yet to confirm."""
        gone = await self._requests.delete(f"/nodes/{segment(node)}", force=force, key=key)
        return [] if gone is None else cast(list[Reservation], gone["releasing"])

    async def claim_node_address(
        self,
        node: str,
        interface: str,
        *,
        mac: str | None = None,
        alias: str | None = None,
        client_id: str | None = None,
        duid: str | None = None,
        address: str | None = None,
        hostname: str | None = None,
        force: bool = False,
        probe: bool | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> Reservation:
        """An extra address for another MAC address of a node, or for an alias of one of its NICs."""
        body = _given(
            interface=interface,
            mac=mac,
            alias=alias,
            client_id=client_id,
            duid=duid,
            address=address,
            hostname=hostname,
        )
        path = f"/nodes/{segment(node)}/addresses"
        return cast(Reservation, await self._requests.make(path, body, wait=wait, key=key, probe=probe, force=force))

    def node_addresses(self, node: str) -> AsyncIterator[Reservation]:
        return self._requests.pages(f"/nodes/{segment(node)}/addresses", ())

    async def node_address(self, node: str, reservation: str) -> Reservation:
        return cast(Reservation, await self._requests.read(f"/nodes/{segment(node)}/addresses/{segment(reservation)}"))

    async def release_node_address(
        self, node: str, reservation: str, *, force: bool = False, key: str | None = None
    ) -> Reservation | None:
        """None when the address is free, else the reservation that clusters have yet to confirm."""
        path = f"/nodes/{segment(node)}/addresses/{segment(reservation)}"
        return cast(Reservation | None, await self._requests.delete(path, force=force, key=key))

    # ---- user reservations, and all of them to read ----

    async def reserve(
        self,
        interface: str | None = None,
        *,
        address: str | None = None,
        mac: str | None = None,
        hostname: str | None = None,
        purpose: str | None = None,
        comment: str | None = None,
        user: str | None = None,
        expires_in: int | None = None,
        force: bool = False,
        probe: bool | None = None,
        key: str | None = None,
    ) -> Reservation:
        """An address that the region hands to nobody else; no host map."""
        body = _given(
            interface=interface,
            address=address,
            mac=mac,
            hostname=hostname,
            purpose=purpose,
            comment=comment,
            user=user,
            expires_in=expires_in,
        )
        return cast(Reservation, await self._requests.make("/reservations", body, key=key, probe=probe, force=force))

    async def reserve_several(
        self,
        interface: str,
        count: int,
        *,
        purpose: str | None = None,
        comment: str | None = None,
        user: str | None = None,
        expires_in: int | None = None,
        probe: bool | None = None,
        key: str | None = None,
    ) -> Group:
        """2 to 256 addresses, all or none."""
        body = _given(
            interface=interface, count=count, purpose=purpose, comment=comment, user=user, expires_in=expires_in
        )
        return cast(Group, await self._requests.make("/reservations", body, key=key, probe=probe))

    async def reservation(self, reservation: str) -> Reservation:
        return cast(Reservation, await self._requests.read(f"/reservations/{segment(reservation)}"))

    def reservations(
        self,
        *,
        kind: Filter = None,
        status: Filter = None,
        subnet: Filter = None,
        address: Filter = None,
        mac: Filter = None,
        device: Filter = None,
        node: Filter = None,
        owner: Filter = None,
    ) -> AsyncIterator[Reservation]:
        """All kinds, page after page; several values of a filter are alternatives."""
        return self._requests.pages(
            "/reservations",
            _filters(
                kind=kind,
                status=status,
                subnet=subnet,
                address=address,
                mac=mac,
                device=device,
                node=node,
                owner=owner,
            ),
        )

    async def change_reservation(
        self,
        reservation: str,
        changes: Mapping[str, Any],
        *,
        etag: str | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> Reservation:
        """Another `hostname` or `comment`, or `expires_in` seconds; None takes a value away."""
        path = f"/reservations/{segment(reservation)}"
        return cast(Reservation, await self._requests.change(path, changes, wait=wait, etag=etag, key=key))

    async def group(self, group: str) -> Group:
        """Addresses that were reserved together, as far as they were not given back."""
        return cast(Group, await self._requests.read(f"/groups/{segment(group)}"))

    async def release_group(self, group: str, *, key: str | None = None) -> None:
        """Give them back together."""
        await self._requests.delete(f"/groups/{segment(group)}", key=key)

    async def release(self, reservation: str, *, force: bool = False, key: str | None = None) -> Reservation | None:
        """None when the address is free, else the reservation that clusters have yet to confirm."""
        return cast(
            Reservation | None,
            await self._requests.delete(f"/reservations/{segment(reservation)}", force=force, key=key),
        )

    async def applied(self, reservation: str, seconds: float) -> Reservation:
        """Wait until the host map is applied everywhere or refused; the reservation as it is then, or in the end."""
        end = self._reactor.seconds() + seconds
        while True:
            held = await self.reservation(reservation)
            host_map = held["host_map"]
            if host_map is None or host_map["state"] != "pending" or self._reactor.seconds() >= end:
                return held
            await deferLater(self._reactor, min(POLL_SECONDS, max(0.0, end - self._reactor.seconds())))

    # ---- many at once ----

    async def batch(
        self,
        members: Sequence[Mapping[str, Any]],
        *,
        probe: bool | None = None,
        wait: float | None = None,
        key: str | None = None,
    ) -> list[MemberResult]:
        """Up to 256 claims and releases, all or none: see `POST /batch` for what a member is."""
        done = await self._requests.make(
            "/batch", {"members": [dict(member) for member in members]}, wait=wait, key=key, probe=probe
        )
        return cast(list[MemberResult], done["results"])

    async def import_file(
        self,
        content: bytes,
        form: LineFormat,
        *,
        dry_run: bool = True,
        ignore: Sequence[str] = (),
        told: Callable[[Import], None] = lambda _: None,
        key: str | None = None,
    ) -> Import:
        """What became of a file of reservations, when it is over; `told` hears how far it is meanwhile."""
        query = [("dry_run", "false" if not dry_run else "true"), *(("ignore", column) for column in ignore)]
        reply = await self._requests.request("POST", "/imports", query, file=(form.media_type, content), key=key)
        found = cast(Import, reply.content)
        while found["finished"] is None:
            told(found)
            await deferLater(self._reactor, POLL_SECONDS)
            found = cast(Import, await self._requests.read(f"/imports/{segment(found['id'])}"))
        return found

    async def export(self, form: LineFormat, **filters: Filter) -> AsyncIterator[bytes]:
        """Reservations as a file, piece by piece, no faster than they are taken. Unreachable when it breaks off."""
        query = [("format", form.value), *_filters(**filters)]
        async for piece in self._requests.pieces("/reservations", query):
            yield piece

    # ---- networks ----

    def subnets(self) -> AsyncIterator[Subnet]:
        return self._requests.pages("/subnets", ())

    def clusters(self) -> AsyncIterator[Cluster]:
        return self._requests.pages("/clusters", ())

    def cluster_interfaces(self, selector: str | None = None) -> AsyncIterator[ClusterInterface]:
        """All, or those that a selector means: a way to try one."""
        return self._requests.pages("/cluster-interfaces", _filters(selector=selector))


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _filters(**filters: Filter) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in filters.items()
        if values is not None
        for value in ([values] if isinstance(values, str) else values)
    ]
