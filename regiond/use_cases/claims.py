"""The use cases: devices, nodes and their addresses, user reservations. Each is the story of one request, in order.

Roles are checked here as well as at the door: whatever way a request comes in, only an admin makes devices and
nodes, and a user sees and releases only what is its own. What it may not see does not exist for it.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.leases import FoundLease
from regiond.domain.mutations import Claim, DropNode, Mutation, Outcome, Step
from regiond.domain.reservations import Status
from regiond.domain.views import DeviceView, NodeView, ReservationView
from regiond.progress import Progress
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.nodes import NodeStore
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.storage.writer import Writer
from regiond.use_cases import inputs
from regiond.use_cases.conditions import require_admin, required, while_it_changes, while_parts_go
from regiond.use_cases.filters import ReservationFilters
from regiond.use_cases.probed_claims import ProbedClaims
from regiond.use_cases.repeats import as_made, first_answer, once
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.steps import (
    DeviceClaim,
    DeviceRelease,
    NodeAddressClaim,
    NodeAddressRelease,
    ReservationRelease,
    Steps,
    UserClaim,
    only_own,
    release,
)


class LooksAtLeases(Protocol):
    """Who has leases on the addresses of claims, and how they are taken away; `Leases` in earnest."""

    async def look(self, claims: Sequence[Claim], *, over: bool = False) -> list[Claim]: ...

    async def end(self, leases: Collection[FoundLease], request_id: str) -> None: ...


class Claims:
    """See the module. Every method takes the request's context; ids are the texts that people see."""

    def __init__(
        self,
        writer: Writer,
        reads: Reads,
        nodes: NodeStore,
        catalogue: Catalogue,
        progress: Progress,
        leases: LooksAtLeases,
        new_id: NewId,
        probed: ProbedClaims,
    ) -> None:
        self._writer = writer
        self.probed = probed
        self._reads = reads
        self._nodes = nodes
        self._catalogue = catalogue
        self._progress = progress
        self.leases = leases
        self._filters = ReservationFilters(catalogue, reads)
        self.steps = Steps(reads, catalogue, new_id)

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
        force: bool = False,
    ) -> tuple[DeviceView, bool]:
        """The device with its reservation, atomically; False when it was there already, exactly so.

        `force` takes an address that is leased to another client.
        """
        asked = DeviceClaim(interface, macs, duid, address, hostname, owner, comment)
        outcome = await self._claim(context, lambda: self.steps.claim_device(context, asked), force)
        (held,) = outcome.reservations
        (view,) = await self._views(context, outcome)
        assert held.device is not None
        if not outcome.created or outcome.replayed:
            found = await self._reads.devices([held.device])
            if found:
                return found[0], outcome.created
        made = DeviceView(held.device, held.hostname, held.owner_name, held.comment, held.created, (view,))
        return made, outcome.created

    async def list_devices(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> tuple[Sequence[DeviceView], bool]:
        """A page, and whether more follow: it has fewer than `limit` where they have very many addresses."""
        inputs.no_filters(filters)
        return await self._reads.device_page(
            only_own(context), limit, inputs.optional_id(Prefix.DEVICE, after, "after")
        )

    async def device(self, context: RequestContext, device_id: str) -> DeviceView:
        return await self.steps.device(context, device_id)

    async def delete_device(self, context: RequestContext, device_id: str, *, force: bool) -> Sequence[ReservationView]:
        """Releases everything the device has; what is still releasing is returned."""

        async def delete() -> Outcome:
            return await self._submit(
                context, *await self.steps.release_device(context, DeviceRelease(device_id, force))
            )

        return await self._still_there(await self._once(context, lambda: while_it_changes(delete)))

    # ---- nodes and their extra addresses ----

    async def create_node(
        self, context: RequestContext, *, hostname: str, macs: tuple[str, ...], owner: str | None, comment: str | None
    ) -> NodeView:
        require_admin(context)
        owner_id, _ = await self.steps.owner(context, owner)
        name = inputs.hostname(hostname)
        assert name is not None
        parsed = [inputs.mac(f"/macs/{index}", mac).text for index, mac in enumerate(macs)]
        node = await self._nodes.create(context.change, name, parsed, owner_id, comment)
        try:
            return await as_made("node", lambda: self.node(context, format_id(Prefix.NODE, node)))
        except DatabaseUnavailable as error:
            error.outcome_unknown = True  # it was made, and only cannot be shown
            raise

    async def list_nodes(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[NodeView]:
        inputs.no_filters(filters)
        return await self._reads.nodes(
            owner=only_own(context), limit=limit, after=inputs.optional_id(Prefix.NODE, after, "after")
        )

    async def node(self, context: RequestContext, node_id: str) -> NodeView:
        return await self.steps.node(context, node_id)

    async def delete_node(self, context: RequestContext, node_id: str, *, force: bool) -> Sequence[ReservationView]:
        """Releases the node's extra addresses with it; what is still releasing is returned."""
        require_admin(context)

        async def delete() -> Outcome:
            node = await self.node(context, node_id)
            releases = [release(view.reservation, force) for view in await self._addresses_of(node)]
            condition = required(context, Prefix.NODE, node.id, [])
            return await self._submit(context, *condition, *releases, DropNode(node.id))

        deleting = partial(while_parts_go, delete, lambda: self.node(context, node_id))
        return await self._still_there(await self._once(context, deleting))

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
        force: bool = False,
    ) -> tuple[ReservationView, bool]:
        """An address and a host map for another MAC address of a node, or for an alias of one of its NICs."""
        asked = NodeAddressClaim(node_id, interface, mac, alias, client_id, duid, address, hostname)
        outcome = await self._claim(context, lambda: self.steps.claim_node_address(context, asked), force)
        return (await self._views(context, outcome))[0], outcome.created

    async def list_node_addresses(self, context: RequestContext, node_id: str) -> Sequence[ReservationView]:
        return await self._addresses_of(await self.node(context, node_id))

    async def node_address(self, context: RequestContext, node_id: str, reservation_id: str) -> ReservationView:
        return await self.steps.node_address(context, node_id, reservation_id)

    async def release_node_address(
        self, context: RequestContext, node_id: str, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]:
        asked = NodeAddressRelease(node_id, reservation_id, force)

        async def give_back() -> Outcome:
            return await self._submit(context, *await self.steps.release_node_address(context, asked))

        return await self._still_there(await self._once(context, give_back))

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
        force: bool = False,
    ) -> tuple[Sequence[ReservationView], bool]:
        """Addresses that the region never hands out again until they are released: no host map."""
        asked = UserClaim(interface, address, mac, count, hostname, purpose, comment, user, expires_at)
        outcome = await self._claim(context, lambda: self.steps.claim_for_user(context, asked), force)
        return await self._views(context, outcome), outcome.created

    async def list_reservations(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[ReservationView]:
        """All kinds; a user sees its own."""
        wanted = await self._filters.read(context, filters)
        return await self._reads.reservations(wanted, limit, inputs.optional_id(Prefix.RESERVATION, after, "after"))

    async def reservation(self, context: RequestContext, reservation_id: str) -> ReservationView:
        return await self.steps.reservation(context, reservation_id)

    async def release_reservation(
        self, context: RequestContext, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]:
        asked = ReservationRelease(reservation_id, force)

        async def give_back() -> Outcome:
            return await self._submit(context, *await self.steps.release_reservation(context, asked))

        return await self._still_there(await self._once(context, give_back))

    # ---- groups of user reservations ----

    async def group(self, context: RequestContext, group_id: str) -> Sequence[ReservationView]:
        """Addresses that were reserved together, as far as they are still reserved. Raises NotFound when none is."""
        wanted = ReservationFilter(groups=[inputs.known_id(Prefix.GROUP, group_id)], owner=only_own(context))
        found = await self._reads.reservations(wanted)
        if not found:
            raise errors.NotFound(f"no group {group_id}")
        return found

    async def release_group(self, context: RequestContext, group_id: str) -> None:
        """All of them are free, or none is given back. Raises StaleVersion."""

        async def give_back() -> Outcome:
            held = [view.reservation for view in await self.group(context, group_id)]
            condition = required(context, Prefix.GROUP, inputs.known_id(Prefix.GROUP, group_id), held)
            return await self._submit(context, *condition, *(release(one, False) for one in held))

        await self._once(context, partial(while_parts_go, give_back, lambda: self.group(context, group_id)))

    # ---- steps of the stories ----

    async def _claim(self, context: RequestContext, understand: Callable[[], Awaitable[Claim]], force: bool) -> Outcome:
        """Submit a claim; see Note [Leases and claims] in regiond/use_cases/leases.py."""
        if force:
            require_admin(context)
        try:
            claim = await understand()
        except errors.DomainError:
            # what it names may be gone since it was carried out, or not be unambiguous any more
            if (first := await first_answer(self._reads, context.idempotency)) is not None:
                return first
            raise
        (claim,) = await self.leases.look([claim], over=force)
        mutation = Mutation(context.caller.actor, (claim,), context.request_id, context.idempotency)
        outcome = await self.probed.submit(context, mutation)
        # Whoever has a lease on it when the request is repeated may have it by right: the address is another's by then.
        if force and claim.leases and not outcome.replayed:
            await self.leases.end(claim.leases, context.request_id)
        return outcome

    async def _submit(self, context: RequestContext, *steps: Step) -> Outcome:
        mutation = Mutation(context.caller.actor, steps, context.request_id, context.idempotency)
        return await self._writer.submit(mutation)

    async def _views(self, context: RequestContext, outcome: Outcome) -> Sequence[ReservationView]:
        """The claimed reservations with their progress, in order; as first answered where one is gone again."""
        return await self._progress.settled(outcome, context.wait_seconds)

    async def _still_there(self, outcome: Outcome) -> Sequence[ReservationView]:
        """The released reservations that clusters have yet to confirm."""
        views = await self._progress.settled(outcome, 0.0)
        return [view for view in views if view.reservation.status is Status.RELEASING]

    async def _once(self, context: RequestContext, delete: Callable[[], Awaitable[Outcome]]) -> Outcome:
        return await once(self._reads, context.idempotency, delete)

    async def _addresses_of(self, node: NodeView) -> Sequence[ReservationView]:
        return await self._reads.all_reservations(ReservationFilter(nodes=[node.id]))
