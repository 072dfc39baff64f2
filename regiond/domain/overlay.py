"""What one batch has changed so far, over the facts it was read from: every change can be undone."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from clusterd.protocol.digest import digest_of_map
from clusterd.protocol.values import HostMap, Identifier
from regiond.domain import errors
from regiond.domain.changes import Changes
from regiond.domain.facts import DeviceFacts, Facts, MapFacts, NodeFacts, SubnetFacts
from regiond.domain.free_space import FreeSpace
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Audit, Mutation
from regiond.domain.quotas import Quotas
from regiond.domain.reservations import Delivery, Kind, Reservation

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

HOLDING_ROLES = ("serving", "draining")


class Overlay:
    """The tables of a batch as they are after the members planned so far; see Note [Batch]."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.spaces = {subnet.id: FreeSpace(subnet.free) for subnet in facts.subnets.values()}
        self.reservations: dict[tuple[int, int], Reservation | None] = dict(facts.reservations)
        self.maps = dict(facts.maps)
        self.identifiers: dict[int, set[Identifier]] = defaultdict(set)  # ever had, by reservation
        for (_, identifier), row in facts.maps.items():
            self.identifiers[row.reservation].add(identifier)
        self.deliveries = {
            (subnet, delivery.cluster): delivery for subnet, rows in facts.deliveries.items() for delivery in rows
        }
        self.answered = dict(facts.answered)
        self.devices: dict[int, DeviceFacts | None] = dict(facts.devices)
        self.nodes: dict[int, NodeFacts | None] = dict(facts.nodes)
        self.quotas = Quotas(facts.quotas)
        self.appended = Changes()
        self.acknowledged: dict[int, bool] = {}
        self._undo: list[Callable[[], object]] = []

    # ---- one member ----

    def begin(self) -> None:
        """What changes from now on belongs to one member."""
        self._undo = []

    @property
    def changed(self) -> int:
        """How many changes the member has made so far: where `undo` can go back to."""
        return len(self._undo)

    def undo(self, to: int = 0) -> None:
        """Take the member's changes back, the last one first, but for the first ones."""
        while len(self._undo) > to:
            self._undo.pop()()

    def settle(self) -> None:
        """Nothing is taken back any more. What could be holds the overlay, and through it the whole batch: in a cycle,
        which waits for the garbage collector, and full collections are rare (clusterd/daemon/pauses.py).
        """
        self._undo = []

    def on_undo(self, undo: Callable[[], object]) -> None:
        """Note how the change just made is taken back."""
        self._undo.append(undo)

    # ---- reading ----

    def subnet(self, subnet: int) -> SubnetFacts:
        """Raises NotFound."""
        known = self.facts.subnets.get(subnet)
        if known is None:
            raise errors.NotFound("this subnet is gone")
        return known

    def reservation_at(self, subnet: SubnetFacts, address: int) -> Reservation | None:
        return self.reservations.get((subnet.id, address))

    def deliveries_of(self, subnet: int) -> Sequence[Delivery]:
        return [self.deliveries[subnet, row.cluster] for row in self.facts.deliveries.get(subnet, ())]

    def identifiers_of(self, reservation: Reservation, *, removed: bool) -> set[Identifier]:
        """The identifiers of its host maps, or of its removed ones as far as nobody has them now."""
        rows = {i: self.maps.get((reservation.subnet, i)) for i in self.identifiers.get(reservation.id, ())}
        return {
            i
            for i, row in rows.items()
            if row is not None and row.reservation == reservation.id and row.removed is removed
        }

    # ---- changing ----

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        """Set a row of one of the tables."""
        if key in table:
            before = table[key]
            self.on_undo(lambda: table.__setitem__(key, before))
        else:
            self.on_undo(lambda: table.pop(key))
        table[key] = value

    def append(self, rows: list[V], row: V) -> None:
        """Add to one of the lists of what is written."""
        rows.append(row)
        self.on_undo(rows.pop)

    def count(self, reservation: Reservation, change: int) -> None:
        """One reservation more or less in its owner's quota."""
        if reservation.kind is Kind.USER:
            self.quotas.count(reservation.owner, reservation.subnet, change)
            self.on_undo(lambda: self.quotas.count(reservation.owner, reservation.subnet, -change))

    def take(self, subnet: int, address: int) -> None:
        self.spaces[subnet].take(address)
        self.on_undo(lambda: self.spaces[subnet].give(address))

    def put_map(self, subnet: int, identifier: Identifier, row: MapFacts) -> None:
        self.put(self.maps, (subnet, identifier), row)
        self.identifiers[row.reservation].add(identifier)

    def audit(
        self,
        mutation: Mutation,
        action: str,
        object_id: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> None:
        row = Audit(mutation.actor, action, object_id, before, after, mutation.request_id)
        self.append(self.appended.audit, row)

    # ---- what to write ----

    def confirmed_by_all(self, subnet: int) -> int:
        """The generation whose removals every holder has applied: all of them, when nobody holds the subnet."""
        holding = (d.applied_generation for d in self.deliveries_of(subnet) if d.role in HOLDING_ROLES)
        return min(holding, default=self.facts.subnets[subnet].generation + 1)

    def changes(self) -> Changes:
        """The difference between the tables and the facts."""
        changes = self.appended
        for key, after in self.reservations.items():
            before = self.facts.reservations.get(key)
            if after is before:
                continue
            if before is not None and (after is None or after.id != before.id):
                changes.reservations_gone.append(before)
            if after is not None and (before is None or after.id != before.id):
                changes.reservations_new.append(after)
            elif after is not None and before is not None:
                changes.reservations_changed.append(after)
                if _written(after) != _written(before):
                    changes.reservations_edited.append(after)
        changes.devices_edited.extend(
            device for id_, device in self.devices.items() if device is not None and device != self.facts.devices[id_]
        )
        changes.nodes_edited.extend(
            node for id_, node in self.nodes.items() if node is not None and node != self.facts.nodes[id_]
        )
        digests: dict[int, int] = {}
        for (subnet, identifier), row in self.maps.items():
            before_map = self.facts.maps.get((subnet, identifier))
            if row is before_map:
                continue
            changes.maps.append((subnet, identifier, row))
            digests.setdefault(subnet, self.facts.subnets[subnet].digest)
            for state in (before_map, row):
                if state is not None and not state.removed:
                    digests[subnet] ^= digest_of_map(HostMap(identifier, state.address, state.hostname))
        for subnet, digest in digests.items():
            changes.subnets.append((subnet, self.facts.subnets[subnet].generation + 1, digest))
        for subnet, space in self.spaces.items():
            gone, put = space.changes()
            changes.free_gone.extend((subnet, high) for high in gone)
            changes.free_put.extend((subnet, low, high) for low, high in put)
        for subnet, deliveries in self.facts.deliveries.items():
            for delivery in deliveries:
                if (now := self.deliveries[subnet, delivery.cluster]) is not delivery:
                    changes.deliveries.append((subnet, now))
        changes.confirmed.extend((subnet, self.confirmed_by_all(subnet)) for subnet in self.acknowledged)
        return changes


def _written(held: Reservation) -> tuple[object, ...]:
    """What an edit sets."""
    return (held.owner, held.macs, held.hostname, held.comment, held.expires_at, held.map_generation)


def summary(reservation: Reservation) -> dict[str, Any]:
    """What the audit keeps of a reservation."""
    fields = {
        "kind": reservation.kind.value,
        "address": reservation.address,
        "subnet": reservation.cidr,
        "vrf": reservation.vrf,
        "owner": reservation.owner_name,
        "macs": list(reservation.macs) or None,
        "client_id": reservation.client_id,
        "duid": reservation.duid,
        "hostname": reservation.hostname,
        "device": None if reservation.device is None else format_id(Prefix.DEVICE, reservation.device),
        "node": None if reservation.node is None else format_id(Prefix.NODE, reservation.node),
    }
    return {key: value for key, value in fields.items() if value is not None}
