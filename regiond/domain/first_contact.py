"""What a site's DHCP server has of its own, as the region keeps it: pure.

Its pools are dynamic ranges that no admin wrote; its static entries are addresses that are taken, but not by a
reservation of ours. Either goes when it is not reported any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from clusterd.protocol.values import ServerEntry, ServerPool
from regiond.domain.reservations import Reservation


@dataclass(frozen=True, slots=True)
class DhcpServerReport:
    """One whole report. With `error` nothing could be read, and what was known before stays."""

    pools: Sequence[ServerPool]
    entries: Sequence[ServerEntry]
    remarks: Sequence[str]
    error: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What a report changes: ids that go, values that come."""

    pools_gone: Sequence[int]
    pools_new: Sequence[ServerPool]
    entries_gone: Sequence[int]
    entries_new: Sequence[ServerEntry]

    def __bool__(self) -> bool:
        return bool(self.pools_gone or self.pools_new or self.entries_gone or self.entries_new)


def difference(
    report: DhcpServerReport, pools: Mapping[ServerPool, int], entries: Mapping[ServerEntry, int]
) -> Difference:
    """From what is stored, by value, to what is reported."""
    wanted_pools, wanted_entries = set(report.pools), set(report.entries)
    return Difference(
        [number for pool, number in pools.items() if pool not in wanted_pools],
        sorted((pool for pool in wanted_pools if pool not in pools), key=lambda pool: (pool.low, pool.high)),
        [number for entry, number in entries.items() if entry not in wanted_entries],
        sorted((entry for entry in wanted_entries if entry not in entries), key=lambda entry: entry.address),
    )


class Contact(StrEnum):
    """Whether a cluster has reported what its DHCP server has of its own."""

    UNSUPPORTED = "unsupported"  # an older clusterd, which is not waited for
    AWAITED = "awaited"
    REPORTED = "reported"


@dataclass(frozen=True, slots=True)
class ReportedPool:
    """A pool, and where it lies; `reservations` of ours in it were there before it was reported."""

    id: int
    pool: ServerPool
    cidr: str | None
    reservations: int


@dataclass(frozen=True, slots=True)
class ContactView:
    """What is known of one cluster's DHCP server. `at` is when it was last read, `error` why it was not since."""

    cluster: int
    name: str
    backend: str
    contact: Contact
    at: datetime | None
    error: str | None
    remarks: tuple[str, ...]
    pools: tuple[ReportedPool, ...]
    entries: int


class Adoption(StrEnum):
    """What stands between a static entry and a reservation of ours."""

    POSSIBLE = "possible"
    DONE = "adopted"  # the reservation is there; the entry can be deleted from the server
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """A static entry that is not ours, with all that decides whether it can become a reservation.

    `subnet` is None where the cluster serves no subnet with that address. `holder` is the reservation of its address,
    `others` are addresses on that subnet that its identifiers have by host maps of ours. `same_client` and
    `same_address` count other entries of this server for the same client on this subnet, or for the same address.
    """

    id: int
    cluster: int
    cluster_name: str
    backend: str
    entry: ServerEntry
    subnet: int | None
    cidr: str | None
    usable: bool
    in_pool: bool
    infrastructure: str | None
    holder: Reservation | None
    others: tuple[str, ...]
    same_client: int
    same_address: int


def adoption_of(foreign: ForeignEntry) -> tuple[Adoption, str | None]:
    """Whether it can be adopted, and in words why not."""
    entry, holder = foreign.entry, foreign.holder
    if holder is not None and holder.identifiers == set(entry.identifiers) and holder.status.value == "active":
        return Adoption.DONE, None
    reason = _conflict(foreign)
    return (Adoption.POSSIBLE, None) if reason is None else (Adoption.CONFLICT, reason)


def _conflict(foreign: ForeignEntry) -> str | None:
    entry = foreign.entry
    if foreign.subnet is None:
        return "the cluster serves no subnet with this address"
    if not foreign.usable:
        return "no host can have this address: it is the network's, broadcast or router anycast address"
    if foreign.infrastructure is not None:
        return f"the address is a {foreign.infrastructure}'s"
    if foreign.holder is not None:
        return f"the address is reserved already, as {foreign.holder.kind.value} of {foreign.holder.owner_name}"
    if not entry.identifiers:
        return "the entry names no MAC address, client-id or DUID, so no host map can say the same"
    if foreign.others:
        return f"the client has {', '.join(foreign.others)} by a host map of ours"
    if foreign.same_address:
        return "the server has several entries for this address: leave one of them"
    if foreign.same_client:
        return "the server has several addresses for this client on this subnet: leave one of them"
    if foreign.in_pool and foreign.backend == "isc":
        return "the address lies in a pool of dhcpd, which would lease it to others as well: take it out of the pool"
    return None


@dataclass(frozen=True, slots=True)
class AdoptionResult:
    """What came of one entry; `reservation` is the id of the reservation that it is now."""

    entry: int
    adoption: Adoption
    reason: str | None
    reservation: int | None


def what_to_delete(backend: str) -> str:
    """What to do with an adopted entry in the configuration of the server itself, in one sentence."""
    return _DELETE.get(backend, _DELETE["file"])


_DELETE: Final = {
    "dnsmasq": (
        "delete it and restart dnsmasq when it suits: until then dnsmasq skips our host map as a duplicate "
        "address, and the client has its address by the old entry"
    ),
    "isc": (
        "delete it and restart dhcpd when it suits: until then dhcpd refuses our host map, for it keeps one host per "
        "client, and the client has its address by the old entry; restart clusterd then, which offers it at once"
    ),
    "kea": (
        "delete it and reload Kea (config-reload) when it suits: until then both say the same, and Kea takes "
        "the one of its configuration first; one in its hosts database is deleted there, and until then our host map "
        "is refused, and the client has its address by the old entry"
    ),
    "file": "delete it there when our host map is in effect",
}
