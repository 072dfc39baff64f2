"""What the region knows of clusters, cluster interfaces and subnets, for reading."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.selectors import matching_interfaces, parse_selector
from regiond.domain.views import ClusterView, InterfaceView, SubnetView
from regiond.storage.reads import Reads


class Inventory:
    """Questions that change nothing. Raises NotFound for what is not there."""

    def __init__(self, reads: Reads, catalogue: Catalogue) -> None:
        self._reads = reads
        self._catalogue = catalogue

    async def clusters(self) -> Sequence[ClusterView]:
        return await self._reads.clusters()

    async def cluster(self, cluster_id: str) -> ClusterView:
        """By id or by name."""
        number = parse_id(Prefix.CLUSTER, cluster_id)
        for view in await self._reads.clusters():
            if view.id == number or view.name == cluster_id:
                return view
        raise errors.NotFound(f"no cluster {cluster_id}")

    async def interfaces(self, selector: str | None) -> Sequence[InterfaceView]:
        """All cluster interfaces, or those that a selector names: any number of them, none included."""
        wanted = None if selector is None else parse_selector(selector)
        interfaces = await self._catalogue.interfaces()
        return interfaces if wanted is None else matching_interfaces(wanted, interfaces)

    async def interface(self, interface_id: str) -> InterfaceView:
        number = parse_id(Prefix.CLUSTER_INTERFACE, interface_id)
        for view in await self._catalogue.interfaces():
            if view.id == number:
                return view
        raise errors.NotFound(f"no cluster interface {interface_id}")

    async def subnets(self) -> Sequence[SubnetView]:
        counts = await self._reads.subnet_counts()
        return [_counted(view, counts) for view in await self._reads.subnets()]

    async def subnet(self, subnet: str) -> SubnetView:
        """By id or by a selector."""
        number = await self.subnet_id(subnet)
        found = await self._reads.subnets(number)
        if not found:
            raise errors.NotFound(f"no subnet {subnet[:64]}")
        return _counted(found[0], await self._reads.subnet_counts(number))

    async def known(self, number: int) -> SubnetView | None:
        """By number, as it was seldom more than seconds ago; without utilisation."""
        return await self._catalogue.subnet(number)

    async def subnet_id(self, subnet: str) -> int:
        """The number of an id, whether there is such a subnet or not, or what a selector means.

        Raises NotFound, NoSuchClusterInterface and AmbiguousSelector.
        """
        number = parse_id(Prefix.SUBNET, subnet)
        if number is not None:
            return number
        try:
            return (await self._catalogue.resolve(subnet)).id
        except errors.BadSelector as error:
            raise errors.NotFound(f"no subnet has this id, and as a selector: {error.detail}") from error


def _counted(view: SubnetView, counts: Mapping[int, tuple[int, int]]) -> SubnetView:
    reservations, releasing = counts.get(view.id, (0, 0))
    return replace(view, reservations=reservations, releasing=releasing)
