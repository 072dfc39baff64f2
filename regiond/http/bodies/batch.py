"""What is sent to claim and release many things at once: the bodies of the single requests, with what they are."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from regiond.http.bodies.base import Body
from regiond.http.bodies.devices import NewDevice
from regiond.http.bodies.nodes import NewNodeAddress
from regiond.http.bodies.reservations import NewReservation
from regiond.use_cases.batches import MAX_MEMBERS

MAX_ID_LENGTH = 64

_Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
_Node = Annotated[_Id, Field(json_schema_extra={"format": "hostmap-node"})]
_Force = Annotated[bool, Field(description="free the address at once, without the clusters' confirmation (admin)")]


class ClaimDevice(NewDevice):
    """As `POST /devices`."""

    operation: Literal["claim-device"]


class ClaimNodeAddress(NewNodeAddress):
    """As `POST /nodes/{node}/addresses`."""

    operation: Literal["claim-node-address"]
    node: _Node


class Reserve(NewReservation):
    """As `POST /reservations`."""

    operation: Literal["reserve"]


class ReleaseDevice(Body):
    """As `DELETE /devices/{device}`."""

    operation: Literal["release-device"]
    device: Annotated[_Id, Field(json_schema_extra={"format": "hostmap-device"})]
    force: _Force = False


class ReleaseNodeAddress(Body):
    """As `DELETE /nodes/{node}/addresses/{reservation}`."""

    operation: Literal["release-node-address"]
    node: _Node
    reservation: _Id
    force: _Force = False


class ReleaseReservation(Body):
    """As `DELETE /reservations/{reservation}`."""

    operation: Literal["release-reservation"]
    reservation: _Id
    force: _Force = False


Member = Annotated[
    ClaimDevice | ClaimNodeAddress | Reserve | ReleaseDevice | ReleaseNodeAddress | ReleaseReservation,
    Field(discriminator="operation"),
]


class Batch(Body):
    """Claims and releases in the order in which they happen; together they claim at most 256 addresses."""

    examples: ClassVar[Mapping[str, Any]] = {
        "a rack": {
            "members": [
                {"operation": "claim-device", "interface": "192.0.2.0/24", "mac": "00:16:3e:00:00:01"},
                {"operation": "claim-device", "interface": "2001:db8::/64", "duid": "00:03:00:01:00:16:3e:00:00:01"},
                {"operation": "reserve", "interface": "198.51.100.0/24", "purpose": "a load balancer"},
            ]
        },
        "one address for another": {
            "members": [
                {"operation": "release-reservation", "reservation": "rs-4k2m9q8xvz"},
                {"operation": "reserve", "address": "192.0.2.7"},
            ]
        },
    }

    members: list[Member] = Field(min_length=1, max_length=MAX_MEMBERS)
