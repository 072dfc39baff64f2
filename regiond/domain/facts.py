"""What one batch reads before it plans: exactly the rows that its mutations can touch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from clusterd.protocol.values import Identifier
from regiond.domain.networks import Network
from regiond.domain.reservations import Delivery, Reservation


@dataclass(frozen=True, slots=True)
class SubnetFacts:
    """A locked subnet. `digest` is of its desired host maps; `hold_seconds` its release hold.

    `was_served` tells whether any cluster ever held its host maps: nobody can still use a map that was never
    given out. `awaits` names the clusters that serve it and have not reported yet what their DHCP servers have of their
    own.
    While `recovering`, nothing is claimed: see `regiond.domain.recovery`. `probes`: claims are probed unless they say
    otherwise. `claimants`: the accounts that may claim beside admins; None: all.
    """

    id: int
    network: Network
    vrf: str
    generation: int
    digest: int
    hold_seconds: int
    was_served: bool
    free: tuple[tuple[int, int], ...]
    awaits: tuple[str, ...] = ()
    recovering: bool = False
    probes: bool = False
    claimants: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A host map row: the reservation it came from, whether it is a tombstone, and the request that last changed it."""

    reservation: int
    address: str
    hostname: str | None
    removed: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an address that is nobody's is not claimable either.

    `kind` is dynamic, reserved, gateway, controller, static-entry or in-use; `cluster` is whose DHCP server says so, or
    who saw it in use. `mac` is who uses it.
    """

    kind: str
    low: int
    high: int
    cluster: str | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The stored answer to an idempotency key."""

    fingerprint: str
    answer: str


@dataclass(frozen=True, slots=True)
class QuotaFacts:
    """An account with a limit, None for one it does not have, and how many user reservations it has.

    `used_on` has those subnets of the batch on which it has any.
    """

    limit: int | None
    limit_per_subnet: int | None
    used: int
    used_on: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """A device that is to be changed, locked. `held` are the ids of its active reservations."""

    id: int
    hostname: str | None
    owner: int
    owner_name: str
    comment: str | None
    held: frozenset[int]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node that is to be changed, locked. `held` are the ids of its extra addresses that are active."""

    id: int
    hostname: str
    owner: int
    owner_name: str
    comment: str | None
    macs: tuple[str, ...]
    held: frozenset[int]


@dataclass(slots=True)
class Facts:
    """All of it. `reservations` is by (subnet, address); `now` is the database's clock.

    `quotas` has the owners of user claims that have a limit.
    """

    now: datetime
    subnets: dict[int, SubnetFacts] = field(default_factory=dict)
    reservations: dict[tuple[int, int], Reservation] = field(default_factory=dict)
    maps: dict[tuple[int, Identifier], MapFacts] = field(default_factory=dict)
    obstacles: dict[tuple[int, int], Obstacle] = field(default_factory=dict)
    deliveries: dict[int, list[Delivery]] = field(default_factory=dict)
    answered: dict[tuple[int, str], Answered] = field(default_factory=dict)
    quotas: dict[int, QuotaFacts] = field(default_factory=dict)
    devices: dict[int, DeviceFacts] = field(default_factory=dict)
    nodes: dict[int, NodeFacts] = field(default_factory=dict)
