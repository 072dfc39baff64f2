"""Which reservations a request means, from the texts of its query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import format_mac, parse_mac
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.reservations import Kind, Status
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases.requests import RequestContext

E = TypeVar("E", bound=StrEnum)

NOBODY = -1
"""An owner of nothing."""


class ReservationFilters:
    """Reads filters, of which some name things that have to be looked up."""

    def __init__(self, catalogue: Catalogue, reads: Reads) -> None:
        self._catalogue = catalogue
        self._reads = reads

    async def read(self, context: RequestContext, filters: Mapping[str, Sequence[str]]) -> ReservationFilter:
        """What the filters mean for this caller: a user sees its own only.

        Raises InvalidRequest for an unknown filter and for a value that a filter cannot have; for `subnet`, which is a
        selector, what a selector can be refused with.
        """
        wanted = _plain(filters)
        if "subnet" in filters:
            found = [(await self._catalogue.resolve(text)).id for text in filters["subnet"]]
            wanted = replace(wanted, subnets=found)
        caller = context.caller
        if caller.is_admin:
            owners = [await self._owner(name) for name in filters.get("owner", ())]
            return replace(wanted, owners=owners)
        is_meant = caller.name in filters.get("owner", (caller.name,))
        return replace(wanted, owner=caller.account if is_meant else NOBODY)

    async def _owner(self, name: str) -> int:
        account = await self._reads.account_id(name)
        if account is None:
            raise errors.InvalidRequest("?owner", f"no account {name[:64]}")
        return account


def _plain(filters: Mapping[str, Sequence[str]]) -> ReservationFilter:
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "kind": ("kinds", _one_of(Kind)),
        "status": ("statuses", _one_of(Status)),
        "address": ("addresses", canonical_address),
        "mac": ("macs", lambda text: format_mac(parse_mac(text))),
        "device": ("devices", _reader(Prefix.DEVICE)),
        "node": ("nodes", _reader(Prefix.NODE)),
    }
    conditions: dict[str, Any] = {}
    for name, texts in filters.items():
        if name in ("subnet", "owner"):
            continue
        if name not in readers:
            known = ", ".join([*readers, "subnet", "owner"])
            raise errors.InvalidRequest(f"?{name}", f"there is no filter {name}; there are {known}")
        field, read = readers[name]
        try:
            conditions[field] = [read(text) for text in texts]
        except ValueError as error:
            raise errors.InvalidRequest(f"?{name}", str(error)) from error
    return ReservationFilter(**conditions)


def _one_of(choices: type[E]) -> Callable[[str], E]:
    def read(text: str) -> E:
        try:
            return choices(text)
        except ValueError:
            raise ValueError(f"{text[:64]!r} is none of {', '.join(each.value for each in choices)}") from None

    return read


def _reader(prefix: Prefix) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = parse_id(prefix, text)
        if number is None:
            raise ValueError(f"not an id: {text[:64]}")
        return number

    return read
