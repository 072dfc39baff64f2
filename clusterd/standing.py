"""How a cluster stands, in a few numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """`refused`: host maps that the DHCP server does not serve. `failures` in a row to bring host maps to it."""

    subnets: int
    subnets_pending: int
    host_maps: int
    refused: int
    failures: int
