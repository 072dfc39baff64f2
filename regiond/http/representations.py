"""Domain values as the JSON that people and programs see."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import overload

from regiond.domain import versions
from regiond.domain.accounts import AccountView, TokenView
from regiond.domain.first_contact import (
    Adoption,
    AdoptionResult,
    ContactView,
    ForeignEntry,
    adoption_of,
    what_to_delete,
)
from regiond.domain.identity import EnrolmentOffer
from regiond.domain.ids import Prefix, format_id
from regiond.domain.ranges import AddressRange
from regiond.domain.recovery import RecoveryView
from regiond.domain.reservations import ClusterProgress, Reservation, overall_state
from regiond.domain.views import (
    AuditEntry,
    CheckReport,
    ClusterSubnetView,
    ClusterView,
    DeviceView,
    InterfaceView,
    NodeView,
    ReservationView,
    SubnetView,
    Utilisation,
)
from regiond.http import shapes
from regiond.requests import Caller


def reservation(view: ReservationView) -> shapes.Reservation:
    """A reservation with the state of its host map, or null where it has none by its nature."""
    return {**record(view.reservation), "waits_for": list(view.waits_for), "host_map": _host_map(view)}


def record(held: Reservation) -> shapes.Record:
    """The record alone: what does not change with the progress of host maps."""
    return {
        "id": format_id(Prefix.RESERVATION, held.id),
        "kind": held.kind,
        "status": held.status,
        "address": held.address,
        "subnet": {"id": format_id(Prefix.SUBNET, held.subnet), "cidr": held.cidr, "vrf": held.vrf},
        "mac": held.macs[0] if held.macs else None,
        "macs": list(held.macs),
        "client_id": held.client_id,
        "duid": held.duid,
        "alias": held.alias,
        "hostname": held.hostname,
        "owner": held.owner_name,
        "device": _optional_id(Prefix.DEVICE, held.device),
        "node": _optional_id(Prefix.NODE, held.node),
        "group": _optional_id(Prefix.GROUP, held.group),
        "purpose": held.purpose,
        "comment": held.comment,
        "created": moment(held.created),
        "expires_at": moment(held.expires_at),
        "free_at": moment(held.free_at),
        "etag": versions.of_reservation(held),
    }


def holder(held: Reservation, caller: Caller) -> shapes.Record | shapes.HeldByAnother:
    """Who has what the caller wanted: all of it to an admin and to its owner, only the kind to others."""
    if caller.is_admin or held.owner == caller.account:
        return record(held)
    return {"kind": held.kind}


def device(view: DeviceView) -> shapes.Device:
    held = [one.reservation for one in view.reservations]
    return {
        "id": format_id(Prefix.DEVICE, view.id),
        "hostname": view.hostname,
        "macs": versions.macs_of(held),
        "owner": view.owner_name,
        "comment": view.comment,
        "created": moment(view.created),
        "etag": versions.of_device(view.id, view.hostname, view.owner_name, view.comment, held),
        "reservations": [reservation(one) for one in view.reservations],
    }


def node(view: NodeView) -> shapes.Node:
    return {
        "id": format_id(Prefix.NODE, view.id),
        "hostname": view.hostname,
        "macs": list(view.macs),
        "owner": view.owner_name,
        "comment": view.comment,
        "created": moment(view.created),
        "etag": versions.of_node(view.id, view.hostname, view.owner_name, view.comment, view.macs),
    }


def cluster(view: ClusterView) -> shapes.Cluster:
    return {
        "id": format_id(Prefix.CLUSTER, view.id),
        "name": view.name,
        "vrf": view.vrf,
        "hostname": view.hostname,
        "backend": view.backend,
        "software_version": view.software_version,
        "connected": view.connected,
        "connected_since": moment(view.connected_since),
        "last_heard": moment(view.last_heard),
        "enrolled": moment(view.enrolled),
        "certificate_expires": moment(view.certificate_expires),
        "revoked": moment(view.revoked),
        "turns_seen": moment(view.turns_seen),
        "subnets": [_cluster_subnet(subnet) for subnet in view.subnets],
    }


def enrolment(offer: EnrolmentOffer) -> shapes.Enrolment:
    """With the token, which is shown this once."""
    return {
        "name": offer.enrolment.name,
        "token": offer.enrolment.text,
        "expires_at": moment(offer.enrolment.expires_at),
        "endpoint": offer.address,
        "fingerprint": offer.fingerprint,
        "command": offer.command,
    }


def interface(view: InterfaceView, caller: Caller) -> shapes.ClusterInterface:
    """A cluster interface; the controller's own MAC address is an admin's to see."""
    return {
        "id": format_id(Prefix.CLUSTER_INTERFACE, view.id),
        "cluster": {"id": format_id(Prefix.CLUSTER, view.cluster), "name": view.cluster_name},
        "nic": view.nic,
        "cidr": view.cidr,
        "vrf": view.vrf,
        "subnet": _optional_id(Prefix.SUBNET, view.subnet),
        "addresses": list(view.addresses),
        "gateways": list(view.gateways),
        "mac": view.mac if caller.is_admin else None,
        "kind": view.kind,
        "vlan": view.vlan,
        "up": view.up,
        "present": view.present,
        "serving": view.serving,
    }


def subnet(view: SubnetView) -> shapes.Subnet:
    return {
        "id": format_id(Prefix.SUBNET, view.id),
        "cidr": view.cidr,
        "vrf": view.vrf,
        "generation": view.generation,
        "release_hold_seconds": view.release_hold_seconds,
        "clusters": list(view.clusters),
        "reservations": view.reservations,
        "releasing": view.releasing,
        "claimable": view.claimable_anyway or not view.awaits,
        "claimable_anyway": view.claimable_anyway,
        "awaits": list(view.awaits),
        "etag": versions.of_subnet(view.id, view.release_hold_seconds, view.claimable_anyway),
    }


def utilisation(view: Utilisation) -> shapes.Utilisation:
    """Numbers of addresses; of an IPv6 subnet they are larger than what some JSON readers keep exactly."""
    return {
        "subnet": {"id": format_id(Prefix.SUBNET, view.subnet), "cidr": view.cidr},
        "usable": view.usable,
        "reserved": {**view.active, "total": sum(view.active.values())},
        "releasing": view.releasing,
        "in_ranges": dict(view.in_ranges),
        "infrastructure": view.infrastructure,
        "static_entries": view.static_entries,
        "free": view.free,
    }


def address_range(held: AddressRange) -> shapes.Range:
    return {
        "id": format_id(Prefix.ADDRESS_RANGE, held.id),
        "subnet": format_id(Prefix.SUBNET, held.subnet),
        "kind": held.values.kind.value,
        "low": held.values.low,
        "high": held.values.high,
        "comment": held.values.comment,
        "reported_by": held.reported_by,
        "created": moment(held.created),
        "etag": versions.of_range(held),
    }


def dhcp_server(view: ContactView) -> shapes.DhcpServer:
    """What a cluster's DHCP server has of its own, but for its static entries, which are a list of their own."""
    return {
        "cluster": {"id": format_id(Prefix.CLUSTER, view.cluster), "name": view.name},
        "backend": view.backend,
        "contact": view.contact.value,
        "read_at": moment(view.at),
        "error": view.error,
        "remarks": list(view.remarks),
        "pools": [
            {
                "low": reported.pool.low,
                "high": reported.pool.high,
                "source": reported.pool.source,
                "cidr": reported.cidr,
                "reservations": reported.reservations,
            }
            for reported in view.pools
        ],
        "static_entries": view.entries,
    }


def foreign_entry(foreign: ForeignEntry) -> shapes.ForeignEntry:
    """A static entry of a DHCP server that is not ours, and what adopting it would come to."""
    entry, (adoption, reason) = foreign.entry, adoption_of(foreign)
    return {
        "id": format_id(Prefix.FOREIGN_ENTRY, foreign.id),
        "address": entry.address,
        "identifiers": [str(identifier) for identifier in entry.identifiers],
        "hostname": entry.hostname,
        "source": entry.source,
        "subnet": _optional_id(Prefix.SUBNET, foreign.subnet),
        "cidr": foreign.cidr,
        "adoption": adoption.value,
        "reason": reason,
        "reservation": _optional_id(Prefix.RESERVATION, None if foreign.holder is None else foreign.holder.id),
        "what_to_delete": what_to_delete(foreign.backend) if adoption is Adoption.DONE else None,
    }


def adoption_result(result: AdoptionResult) -> shapes.AdoptionResult:
    return {
        "entry": format_id(Prefix.FOREIGN_ENTRY, result.entry),
        "adoption": result.adoption.value,
        "reason": result.reason,
        "reservation": _optional_id(Prefix.RESERVATION, result.reservation),
    }


def check_report(report: CheckReport) -> shapes.CheckReport:
    return {
        "subnet": {"id": format_id(Prefix.SUBNET, report.subnet), "cidr": report.cidr, "vrf": report.vrf},
        "checked": {
            "reservations": report.reservations,
            "host_maps": report.host_maps,
            "free_ranges": report.free_ranges,
        },
        "sound": not report.findings,
        "findings": [{"kind": finding.kind, "detail": finding.detail} for finding in report.findings],
    }


def audit_entry(entry: AuditEntry) -> shapes.AuditEntry:
    return {
        "id": format_id(Prefix.AUDIT_ENTRY, entry.id),
        "at": moment(entry.at),
        "account": _optional_id(Prefix.ACCOUNT, entry.account),
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "before": entry.before,
        "after": entry.after,
        "request_id": entry.request_id,
    }


def account(view: AccountView) -> shapes.Account:
    return {
        "id": format_id(Prefix.ACCOUNT, view.id),
        "name": view.name,
        "role": view.role.value,
        "disabled": view.disabled,
        "reservations": view.reservations,
        "max_reservations": view.max_reservations,
        "max_reservations_per_subnet": view.max_reservations_per_subnet,
        "created": moment(view.created),
        "etag": versions.of_account(view.id, view.disabled, view.max_reservations, view.max_reservations_per_subnet),
    }


def token(view: TokenView) -> shapes.Token:
    """A token without its secret."""
    return {
        "id": format_id(Prefix.TOKEN, view.id),
        "account": view.account_name,
        "name": view.name,
        "read_only": view.read_only,
        "created": moment(view.created),
        "expires_at": moment(view.expires_at),
        "etag": versions.of_token(view.id),
    }


def recovery(view: RecoveryView) -> shapes.Recovery:
    """How far a recovery is; `since` is None when none goes on."""
    return {
        "history": view.history,
        "since": moment(view.since),
        "reason": view.reason,
        "clusters": [
            {
                "id": format_id(Prefix.CLUSTER, each.id),
                "name": each.name,
                "connected": each.connected,
                "heard": not each.unheard,
                "last_heard": moment(each.last_heard),
                "software_version": each.software_version,
            }
            for each in view.clusters
        ],
        "subnets": [
            {
                "id": format_id(Prefix.SUBNET, each.id),
                "cidr": each.cidr,
                "vrf": each.vrf,
                "since": moment(each.since),
                "waits_for": list(each.waits_for),
            }
            for each in view.subnets
        ],
        "counts": dict(view.counts),
        "findings": [
            {
                "at": moment(each.at),
                "kind": each.kind,
                "subnet": _optional_id(Prefix.SUBNET, each.subnet),
                "cidr": each.cidr,
                "address": each.address,
                "reservation": _optional_id(Prefix.RESERVATION, each.reservation),
                "detail": each.detail,
            }
            for each in view.findings
        ],
    }


@overload
def moment(time: datetime) -> str: ...
@overload
def moment(time: datetime | None) -> str | None: ...
def moment(time: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _optional_id(prefix: Prefix, number: int | None) -> str | None:
    return None if number is None else format_id(prefix, number)


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


def _cluster_subnet(view: ClusterSubnetView) -> shapes.ClusterSubnet:
    return {
        "id": format_id(Prefix.SUBNET, view.subnet),
        "cidr": view.cidr,
        "role": view.role,
        "desired_generation": view.desired_generation,
        "accepted_generation": view.accepted_generation,
        "applied_generation": view.applied_generation,
        "pending": view.desired_generation - view.applied_generation,
        "error": view.error,
        "since": moment(view.since),
    }
