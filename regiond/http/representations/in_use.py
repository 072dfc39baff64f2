"""Marks of addresses that somebody uses as people and programs see them."""

from regiond.domain.addresses_in_use import MarkedAddress
from regiond.domain.ids import Prefix, format_id
from regiond.http.representations.values import moment
from regiond.http.shapes import in_use as shapes
from regiond.use_cases.requests import Caller


def address_in_use(mark: MarkedAddress, caller: Caller) -> shapes.AddressInUse:
    """A mark; whose MAC address it is is an admin's to see."""
    return {
        "id": format_id(Prefix.ADDRESS_IN_USE, mark.id),
        "subnet": format_id(Prefix.SUBNET, mark.subnet),
        "address": mark.address,
        "mac": mark.mac if caller.is_admin else None,
        "cluster": mark.cluster_name,
        "since": moment(mark.since),
        "seen_at": moment(mark.seen_at),
        "expires_at": moment(mark.expires_at),
    }
