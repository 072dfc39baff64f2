"""Whether a regiond can serve, and how its database and the replication of that are."""

from dataclasses import dataclass
from enum import StrEnum


class DatabaseRole(StrEnum):
    """A standby takes no writes."""

    PRIMARY = "primary"
    STANDBY = "standby"


class SchemaState(StrEnum):
    """Whether the tables are such that this regiond works with them."""

    CURRENT = "current"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The server that answers here; the rest is None when none does, or none did in time."""

    reachable: bool
    role: DatabaseRole | None = None
    schema: SchemaState | None = None


@dataclass(frozen=True, slots=True)
class ReplicationState:
    """The standbys of that server. `synchronous`: commits wait for one.

    Numbers are None where regiond's account may not see (it lacks the role pg_read_all_stats): of how many standbys are
    connected, stream, and stream as synchronous ones; and how far the last of those that stream is behind in applying.
    """

    synchronous: bool
    standbys: int | None
    streaming: int | None
    synchronous_streaming: int | None
    lag_bytes: int | None


@dataclass(frozen=True, slots=True)
class Readiness:
    """`shortcomings` are what keeps it from serving, a sentence each; none when it is ready."""

    shortcomings: tuple[str, ...]
    database: DatabaseState
    replication: ReplicationState | None
