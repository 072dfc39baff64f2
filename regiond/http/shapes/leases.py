"""What leases look like."""

from typing import Annotated

from pydantic import Field

from regiond.http.shapes.values import Address, ClusterName, Mac, Moment, Octets, ReservationId, Shape, SubnetId


class LeaseOfAnother(Shape):
    """All that others may know of a lease."""

    address: Address
    expires_at: Moment | None


class ForeignLease(LeaseOfAnother):
    """A lease that stands in the way of a claim."""

    cluster: ClusterName
    mac: Mac | None
    client_id: Octets | None
    duid: Octets | None
    hostname: Annotated[str | None, Field(description="what the client calls itself")]


class Lease(ForeignLease):
    """An address that a DHCP server has given to a client, from a pool or by a host map."""

    reservation: Annotated[
        ReservationId | None, Field(description="the reservation that has this address, whoever the client is")
    ]


class LeaseSource(ClusterName):
    """A cluster that was asked."""

    complete: bool
    error: Annotated[str | None, Field(description="why its leases are not among these")]


class Leases(Shape):
    """One page of leases, lowest addresses first. `complete`: every cluster that serves the subnet told its own."""

    subnet: SubnetId
    complete: bool
    clusters: list[LeaseSource]
    leases: list[Lease]
