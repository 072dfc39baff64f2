"""What a recovery looks like."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from regiond.http.shapes.values import Address, Cidr, ClusterId, Count, Moment, ReservationId, Shape, SubnetId


class RecoveringCluster(Shape):
    id: ClusterId
    name: str
    connected: bool
    heard: bool
    last_heard: Moment | None
    software_version: str
    revoked: bool
    advice: Annotated[str | None, Field(description="what makes it heard, or ends the wait for it")]


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
