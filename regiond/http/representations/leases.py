"""Leases as people and programs see them."""

from datetime import UTC, datetime

from clusterd.protocol.values import IdentifierKind
from regiond.domain.ids import Prefix, format_id
from regiond.domain.leases import FoundLease, LeaseListing, LeaseSource, LeaseView
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import leases as shapes
from regiond.use_cases.requests import Caller


def listing(page: LeaseListing) -> shapes.Leases:
    return {
        "subnet": format_id(Prefix.SUBNET, page.subnet),
        "complete": all(source.error is None for source in page.sources),
        "clusters": [_source(source) for source in page.sources],
        "leases": [_lease(view) for view in page.leases],
    }


def foreign_lease(found: FoundLease, caller: Caller) -> shapes.ForeignLease | shapes.LeaseOfAnother:
    """What is in a claim's way: all of it to an admin; to others not who has it."""
    if caller.is_admin:
        return _found(found)
    return {"address": found.lease.address, "expires_at": _expires(found)}


def _lease(view: LeaseView) -> shapes.Lease:
    return {**_found(view.found), "reservation": optional_id(Prefix.RESERVATION, view.reservation)}


def _found(found: FoundLease) -> shapes.ForeignLease:
    lease = found.lease
    return {
        "address": lease.address,
        "cluster": {"id": format_id(Prefix.CLUSTER, found.cluster), "name": found.cluster_name},
        "mac": lease.value(IdentifierKind.MAC),
        "client_id": lease.value(IdentifierKind.CLIENT_ID),
        "duid": lease.value(IdentifierKind.DUID),
        "hostname": lease.hostname,
        "expires_at": _expires(found),
    }


def _expires(found: FoundLease) -> str | None:
    seconds = found.lease.expires
    return None if seconds is None else moment(datetime.fromtimestamp(seconds, UTC))


def _source(source: LeaseSource) -> shapes.LeaseSource:
    return {
        "id": format_id(Prefix.CLUSTER, source.cluster),
        "name": source.name,
        "complete": source.error is None,
        "error": source.error,
    }
