"""What every DHCP server backend offers, and the pure difference between two host map sets.

A backend works on the whole server: host maps of all subnets together, as a set of values. One MAC may appear
with several addresses (one per subnet), so a map's identity here is the whole value.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Protocol

from clusterd.protocol.addresses import Family
from clusterd.protocol.values import HostMap, IdentifierKind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can take. `max_host_maps` is where the backend refuses, not where it becomes slow.

    `cheap_read`: `read` costs so little, whatever the number of host maps, that every apply is read back.
    """

    families: frozenset[Family]
    identifiers: frozenset[IdentifierKind]
    max_host_maps: int
    cheap_read: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """One host map the server would not take, with the server's own words."""

    host_map: HostMap
    reason: str


class BackendError(Exception):
    """The server, or something it needs, refused as a whole. The message is the server's own words.

    Nothing may be assumed about how much of the change is in effect: the driver reads and compares again.
    """


class Backend(Protocol):
    """One DHCP server. Every method is idempotent and raises BackendError and nothing else when it fails."""

    name: str
    capabilities: Capabilities

    async def check(self) -> list[str]:
        """What is missing for this backend to work, one sentence each; empty when it is ready."""

    async def read(self) -> frozenset[HostMap]:
        """The host maps the server was given by us. Entries that are not ours are never among them."""

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Remove, then add. A map that is already there is done; a map that is already gone is done.

        On return the server has the change in effect, except for the rejected ones.
        """

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Make the server's host maps exactly these: the repair path."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What turns one set of host maps into another."""

    removed: frozenset[HostMap]
    added: frozenset[HostMap]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


def diff(actual: Set[HostMap], desired: Set[HostMap]) -> Difference:
    """The change from `actual` to `desired`."""
    return Difference(removed=frozenset(actual - desired), added=frozenset(desired - actual))
