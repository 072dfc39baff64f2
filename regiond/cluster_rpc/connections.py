"""The clusters that are connected to this regiond."""

from dataclasses import dataclass, field

from clusterd.protocol.connection import Link


@dataclass(slots=True)
class Connection:
    """A registered cluster's live link.

    `epoch` counts the cluster's connections; `history` is the region's, as the cluster was told; see `Registered`.
    """

    cluster: int
    name: str
    epoch: int
    link: Link
    history: str
    unheard: bool
    serial: str | None = None  # of the certificate, on a TLS link


@dataclass(slots=True)
class Connections:
    """The clusters connected to this regiond, by id."""

    by_cluster: dict[int, Connection] = field(default_factory=dict)

    def get(self, cluster: int) -> Connection | None:
        return self.by_cluster.get(cluster)

    def clusters(self) -> list[int]:
        return list(self.by_cluster)
