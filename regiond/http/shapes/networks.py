"""What clusters and their interfaces look like."""

from typing import Annotated

from pydantic import Field

from regiond.http.shapes.values import (
    Address,
    Cidr,
    ClusterId,
    ClusterInterfaceId,
    ClusterName,
    Count,
    Etag,
    Mac,
    Moment,
    Shape,
    SubnetId,
)


class Drift(Shape):
    """Host maps that the cluster found otherwise in its DHCP server than it had applied them, and put right."""

    repaired: int
    at: Moment


class ClusterSubnet(Shape):
    """What a cluster has of a subnet: `pending` generations are on their way; `drift` is the last one, if any."""

    id: SubnetId
    cidr: Cidr
    role: Annotated[str, Field(json_schema_extra={"enum": ["serving", "draining", "former"]})]
    desired_generation: Count
    accepted_generation: Count
    applied_generation: Count
    pending: int
    error: str | None
    since: Moment
    drift: Drift | None


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
    etag: Etag


class Enrolment(Shape):
    """How a cluster of this name enrols. The token is shown this once."""

    name: str
    token: Annotated[
        str | None,
        Field(
            description="null in the answer to a repeated Idempotency-Key, since only its hash is kept: a request with "
            "another key makes another in its place"
        ),
    ]
    expires_at: Moment
    endpoint: str
    fingerprint: str
    command: Annotated[str | None, Field(description="to be run on the controller; null where the token is")]


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
    serving: Annotated[
        str,
        Field(
            json_schema_extra={"enum": ["serving", "shared-subnet", "unserved", "declined", "conflict"]},
            description="`shared-subnet`, `unserved`: an admin has to say so; `declined`: an admin said no; "
            "`conflict`: it is on no subnet",
        ),
    ]
    relayed: Annotated[bool, Field(description="its clients are not on the NIC: their requests are relayed to it")]
    conflict: Annotated[str | None, Field(description="why it is on no subnet")]
    etag: Etag
