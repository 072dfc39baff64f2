"""What is sent to change clusters and cluster interfaces."""

from collections.abc import Mapping
from typing import Any, ClassVar

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
    """`pairs`: the clusters that serve subnets together with this one get the VRF, too, and these subnets go with them.

    `force`: stop serving subnets that cannot go along; their reservations stay where they are.
    """

    pairs: Flag = False
    force: Flag = False


class ServingChange(Change):
    """`serve`: whether the cluster serves the subnet that the interface is on."""

    examples: ClassVar[Mapping[str, Any]] = {"not this network": {"serve": False}}

    serve: bool


class Unserving(Query):
    """Also where no other cluster serves the subnet: its host maps are pending until one does (admin)."""

    force: Flag = False
