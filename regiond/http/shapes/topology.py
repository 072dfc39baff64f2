"""What a cluster's topology and its history look like."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from regiond.domain.topology_changes import Happened
from regiond.http.shapes.networks import ClusterInterface
from regiond.http.shapes.values import (
    Cidr,
    ClusterInterfaceId,
    ClusterName,
    Count,
    InterfaceChangeId,
    Moment,
    Shape,
)


class Topology(Shape):
    """The interfaces of one cluster, absent ones included. `reported_at` is when it told them last."""

    cluster: ClusterName
    vrf: str
    connected: bool
    reported_at: Moment | None
    present: Count
    absent: Count
    conflicts: Annotated[Count, Field(description="of the present ones: those that are on no subnet")]
    waiting: Annotated[Count, Field(description="of the present ones: those that an admin has to confirm")]
    interfaces: list[ClusterInterface]


class InterfaceChange(Shape):
    """What happened to a cluster interface. `before` and `after` have the properties that are others now.

    Of one that moved to another network or VRF, `before` names the former interface: the one of the new network is
    another one.
    """

    id: InterfaceChangeId
    at: Moment
    change: Happened
    interface: ClusterInterfaceId
    nic: str
    cidr: Cidr
    vrf: str
    serving: str
    before: Annotated[Mapping[str, Any], Field(description="MAC addresses only for admins")]
    after: Mapping[str, Any]
