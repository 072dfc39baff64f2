"""Times and ids as people and programs see them."""

from datetime import UTC, datetime
from typing import overload

from regiond.domain.ids import Prefix, format_id


@overload
def moment(time: datetime) -> str: ...


@overload
def moment(time: datetime | None) -> str | None: ...


def moment(time: datetime | None) -> str | None:
    """RFC 3339 in UTC with milliseconds."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def optional_id(prefix: Prefix, number: int | None) -> str | None:
    return None if number is None else format_id(prefix, number)
