"""The use cases behind PATCH of reservations, devices and nodes. Each is the story of one request, in order.

What is given is set, the rest stays; an address always stays. `If-Match` and the edit are decided together, in the
batch that writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.ids import Prefix
from regiond.domain.mutations import (
    DeviceEdit,
    EditDevice,
    EditNode,
    EditReservation,
    Mutation,
    NodeEdit,
    Outcome,
    ReservationEdit,
    Step,
)
from regiond.domain.reservations import Kind
from regiond.domain.views import DeviceView, NodeView, ReservationView
from regiond.progress import Progress
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.storage.writer import Writer
from regiond.use_cases import inputs
from regiond.use_cases.claims import Claims
from regiond.use_cases.conditions import path_of, place_of, places_of, require_admin, required, while_it_changes
from regiond.use_cases.requests import RequestContext


class Edits:
    """See the module. Who may not see a thing gets NotFound; all raise StaleVersion."""

    def __init__(self, writer: Writer, reads: Reads, claims: Claims, progress: Progress) -> None:
        self._writer = writer
        self._reads = reads
        self._claims = claims
        self._progress = progress

    async def change_reservation(
        self, context: RequestContext, reservation_id: str, *, changes: ReservationEdit
    ) -> ReservationView:
        """`hostname`, `comment`, and `expires_at` of a user reservation. Those of a device are changed there."""
        held = (await self._claims.reservation(context, reservation_id)).reservation
        if held.kind is Kind.DEVICE:
            where = path_of(held)
            raise errors.ChangedUnderOwner(f"this reservation is changed at {where}", location=where)
        if held.kind is not Kind.USER and "expires_at" in changes:
            raise errors.InvalidRequest("/expires_in", "only a user reservation expires")
        values = changes.copy()
        if "hostname" in values:
            values["hostname"] = inputs.hostname(values["hostname"])
        condition = required(context, Prefix.RESERVATION, held.id, [held])
        outcome = await self._submit(context, *condition, EditReservation(place_of(held), values))
        (view,) = await self._progress.settled(outcome, context.wait_seconds)
        return view

    async def change_device(self, context: RequestContext, device_id: str, *, changes: Mapping[str, Any]) -> DeviceView:
        """`hostname`, `comment`, `owner` (a name) and `macs`, which get host maps in place of all that it had."""
        require_admin(context)
        values: DeviceEdit = {}
        if "hostname" in changes:
            values["hostname"] = inputs.hostname(changes["hostname"])
        if "comment" in changes:
            values["comment"] = changes["comment"]
        if "owner" in changes:
            values["owner"] = await self._claims.steps.owner(context, changes["owner"])
        if "macs" in changes:
            values["macs"] = _identifiers("/macs", changes["macs"])

        async def edit() -> Outcome:
            device = await self._claims.device(context, device_id)
            held = [view.reservation for view in device.reservations]
            condition = required(context, Prefix.DEVICE, device.id, held)
            return await self._submit(context, *condition, EditDevice(device.id, places_of(held), values))

        await self._progress.settled(await while_it_changes(edit), context.wait_seconds)
        return await self._claims.device(context, device_id)

    async def change_node(self, context: RequestContext, node_id: str, *, changes: Mapping[str, Any]) -> NodeView:
        """`hostname`, `comment`, `owner` (a name), `macs` (its own), or `replaced_macs`: old → new MAC addresses.

        A replaced one is replaced in the node's extra addresses, too, which stay what they are.
        """
        require_admin(context)
        values: NodeEdit = {}
        if "hostname" in changes:
            name = inputs.hostname(changes["hostname"])
            assert name is not None
            values["hostname"] = name
        if "comment" in changes:
            values["comment"] = changes["comment"]
        if "owner" in changes:
            values["owner"] = await self._claims.steps.owner(context, changes["owner"])
        if "macs" in changes:
            values["macs"] = tuple(one.text for one in _identifiers("/macs", changes["macs"]))
        if "replaced_macs" in changes:
            replaced: Mapping[str, str] = changes["replaced_macs"]
            values["replaced"] = {
                inputs.mac("/replaced_macs", old).text: inputs.mac("/replaced_macs", new).text
                for old, new in replaced.items()
            }

        async def edit() -> Outcome:
            node = await self._claims.node(context, node_id)
            wanted = ReservationFilter(nodes=[node.id])
            held = [view.reservation for view in await self._reads.all_reservations(wanted)]
            condition = required(context, Prefix.NODE, node.id, held)
            return await self._submit(context, *condition, EditNode(node.id, places_of(held), values))

        await self._progress.settled(await while_it_changes(edit), context.wait_seconds)
        return await self._claims.node(context, node_id)

    async def _submit(self, context: RequestContext, *steps: Step) -> Outcome:
        mutation = Mutation(context.caller.actor, steps, context.request_id, context.idempotency)
        return await self._writer.submit(mutation)


def _identifiers(pointer: str, macs: Sequence[str]) -> tuple[Identifier, ...]:
    return tuple(dict.fromkeys(inputs.mac(f"{pointer}/{index}", mac) for index, mac in enumerate(macs)))
