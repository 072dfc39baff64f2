"""Reservations and the state of their host maps, as everybody outside the database sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from clusterd.protocol.values import Identifier, IdentifierKind, parse_hex


class Kind(StrEnum):
    """Who a reservation is for."""

    DEVICE = "device"
    NODE = "node"
    USER = "user"
    RECOVERED = "recovered"  # a cluster served it, and the region did not know: see regiond.domain.recovery


class Status(StrEnum):
    """`releasing`: given up, but a cluster may still serve it or a client still use it."""

    ACTIVE = "active"
    RELEASING = "releasing"


class MapState(StrEnum):
    """How far a host map is, for people: in effect, on its way, or refused."""

    APPLIED = "applied"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one cluster has of one subnet's host maps, and since when it is as it is.

    `epoch` is the number of the cluster's latest connection; `unheard`: the region recovers, and does not know yet what
    the cluster has.
    """

    cluster: int
    cluster_name: str
    role: str
    connected: bool
    accepted_generation: int
    applied_generation: int
    error: str | None
    since: datetime
    epoch: int = 0
    unheard: bool = False


@dataclass(frozen=True, slots=True)
class ClusterProgress:
    """How far one cluster is with one reservation's host maps."""

    cluster: int
    name: str
    state: MapState
    generation: int
    since: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Reservation:
    """The region's record that an address is taken. Texts are canonical; times are UTC.

    `map_generation` is the subnet generation at which its host maps last changed, None for a user reservation.
    `macs`, `client_id` and `duid` are written as octets with colons. `probed`: whether it was found out that nobody
    used the address when it was handed out; None where nobody wanted to know.
    """

    id: int
    kind: Kind
    status: Status
    address: str
    subnet: int
    cidr: str
    vrf: str
    owner: int
    owner_name: str
    macs: tuple[str, ...]
    client_id: str | None
    duid: str | None
    alias: str | None
    hostname: str | None
    device: int | None
    node: int | None
    purpose: str | None
    comment: str | None
    group: int | None
    created: datetime
    expires_at: datetime | None
    map_generation: int | None
    release_generation: int | None = None
    confirmed_at: datetime | None = None
    free_at: datetime | None = None
    probed: bool | None = None

    @property
    def identifiers(self) -> frozenset[Identifier]:
        """By what its clients are recognised, also when none of them has a host map (any more)."""
        texts = [
            *((IdentifierKind.MAC, mac) for mac in self.macs),
            (IdentifierKind.CLIENT_ID, self.client_id),
            (IdentifierKind.DUID, self.duid),
        ]
        return frozenset(Identifier(kind, parse_hex(text)) for kind, text in texts if text is not None)


def progress_of(
    generation: int, deliveries: Sequence[Delivery], rejections: dict[int, str]
) -> tuple[ClusterProgress, ...]:
    """How far each serving cluster is with a host map of this generation.

    `rejections` has the DHCP server's words for each cluster that rejects one of the reservation's identifiers.
    """
    progress = []
    for delivery in deliveries:
        if delivery.role != "serving":
            continue
        rejected = rejections.get(delivery.cluster)
        if rejected is not None:
            state, error = MapState.FAILED, rejected
        elif delivery.applied_generation >= generation:
            state, error = MapState.APPLIED, None
        elif delivery.error is not None:
            state, error = MapState.FAILED, delivery.error
        else:
            state, error = MapState.PENDING, None
        progress.append(
            ClusterProgress(
                delivery.cluster, delivery.cluster_name, state, delivery.applied_generation, delivery.since, error
            )
        )
    return tuple(progress)


def overall_state(progress: Sequence[ClusterProgress]) -> MapState:
    """One word for all clusters: failed if any refuses, applied only when every serving cluster has it."""
    states = {cluster.state for cluster in progress}
    if MapState.FAILED in states:
        return MapState.FAILED
    return MapState.APPLIED if states == {MapState.APPLIED} else MapState.PENDING
