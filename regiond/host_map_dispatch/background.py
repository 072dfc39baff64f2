"""Work that nobody waits for."""

from collections.abc import Awaitable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.protocol.connection import LinkLost
from regiond.cluster_rpc.connections import Connection
from regiond.storage.errors import DatabaseUnavailable

_log = Logger(namespace="region.dispatch")


def in_background(work: Awaitable[None], connection: Connection) -> None:
    """Whatever ends it, but for a bug, the sweep makes up for, or the cluster's next registration."""

    async def run() -> None:
        await work

    def failed(failure: Failure) -> None:
        if not failure.check(DatabaseUnavailable, LinkLost):
            _log.failure("delivery to cluster {cluster} failed", failure, event="delivery.bug", cluster=connection.name)

    Deferred.fromCoroutine(run()).addErrback(failed)
