"""The use cases: devices, nodes and their addresses, user reservations. Each is the story of one request, in order.

Roles are checked here as well as at the door: whatever way a request comes in, only an admin makes devices and
nodes, and a user sees and releases only what is its own. What it may not see does not exist for it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond import inputs
from regiond.catalogue import Catalogue
from regiond.conditions import path_of, require_admin, required, while_it_changes
from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.mutations import Claim, DropDevice, DropNode, Mutation, NewDevice, Outcome, Release, Step
from regiond.domain.networks import network
from regiond.domain.reservations import Kind, Reservation, Status
from regiond.domain.views import DeviceView, NodeView, ReservationView, SubnetView
from regiond.filters import ReservationFilters
from regiond.progress import Progress
from regiond.requests import RequestContext
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.nodes import NodeStore
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.storage.writer import Writer

MAX_COUNT = 256
DELETE_ATTEMPTS = 10
ALIAS_PREFIX = b"\x00hostmap:"  # type 0: not a hardware address (RFC 2132, 9.14)


class Claims:
    """See the module. Every method takes the request's context; ids are the texts that people see."""

    def __init__(
        self, writer: Writer, reads: Reads, nodes: NodeStore, catalogue: Catalogue, progress: Progress, new_id: NewId
    ) -> None:
        self._writer = writer
        self._reads = reads
        self._nodes = nodes
        self._catalogue = catalogue
        self._progress = progress
        self._new_id = new_id
        self._filters = ReservationFilters(catalogue, reads)

    # ---- unmanaged devices ----

    async def create_device(
        self,
        context: RequestContext,
        *,
        interface: str,
        macs: tuple[str, ...],
        duid: str | None,
        address: str | None,
        hostname: str | None,
        owner: str | None,
        comment: str | None,
    ) -> tuple[DeviceView, bool]:
        """The device with its reservation, atomically; False when it was there already, exactly so."""
        require_admin(context)
        identifiers = tuple(inputs.mac(f"/macs/{index}", mac) for index, mac in enumerate(macs))
        if duid is not None:
            identifiers += (inputs.identifier("/duid", IdentifierKind.DUID, duid),)
        if not identifiers:
            raise errors.InvalidRequest("/macs", "a device needs at least one MAC address or a DUID")
        subnet = await self._catalogue.resolve(interface)
        owner_id, owner_name = await self.owner(context, owner)
        name = inputs.hostname(hostname)
        claim = Claim(
            self._new_id(),
            Kind.DEVICE,
            subnet.id,
            owner_id,
            owner_name,
            address=inputs.address(address),
            identifiers=identifiers,
            hostname=name,
            device=NewDevice(self._new_id(), name, comment),
            comment=comment,
        )
        outcome = await self._submit(context, claim)
        (reservation,) = outcome.reservations
        (view,) = await self._views(context, outcome)
        assert reservation.device is not None
        if not outcome.created or outcome.replayed:
            found = await self._reads.devices([reservation.device])
            if found:
                return found[0], outcome.created
        made = DeviceView(reservation.device, name, owner_name, comment, reservation.created, (view,))
        return made, outcome.created

    async def list_devices(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[DeviceView]:
        inputs.no_filters(filters)
        return await self._reads.devices(
            owner=_only_own(context), limit=limit, after=inputs.optional_id(Prefix.DEVICE, after, "after")
        )

    async def device(self, context: RequestContext, device_id: str) -> DeviceView:
        found = await self._reads.devices([inputs.known_id(Prefix.DEVICE, device_id)], owner=_only_own(context))
        if not found:
            raise errors.NotFound(f"no device {device_id}")
        return found[0]

    async def delete_device(self, context: RequestContext, device_id: str, *, force: bool) -> Sequence[ReservationView]:
        """Releases everything the device has; what is still releasing is returned."""
        require_admin(context)

        async def delete() -> Outcome:
            device = await self.device(context, device_id)
            held = [view.reservation for view in device.reservations]
            releases = [_release(one, force) for one in held]
            condition = required(context, Prefix.DEVICE, device.id, held)
            return await self._submit(context, *condition, *releases, DropDevice(device.id))

        return await self._still_there(await self._once(context, lambda: while_it_changes(delete)))

    # ---- nodes and their extra addresses ----

    async def create_node(
        self, context: RequestContext, *, hostname: str, macs: tuple[str, ...], owner: str | None, comment: str | None
    ) -> NodeView:
        require_admin(context)
        owner_id, _ = await self.owner(context, owner)
        name = inputs.hostname(hostname)
        assert name is not None
        parsed = [inputs.mac(f"/macs/{index}", mac).text for index, mac in enumerate(macs)]
        node = await self._nodes.create(context.change, name, parsed, owner_id, comment)
        try:
            return await self.node(context, format_id(Prefix.NODE, node))
        except DatabaseUnavailable as error:
            error.outcome_unknown = True  # it was made, and only cannot be shown
            raise

    async def list_nodes(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[NodeView]:
        inputs.no_filters(filters)
        return await self._reads.nodes(
            owner=_only_own(context), limit=limit, after=inputs.optional_id(Prefix.NODE, after, "after")
        )

    async def node(self, context: RequestContext, node_id: str) -> NodeView:
        found = await self._reads.nodes([inputs.known_id(Prefix.NODE, node_id)], owner=_only_own(context))
        if not found:
            raise errors.NotFound(f"no node {node_id}")
        return found[0]

    async def delete_node(self, context: RequestContext, node_id: str, *, force: bool) -> Sequence[ReservationView]:
        """Releases the node's extra addresses with it; what is still releasing is returned."""
        require_admin(context)

        async def delete() -> Outcome:
            node = await self.node(context, node_id)
            releases = [_release(view.reservation, force) for view in await self._addresses_of(node)]
            condition = required(context, Prefix.NODE, node.id, [])
            return await self._submit(context, *condition, *releases, DropNode(node.id))

        async def delete_as_it_is() -> Outcome:
            for _ in range(DELETE_ATTEMPTS - 1):
                try:
                    return await delete()
                except errors.NotFound:
                    await self.node(context, node_id)  # it is there: one of its addresses came or went meanwhile
            return await delete()

        return await self._still_there(await self._once(context, delete_as_it_is))

    async def claim_node_address(
        self,
        context: RequestContext,
        node_id: str,
        *,
        interface: str,
        mac: str | None,
        alias: str | None,
        client_id: str | None,
        duid: str | None,
        address: str | None,
        hostname: str | None,
    ) -> tuple[ReservationView, bool]:
        """An address and a host map for another MAC address of a node, or for an alias of one of its NICs."""
        node = await self.node(context, node_id)
        subnet = await self._catalogue.resolve(interface)
        identifier = _node_identifier(node, subnet, mac, alias, client_id, duid)
        claim = Claim(
            self._new_id(),
            Kind.NODE,
            subnet.id,
            node.owner,
            node.owner_name,
            address=inputs.address(address),
            identifiers=(identifier,),
            alias=alias,
            hostname=inputs.hostname(hostname),
            node=node.id,
        )
        outcome = await self._submit(context, claim)
        return (await self._views(context, outcome))[0], outcome.created

    async def list_node_addresses(self, context: RequestContext, node_id: str) -> Sequence[ReservationView]:
        return await self._addresses_of(await self.node(context, node_id))

    async def node_address(self, context: RequestContext, node_id: str, reservation_id: str) -> ReservationView:
        node = await self.node(context, node_id)
        view = await self._reads.reservation(inputs.known_id(Prefix.RESERVATION, reservation_id))
        if view is None or view.reservation.node != node.id:
            raise errors.NotFound(f"node {node_id} has no address {reservation_id}")
        return view

    async def release_node_address(
        self, context: RequestContext, node_id: str, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]:
        async def release() -> Outcome:
            if force:
                require_admin(context)
            held = (await self.node_address(context, node_id, reservation_id)).reservation
            condition = required(context, Prefix.RESERVATION, held.id, [held])
            return await self._submit(context, *condition, _release(held, force))

        return await self._still_there(await self._once(context, release))

    # ---- user reservations ----

    async def reserve(
        self,
        context: RequestContext,
        *,
        interface: str | None,
        address: str | None,
        mac: str | None,
        count: int,
        hostname: str | None,
        purpose: str | None,
        comment: str | None,
        user: str | None,
        expires_at: datetime | None,
    ) -> tuple[Sequence[ReservationView], bool]:
        """Addresses that the region never hands out again until they are released: no host map."""
        wanted = inputs.address(address)
        if interface is None and wanted is None:
            raise errors.InvalidRequest("/interface", "say where: a cluster interface, an address, or both")
        if not 1 <= count <= MAX_COUNT:
            raise errors.InvalidRequest("/count", f"between 1 and {MAX_COUNT}")
        if wanted is not None and count > 1:
            raise errors.InvalidRequest("/count", "one address is asked for: count has to be 1")
        if user is not None and user != context.caller.name:
            require_admin(context)
        subnet = await self._catalogue.resolve(f"ip:{wanted}" if interface is None else interface)
        owner_id, owner_name = await self.owner(context, user)
        group = self._new_id() if count > 1 else None
        claim = Claim(
            self._new_id(),
            Kind.USER,
            subnet.id,
            owner_id,
            owner_name,
            address=wanted,
            mac=None if mac is None else inputs.mac("/mac", mac).text,
            hostname=inputs.hostname(hostname),
            purpose=purpose,
            comment=comment,
            group=group,
            expires_at=expires_at,
            others=tuple(self._new_id() for _ in range(count - 1)),
        )
        outcome = await self._submit(context, claim)
        return await self._views(context, outcome), outcome.created

    async def list_reservations(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[ReservationView]:
        """All kinds; a user sees its own."""
        wanted = await self._filters.read(context, filters)
        return await self._reads.reservations(wanted, limit, inputs.optional_id(Prefix.RESERVATION, after, "after"))

    async def reservation(self, context: RequestContext, reservation_id: str) -> ReservationView:
        view = await self._reads.reservation(inputs.known_id(Prefix.RESERVATION, reservation_id))
        if view is None or (not context.caller.is_admin and view.reservation.owner != context.caller.account):
            raise errors.NotFound(f"no reservation {reservation_id}")
        return view

    async def release_reservation(
        self, context: RequestContext, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]:
        async def release() -> Outcome:
            if force:
                require_admin(context)
            held = (await self.reservation(context, reservation_id)).reservation
            # A releasing one may have lost its device or node already: an admin can still force it here.
            if held.kind not in (Kind.USER, Kind.RECOVERED) and not (force and held.status is Status.RELEASING):
                where = path_of(held)
                raise errors.HeldByOwner(f"this reservation is deleted at {where}", location=where)
            condition = required(context, Prefix.RESERVATION, held.id, [held])
            return await self._submit(context, *condition, _release(held, force))

        return await self._still_there(await self._once(context, release))

    # ---- steps of the stories ----

    async def _submit(self, context: RequestContext, *steps: Step) -> Outcome:
        mutation = Mutation(context.caller.actor, steps, context.request_id, context.idempotency)
        return await self._writer.submit(mutation)

    async def _views(self, context: RequestContext, outcome: Outcome) -> Sequence[ReservationView]:
        """The claimed reservations with their progress, in order; as first answered where one is gone again."""
        return await self._progress.settled(outcome, context.wait_seconds)

    async def _still_there(self, outcome: Outcome) -> Sequence[ReservationView]:
        """The released reservations that clusters have yet to confirm."""
        if not outcome.reservations:
            return []
        views = await self._progress.settled(outcome, 0.0)
        return [view for view in views if view.reservation.status is Status.RELEASING]

    async def _once(self, context: RequestContext, delete: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """What a DELETE with this idempotency key did before, for the thing itself may be gone since; or its deed now.

        When the thing is gone the key is looked up again: another regiond may have carried out the same request in
        between.
        """
        if (first := await self._first_answer(context)) is not None:
            return first
        try:
            return await delete()
        except errors.NotFound:
            if (first := await self._first_answer(context)) is not None:
                return first
            raise

    async def _first_answer(self, context: RequestContext) -> Outcome | None:
        if context.idempotency is None:
            return None
        return await self._reads.answer(context.idempotency)

    async def _addresses_of(self, node: NodeView) -> Sequence[ReservationView]:
        return await self._reads.reservations(ReservationFilter(nodes=[node.id]), limit=10_000)

    async def owner(self, context: RequestContext, name: str | None) -> tuple[int, str]:
        """An account's id and name; without a name the caller's own. Raises NotFound."""
        if name is None or name == context.caller.name:
            return context.caller.account, context.caller.name
        account = await self._reads.account_id(name)
        if account is None:
            raise errors.NotFound(f"no account {name}")
        return account, name


def _only_own(context: RequestContext) -> int | None:
    return None if context.caller.is_admin else context.caller.account


def _release(held: Reservation, force: bool) -> Release:
    return Release(held.id, held.subnet, held.address, force)


def _node_identifier(
    node: NodeView, subnet: SubnetView, mac: str | None, alias: str | None, client_id: str | None, duid: str | None
) -> Identifier:
    """The one identifier of a node address; an alias gets a client-id made of the node's id and its own name."""
    given = [name for name, value in (("mac", mac), ("client_id", client_id), ("duid", duid)) if value is not None]
    if len(given) > 1:
        raise errors.InvalidRequest(f"/{given[1]}", f"one identifier is enough: {given[0]} is given already")
    if mac is not None:
        return inputs.mac("/mac", mac)
    if client_id is not None:
        return inputs.identifier("/client_id", IdentifierKind.CLIENT_ID, client_id)
    if duid is not None:
        return inputs.identifier("/duid", IdentifierKind.DUID, duid)
    if alias is None:
        raise errors.InvalidRequest("/mac", "say for whom: a mac, an alias, a client_id or a duid")
    if network(subnet.cidr).family == 6:
        raise errors.InvalidRequest("/duid", "an alias on an IPv6 network needs the DUID that its client sends")
    text = f"{format_id(Prefix.NODE, node.id)}:{alias}"
    return Identifier(IdentifierKind.CLIENT_ID, ALIAS_PREFIX + text.encode())
