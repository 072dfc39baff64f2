"""What DHCP servers have of their own, as people and programs see it."""

from regiond.domain.first_contact import (
    Adoption,
    AdoptionResult,
    ContactView,
    ForeignEntry,
    adoption_of,
    what_to_delete,
)
from regiond.domain.ids import Prefix, format_id
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import adoption as shapes


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
        "subnet": optional_id(Prefix.SUBNET, foreign.subnet),
        "cidr": foreign.cidr,
        "adoption": adoption.value,
        "reason": reason,
        "reservation": optional_id(Prefix.RESERVATION, None if foreign.holder is None else foreign.holder.id),
        "what_to_delete": what_to_delete(foreign.backend) if adoption is Adoption.DONE else None,
    }


def adoption_result(result: AdoptionResult) -> shapes.AdoptionResult:
    return {
        "entry": format_id(Prefix.FOREIGN_ENTRY, result.entry),
        "adoption": result.adoption.value,
        "reason": result.reason,
        "reservation": optional_id(Prefix.RESERVATION, result.reservation),
    }
