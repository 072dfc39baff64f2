"""Subnets, their ranges and their numbers as people and programs see them."""

from typing import Literal

from regiond.domain import versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.ranges import AddressRange
from regiond.domain.views import CheckReport, SubnetView, Utilisation
from regiond.http.representations.values import moment
from regiond.http.shapes import subnets as shapes


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
        "claimable": view.claimable,
        "claimable_anyway": view.claimable_anyway,
        "probe": view.probe,
        "claimants": _claimants(view.claimants),
        "awaits": list(view.awaits),
        "recovering": view.recovering,
        "etag": versions.of_subnet(
            view.id, view.release_hold_seconds, view.claimable_anyway, view.probe, view.claimants
        ),
    }


def _claimants(names: tuple[str, ...] | None) -> Literal["everyone", "admins"] | list[str]:
    if names is None:
        return "everyone"
    return list(names) or "admins"


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
        "in_use": view.in_use,
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
