"""What the three ways of giving a Kea server host maps have in common."""

from collections.abc import Collection, Iterable
from typing import Protocol

from clusterd.dhcp.backend import Rejection
from clusterd.dhcp.kea.configuration import Configuration
from clusterd.dhcp.kea.rows import Placed
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.values import HostMap


class ReservationStore(Protocol):
    """Where the reservations of one server are kept. All of it is the one server's family; see Backend otherwise."""

    way: Way
    max_host_maps: int

    async def check(self, configuration: Configuration) -> list[str]: ...

    async def read(self, configuration: Configuration) -> frozenset[HostMap]: ...

    async def apply(
        self, configuration: Configuration, removed: Collection[Placed], added: Collection[Placed]
    ) -> tuple[Rejection, ...]: ...

    def pause(self) -> float:
        """The seconds until it may be made to take another change; 0.0 for a way that keeps nobody waiting."""

    async def replace(self, configuration: Configuration, host_maps: Collection[Placed]) -> tuple[Rejection, ...]: ...

    async def verify(self, configuration: Configuration, host_maps: Collection[Placed]) -> frozenset[HostMap]: ...

    async def close(self) -> None: ...


def place_all(configuration: Configuration, host_maps: Iterable[HostMap]) -> tuple[list[Placed], tuple[Rejection, ...]]:
    """Each host map with the id of its subnet, and those that the server would not serve."""
    placed: list[Placed] = []
    rejections = []
    for host_map in host_maps:
        subnet = configuration.place(host_map)
        if isinstance(subnet, str):
            rejections.append(Rejection(host_map, subnet))
        else:
            placed.append((host_map, subnet.id))
    return placed, tuple(rejections)


def where_found(configuration: Configuration, host_maps: Iterable[HostMap]) -> list[Placed]:
    """Each host map with the id of the subnet around it, whether it would be served there or not."""
    subnets = ((host_map, configuration.subnet_of(host_map.address)) for host_map in host_maps)
    return [(host_map, subnet.id) for host_map, subnet in subnets if subnet is not None]
