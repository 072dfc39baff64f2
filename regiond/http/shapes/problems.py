"""What errors look like."""

from typing import Literal, NotRequired

from regiond.http.shapes.health import Database, Replication
from regiond.http.shapes.leases import ForeignLease, LeaseOfAnother
from regiond.http.shapes.reservations import HeldByAnother, Record
from regiond.http.shapes.subnets import Range
from regiond.http.shapes.values import Cidr, Count, Etag, Shape, SubnetId


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


class Trouble(Shape):
    """What went wrong, in words and for programs. `type` is stable; what is not always there belongs to some types."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[Mistake]]
    position: NotRequired[int]
    selector: NotRequired[str]
    candidates: NotRequired[list[Candidate]]
    subnets: NotRequired[list[str]]
    clusters: NotRequired[list[str]]
    subnet: NotRequired[SubnetId]
    subnet_count: NotRequired[Count]
    cluster_count: NotRequired[Count]
    holder: NotRequired[Record | HeldByAnother | None]
    leases: NotRequired[list[ForeignLease | LeaseOfAnother]]
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
    database: NotRequired[Database]
    replication: NotRequired[Replication | None]
    reasons: NotRequired[list[str]]
    outcome_unknown: NotRequired[bool]


class RefusedMember(Trouble):
    """What is wrong with one member of a batch; `member` is its position, from 0."""

    member: Count


class Problem(Trouble):
    """What went wrong with a request (RFC 9457)."""

    request_id: str
    refused: NotRequired[list[RefusedMember]]
