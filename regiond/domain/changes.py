"""What a planned batch writes, as values by table."""

from dataclasses import dataclass, field, fields

from clusterd.protocol.values import Identifier
from regiond.domain.errors import DomainError
from regiond.domain.facts import Answered, DeviceFacts, MapFacts, NodeFacts
from regiond.domain.mutations import Acknowledge, Audit, NewDevice, Outcome
from regiond.domain.reservations import Delivery, Reservation


@dataclass(slots=True)
class Changes:
    """The rows to write, by table. `maps` carry the identifier they are keyed by.

    What is released is among `reservations_changed`, what is edited (also) among `reservations_edited`.
    """

    reservations_gone: list[Reservation] = field(default_factory=list)
    reservations_new: list[Reservation] = field(default_factory=list)
    reservations_changed: list[Reservation] = field(default_factory=list)
    maps: list[tuple[int, Identifier, MapFacts]] = field(default_factory=list)
    subnets: list[tuple[int, int, int]] = field(default_factory=list)
    free_gone: list[tuple[int, int]] = field(default_factory=list)
    free_put: list[tuple[int, int, int]] = field(default_factory=list)
    deliveries: list[tuple[int, Delivery]] = field(default_factory=list)
    rejected: dict[tuple[int, int], Acknowledge] = field(default_factory=dict)
    confirmed: list[tuple[int, int]] = field(default_factory=list)
    devices_new: list[tuple[NewDevice, int]] = field(default_factory=list)
    devices_gone: list[int] = field(default_factory=list)
    devices_edited: list[DeviceFacts] = field(default_factory=list)
    nodes_edited: list[NodeFacts] = field(default_factory=list)
    reservations_edited: list[Reservation] = field(default_factory=list)
    nodes_gone: list[int] = field(default_factory=list)
    audit: list[Audit] = field(default_factory=list)
    answers: list[tuple[int, str, Answered]] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there is something to write."""
        return any(getattr(self, table.name) for table in fields(self))


@dataclass(frozen=True, slots=True)
class Plan:
    """One outcome per mutation, in order, and what to write for the successful ones."""

    outcomes: list[Outcome | DomainError]
    changes: Changes
    mapped_subnets: frozenset[int]  # whose desired generation rose
