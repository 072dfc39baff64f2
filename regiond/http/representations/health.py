"""How the daemon and its database are, as programs see it."""

from regiond.domain.readiness import DatabaseState, Readiness, ReplicationState
from regiond.http.representations.values import word
from regiond.http.shapes import health as shapes


def ready(readiness: Readiness) -> shapes.Readiness:
    """Of one that lacks nothing."""
    return {
        "status": "ready",
        "database": database(readiness.database),
        "replication": replication(readiness.replication),
    }


def database(state: DatabaseState) -> shapes.Database:
    return {
        "reachable": state.reachable,
        "role": None if state.role is None else word(state.role),
        "schema": None if state.schema is None else word(state.schema),
    }


def replication(state: ReplicationState | None) -> shapes.Replication | None:
    """None while the database is not reachable."""
    if state is None:
        return None
    return {
        "synchronous": state.synchronous,
        "standbys": state.standbys,
        "streaming": state.streaming,
        "synchronous_streaming": state.synchronous_streaming,
        "lag_bytes": state.lag_bytes,
    }
