"""What several use cases ask before they change something: the role, the version, and whether it is still as it was."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Place, Require
from regiond.domain.reservations import Reservation, Status
from regiond.storage.errors import DatabaseUnavailable
from regiond.use_cases.requests import RequestContext

ATTEMPTS = 10

T = TypeVar("T")


def require_admin(context: RequestContext) -> None:
    """Raises NotPermitted."""
    if not context.caller.is_admin:
        raise errors.NotPermitted("this needs the role admin")


def required(context: RequestContext, prefix: Prefix, id_: int, held: Iterable[Reservation]) -> Sequence[Require]:
    """The step that refuses a stale `If-Match`, if there was one. `held` are the reservations of the thing."""
    if context.if_match is None:
        return ()
    places = places_of(held) if prefix in (Prefix.DEVICE, Prefix.NODE) else tuple(map(place_of, held))
    return (Require(prefix, id_, places, context.if_match),)


def place_of(held: Reservation) -> Place:
    return Place(held.id, held.subnet, held.address)


def places_of(held: Iterable[Reservation]) -> tuple[Place, ...]:
    """Where the active ones are."""
    return tuple(place_of(one) for one in held if one.status is Status.ACTIVE)


async def while_it_changes(act: Callable[[], Awaitable[T]]) -> T:
    """Do it, again and again while what it was built on changes under it. Raises DatabaseUnavailable at last."""
    for _ in range(ATTEMPTS):
        try:
            return await act()
        except errors.ChangedMeanwhile:
            pass
    raise DatabaseUnavailable("its addresses come and go all the time")


async def while_parts_go(delete: Callable[[], Awaitable[T]], look: Callable[[], Awaitable[object]]) -> T:
    """Delete a thing with all its parts, again where one of them came or went meanwhile.

    `look` raises NotFound when the thing itself is gone, and so does this.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await delete()
        except errors.NotFound:
            await look()
    return await delete()


def path_of(held: Reservation) -> str:
    """Where a reservation of a device or node is deleted."""
    if held.node is not None:
        reservation = format_id(Prefix.RESERVATION, held.id)
        return f"/api/v1/nodes/{format_id(Prefix.NODE, held.node)}/addresses/{reservation}"
    return f"/api/v1/devices/{format_id(Prefix.DEVICE, held.device or 0)}"
