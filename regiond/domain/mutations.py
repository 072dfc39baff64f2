"""Every change of reservations and deliveries, as values on the writer's queue.

A mutation is all or nothing; mutations that wait together share one transaction and never fail each other.
Addresses are canonical text; random ids are made by whoever builds the value, so that planning stays a function of
its arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from clusterd.protocol.values import Identifier, IdentifierKind, RejectedMap
from regiond.domain.ids import Prefix
from regiond.domain.leases import FoundLease
from regiond.domain.reservations import Delivery, Kind, Reservation


@dataclass(frozen=True, slots=True)
class Actor:
    """On whose behalf something happens: an account, or the region itself (a sweep)."""

    account: int | None
    name: str
    is_admin: bool


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A key of the account's own choosing, and the fingerprint of the request that it stands for."""

    account: int
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NewDevice:
    """An unmanaged device, made in the transaction of its first claim."""

    id: int
    hostname: str | None
    comment: str | None


class Probing(StrEnum):
    """Whether a claim's addresses are probed before they are handed out: see regiond/use_cases/probed_claims.py."""

    NO = "no"
    DEFAULT = "default"  # as its subnet says
    YES = "yes"
    IMPOSSIBLE = "impossible"  # it was wanted, and nobody can do it now


@dataclass(frozen=True, slots=True)
class Claim:
    """The request that makes a reservation. Without `address`: the lowest free one.

    `identifiers` become host maps; `mac` is only written down (a user reservation has no host map). With `others`,
    the ids of more reservations, as many addresses are claimed, all or none: only without address and identifiers.
    With `adopts` it makes a reservation of a static entry of a site's DHCP server: that entry, and a pool of the server
    around it, are no obstacle. `leases` are live leases on `address` that other clients have: an obstacle, unless it is
    taken `over_leases`. `vetted` are addresses that were found to be nobody's by probing, just now: where that
    is wanted no other address is taken (Unvetted).
    """

    reservation: int
    kind: Kind
    subnet: int
    owner: int
    owner_name: str
    address: str | None = None
    identifiers: tuple[Identifier, ...] = ()
    mac: str | None = None
    alias: str | None = None
    hostname: str | None = None
    device: NewDevice | int | None = None
    node: int | None = None
    purpose: str | None = None
    comment: str | None = None
    group: int | None = None
    expires_at: datetime | None = None
    others: tuple[int, ...] = ()
    adopts: bool = False
    leases: tuple[FoundLease, ...] = ()
    over_leases: bool = False
    probing: Probing = Probing.NO
    vetted: tuple[str, ...] = ()

    @property
    def macs(self) -> frozenset[str]:
        """The MAC addresses that it is for."""
        own = {i.text for i in self.identifiers if i.kind is IdentifierKind.MAC}
        return frozenset(own if self.mac is None else {*own, self.mac})

    @property
    def count(self) -> int:
        """How many addresses it takes."""
        return 1 + len(self.others)

    @property
    def device_id(self) -> int | None:
        return self.device.id if isinstance(self.device, NewDevice) else self.device


@dataclass(frozen=True, slots=True)
class Release:
    """Give a reservation up. `subnet` and `address` never change, so the caller has read them before.

    Its host maps are removed at once; the address is free when every holder confirmed and the hold passed, or
    now with `force`. `if_expired`: only if its time is over (the sweep's step), which somebody may have changed.
    """

    reservation: int
    subnet: int
    address: str
    force: bool = False
    if_expired: bool = False


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Free a releasing address whose time has come (the sweep's step); nothing if it has not, or is gone."""

    reservation: int
    subnet: int
    address: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reservation is: what of it never changes."""

    reservation: int
    subnet: int
    address: str


class ReservationEdit(TypedDict, total=False):
    """What of a reservation is set anew."""

    hostname: str | None
    comment: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class EditReservation:
    """Set what can be written of an active reservation; its host maps follow."""

    at: Place
    values: ReservationEdit

    @property
    def places(self) -> tuple[Place, ...]:
        return (self.at,)


class DeviceEdit(TypedDict, total=False):
    """What of a device is set anew. `owner` is an account's id and name; `macs` replace all it had."""

    hostname: str | None
    comment: str | None
    owner: tuple[int, str]
    macs: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class EditDevice:
    """Set what can be written of a device. It keeps its addresses, whatever its MAC addresses are from now on.

    `places` are its active reservations as the maker of this step read them: ChangedMeanwhile when they are others.
    """

    device: int
    places: tuple[Place, ...]
    values: DeviceEdit


class NodeEdit(TypedDict, total=False):
    """What of a node is set anew. `macs` are its own; `replaced` names new MAC addresses by the old ones."""

    hostname: str
    comment: str | None
    owner: tuple[int, str]
    macs: tuple[str, ...]
    replaced: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EditNode:
    """As EditDevice, for a node and its extra addresses. A replaced MAC address is replaced in those as well."""

    node: int
    places: tuple[Place, ...]
    values: NodeEdit


@dataclass(frozen=True, slots=True)
class Require:
    """Refuse the whole mutation unless a thing is in one of these versions (regiond/domain/versions.py).

    `id` is of a reservation, group, device or node, `places` are its (active) reservations.
    """

    prefix: Prefix
    id: int
    places: tuple[Place, ...]
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class DropDevice:
    device: int


@dataclass(frozen=True, slots=True)
class DropNode:
    node: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """What a cluster says it has of a subnet. None leaves a column as it is.

    A recorded generation never goes back, except with `reset`: a cluster that registers says what it really has.
    `epoch` is the number of the connection on which it was said: what an older one said than the latest counts no more.
    """

    cluster: int
    subnet: int
    accepted_generation: int | None = None
    applied_generation: int | None = None
    error: str | None = None
    rejected: tuple[RejectedMap, ...] | None = None
    reset: bool = False
    epoch: int | None = None

    @property
    def is_of_server(self) -> bool:
        """Whether it tells of the cluster's DHCP server, and not only of what the cluster keeps for it."""
        return self.applied_generation is not None or self.error is not None or self.rejected is not None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A draining cluster confirmed that it has no map of the subnet left: it is no holder any more."""

    cluster: int
    subnet: int
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """Let the release hold run for removals that every holder has applied (the sweep's step).

    An acknowledgement does so for as many as fit in one batch.
    """

    subnet: int


Edit = EditReservation | EditDevice | EditNode
Step = Claim | Release | Reclaim | Edit | Require | DropDevice | DropNode | Acknowledge | Forgotten | Confirm


@dataclass(frozen=True, slots=True)
class Mutation:
    """Steps that happen together or not at all.

    `members` is of a batch that somebody sent: the position of the member that each step is for, in order.
    """

    actor: Actor
    steps: tuple[Step, ...]
    request_id: str
    idempotency: Idempotency | None = None
    members: tuple[int, ...] = ()

    @property
    def weight(self) -> int:
        """How much planning it takes: its steps, an address of several counting for each."""
        return sum(_weight(step) for step in self.steps)


def _weight(step: Step) -> int:
    if isinstance(step, Claim):
        return step.count + len(step.vetted)
    return 1 + len(step.places) if isinstance(step, EditDevice | EditNode) else 1


@dataclass(frozen=True, slots=True)
class MemberOutcome:
    """What one member of a batch did: whether anything, and how many of the outcome's reservations are its own."""

    created: bool
    reservations: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a mutation did.

    `created` tells whether anything new was made (a claim that found its very reservation made nothing);
    `reservations` are those of its claims and releases, in order of the steps; a release that freed its address
    at once leaves it out. `members` are those of a batch. `replayed` is set on the answer to a repeated idempotency
    key. `deliveries` tells how the clusters stood with the subnets of those reservations at that moment; it is not part
    of a stored answer.
    """

    created: bool
    reservations: tuple[Reservation, ...]
    replayed: bool = False
    deliveries: Mapping[int, tuple[Delivery, ...]] = field(default_factory=dict)
    members: tuple[MemberOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Audit:
    """One line of who did what."""

    actor: Actor
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str
