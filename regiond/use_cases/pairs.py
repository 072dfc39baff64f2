"""The use cases of several clusters on one subnet: an HA pair is two that an admin says are on the same wire.

Before that the second one is known and shown (`shared-subnet`) and gets no host maps: two unrelated sites may both use
10.0.0.0/24.
"""

from collections.abc import Awaitable, Callable, Sequence

from twisted.logger import Logger

from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.pairs import ClusterOnSubnet
from regiond.storage.pairs import PairStore
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import RequestContext


class Pairs:
    """Subnets are named by id or selector, clusters by id or name. Raises NotFound.

    `changed` is told which cluster's host maps have to be looked at, after each change.
    """

    _log = Logger(namespace="region.subnets")

    def __init__(self, inventory: Inventory, pairs: PairStore, changed: Callable[[int], Awaitable[None]]) -> None:
        self._inventory = inventory
        self._pairs = pairs
        self._changed = changed

    async def clusters_on(self, subnet: str) -> Sequence[ClusterOnSubnet]:
        found = await self._inventory.subnet(subnet)
        return await self._pairs.clusters_on(found.id)

    async def confirm(self, context: RequestContext, subnet: str, cluster: str) -> ClusterOnSubnet:
        """The cluster is on the same wire as those that serve the subnet: it gets the host maps, too.

        Nothing happens where it serves it already. Raises NotOnSubnet.
        """
        require_admin(context)
        where, who = (await self._inventory.subnet(subnet)), (await self._inventory.cluster(cluster))
        if await self._pairs.confirm(context.change, where.id, who.id):
            self._log.info(
                "cluster {cluster} serves {cidr} from now on, says {actor}",
                event="subnet.pair-confirmed",
                cluster=who.name,
                cidr=where.cidr,
                subnet=format_id(Prefix.SUBNET, where.id),
                actor=context.caller.name,
                request_id=context.request_id,
            )
            await self._changed(who.id)
        return await self._one(where.id, who.id)

    async def end(self, context: RequestContext, subnet: str, cluster: str) -> ClusterOnSubnet:
        """The cluster serves the subnet no more; until it has confirmed that, nothing that it may serve is freed.

        Nothing happens where it stopped already. Raises NotOnSubnet and LastServing.
        """
        require_admin(context)
        where, who = (await self._inventory.subnet(subnet)), (await self._inventory.cluster(cluster))
        if await self._pairs.end(context.change, where.id, who.id):
            self._log.info(
                "cluster {cluster} does not serve {cidr} any more, says {actor}",
                event="subnet.unpaired",
                cluster=who.name,
                cidr=where.cidr,
                subnet=format_id(Prefix.SUBNET, where.id),
                actor=context.caller.name,
                request_id=context.request_id,
            )
            await self._changed(who.id)
        return await self._one(where.id, who.id)

    async def _one(self, subnet: int, cluster: int) -> ClusterOnSubnet:
        for found in await self._pairs.clusters_on(subnet):
            if found.cluster == cluster:
                return found
        raise errors.NotFound("the cluster is gone")
