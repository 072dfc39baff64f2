"""What happened, as values: reservations, host maps on clusters, clusters; in the order of their positions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from regiond.domain.reservations import Kind

EVENT_ID_PATTERN: Final = "([0-9a-f]{8})-([0-9]{1,18})"
_EVENT_ID = re.compile(EVENT_ID_PATTERN)


class EventKind(StrEnum):
    """What an event is about."""

    RESERVATION = "reservation"
    HOST_MAP = "host-map"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class ChangedMap:
    """A reservation whose host map a cluster is told to have, or not to have any more. `owner` is None when it is gone.

    `refused`: the cluster's DHCP server does not take it.
    """

    reservation: int
    owner: int | None
    refused: bool


@dataclass(frozen=True, slots=True)
class Event:
    """`owner` of a reservation is who may know of it. `more`: there are more `maps` than these."""

    position: int
    at: datetime
    kind: EventKind
    action: str
    subnet: int | None = None
    cidr: str | None = None
    vrf: str | None = None
    cluster: int | None = None
    cluster_name: str | None = None
    reservation: int | None = None
    reservation_kind: Kind | None = None
    address: str | None = None
    owner: int | None = None
    owner_name: str | None = None
    device: int | None = None
    node: int | None = None
    generation: int | None = None
    error: str | None = None
    maps: tuple[ChangedMap, ...] = ()
    more: bool = False

    def is_for(self, account: int) -> bool:
        """Whether a user may know of it: its own reservations and their host maps, and what is nobody's."""
        match self.kind:
            case EventKind.RESERVATION:
                return self.owner == account
            case EventKind.HOST_MAP:
                return self.more or any(one.owner == account for one in self.maps)
            case EventKind.CLUSTER:
                return True


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in order, and how far they reach: `history` and the positions of the last event and of the last one that
    is not kept any more.
    """

    history: str
    last: int
    gone: int
    events: Sequence[Event] = ()

    def reaches_back_to(self, position: int) -> bool:
        """Whether everything after this position is still there."""
        return self.gone <= position <= self.last


@dataclass(frozen=True, slots=True)
class EventId:
    """Where somebody is: a position in one past of the region."""

    history: str
    position: int

    def __str__(self) -> str:
        return f"{self.history[:8]}-{self.position}"


def parse_event_id(text: str) -> tuple[str, int] | None:
    """The first digits of the history, and the position; None for what is no id."""
    found = _EVENT_ID.fullmatch(text)
    return None if found is None else (found[1], int(found[2]))
