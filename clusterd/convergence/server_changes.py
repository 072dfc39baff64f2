"""One plan carried out on the DHCP server: told, read back, and the leases of what is gone ended."""

from collections.abc import Collection
from dataclasses import dataclass

from clusterd.convergence.plan import Plan
from clusterd.dhcp.backend import Backend, BackendError, Rejection
from clusterd.protocol.values import HostMap


@dataclass(frozen=True, slots=True)
class Changed:
    """What the server refused, and the former host maps, without names, whose leases are ended now."""

    rejections: tuple[Rejection, ...] = ()
    ended: frozenset[HostMap] = frozenset()


class ServerChanges:
    """Tells the backend of plans, one at a time. Raises BackendError; then a comparison has to follow.

    Leases that were not ended because something failed in between are ended with the next plan that succeeds. Those of
    host maps that were held outlive the process on disk and come back as `former`; see Note [Former leases].
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._owed: set[HostMap] = set()

    async def change(self, plan: Plan) -> Changed:
        """What the server was not told before."""
        if not plan.removed and not plan.added:
            return Changed()
        self._owed |= _leases(plan.removed)
        rejections = await self._backend.apply(plan.removed, plan.added)
        return await self._settle(plan, rejections, plan.added)

    async def repair(self, plan: Plan, former: Collection[HostMap]) -> Changed:
        """What a comparison of the whole sets found; also with nothing to tell."""
        self._owed |= _leases(plan.removed)
        self._owed.update(former)
        rejections: tuple[Rejection, ...] = ()
        # A server that says it has nothing is given all without being told to have nothing else: it may be mistaken.
        if plan.is_large and plan.kept:
            rejections = await self._backend.replace(plan.kept | plan.added)
        elif plan.removed or plan.added:
            rejections = await self._backend.apply(plan.removed, plan.added)
        return await self._settle(plan, rejections, plan.kept | plan.added, whole=True)

    async def _settle(
        self, plan: Plan, rejections: tuple[Rejection, ...], present: Collection[HostMap], *, whole: bool = False
    ) -> Changed:
        refused = {rejection.host_map for rejection in rejections}
        touched = plan.removed | plan.added
        if touched:
            there = await self._backend.verify(touched)
            wrong = sorted(((plan.added - there) | (plan.removed & there)) - refused)
            if wrong:
                raise BackendError(f"read back, {len(wrong)} host maps are not as they were applied, first {wrong[0]}")
        if self._owed:
            self._owed -= _leases(present) | _leases(refused)
        ended = frozenset(self._owed)
        if ended or whole:
            await self._backend.release(frozenset(filter(self._may_have_leases, ended)))
            self._owed.clear()
        return Changed(rejections, ended)

    def _may_have_leases(self, host_map: HostMap) -> bool:
        """Not one that this server never could be given: it need not even bear the question."""
        can = self._backend.capabilities
        return host_map.family in can.families and host_map.identifier.kind in can.identifiers


def _leases(host_maps: Collection[HostMap]) -> set[HostMap]:
    """Who has which address: a lease has the name that the client wants."""
    return {HostMap(host_map.identifier, host_map.address) for host_map in host_maps}
