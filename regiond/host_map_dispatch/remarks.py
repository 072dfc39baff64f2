"""What is said of clusters that have something else than the region thought."""

from twisted.logger import Logger

from regiond.cluster_rpc.connections import Connection
from regiond.domain.ids import Prefix, format_id

_log = Logger(namespace="region.dispatch")


def ahead(connection: Connection, subnet: int, accepted: int, generation: int) -> str:
    """Log that the cluster has a generation that the database has not reached; the reason of a recovery."""
    name = format_id(Prefix.SUBNET, subnet)
    _log.warn(
        "cluster {cluster} is ahead of the region on {subnet}: {accepted} over {generation}",
        event="delivery.ahead",
        cluster=connection.name,
        subnet=name,
        accepted=accepted,
        generation=generation,
    )
    return f"cluster {connection.name} is at generation {accepted} of {name}, the database at {generation}"


def digest_differs(connection: Connection, subnet: int, generation: int) -> None:
    """Log it."""
    _log.warn(
        "cluster {cluster} has other host maps of {subnet} than the region at generation {generation}",
        event="delivery.digest-differs",
        cluster=connection.name,
        subnet=format_id(Prefix.SUBNET, subnet),
        generation=generation,
    )
