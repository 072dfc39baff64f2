"""What every DHCP server backend offers, and the pure difference between two host map sets.

A backend works on the whole server: host maps of all subnets together, as a set of values. One MAC may appear
with several addresses (one per subnet), so a map's identity here is the whole value.
"""

from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Protocol

from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol.addresses import Family
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import HostMap, IdentifierKind


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server can take. `max_host_maps` is where the backend refuses, not where it becomes slow.

    `needs_restart` are the families whose changes restart the server, so that it answers nobody for a moment; the
    backend paces these restarts, and `--check` tells the operator of them.
    """

    families: frozenset[Family]
    identifiers: frozenset[IdentifierKind]
    max_host_maps: int
    needs_restart: frozenset[Family] = frozenset()


@dataclass(frozen=True, slots=True)
class Rejection:
    """One host map the server would not take, with the server's own words."""

    host_map: HostMap
    reason: str


class BackendError(Exception):
    """The server, or something it needs, refused as a whole. The message is the server's own words.

    Nothing may be assumed about how much of the change is in effect: the driver reads and compares again.
    """


class NoLeases(BackendError):
    """This backend cannot tell leases, or not end them. The message says why, and what would help."""


class Backend(Protocol):
    """One DHCP server. Every method is idempotent and raises BackendError and nothing else when it fails.

    One driver (`clusterd.convergence.convergence`) calls these, never two at a time except `check`:

    * at start, after any error and every few minutes: `read`, and from the difference `apply`, or `replace` where it
      is large, then `verify` of what it touched and `release`, also of nothing;
    * for each change in between: `apply`, `verify` of what it touched, `release` of what was removed.

    Only when all this has returned is the change reported to the region as applied.
    """

    name: str
    capabilities: Capabilities

    async def check(self) -> list[str]:
        """What is missing for this backend to work, one sentence each, which says what to do; empty when it is ready.

        Tries it out, reaching, writing and reading back, and changes nothing that the server serves. Called once at
        start, beside the driver, and by `twistd clusterd --check`.
        """

    async def read(self) -> frozenset[HostMap]:
        """All host maps that the server was given by us. Entries that are not ours are never among them."""

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Remove, then add. A map that is already there is done; a map that is already gone is done.

        On return the server has the change in effect, except for the rejected ones.
        """

    async def replace(self, host_maps: Collection[HostMap]) -> tuple[Rejection, ...]:
        """Make the server's host maps exactly these: the repair path."""

    def pause(self, removed: Collection[HostMap], added: Collection[HostMap]) -> float:
        """The seconds for which this change has to wait, so that the server answers its clients meanwhile; 0.0: none.

        For servers that answer nobody while they take a change. `apply` waits as long by itself; who asks before can
        let pass what need not wait. Told at once, from what is known without asking the server; never fails.
        """

    async def verify(self, host_maps: Collection[HostMap]) -> frozenset[HostMap]:
        """Those of these host maps that the server has now, asked of the server or of what it reads.

        Costs what these cost, not what all cost: the driver asks after each apply, for what that removed and added.
        """

    async def release(self, removed: Collection[HostMap]) -> None:
        """End the leases that clients may still have from these former host maps, so that others can be given them.

        Called when the maps are gone from the server, and, where an address moved, when the new map is there. A lease
        that is gone, or belongs to somebody else, is done; so is a server that keeps no leases for host maps. Called
        without any, too: a process that was killed in between may have left a lease that this backend can recognise.
        """

    async def leases(self, question: LeaseQuestion) -> LeasePage:
        """One page of the leases that clients have now, from pools and from host maps, in order of address.

        Called at any time, also beside everything else. Raises NoLeases where this backend has none to tell.
        """

    async def end_lease(self, lease: ServerLease) -> None:
        """Take a lease from its client. One that is gone, or is another client's by now, is done.

        Called at any time, as `leases`. Raises BackendError where it stays, NoLeases where it can only stay.
        """

    async def close(self) -> None:
        """Give back connections and the like. Called once, after the last other call has returned; never fails."""


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
