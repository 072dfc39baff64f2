"""VRFs: routing domains, in each of which a CIDR may exist once."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

DEFAULT_VRF: Final = 1  # its id; it is always there


@dataclass(frozen=True, slots=True)
class VrfView:
    """A VRF, and how many subnets are in it and clusters have it as their own. Its name never changes: clusters'
    configurations use it.
    """

    id: int
    name: str
    comment: str | None
    created: datetime
    subnets: int
    clusters: int
