"""From what somebody asks for to the steps of a mutation: names are looked up, roles and texts checked, ids made.

What an asker may not see does not exist for it. Nothing is changed here: the writer carries the steps out, of one
request or of a whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.mutations import Claim, DropDevice, NewDevice, Release, Step
from regiond.domain.networks import network
from regiond.domain.reservations import Kind, Reservation, Status
from regiond.domain.views import DeviceView, NodeView, ReservationView, SubnetView
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases import inputs
from regiond.use_cases.conditions import path_of, require_admin, required
from regiond.use_cases.owners import owner_named
from regiond.use_cases.requests import RequestContext

MAX_COUNT = 256
MAX_NODE_ADDRESSES = 256
"""As many as a group or an imported device may have: what is taken away with one request is planned at once."""
ALIAS_PREFIX = b"\x00hostmap:"  # type 0: not a hardware address (RFC 2132, 9.14)


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """An unmanaged device, by MAC addresses or a DUID, and where it wants an address (admin)."""

    interface: str
    macs: tuple[str, ...] = ()
    duid: str | None = None
    address: str | None = None
    hostname: str | None = None
    owner: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class NodeAddressClaim:
    """An extra address of a node, for one more MAC address, client-id or DUID, or an alias of a NIC."""

    node: str
    interface: str
    mac: str | None = None
    alias: str | None = None
    client_id: str | None = None
    duid: str | None = None
    address: str | None = None
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class UserClaim:
    """Addresses that the region keeps for an account; for another account than one's own: admin."""

    interface: str | None = None
    address: str | None = None
    mac: str | None = None
    count: int = 1
    hostname: str | None = None
    purpose: str | None = None
    comment: str | None = None
    user: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeviceRelease:
    """A device goes, with everything that it has (admin)."""

    device: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class NodeAddressRelease:
    """An extra address of a node is given back; `force` without the clusters' confirmation (admin)."""

    node: str
    reservation: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class ReservationRelease:
    """A user reservation, or a recovered one, is given back."""

    reservation: str
    force: bool = False


class Steps:
    """See the module. Ids are the texts that people see."""

    def __init__(self, reads: Reads, catalogue: Catalogue, new_id: NewId) -> None:
        self._reads = reads
        self._catalogue = catalogue
        self._new_id = new_id

    # ---- what the asker may see ----

    async def device(self, context: RequestContext, device_id: str) -> DeviceView:
        found = await self._reads.devices([inputs.known_id(Prefix.DEVICE, device_id)], owner=only_own(context))
        if not found:
            raise errors.NotFound(f"no device {device_id}")
        return found[0]

    async def node(self, context: RequestContext, node_id: str) -> NodeView:
        found = await self._reads.nodes([inputs.known_id(Prefix.NODE, node_id)], owner=only_own(context))
        if not found:
            raise errors.NotFound(f"no node {node_id}")
        return found[0]

    async def node_address(self, context: RequestContext, node_id: str, reservation_id: str) -> ReservationView:
        node = await self.node(context, node_id)
        view = await self._reads.reservation(inputs.known_id(Prefix.RESERVATION, reservation_id))
        if view is None or view.reservation.node != node.id:
            raise errors.NotFound(f"node {node_id} has no address {reservation_id}")
        return view

    async def reservation(self, context: RequestContext, reservation_id: str) -> ReservationView:
        view = await self._reads.reservation(inputs.known_id(Prefix.RESERVATION, reservation_id))
        if view is None or (not context.caller.is_admin and view.reservation.owner != context.caller.account):
            raise errors.NotFound(f"no reservation {reservation_id}")
        return view

    async def owner(self, context: RequestContext, name: str | None) -> tuple[int, str]:
        """An account's id and name; without a name the caller's own. Raises NotFound."""
        return await owner_named(self._reads, context, name)

    # ---- claims ----

    async def claim_device(self, context: RequestContext, asked: DeviceClaim) -> Claim:
        require_admin(context)
        identifiers = tuple(inputs.mac(f"/macs/{index}", mac) for index, mac in enumerate(asked.macs))
        if asked.duid is not None:
            identifiers += (inputs.identifier("/duid", IdentifierKind.DUID, asked.duid),)
        if not identifiers:
            raise errors.InvalidRequest("/macs", "a device needs at least one MAC address or a DUID")
        subnet = await self._catalogue.resolve(asked.interface)
        owner_id, owner_name = await self.owner(context, asked.owner)
        name = inputs.hostname(asked.hostname)
        return Claim(
            self._new_id(),
            Kind.DEVICE,
            subnet.id,
            owner_id,
            owner_name,
            address=inputs.address(asked.address),
            identifiers=identifiers,
            hostname=name,
            device=NewDevice(self._new_id(), name, asked.comment),
            comment=asked.comment,
        )

    async def claim_node_address(self, context: RequestContext, asked: NodeAddressClaim, beside: int = 0) -> Claim:
        """`beside`: how many addresses of the node the same request claims before this one. Raises NodeFull."""
        node = await self.node(context, asked.node)
        subnet = await self._catalogue.resolve(asked.interface)
        identifier = _node_identifier(node, subnet, asked)
        if await self._reads.node_addresses(node.id) + beside >= MAX_NODE_ADDRESSES:
            await self._need_old(node, subnet, identifier)
        return Claim(
            self._new_id(),
            Kind.NODE,
            subnet.id,
            node.owner,
            node.owner_name,
            address=inputs.address(asked.address),
            identifiers=(identifier,),
            alias=asked.alias,
            hostname=inputs.hostname(asked.hostname),
            node=node.id,
        )

    async def _need_old(self, node: NodeView, subnet: SubnetView, identifier: Identifier) -> None:
        """Raises NodeFull, unless the claim is for who has an address there already: it makes none."""
        wanted = ReservationFilter(nodes=[node.id], subnets=[subnet.id])
        if not any(identifier in view.reservation.identifiers for view in await self._reads.all_reservations(wanted)):
            raise errors.NodeFull(
                f"node {node.hostname} has {MAX_NODE_ADDRESSES} extra addresses then, and no node has more: give some "
                "back, or make another node",
                limit=MAX_NODE_ADDRESSES,
            )

    async def claim_for_user(self, context: RequestContext, asked: UserClaim) -> Claim:
        wanted = inputs.address(asked.address)
        if asked.interface is None and wanted is None:
            raise errors.InvalidRequest("/interface", "say where: a cluster interface, an address, or both")
        if not 1 <= asked.count <= MAX_COUNT:
            raise errors.InvalidRequest("/count", f"between 1 and {MAX_COUNT}")
        if wanted is not None and asked.count > 1:
            raise errors.InvalidRequest("/count", "one address is asked for: count has to be 1")
        if asked.user is not None and asked.user != context.caller.name:
            require_admin(context)
        subnet = await self._catalogue.resolve(f"ip:{wanted}" if asked.interface is None else asked.interface)
        owner_id, owner_name = await self.owner(context, asked.user)
        return Claim(
            self._new_id(),
            Kind.USER,
            subnet.id,
            owner_id,
            owner_name,
            address=wanted,
            mac=None if asked.mac is None else inputs.mac("/mac", asked.mac).text,
            hostname=inputs.hostname(asked.hostname),
            purpose=asked.purpose,
            comment=asked.comment,
            group=self._new_id() if asked.count > 1 else None,
            expires_at=asked.expires_at,
            others=tuple(self._new_id() for _ in range(asked.count - 1)),
        )

    # ---- releases ----

    async def release_device(self, context: RequestContext, asked: DeviceRelease) -> Sequence[Step]:
        require_admin(context)
        device = await self.device(context, asked.device)
        held = [view.reservation for view in device.reservations]
        condition = required(context, Prefix.DEVICE, device.id, held)
        return [*condition, *(release(one, asked.force) for one in held), DropDevice(device.id)]

    async def release_node_address(self, context: RequestContext, asked: NodeAddressRelease) -> Sequence[Step]:
        if asked.force:
            require_admin(context)
        held = (await self.node_address(context, asked.node, asked.reservation)).reservation
        return [*required(context, Prefix.RESERVATION, held.id, [held]), release(held, asked.force)]

    async def release_reservation(self, context: RequestContext, asked: ReservationRelease) -> Sequence[Step]:
        if asked.force:
            require_admin(context)
        held = (await self.reservation(context, asked.reservation)).reservation
        # A releasing one may have lost its device or node already: an admin can still force it here.
        if held.kind not in (Kind.USER, Kind.RECOVERED) and not (asked.force and held.status is Status.RELEASING):
            where = path_of(held)
            raise errors.HeldByOwner(f"this reservation is deleted at {where}", location=where)
        return [*required(context, Prefix.RESERVATION, held.id, [held]), release(held, asked.force)]


def only_own(context: RequestContext) -> int | None:
    """The account whose things alone the asker sees; None: all."""
    return None if context.caller.is_admin else context.caller.account


def release(held: Reservation, force: bool) -> Release:
    return Release(held.id, held.subnet, held.address, force)


def _node_identifier(node: NodeView, subnet: SubnetView, asked: NodeAddressClaim) -> Identifier:
    """The one identifier of a node address; an alias gets a client-id made of the node's id and its own name."""
    named = (("mac", asked.mac), ("client_id", asked.client_id), ("duid", asked.duid))
    given = [name for name, value in named if value is not None]
    if len(given) > 1:
        raise errors.InvalidRequest(f"/{given[1]}", f"one identifier is enough: {given[0]} is given already")
    if asked.mac is not None:
        return inputs.mac("/mac", asked.mac)
    if asked.client_id is not None:
        return inputs.identifier("/client_id", IdentifierKind.CLIENT_ID, asked.client_id)
    if asked.duid is not None:
        return inputs.identifier("/duid", IdentifierKind.DUID, asked.duid)
    if asked.alias is None:
        raise errors.InvalidRequest("/mac", "say for whom: a mac, an alias, a client_id or a duid")
    if network(subnet.cidr).family == 6:
        raise errors.WrongFamily("an alias on an IPv6 network needs the DUID that its client sends")
    return alias_identifier(node.id, asked.alias)


def alias_identifier(node: int, alias: str) -> Identifier:
    """The client-id of an alias of one of a node's NICs."""
    text = f"{format_id(Prefix.NODE, node)}:{alias}"
    return Identifier(IdentifierKind.CLIENT_ID, ALIAS_PREFIX + text.encode())
