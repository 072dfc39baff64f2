"""What is sent to change clusters and cluster interfaces."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from regiond.http.bodies.base import Change, Query
from regiond.http.fields import AccountName, Flag


class ClusterChange(Change):
    """`name`: what it is called. `vrf`: that of its networks, by name or id, where its configuration does not give the
    NIC another one; a subnet that the cluster alone is on goes there with its reservations.
    """

    examples: ClassVar[Mapping[str, Any]] = {"another name": {"name": "rack-8"}, "another VRF": {"vrf": "site-2"}}

    name: AccountName | None = None
    vrf: AccountName | None = None


class LeavingBehind(Query):
    """What becomes of subnets that cannot go along."""

    pairs: Annotated[
        Flag, Field(description="take the clusters along that serve subnets together with this one, and these subnets")
    ] = False
    force: Annotated[
        Flag, Field(description="stop serving subnets that cannot go along; their reservations stay where they are")
    ] = False


class ServingChange(Change):
    """`serve`: whether the cluster serves the subnet that the interface is on."""

    examples: ClassVar[Mapping[str, Any]] = {"not this network": {"serve": False}}

    serve: bool


class Unserving(Query):
    """Leave a subnet to nobody."""

    force: Annotated[
        Flag,
        Field(description="also where no other cluster serves the subnet: its host maps are pending until one does"),
    ] = False
