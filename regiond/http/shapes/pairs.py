"""What the clusters on a subnet look like."""

from typing import Annotated

from pydantic import Field

from regiond.http.shapes.values import ClusterId, Count, Moment, Shape


class ClusterOnSubnet(Shape):
    """A cluster that serves a subnet, did, or could: `shared-subnet` and `unserved` wait for an admin.

    A draining one is a holder until it has confirmed that it forgot the subnet's host maps.
    """

    id: ClusterId
    name: str
    connected: bool
    nics: Annotated[list[str], Field(description="its NICs that are on the subnet now", examples=[["eth1"]])]
    other_vrfs: Annotated[
        list[str],
        Field(description="VRFs in which it has this network now, as another subnet", examples=[["site-2"]]),
    ]
    role: Annotated[
        str,
        Field(
            json_schema_extra={"enum": ["serving", "draining", "former", "shared-subnet", "unserved", "declined"]},
            description="`declined`: an admin said that it is not to serve the subnet",
        ),
    ]
    desired_generation: Count
    accepted_generation: Count
    applied_generation: Count
    error: str | None
    since: Annotated[Moment | None, Field(description="since when its host maps are as they are")]
