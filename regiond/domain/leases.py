"""Leases that clusters' DHCP servers have, as the region hears of them; pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from clusterd.protocol.addresses import pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier
from regiond.domain import errors


@dataclass(frozen=True, slots=True)
class FoundLease:
    """A lease that the DHCP server of a cluster has now."""

    cluster: int
    cluster_name: str
    lease: ServerLease


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease, and the reservation that has its address, whoever the client is."""

    found: FoundLease
    reservation: int | None


@dataclass(frozen=True, slots=True)
class LeaseSource:
    """A cluster that was asked. `error` says why nothing is known from it, None: its leases are told."""

    cluster: int
    name: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseListing:
    """One page, from all clusters that serve a subnet. `following` is the address after which the next one begins."""

    subnet: int
    leases: tuple[LeaseView, ...]
    sources: tuple[LeaseSource, ...]
    following: str | None


@dataclass(frozen=True, slots=True)
class LeasePart:
    """What one cluster told, in order of address; `more`: it has leases above these."""

    leases: tuple[FoundLease, ...]
    more: bool


def merge(parts: Iterable[LeasePart], limit: int) -> tuple[Sequence[FoundLease], str | None]:
    """The leases on at most `limit` addresses, the lowest, and the last of these where others follow.

    Above the last lease of a cluster that has more, nothing is complete yet.
    """
    told = [part for part in parts if part.leases]
    horizons = [_key(part.leases[-1]) for part in told if part.more]
    rows = sorted((row for part in told for row in part.leases), key=lambda row: (_key(row), row.cluster))
    addresses = sorted({_key(row) for row in rows})
    within = [key for key in addresses if not horizons or key <= min(horizons)][:limit]
    if not within:
        return [], None
    shown = [row for row in rows if _key(row) <= within[-1]]
    return shown, shown[-1].lease.address if horizons or len(within) < len(addresses) else None


def of_others(found: Iterable[FoundLease], own: Collection[Identifier]) -> tuple[FoundLease, ...]:
    """Those of clients that are not known to be one of these."""
    return tuple(one for one in found if not any(one.lease.is_of(identifier) for identifier in own))


def leased_to_another(leases: Sequence[FoundLease]) -> errors.LeasedToAnother:
    """Why a claim for their address is refused."""
    where = ", ".join(dict.fromkeys(found.cluster_name for found in leases))
    return errors.LeasedToAnother(
        f"another client has a lease on {leases[0].lease.address} from the DHCP server of {where}; an admin can take "
        "the address with force=true, which ends the lease where the server can",
        leases=list(leases),
    )


def told_of(leases: Iterable[FoundLease]) -> dict[str, Any]:
    """Leases in a line of the audit."""
    return {
        "leases": [
            {"cluster": found.cluster_name, "clients": [str(identifier) for identifier in found.lease.identifiers]}
            for found in leases
        ]
    }


def _key(found: FoundLease) -> bytes:
    return pack_address(found.lease.address)
