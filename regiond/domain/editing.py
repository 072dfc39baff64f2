"""The pure decisions about PATCH and `If-Match`: what of a reservation, device or node is set anew, and what follows.

A changed host name or MAC address changes host maps, and an address stays whose it was: the removal of the old map and
the new one are one step of the subnet's generation, so that no cluster ever has the one without the other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain import errors, versions
from regiond.domain.facts import DeviceFacts, MapFacts, NodeFacts
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Edit, EditDevice, EditNode, EditReservation, Mutation, Place, Require
from regiond.domain.overlay import Overlay
from regiond.domain.reservations import Reservation, Status

T = TypeVar("T", DeviceFacts, NodeFacts)


class Editing(Overlay):
    """See the module."""

    # ---- If-Match ----

    def require(self, step: Require) -> None:
        """Raises StaleVersion and NotFound."""
        if step.prefix is Prefix.RESERVATION:
            (place,) = step.places
            version = versions.of_reservation(self._at(place))
        elif step.prefix is Prefix.GROUP:
            version = versions.of_group(step.id, map(self._at, step.places))
        elif step.prefix is Prefix.DEVICE:
            device = _there(self.devices.get(step.id))
            held = self._all_of(device, step.places)
            version = versions.of_device(device.id, device.hostname, device.owner_name, device.comment, held)
        else:
            node = _there(self.nodes.get(step.id))
            version = versions.of_node(node.id, node.hostname, node.owner_name, node.comment, node.macs)
        versions.require(step.versions, version)

    # ---- PATCH ----

    def edit(self, mutation: Mutation, step: Edit) -> tuple[bool, Sequence[Reservation]]:
        """Whether anything is not as it was, and the reservations as they are now."""
        match step:
            case EditReservation():
                return self._edit_reservation(mutation, step)
            case EditDevice():
                return self._edit_device(mutation, step)
            case EditNode():
                return self._edit_node(mutation, step)

    def _edit_reservation(self, mutation: Mutation, step: EditReservation) -> tuple[bool, Sequence[Reservation]]:
        held = self._at(step.at)
        if held.status is not Status.ACTIVE:
            raise errors.BeingReleased(f"{held.address} is being released: nothing of it can be changed any more")
        after = self._rewrite(mutation, held, replace(held, **step.values), self.identifiers_of(held, removed=False))
        before, now = _differences(_editable(held), _editable(after))
        if now:
            self.audit(mutation, "reservation.change", format_id(Prefix.RESERVATION, held.id), before, now)
        return bool(now), (after,)

    def _edit_device(self, mutation: Mutation, step: EditDevice) -> tuple[bool, Sequence[Reservation]]:
        device, values = _there(self.devices.get(step.device)), step.values
        held = self._all_of(device, step.places)
        owner, owner_name = values.get("owner", (device.owner, device.owner_name))
        hostname = values.get("hostname", device.hostname)
        after = replace(
            device,
            hostname=hostname,
            comment=values.get("comment", device.comment),
            owner=owner,
            owner_name=owner_name,
        )
        shown: list[Reservation] = []
        for one in held:
            wanted, macs = self.identifiers_of(one, removed=False), one.macs
            if "macs" in values:
                wanted = {i for i in wanted if i.kind is not IdentifierKind.MAC} | set(values["macs"])
                macs = tuple(i.text for i in values["macs"])
            if not wanted:
                raise errors.InvalidRequest("/macs", "a device needs at least one MAC address or a DUID")
            edited = replace(one, owner=owner, owner_name=owner_name, macs=macs)
            if "hostname" in values:
                edited = replace(edited, hostname=hostname)
            shown.append(self._rewrite(mutation, one, edited, wanted))
        self.put(self.devices, device.id, after)
        before, now = _differences(_of_device(device, held), _of_device(after, shown))
        if now:
            self.audit(mutation, "device.change", format_id(Prefix.DEVICE, device.id), before, now)
        return bool(now), shown

    def _edit_node(self, mutation: Mutation, step: EditNode) -> tuple[bool, Sequence[Reservation]]:
        node, values = _there(self.nodes.get(step.node)), step.values
        held = self._all_of(node, step.places)
        replaced = values.get("replaced", {})
        known = {*node.macs, *(mac for one in held for mac in one.macs)}
        for old in replaced:
            if old not in known:
                raise errors.NotFound(f"neither the node nor an address of it has {old}")
        owner, owner_name = values.get("owner", (node.owner, node.owner_name))
        macs = values.get("macs", tuple(dict.fromkeys(replaced.get(mac, mac) for mac in node.macs)))
        after = replace(
            node,
            hostname=values.get("hostname", node.hostname),
            comment=values.get("comment", node.comment),
            owner=owner,
            owner_name=owner_name,
            macs=tuple(sorted(macs)),
        )
        shown: list[Reservation] = []
        for one in held:
            wanted = {_replaced(i, replaced) for i in self.identifiers_of(one, removed=False)}
            own_macs = tuple(dict.fromkeys(replaced.get(mac, mac) for mac in one.macs))
            edited = replace(one, owner=owner, owner_name=owner_name, macs=own_macs)
            shown.append(self._rewrite(mutation, one, edited, wanted))
        self.put(self.nodes, node.id, after)
        before, now = _differences(_of_node(node), _of_node(after))
        moved = [format_id(Prefix.RESERVATION, b.id) for b, a in zip(held, shown, strict=True) if b.macs != a.macs]
        if moved:
            before["addresses"], now["addresses"] = dict(replaced), moved
        if now:
            self.audit(mutation, "node.change", format_id(Prefix.NODE, node.id), before, now)
        return bool(now), shown

    def _rewrite(
        self, mutation: Mutation, held: Reservation, after: Reservation, wanted: set[Identifier]
    ) -> Reservation:
        """Put the reservation as it is to be, with its host maps; `wanted` are all its identifiers."""
        own = self.identifiers_of(held, removed=False)
        subnet = self.subnet(held.subnet)
        for identifier in sorted(own - wanted):
            tombstone = replace(self.maps[subnet.id, identifier], removed=True, request_id=mutation.request_id)
            self.put_map(subnet.id, identifier, tombstone)
        renamed = after.hostname != held.hostname
        for identifier in sorted(wanted if renamed else wanted - own):
            row = self.maps.get((subnet.id, identifier))
            if row is not None and not row.removed and row.reservation != held.id:
                holder = self.reservation_at(subnet, address_to_int(row.address)[1])
                raise errors.IdentifierTaken(
                    f"{identifier.text} already has {row.address} on {subnet.network.cidr}", holder=holder
                )
            changed = MapFacts(held.id, held.address, after.hostname, False, mutation.request_id)
            self.put_map(subnet.id, identifier, changed)
        if own != wanted or (renamed and own):
            after = replace(after, map_generation=subnet.generation + 1)
        if after != held:
            self.put(self.reservations, (subnet.id, address_to_int(held.address)[1]), after)
        return after

    def _at(self, place: Place) -> Reservation:
        held = self.reservation_at(self.subnet(place.subnet), address_to_int(place.address)[1])
        if held is None or held.id != place.reservation:
            raise errors.NotFound("this reservation is gone")
        return held

    def _all_of(self, owner: T, places: Sequence[Place]) -> list[Reservation]:
        """The active reservations of a device or node. Raises ChangedMeanwhile when `places` are not all of them."""
        if owner.held != {place.reservation for place in places}:
            raise errors.ChangedMeanwhile("an address came or went")
        held = [self.reservation_at(self.subnet(p.subnet), address_to_int(p.address)[1]) for p in places]
        active = [
            one
            for one, place in zip(held, places, strict=True)
            if one is not None and one.id == place.reservation and one.status is Status.ACTIVE
        ]
        if len(active) < len(places):
            raise errors.ChangedMeanwhile("an address went")
        return active


def _there(thing: T | None) -> T:
    if thing is None:
        raise errors.NotFound("it is gone")
    return thing


def _replaced(identifier: Identifier, replaced: Any) -> Identifier:
    if identifier.kind is not IdentifierKind.MAC or identifier.text not in replaced:
        return identifier
    return Identifier.mac(replaced[identifier.text])


def _editable(held: Reservation) -> dict[str, Any]:
    return {
        "hostname": held.hostname,
        "comment": held.comment,
        "expires_at": None if held.expires_at is None else held.expires_at.isoformat(),
    }


def _of_device(device: DeviceFacts, held: Sequence[Reservation]) -> dict[str, Any]:
    return {
        "hostname": device.hostname,
        "comment": device.comment,
        "owner": device.owner_name,
        "macs": versions.macs_of(held),
    }


def _of_node(node: NodeFacts) -> dict[str, Any]:
    return {
        "hostname": node.hostname,
        "comment": node.comment,
        "owner": node.owner_name,
        "macs": sorted(node.macs),
    }


def _differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    changed = [name for name in before if before[name] != after[name]]
    return {name: before[name] for name in changed}, {name: after[name] for name in changed}
