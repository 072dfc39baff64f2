"""What a cluster sees, and what became of it: its interfaces as they are, and the history of their changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusterd.protocol.values import parse_name, parse_network
from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.topology_changes import Happened, RecordedChange
from regiond.domain.views import ClusterView, InterfaceView
from regiond.storage.topology_history import ChangeFilter, TopologyHistory
from regiond.use_cases.inventory import Inventory


@dataclass(frozen=True, slots=True)
class Topology:
    """One cluster's interfaces, absent ones included, by NIC and network."""

    cluster: ClusterView
    interfaces: Sequence[InterfaceView]


class Topologies:
    """Clusters are named by id or name. Raises NotFound."""

    def __init__(self, inventory: Inventory, history: TopologyHistory) -> None:
        self._inventory = inventory
        self._history = history

    async def topology(self, cluster: str) -> Topology:
        found = await self._inventory.cluster(cluster)
        interfaces = await self._inventory.interfaces(None)
        return Topology(found, [each for each in interfaces if each.cluster == found.id])

    async def changes(
        self, cluster: str, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[RecordedChange]:
        """The newest first. Raises InvalidRequest for a filter or a value of one that there is not."""
        conditions: dict[str, Any] = {}
        for name, texts in filters.items():
            if name not in _FILTERS:
                raise errors.InvalidRequest(f"?{name}", f"there is no filter {name}; there are {', '.join(_FILTERS)}")
            field, read = _FILTERS[name]
            try:
                conditions[field] = [read(text) for text in texts]
            except ValueError as error:
                raise errors.InvalidRequest(f"?{name}", str(error)) from error
        number = None if after is None else parse_id(Prefix.INTERFACE_CHANGE, after)
        if after is not None and number is None:
            raise errors.InvalidRequest("?after", f"not an id: {after[:64]}")
        found = await self._inventory.cluster(cluster)
        return await self._history.changes(found.id, ChangeFilter(**conditions), limit, number)


def _interface(text: str) -> int:
    number = parse_id(Prefix.CLUSTER_INTERFACE, text)
    if number is None:
        raise ValueError(f"not the id of a cluster interface: {text[:64]}")
    return number


def _happened(text: str) -> Happened:
    try:
        return Happened(text)
    except ValueError as error:
        raise ValueError(f"not a change: {text[:64]} ({', '.join(Happened)})") from error


_FILTERS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "change": ("happened", _happened),
    "nic": ("nics", str),
    "cidr": ("cidrs", parse_network),
    "vrf": ("vrfs", parse_name),
    "interface": ("interfaces", _interface),
}
