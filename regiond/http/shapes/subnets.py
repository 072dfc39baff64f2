"""What subnets, their ranges and their numbers look like."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from regiond.http.shapes.values import Address, Cidr, Count, Etag, Moment, RangeId, Shape, SubnetId, SubnetName


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
    probe: Annotated[bool, Field(description="addresses are probed unless a claim says otherwise")]
    claimants: Annotated[
        Literal["everyone", "admins"] | list[str], Field(description="who may claim: beside admins the named accounts")
    ]
    awaits: list[str]
    recovering: Annotated[bool, Field(description="nothing is claimed before its clusters were heard: GET /recovery")]
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
    in_use: Annotated[Count, Field(description="addresses that somebody uses without a reservation")]
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
