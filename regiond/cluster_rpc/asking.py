"""Asking a cluster something, wherever it is connected."""

from typing import Any, Protocol

from twisted.protocols import amp

from clusterd.protocol.connection import LinkLost
from regiond.cluster_rpc.connections import Connections


class NotAsked(LinkLost):
    """The cluster cannot be asked now: there is no connection to it, or no way to the regiond that has it."""


class Asks(Protocol):
    """Whatever can ask a cluster."""

    async def ask(
        self, cluster: int, command: type[amp.Command], *, deadline: float, **arguments: Any
    ) -> dict[str, Any]:
        """The cluster's answer, within `deadline` seconds. Raises what `Link.call` does, and NotAsked."""


class AskHere:
    """Asks the clusters that are connected to this regiond, and no others."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def ask(
        self, cluster: int, command: type[amp.Command], *, deadline: float, **arguments: Any
    ) -> dict[str, Any]:
        connection = self._connections.get(cluster)
        if connection is None:
            raise NotAsked("it is not connected")
        return await connection.link.call(command, deadline=deadline, **arguments)
