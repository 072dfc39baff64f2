"""The filters of a list of reservations, from the texts of a query."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import format_mac, parse_mac
from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.reservations import Kind, Status
from regiond.storage.reads import ReservationFilter

T = TypeVar("T")


def reservation_filter(
    filters: Mapping[str, Sequence[str]],
    *,
    owner: int | None = None,
    subnets: Sequence[int] = (),
    nodes: Sequence[int] = (),
) -> ReservationFilter:
    """Read `kind`, `status`, `address`, `mac`, `device` and `node`; `subnet` is a selector and resolved by the caller.

    Raises InvalidRequest for an unknown filter and for a value that a filter cannot have.
    """
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "kind": ("kinds", Kind),
        "status": ("statuses", Status),
        "address": ("addresses", canonical_address),
        "mac": ("macs", lambda text: format_mac(parse_mac(text))),
        "device": ("devices", _reader(Prefix.DEVICE)),
        "node": ("nodes", _reader(Prefix.NODE)),
    }
    conditions: dict[str, Any] = {"owner": owner, "subnets": subnets, "nodes": nodes}
    for name, texts in filters.items():
        if name == "subnet":
            continue
        if name not in readers:
            known = ", ".join([*readers, "subnet"])
            raise errors.InvalidRequest(f"?{name}", f"there is no filter {name}; there are {known}")
        field, read = readers[name]
        try:
            conditions[field] = [read(text) for text in texts]
        except ValueError as error:
            raise errors.InvalidRequest(f"?{name}", str(error)) from error
    return ReservationFilter(**conditions)


def _reader(prefix: Prefix) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = parse_id(prefix, text)
        if number is None:
            raise ValueError(f"not an id: {text[:64]}")
        return number

    return read
