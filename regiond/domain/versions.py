"""The version of a thing: a text that changes whenever something changes that a client can write, and only then.

It is a strong entity tag (RFC 9110, 8.8.3), with its quotes, as it stands in `ETag` and `If-Match`. What moves by
itself (a host map's progress, who is connected) is not in it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from regiond.domain import errors
from regiond.domain.ranges import AddressRange
from regiond.domain.reservations import Reservation, Status


def of_reservation(held: Reservation) -> str:
    return _of(
        [held.id, held.status.value, held.hostname, held.purpose, held.comment, _moment(held.expires_at), *held.macs]
    )


def of_group(group: int, reservations: Iterable[Reservation]) -> str:
    return _of([group, *sorted(of_reservation(held) for held in reservations)])


def of_device(
    device: int, hostname: str | None, owner: str, comment: str | None, reservations: Iterable[Reservation]
) -> str:
    return _of([device, hostname, owner, comment, *macs_of(reservations)])


def of_node(node: int, hostname: str, owner: str, comment: str | None, macs: Iterable[str]) -> str:
    return _of([node, hostname, owner, comment, *sorted(macs)])


def of_account(account: int, disabled: bool, most: int | None, most_per_subnet: int | None) -> str:
    return _of([account, disabled, most, most_per_subnet])


def of_subnet(
    subnet: int, release_hold_seconds: int, claimable_anyway: bool, probe: bool, claimants: Sequence[str] | None
) -> str:
    return _of([subnet, release_hold_seconds, claimable_anyway, probe, None if claimants is None else list(claimants)])


def of_vrf(vrf: int, comment: str | None) -> str:
    return _of([vrf, comment])


def of_cluster(cluster: int, name: str, vrf: str) -> str:
    return _of([cluster, name, vrf])


def of_interface(interface: int, serves: bool) -> str:
    return _of([interface, serves])


def of_range(held: AddressRange) -> str:
    return _of([held.id, held.values.kind, held.values.low, held.values.high, held.values.comment])


def of_token(token: int) -> str:
    """Nothing of a token can be written."""
    return _of([token])


def macs_of(reservations: Iterable[Reservation]) -> list[str]:
    """The MAC addresses of a device: those of the reservations that it has not given up."""
    return sorted({mac for held in reservations if held.status is Status.ACTIVE for mac in held.macs})


def require(wanted: frozenset[str] | None, version: str) -> None:
    """Raises StaleVersion unless it is one of those that are wanted; None wants any."""
    if wanted is not None and version not in wanted:
        raise errors.StaleVersion("it was changed since: read it again", etag=version)


def _of(written: list[Any]) -> str:
    return f'"{hashlib.sha256(to_json(written)).hexdigest()[:16]}"'


def _moment(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")
