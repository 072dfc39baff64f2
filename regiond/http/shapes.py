"""What answers look like: the types of `representations`, and the schemas of the OpenAPI document, in one.

They are dictionaries at run time. A field that is not required is one that only some answers have.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from regiond.domain import reservations
from regiond.domain.ids import ID_BITS, Prefix

_LENGTH = ID_BITS // 5
_ID_CHARACTERS = "[0-9a-hjkmnp-tv-z]"


def _id(prefix: Prefix) -> Any:
    pattern = f"^{prefix}-{_ID_CHARACTERS}{{{_LENGTH}}}$"
    return Field(pattern=pattern, examples=[f"{prefix}-4k2m9q8xvz"])


AccountId = Annotated[str, _id(Prefix.ACCOUNT)]
RangeId = Annotated[str, _id(Prefix.ADDRESS_RANGE)]
AuditEntryId = Annotated[str, _id(Prefix.AUDIT_ENTRY)]
ClusterId = Annotated[str, _id(Prefix.CLUSTER)]
ClusterInterfaceId = Annotated[str, _id(Prefix.CLUSTER_INTERFACE)]
DeviceId = Annotated[str, _id(Prefix.DEVICE)]
ForeignEntryId = Annotated[str, _id(Prefix.FOREIGN_ENTRY)]
GroupId = Annotated[str, _id(Prefix.GROUP)]
NodeId = Annotated[str, _id(Prefix.NODE)]
ReservationId = Annotated[str, _id(Prefix.RESERVATION)]
SubnetId = Annotated[str, _id(Prefix.SUBNET)]
TokenId = Annotated[str, _id(Prefix.TOKEN)]

Moment = Annotated[
    str,
    Field(
        description="RFC 3339, UTC, with milliseconds",
        json_schema_extra={"format": "date-time"},
        examples=["2026-01-31T12:00:00.123Z"],
    ),
]
Address = Annotated[str, Field(description="an IP address in its canonical spelling", examples=["192.0.2.7"])]
Cidr = Annotated[str, Field(examples=["192.0.2.0/24", "2001:db8::/64"])]
Mac = Annotated[str, Field(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$", examples=["00:16:3e:00:00:01"])]
Octets = Annotated[str, Field(pattern="^[0-9a-f]{2}(:[0-9a-f]{2})*$", examples=["01:00:16:3e:00:00:01"])]
Etag = Annotated[
    str,
    Field(
        description="the version, as in the ETag header: for If-Match",
        pattern='^"[0-9a-f]{16}"$',
        examples=['"9f86d081884c7d65"'],
    ),
]
Count = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="forbid"))
class Shape(TypedDict):
    """A JSON object with these members and no others."""


class SubnetName(Shape):
    id: SubnetId
    cidr: Cidr
    vrf: str


class ClusterName(Shape):
    id: ClusterId
    name: str


class ClusterProgress(Shape):
    """How far a cluster is: the generation that its DHCP server has, since when, and what it says against it."""

    id: ClusterId
    name: str
    state: Literal["applied", "pending", "failed"]
    generation: Count
    since: Moment
    error: str | None


class HostMap(Shape):
    """`applied` where every serving cluster has it, `failed` where one refuses it."""

    state: Literal["applied", "pending", "failed"]
    clusters: list[ClusterProgress]


class Record(Shape):
    """A reservation without the progress of its host map."""

    id: ReservationId
    kind: reservations.Kind
    status: Annotated[
        reservations.Status,
        Field(description="`releasing`: given up, and not free yet: see `waits_for` and `free_at`"),
    ]
    address: Address
    subnet: SubnetName
    mac: Annotated[Mac | None, Field(description="the first of `macs`")]
    macs: list[Mac]
    client_id: Octets | None
    duid: Octets | None
    alias: str | None
    hostname: str | None
    owner: str
    device: DeviceId | None
    node: NodeId | None
    group: GroupId | None
    purpose: str | None
    comment: str | None
    created: Moment
    expires_at: Moment | None
    free_at: Moment | None
    etag: Etag


class Reservation(Record):
    """The region's record that an address is taken; with a host map, but for a user's."""

    waits_for: list[str]
    host_map: HostMap | None


class Group(Shape):
    """Addresses that were reserved together."""

    group: GroupId | None
    reservations: list[Reservation]


class Releasing(Shape):
    """What clusters have yet to confirm."""

    releasing: list[Reservation]


class HeldByAnother(Shape):
    """All that others may know of a reservation."""

    kind: reservations.Kind


class Device(Shape):
    """An unmanaged device with its reservations."""

    id: DeviceId
    hostname: str | None
    macs: list[Mac]
    owner: str
    comment: str | None
    created: Moment
    etag: Etag
    reservations: list[Reservation]


class Node(Shape):
    id: NodeId
    hostname: str
    macs: list[Mac]
    owner: str
    comment: str | None
    created: Moment
    etag: Etag


class ClusterSubnet(Shape):
    """What a cluster has of a subnet: `pending` generations are on their way."""

    id: SubnetId
    cidr: Cidr
    role: Annotated[str, Field(json_schema_extra={"enum": ["serving", "draining", "former"]})]
    desired_generation: Count
    accepted_generation: Count
    applied_generation: Count
    pending: int
    error: str | None
    since: Moment


class Cluster(Shape):
    """A site as the region knows it."""

    id: ClusterId
    name: str
    vrf: str
    hostname: str
    backend: str
    software_version: str
    connected: bool
    connected_since: Moment | None
    last_heard: Moment | None
    enrolled: Moment | None
    certificate_expires: Moment | None
    revoked: Moment | None
    turns_seen: Moment | None
    subnets: list[ClusterSubnet]


class Enrolment(Shape):
    """How a cluster of this name enrols. The token is shown this once."""

    name: str
    token: str | None
    expires_at: Moment
    endpoint: str
    fingerprint: str
    command: str


class ClusterInterface(Shape):
    """One NIC of a cluster controller on one subnet."""

    id: ClusterInterfaceId
    cluster: ClusterName
    nic: str
    cidr: Cidr
    vrf: str
    subnet: SubnetId | None
    addresses: list[Address]
    gateways: list[Address]
    mac: Annotated[Mac | None, Field(description="for admins")]
    kind: str
    vlan: int | None
    up: bool
    present: bool
    serving: Annotated[str, Field(json_schema_extra={"enum": ["serving", "shared-subnet", "conflict"]})]


class Subnet(Shape):
    id: SubnetId
    cidr: Cidr
    vrf: str
    generation: Count
    release_hold_seconds: Count
    clusters: Annotated[list[str], Field(description="the names of those that serve it")]
    reservations: Count
    releasing: Count
    claimable: bool
    claimable_anyway: bool
    awaits: list[str]
    etag: Etag


class SubnetCidr(Shape):
    id: SubnetId
    cidr: Cidr


class Utilisation(Shape):
    """Numbers of addresses; of an IPv6 subnet they are larger than what some JSON readers keep exactly."""

    subnet: SubnetCidr
    usable: Count
    reserved: Annotated[Mapping[str, Count], Field(description="active ones by kind, and `total`")]
    releasing: Count
    in_ranges: Annotated[Mapping[str, Count], Field(description="by kind of range")]
    infrastructure: Count
    static_entries: Count
    free: Count


class Range(Shape):
    """Addresses that are never allocated; both ends are included."""

    id: RangeId
    subnet: SubnetId
    kind: Literal["dynamic", "reserved"]
    low: Address
    high: Address
    comment: str | None
    reported_by: str | None
    created: Moment
    etag: Etag


class Pool(Shape):
    low: Address
    high: Address
    source: str
    cidr: Cidr | None
    reservations: Count


class DhcpServer(Shape):
    """What a cluster's DHCP server has of its own."""

    cluster: ClusterName
    backend: str
    contact: str
    read_at: Moment | None
    error: str | None
    remarks: list[str]
    pools: list[Pool]
    static_entries: Count


class ForeignEntry(Shape):
    """A static entry of a DHCP server that is not ours, and what adopting it would come to."""

    id: ForeignEntryId
    address: Address
    identifiers: list[str]
    hostname: str | None
    source: str
    subnet: SubnetId | None
    cidr: Cidr | None
    adoption: str
    reason: str | None
    reservation: ReservationId | None
    what_to_delete: str | None


class AdoptionResult(Shape):
    entry: ForeignEntryId
    adoption: str
    reason: str | None
    reservation: ReservationId | None


class Checked(Shape):
    reservations: Count
    host_maps: Count
    free_ranges: Count


class Finding(Shape):
    kind: str
    detail: str


class CheckReport(Shape):
    subnet: SubnetName
    checked: Checked
    sound: bool
    findings: list[Finding]


class AuditEntry(Shape):
    """Who did what; `account` is null for the region itself."""

    id: AuditEntryId
    at: Moment
    account: AccountId | None
    actor: str
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str


class Account(Shape):
    """A limit counts live user reservations; null is no limit."""

    id: AccountId
    name: str
    role: Literal["admin", "user"]
    disabled: bool
    reservations: Count
    max_reservations: int | None
    max_reservations_per_subnet: int | None
    created: Moment
    etag: Etag


class Token(Shape):
    """A token without its secret."""

    id: TokenId
    account: str
    name: str
    read_only: bool
    created: Moment
    expires_at: Moment | None
    etag: Etag


class NewToken(Token):
    """The only answer with the token itself; in the one to a repeated key it is null."""

    token: str | None


class RecoveringCluster(Shape):
    id: ClusterId
    name: str
    connected: bool
    heard: bool
    last_heard: Moment | None
    software_version: str


class RecoveringSubnet(Shape):
    id: SubnetId
    cidr: Cidr
    vrf: str
    since: Moment
    waits_for: list[str]


class RecoveryFinding(Shape):
    at: Moment
    kind: str
    subnet: SubnetId | None
    cidr: Cidr | None
    address: Address | None
    reservation: ReservationId | None
    detail: str


class Recovery(Shape):
    """How far a recovery is; `since` is null when none goes on."""

    history: str
    since: Moment | None
    reason: str | None
    clusters: list[RecoveringCluster]
    subnets: list[RecoveringSubnet]
    counts: Mapping[str, Count]
    findings: list[RecoveryFinding]


class Health(Shape):
    status: Literal["ok", "ready"]


class Mistake(Shape):
    """`pointer`: a JSON pointer into the body, `?name` of the query, or the name of a header."""

    pointer: str
    detail: str


class Candidate(Shape):
    id: str
    cluster: str | None
    nic: str | None
    cidr: Cidr
    vrf: str


class Problem(Shape):
    """What went wrong (RFC 9457). `type` is stable; the members after `request_id` belong to some types only."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: NotRequired[list[Mistake]]
    position: NotRequired[int]
    selector: NotRequired[str]
    candidates: NotRequired[list[Candidate]]
    subnets: NotRequired[list[str]]
    holder: NotRequired[Record | HeldByAnother | None]
    location: NotRequired[str]
    etag: NotRequired[Etag]
    range: NotRequired[Range]
    reservations: NotRequired[list[Record | HeldByAnother]]
    count: NotRequired[Count]
    scope: NotRequired[Literal["account", "subnet"]]
    limit: NotRequired[Count]
    used: NotRequired[int]
    wanted: NotRequired[Count]
    max_bytes: NotRequired[Count]
    reference: NotRequired[str]
    shortcomings: NotRequired[list[str]]
    outcome_unknown: NotRequired[bool]
