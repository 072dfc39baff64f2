"""What the daemon says of itself."""

from typing import Literal

from regiond.domain import readiness
from regiond.http.shapes.values import Count, Shape


class Health(Shape):
    status: Literal["ok"]


class Database(Shape):
    """The server that answers this regiond. The other members are null while none does."""

    reachable: bool
    role: readiness.DatabaseRole | None
    schema: readiness.SchemaState | None


class Replication(Shape):
    """The standbys of that server. `synchronous`: commits wait for one.

    Numbers are null where regiond's account lacks PostgreSQL's role pg_read_all_stats. `lag_bytes` is how far the last
    standby that streams is behind in applying the log, null without any.
    """

    synchronous: bool
    standbys: Count | None
    streaming: Count | None
    synchronous_streaming: Count | None
    lag_bytes: Count | None


class Readiness(Shape):
    status: Literal["ready"]
    database: Database
    replication: Replication | None
