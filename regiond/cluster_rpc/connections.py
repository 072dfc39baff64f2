"""The clusters that are connected to this regiond."""

from dataclasses import dataclass, field
from typing import Final

from twisted.internet.defer import DeferredSemaphore

from clusterd.protocol.connection import Link

MAX_TRANSFERS_AT_ONCE: Final = 2


@dataclass(slots=True)
class Connection:
    """A registered cluster's live link.

    `epoch` counts the cluster's connections; `history` is the region's, as the cluster was told; see `Registered`.
    `transfers` are turns for what is sent in pages: each is in memory until the cluster has all of it.
    """

    cluster: int
    name: str
    epoch: int
    link: Link
    history: str
    unheard: bool
    serial: str | None = None  # of the certificate, on a TLS link
    transfers: DeferredSemaphore = field(default_factory=lambda: DeferredSemaphore(MAX_TRANSFERS_AT_ONCE))


@dataclass(slots=True)
class Connections:
    """The clusters connected to this regiond, by id."""

    by_cluster: dict[int, Connection] = field(default_factory=dict)

    def get(self, cluster: int) -> Connection | None:
        return self.by_cluster.get(cluster)

    def clusters(self) -> list[int]:
        return list(self.by_cluster)
