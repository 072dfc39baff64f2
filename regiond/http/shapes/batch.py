"""What the answer to a batch looks like."""

from typing import Annotated, Literal

from pydantic import Field

from regiond.http.shapes.reservations import Reservation
from regiond.http.shapes.values import DeviceId, GroupId, Shape

Operation = Literal[
    "claim-device", "claim-node-address", "reserve", "release-device", "release-node-address", "release-reservation"
]


class MemberResult(Shape):
    """What became of a member. `new` is false for a claim that found its very reservation."""

    operation: Operation
    new: bool
    device: DeviceId | None
    group: GroupId | None
    reservations: Annotated[
        list[Reservation], Field(description="of a claim: its own; of a release: what clusters have yet to confirm")
    ]


class BatchResult(Shape):
    """One result for each member, in the same order."""

    results: list[MemberResult]
