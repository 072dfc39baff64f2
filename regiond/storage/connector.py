"""How a connection to PostgreSQL is made: which hosts there are, what is tried, what is set on it.

A host that never answers keeps libpq from trying the next one of a multi-host DSN, so every host is tried by itself.

Host names in the DSN are looked up by libpq with a blocking call, once per connect: use addresses, names from
/etc/hosts, or a caching resolver on the same host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import psycopg2
from psycopg2 import extensions

from regiond.storage.connection import Connection, Vet
from regiond.storage.errors import DatabaseUnavailable

CONNECT_DEADLINE_SECONDS: Final = 5.0

SESSION_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "application_name": "regiond",
        "statement_timeout": "10s",
        # a batch thinks for milliseconds: who holds its locks for longer was stopped, or cut off
        "idle_in_transaction_session_timeout": "5s",
        "client_min_messages": "warning",
        # the server looks after the client while it works: a killed regiond's queries end with it
        "client_connection_check_interval": "1s",
        # the writer's batches take their locks in a statement of their own and rely on this
        "default_transaction_isolation": "read committed",
        "timezone": "UTC",
    }
)
"""Set on every connection right after it is made. Values are PostgreSQL's, with units."""

_KEEPALIVES: Final[Mapping[str, str]] = MappingProxyType(
    {"keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3", "tcp_user_timeout": "30000"}
)

_PER_HOST: Final = ("host", "hostaddr", "port")


def split_hosts(dsn: str) -> tuple[str, ...]:
    """One DSN for each host of a multi-host DSN, in its order, with TCP keep-alives where it says nothing of them.

    Raises ValueError when libpq cannot parse it; the message never repeats the DSN, which may hold a password.
    """
    try:
        parameters = extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError:
        raise ValueError("the DSN (`[database] dsn`) is neither key=value pairs nor a postgresql:// URL") from None
    lists = {name: parameters[name].split(",") for name in _PER_HOST if name in parameters}
    count = max((len(lists[name]) for name in ("host", "hostaddr") if name in lists), default=1)
    for name, values in lists.items():
        if len(values) not in ((1, count) if name == "port" else (count,)):
            raise ValueError(f"the DSN (`[database] dsn`) has {count} hosts but {len(values)} values of {name}")
    common = {**_KEEPALIVES, **{key: value for key, value in parameters.items() if key not in _PER_HOST}}
    return tuple(
        extensions.make_dsn(
            **common,
            **{
                name: values[index if len(values) == count else 0]
                for name, values in lists.items()
                if values[index if len(values) == count else 0]
            },
        )
        for index in range(count)
    )


@dataclass
class Connector:
    """Makes connections to a DSN of one or more hosts, the host that answered last time first."""

    reactor: Any
    dsn: str
    settings: Mapping[str, str] = field(default_factory=lambda: SESSION_SETTINGS)
    deadline: float = CONNECT_DEADLINE_SECONDS
    vet: Vet | None = None
    """Called with every new connection; raises DatabaseUnavailable to refuse it (a former primary, say)."""

    def __post_init__(self) -> None:
        self._hosts = split_hosts(self.dsn)
        self._first = 0

    async def connect(self) -> Connection:
        """A connection with its settings applied. Raises DatabaseUnavailable with every host's last words."""
        reasons = []
        for step in range(len(self._hosts)):
            index = (self._first + step) % len(self._hosts)
            connection = Connection(self.reactor)
            try:
                await connection.open(self._hosts[index], self.settings, self.deadline, self.vet)
            except DatabaseUnavailable as error:
                reasons.append(_at(self._hosts[index], str(error)))
            else:
                self._first = index
                return connection
        raise DatabaseUnavailable("; ".join(reasons))


def _at(dsn: str, reason: str) -> str:
    """A reason with the host it is of. What libpq says while a connection over TCP is being made leaves that out."""
    parameters = extensions.parse_dsn(dsn)
    host = parameters.get("host") or parameters.get("hostaddr")
    if host is None or host.startswith("/") or host in reason:
        return reason
    return f"{host}, port {parameters.get('port', '5432')}: {reason}"
