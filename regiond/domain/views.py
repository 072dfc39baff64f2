"""What is read and shown: devices, nodes, clusters and their interfaces, subnets."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from regiond.domain.reservations import ClusterProgress, Reservation


@dataclass(frozen=True, slots=True)
class ReservationView:
    """A reservation and how far each serving cluster is with it; `progress` is None where there is no host map.

    `waits_for` says in words what keeps a releasing address from being free; empty while it is active.
    """

    reservation: Reservation
    progress: tuple[ClusterProgress, ...] | None
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceView:
    id: int
    hostname: str | None
    owner_name: str
    comment: str | None
    created: datetime
    reservations: tuple[ReservationView, ...]


@dataclass(frozen=True, slots=True)
class NodeView:
    id: int
    hostname: str
    owner: int
    owner_name: str
    macs: tuple[str, ...]
    comment: str | None
    created: datetime


@dataclass(frozen=True, slots=True)
class InterfaceView:
    """A cluster interface. `serving` is serving, shared-subnet, unserved, declined or conflict; in a conflict `subnet`
    is None and `conflict` says why. `relayed`: its clients are not on the NIC, their requests come in by it."""

    id: int
    cluster: int
    cluster_name: str
    nic: str
    cidr: str
    vrf: str
    subnet: int | None
    addresses: tuple[str, ...]
    gateways: tuple[str, ...]
    mac: str | None
    kind: str
    vlan: int | None
    up: bool
    present: bool
    serving: str
    relayed: bool = False
    conflict: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterSubnetView:
    """What one cluster has of one subnet. `drift_at` is when it last found host maps in its DHCP server otherwise than
    it had applied them, and put them right; `drift_count` how many. None: never.
    """

    subnet: int
    cidr: str
    role: str
    desired_generation: int
    accepted_generation: int
    applied_generation: int
    error: str | None
    since: datetime
    drift_count: int | None = None
    drift_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster. `certificate_expires` is of the newest certificate that is good, None where there is none;
    `turns_seen` is when two hosts with this cluster's identity were seen last, `topology_at` when it told its
    interfaces last.
    """

    id: int
    name: str
    vrf: str
    hostname: str
    backend: str
    software_version: str
    connected: bool
    connected_since: datetime | None
    last_heard: datetime | None
    subnets: tuple[ClusterSubnetView, ...]
    enrolled: datetime | None = None
    certificate_expires: datetime | None = None
    revoked: datetime | None = None
    turns_seen: datetime | None = None
    topology_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SubnetView:
    """`awaits` names the serving clusters that have not told yet what their DHCP servers have of their own: until then
    nothing is claimed, unless it is `claimable_anyway`. `cluster_ids` are those of `clusters`. `probe`: claims are
    probed unless they say otherwise. `claimants` names the accounts that may claim beside admins; None: all. While
    `recovering`, nothing is claimed: see `regiond.domain.recovery`."""

    id: int
    cidr: str
    vrf: str
    generation: int
    release_hold_seconds: int
    clusters: tuple[str, ...]
    reservations: int
    releasing: int
    claimable_anyway: bool = False
    awaits: tuple[str, ...] = ()
    cluster_ids: tuple[int, ...] = ()
    probe: bool = False
    claimants: tuple[str, ...] | None = None
    recovering: bool = False

    @property
    def claimable(self) -> bool:
        """Whether addresses can be claimed now, by those who may."""
        return not self.recovering and (self.claimable_anyway or not self.awaits)


@dataclass(frozen=True, slots=True)
class Utilisation:
    """How the addresses of a subnet are used, by number. What lies in a range and is reserved counts as both.

    `active` is by kind of reservation, `in_ranges` by kind of range; only claimable addresses are counted there. A
    static entry of a site's own DHCP server counts beside what else it is. `in_use` are marked: see
    `regiond.domain.addresses_in_use`.
    """

    subnet: int
    cidr: str
    usable: int
    active: Mapping[str, int]
    releasing: int
    in_ranges: Mapping[str, int]
    infrastructure: int
    free: int
    static_entries: int = 0
    in_use: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the database that contradicts something else. `kind` is stable; `detail` names both."""

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of one subnet looked at, by number, and what it found."""

    subnet: int
    cidr: str
    vrf: str
    reservations: int
    host_maps: int
    free_ranges: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to which object, in which request. `account` is None for the region itself."""

    id: int
    at: datetime
    account: int | None
    actor: str
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str
