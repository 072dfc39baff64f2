"""The clusters that are on one subnet: those that serve it, and those that could."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ClusterOnSubnet:
    """One cluster and one subnet. `nics` are those of its NICs that are on the subnet now.

    `other_vrfs` are those in which it has this network now, too, as a subnet of its own.
    `role` is serving, draining or former as in its delivery. Where it never had one it waits for an admin:
    shared-subnet where others are on such a network, as it may be another wire, or unserved where its configuration
    wants to be asked; declined where an admin said no.
    """

    cluster: int
    name: str
    connected: bool
    nics: tuple[str, ...]
    other_vrfs: tuple[str, ...]
    role: str
    desired_generation: int
    accepted_generation: int
    applied_generation: int
    error: str | None
    since: datetime | None
