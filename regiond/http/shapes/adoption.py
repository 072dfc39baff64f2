"""What a cluster's DHCP server has of its own looks like."""

from regiond.http.shapes.values import (
    Address,
    Cidr,
    ClusterName,
    Count,
    ForeignEntryId,
    Moment,
    ReservationId,
    Shape,
    SubnetId,
)


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
