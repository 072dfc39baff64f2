"""The clusters that are on one subnet: those that serve it, and those that could."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ClusterOnSubnet:
    """One cluster and one subnet. `nics` are those of its NICs that are on the subnet now.

    `role` is serving, draining or former as in its delivery, or shared-subnet where it never had one: it is on a subnet
    that others serve, and waits until an admin says that it is the same wire.
    """

    cluster: int
    name: str
    connected: bool
    nics: tuple[str, ...]
    role: str
    desired_generation: int
    accepted_generation: int
    applied_generation: int
    error: str | None
    since: datetime | None
