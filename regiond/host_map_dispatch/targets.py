"""The deliveries of the clusters that are connected here."""

from collections import defaultdict
from dataclasses import dataclass, field

from regiond.cluster_rpc.connections import Connection

FIRST_BACK_OFF_SECONDS = 1.0


@dataclass(slots=True)
class Target:
    """One cluster's delivery of one subnet while the cluster is connected.

    `role` is serving or draining, or foreign: the cluster holds a subnet that it never was to have, or not any more.
    `as_of` numbers what is known here: a reading of the database that began before is older news.
    """

    connection: Connection
    subnet: int
    cidr: str | None
    role: str
    accepted: int
    as_of: int
    seen: int = 0  # the highest generation that the cluster has said to have, recorded or not
    in_flight: bool = False
    again: bool = False
    replace: bool = False  # the cluster holds what no difference can build on: send the whole set
    examined: bool = False  # and none of it is of another past than the region's
    backing_off: bool = False
    delay: float = FIRST_BACK_OFF_SECONDS  # after the next failure


@dataclass(slots=True)
class Targets:
    """The targets of the connected clusters, by cluster and by subnet."""

    by_cluster: dict[int, dict[int, Target]] = field(default_factory=dict)
    by_subnet: dict[int, dict[int, Target]] = field(default_factory=lambda: defaultdict(dict))

    def put(self, target: Target) -> None:
        self.by_cluster.setdefault(target.connection.cluster, {})[target.subnet] = target
        self.by_subnet[target.subnet][target.connection.cluster] = target

    def drop_cluster(self, cluster: int) -> None:
        for subnet in self.by_cluster.pop(cluster, {}):
            self.by_subnet[subnet].pop(cluster, None)

    def drop(self, target: Target) -> None:
        self.by_cluster.get(target.connection.cluster, {}).pop(target.subnet, None)
        self.by_subnet[target.subnet].pop(target.connection.cluster, None)
