"""The use cases of routing domains: VRFs, and subnets that admins make.

`changed` is told which clusters' host maps have to be looked at, after a change that may have moved subnets.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_network

from twisted.logger import Logger

from clusterd.protocol.values import parse_name, parse_network
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.views import SubnetView
from regiond.domain.vrfs import VrfView
from regiond.storage.networks import NetworkStore
from regiond.storage.topology_rows import Reconsidered
from regiond.storage.vrfs import VrfStore
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.repeats import as_made, still_there
from regiond.use_cases.requests import RequestContext


class Vrfs:
    """VRFs are named by id or name, subnets by id or selector. Raises NotFound."""

    _log = Logger(namespace="region.topology")

    def __init__(
        self,
        inventory: Inventory,
        vrfs: VrfStore,
        networks: NetworkStore,
        changed: Callable[[Iterable[int]], Awaitable[None]],
    ) -> None:
        self._inventory = inventory
        self._vrfs = vrfs
        self._networks = networks
        self._changed = changed

    async def vrfs(self) -> Sequence[VrfView]:
        return await self._vrfs.vrfs()

    async def vrf(self, vrf: str) -> VrfView:
        number = parse_id(Prefix.VRF, vrf)
        for view in await self._vrfs.vrfs():
            if view.id == number or view.name == vrf:
                return view
        raise errors.NotFound(f"there is no VRF {vrf[:64]}: regionctl vrfs list shows those there are")

    async def add_vrf(self, context: RequestContext, *, name: str, comment: str | None) -> VrfView:
        """Networks of NICs to which a cluster's configuration gives this VRF become its subnets. Raises NameTaken."""
        require_admin(context)
        try:
            wanted = parse_name(name)
        except ValueError as error:
            raise errors.InvalidRequest("/name", str(error)) from error
        number, reconsidered = await self._vrfs.add(context.change, wanted, comment or None)
        self._log.info(
            "new VRF {vrf}, says {actor}",
            event="vrf.created",
            vrf=wanted,
            actor=context.caller.name,
            request_id=context.request_id,
        )
        await self._looked_anew(reconsidered)
        return await as_made("VRF", lambda: self.vrf(format_id(Prefix.VRF, number)))

    async def change_vrf(self, context: RequestContext, vrf: str, *, comment: str | None) -> VrfView:
        """Raises StaleVersion."""
        require_admin(context)
        found = await self.vrf(vrf)
        await self._vrfs.change(context.change, found.id, comment or None)
        return await self.vrf(format_id(Prefix.VRF, found.id))

    async def remove_vrf(self, context: RequestContext, vrf: str) -> None:
        """Raises VrfInUse and StaleVersion."""
        require_admin(context)
        found = await still_there(lambda: self.vrf(vrf), lambda: self._vrfs.was_done(context.change))
        if found is None:
            return
        await self._vrfs.remove(context.change, found.id)
        self._log.info(
            "VRF {vrf} removed by {actor}",
            event="vrf.removed",
            vrf=found.name,
            actor=context.caller.name,
            request_id=context.request_id,
        )

    async def add_subnet(
        self, context: RequestContext, *, cidr: str, vrf: str | None, release_hold_seconds: int | None
    ) -> SubnetView:
        """A subnet that no cluster has reported yet: claims on it wait for one that does. Raises SubnetOverlap."""
        require_admin(context)
        try:
            wanted = parse_network(cidr)
            _need_hosts(wanted)
        except ValueError as error:
            raise errors.InvalidRequest("/cidr", str(error)) from error
        where = await self.vrf("default" if vrf is None else vrf)
        number = await self._networks.add(context.change, wanted, where.id, release_hold_seconds)
        self._log.info(
            "new subnet {cidr} in VRF {vrf}, says {actor}",
            event="subnet.added",
            cidr=wanted,
            vrf=where.name,
            subnet=format_id(Prefix.SUBNET, number),
            actor=context.caller.name,
            request_id=context.request_id,
        )
        await self._changed(())
        return await as_made("subnet", lambda: self._inventory.subnet(format_id(Prefix.SUBNET, number)))

    async def remove_subnet(self, context: RequestContext, subnet: str) -> None:
        """Raises SubnetInUse, SubnetRecovering and StaleVersion, and what a selector's resolution raises."""
        require_admin(context)
        found = await still_there(lambda: self._inventory.subnet(subnet), lambda: self._vrfs.was_done(context.change))
        if found is None:
            return
        reconsidered = await self._networks.remove(context.change, found.id)
        self._log.info(
            "subnet {cidr} of VRF {vrf} removed by {actor}",
            event="subnet.removed",
            cidr=found.cidr,
            vrf=found.vrf,
            subnet=format_id(Prefix.SUBNET, found.id),
            actor=context.caller.name,
            request_id=context.request_id,
        )
        await self._looked_anew(reconsidered)

    async def _looked_anew(self, reconsidered: Reconsidered) -> None:
        await self._changed([cluster for cluster, _ in reconsidered.clusters])


def _need_hosts(cidr: str) -> None:
    net = ip_network(cidr)
    if net.prefixlen == 0:
        raise ValueError("a subnet is a part of all addresses, not all of them")
    if net.is_loopback or net.is_link_local or net.is_multicast:
        raise ValueError(f"{cidr} is for loopback, link-local or multicast: nobody gets such an address from a server")
