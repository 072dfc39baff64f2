"""What reservations look like, and how far their host maps are."""

from typing import Annotated, Literal

from pydantic import Field

from regiond.domain import reservations
from regiond.http.shapes.values import (
    Address,
    ClusterId,
    Count,
    DeviceId,
    Etag,
    GroupId,
    Mac,
    Moment,
    NodeId,
    Octets,
    ReservationId,
    Shape,
    SubnetName,
)


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
    probed: Annotated[
        bool | None,
        Field(description="whether it was found out on the wire that nobody used the address; null: nobody asked"),
    ]
    etag: Etag


class Reservation(Record):
    """The region's record that an address is taken; with a host map, but for a user's."""

    waits_for: list[str]
    host_map: HostMap | None


class Group(Shape):
    """Addresses that were reserved together."""

    group: GroupId | None
    reservations: list[Reservation]
    etag: Etag


class Releasing(Shape):
    """What clusters have yet to confirm."""

    releasing: list[Reservation]


class HeldByAnother(Shape):
    """All that others may know of a reservation."""

    kind: reservations.Kind
