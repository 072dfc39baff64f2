"""The use cases behind PATCH of clusters and cluster interfaces: a name, a VRF, and whether a network is served.

`changed` is told which clusters' host maps have to be looked at, and that the picture of the networks is another one.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from twisted.logger import Logger

from clusterd.protocol.values import parse_name
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.views import ClusterView, InterfaceView
from regiond.domain.vrfs import VrfView
from regiond.storage.cluster_edits import ClusterEditStore
from regiond.storage.pairs import PairStore
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import RequestContext


class KnowsVrfs(Protocol):
    """Vrfs, as far as it is needed here."""

    async def vrf(self, vrf: str) -> VrfView: ...


class ClusterEdits:
    """Clusters are named by id or name, interfaces by id. Raises NotFound and StaleVersion."""

    _log = Logger(namespace="region.topology")

    def __init__(
        self,
        inventory: Inventory,
        vrfs: KnowsVrfs,
        store: ClusterEditStore,
        pairs: PairStore,
        changed: Callable[[Iterable[int]], Awaitable[None]],
    ) -> None:
        self._inventory = inventory
        self._vrfs = vrfs
        self._store = store
        self._pairs = pairs
        self._changed = changed

    async def change_cluster(
        self,
        context: RequestContext,
        cluster: str,
        *,
        name: str | None = None,
        vrf: str | None = None,
        pairs: bool = False,
        force: bool = False,
    ) -> ClusterView:
        """The name that it goes by, and the VRF of its networks, from now on; what is None stays. With `pairs` those
        clusters get the VRF, too, that serve subnets with it.

        Raises NameTaken, and SubnetsLeftBehind unless forced.
        """
        require_admin(context)
        wanted = None if name is None else _name(name)
        try:
            who = await self._inventory.cluster(cluster)
        except errors.NotFound:
            # the first time it may have been named by the name that it had before
            if (known := await self._store.done_before(context.change)) is None:
                raise
            return await self._inventory.cluster(format_id(Prefix.CLUSTER, known))
        where = None if vrf is None else await self._vrfs.vrf(vrf)
        reconsidered = await self._store.change(
            context.change, who.id, name=wanted, vrf=None if where is None else where.id, pairs=pairs, force=force
        )
        if wanted not in (None, who.name):
            self._log.info(
                "cluster {former} is called {cluster} from now on, says {actor}",
                event="cluster.renamed",
                former=who.name,
                cluster=wanted,
                id=format_id(Prefix.CLUSTER, who.id),
                actor=context.caller.name,
                request_id=context.request_id,
            )
        for number, _ in reconsidered.clusters if where is not None else ():
            going = await self._inventory.cluster(format_id(Prefix.CLUSTER, number))
            self._log.info(
                "the networks of cluster {cluster} are in VRF {vrf} from now on, says {actor}",
                event="cluster.vrf-changed",
                cluster=going.name,
                vrf=going.vrf,
                actor=context.caller.name,
                request_id=context.request_id,
            )
        await self._changed([number for number, _ in reconsidered.clusters])
        return await self._inventory.cluster(format_id(Prefix.CLUSTER, who.id))

    async def change_interface(
        self, context: RequestContext, interface: str, *, serve: bool, force: bool = False
    ) -> InterfaceView:
        """Whether the cluster serves the subnet that the interface is on, with all its NICs there.

        Raises NotOnSubnet, and LastServing, unless forced, where nobody would serve the subnet.
        """
        require_admin(context)
        view = await self._inventory.interface(interface)
        if view.subnet is None:
            raise errors.NotOnSubnet(f"{view.nic} of cluster {view.cluster_name} is on no subnet: {view.conflict}")
        if await self._pairs.set_serving(context.change, view.id, view.subnet, view.cluster, serve=serve, force=force):
            self._log.info(
                "cluster {cluster} is to serve {cidr}: {serve}, says {actor}",
                event="subnet.serving-changed",
                cluster=view.cluster_name,
                cidr=view.cidr,
                subnet=format_id(Prefix.SUBNET, view.subnet),
                interface=format_id(Prefix.CLUSTER_INTERFACE, view.id),
                serve=serve,
                actor=context.caller.name,
                request_id=context.request_id,
            )
            await self._changed([view.cluster])
        return await self._inventory.interface(interface)


def _name(text: str) -> str:
    """Raises InvalidRequest, also for what could be taken for the id of a cluster."""
    try:
        name = parse_name(text)
    except ValueError as error:
        raise errors.InvalidRequest("/name", str(error)) from error
    if parse_id(Prefix.CLUSTER, name) is not None:
        raise errors.InvalidRequest("/name", f"{name} has the form of an id: clusters are named by either")
    return name
