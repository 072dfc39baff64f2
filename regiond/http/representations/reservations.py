"""Reservations as people and programs see them."""

from collections.abc import Sequence

from regiond.domain import versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.reservations import ClusterProgress, Reservation, overall_state
from regiond.domain.views import ReservationView
from regiond.http.representations.values import moment, optional_id, word
from regiond.http.shapes import reservations as shapes
from regiond.use_cases.requests import Caller


def reservation(view: ReservationView) -> shapes.Reservation:
    """A reservation with the state of its host map, or null where it has none by its nature."""
    return {**record(view.reservation), "waits_for": list(view.waits_for), "host_map": _host_map(view)}


def group(views: Sequence[ReservationView]) -> shapes.Group:
    """Addresses that were reserved together."""
    number = views[0].reservation.group
    return {
        "group": optional_id(Prefix.GROUP, number),
        "reservations": [reservation(view) for view in views],
        "etag": versions.of_group(number or 0, [view.reservation for view in views]),
    }


def record(held: Reservation) -> shapes.Record:
    """The record alone: what does not change with the progress of host maps."""
    return {
        "id": format_id(Prefix.RESERVATION, held.id),
        "kind": word(held.kind),
        "status": word(held.status),
        "address": held.address,
        "subnet": {"id": format_id(Prefix.SUBNET, held.subnet), "cidr": held.cidr, "vrf": held.vrf},
        "mac": held.macs[0] if held.macs else None,
        "macs": list(held.macs),
        "client_id": held.client_id,
        "duid": held.duid,
        "alias": held.alias,
        "hostname": held.hostname,
        "owner": held.owner_name,
        "device": optional_id(Prefix.DEVICE, held.device),
        "node": optional_id(Prefix.NODE, held.node),
        "group": optional_id(Prefix.GROUP, held.group),
        "purpose": held.purpose,
        "comment": held.comment,
        "created": moment(held.created),
        "expires_at": moment(held.expires_at),
        "free_at": moment(held.free_at),
        "probed": held.probed,
        "etag": versions.of_reservation(held),
    }


def holder(held: Reservation, caller: Caller) -> shapes.Record | shapes.HeldByAnother:
    """Who has what the caller wanted: all of it to an admin and to its owner, only the kind to others."""
    if caller.is_admin or held.owner == caller.account:
        return record(held)
    return {"kind": held.kind}


def _host_map(view: ReservationView) -> shapes.HostMap | None:
    if view.progress is None:
        return None
    return {"state": overall_state(view.progress).value, "clusters": _clusters(view.progress)}


def _clusters(progress: Sequence[ClusterProgress]) -> list[shapes.ClusterProgress]:
    return [
        {
            "id": format_id(Prefix.CLUSTER, each.cluster),
            "name": each.name,
            "state": each.state.value,
            "generation": each.generation,
            "since": moment(each.since),
            "error": each.error,
        }
        for each in progress
    ]
