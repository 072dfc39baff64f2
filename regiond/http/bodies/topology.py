"""What is sent to find changes of a cluster's topology."""

from typing import Annotated

from pydantic import Field

from regiond.domain.topology_changes import Happened
from regiond.http.bodies.base import FilteredPage
from regiond.http.fields import Line


class TopologyChangePage(FilteredPage):
    """Filters; the values of one are alternatives, and all filters hold."""

    change: list[Annotated[str, Field(json_schema_extra={"enum": list(Happened)})]] = Field(
        default=[], description="what happened"
    )
    nic: list[Line] = Field(default=[], description="by name")
    cidr: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-network"})]] = Field(
        default=[], description="the network of the interface"
    )
    vrf: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-name"})]] = Field(
        default=[], description="the VRF of that network"
    )
    interface: Annotated[
        list[Annotated[str, Field(json_schema_extra={"format": "hostmap-cluster-interface"})]],
        Field(description="the id of the cluster interface"),
    ] = Field(default=[])
