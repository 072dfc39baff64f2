"""What the data of events looks like, by the event's name."""

from typing import Annotated

from pydantic import Field

from regiond.domain import reservations
from regiond.http.shapes.values import (
    Address,
    ClusterName,
    Count,
    DeviceId,
    Moment,
    NodeId,
    ReservationId,
    Shape,
    SubnetName,
)


class ReservationEvent(Shape):
    """`event: reservation`. What it is now is to be read at `/reservations/{id}`, unless it is `free`.

    When its owner changed, it is `given-away` for the old one, whose last event of it that is, and `received` for the
    new one.
    """

    at: Moment
    action: Annotated[
        str,
        Field(
            json_schema_extra={"enum": ["claimed", "changed", "releasing", "active", "free", "given-away", "received"]}
        ),
    ]
    reservation: ReservationId
    kind: reservations.Kind
    address: Address
    subnet: SubnetName | None
    owner: str | None
    device: DeviceId | None
    node: NodeId | None


class HostMapEvent(Shape):
    """`event: host-map`. How far a cluster is with a subnet: `generation` is what its DHCP server has.

    `reservations` are those whose host maps came or went with it, and that one may see; `refused` those of them that
    its DHCP server does not take. When there are more than these, `complete` is false.
    """

    at: Moment
    action: Annotated[str, Field(json_schema_extra={"enum": ["applied", "failed"]})]
    cluster: ClusterName
    subnet: SubnetName | None
    generation: Count
    error: Annotated[str | None, Field(description="for admins")]
    reservations: list[ReservationId]
    refused: list[ReservationId]
    complete: bool


class ClusterEvent(Shape):
    """`event: cluster`. `serving`, `draining` and `not-serving` are about a subnet."""

    at: Moment
    action: Annotated[
        str,
        Field(
            json_schema_extra={
                "enum": [
                    "new",
                    "connected",
                    "disconnected",
                    "changed",
                    "interfaces",
                    "revoked",
                    "forgotten",
                    "serving",
                    "draining",
                    "not-serving",
                ]
            }
        ),
    ]
    cluster: ClusterName
    subnet: SubnetName | None


class EndEvent(Shape):
    """`event: end`. Why nothing follows. With `list_again`, what is known has to be listed again, and followed anew."""

    reason: str
    list_again: bool


EVENTS = {"reservation": ReservationEvent, "host-map": HostMapEvent, "cluster": ClusterEvent, "end": EndEvent}
"""By the name after `event:`."""
