"""Which server is the primary: never one that was, and does not know yet that it is no longer.

PostgreSQL begins a new timeline at every promotion. A former primary that comes back as if nothing had happened still
takes writes, on the older timeline, and libpq picks it gladly: with `target_session_attrs=read-write` the first host of
the DSN wins. Here each new connection is asked for its timeline, and an older one than was ever seen is refused. What
was seen stays in a file, so that a regiond that starts again knows it; at each start all hosts are asked first.

This is no fence: who writes to a former primary that it is still connected to is stopped only by synchronous
replication, which makes such a commit wait for a standby that has gone elsewhere.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import psycopg2
from psycopg2 import extensions
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from regiond.storage.connection import Connection, ConnectionLost
from regiond.storage.connector import SESSION_SETTINGS, split_hosts
from regiond.storage.errors import DatabaseUnavailable

LOOK_DEADLINE_SECONDS: Final = 2.0
TOLD_EVERY_SECONDS: Final = 60.0

# A standby has not written anything: of its past only the log tells that it last followed. The timeline of a primary
# is that of the segment it writes; its control file is behind until the first checkpoint after the promotion.
_WHERE: Final = """
SELECT s.system_identifier::text, pg_is_in_recovery(), CASE WHEN pg_is_in_recovery()
    THEN greatest(c.timeline_id, r.min_recovery_end_timeline, (SELECT max(received_tli) FROM pg_stat_wal_receiver))
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END
FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r
"""


@dataclass(frozen=True, slots=True)
class Past:
    """How far a cluster of databases has come: `system` names it, `timeline` counts its promotions."""

    system: str
    timeline: int


class NewestPrimary:
    """Remembers the newest past that was seen, in memory and in `file`, and refuses older ones."""

    _log = Logger(namespace="storage")

    def __init__(self, reactor: Any, file: Path) -> None:
        self._reactor = reactor
        self._file = file
        self._newest: Past | None = None
        self._connected = False
        self._told: float | None = None
        self._connections: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    async def look_around(self, dsn: str) -> None:
        """Recall what was seen before, and ask every host of a DSN of several, as far as they answer."""
        self._newest = self._recall()
        hosts = split_hosts(dsn)
        if len(hosts) < 2:
            return
        looks = [Deferred.fromCoroutine(self._look_at(host)) for host in hosts]
        results: list[tuple[bool, Any]] = await DeferredList(looks, consumeErrors=True)
        seen = [result for success, result in results if success and result is not None]
        systems = {past.system for past in seen}
        if self._newest is not None and self._newest.system in systems:
            systems = {self._newest.system}
        if len(systems) == 1:
            self._see(max((past for past in seen if past.system in systems), key=lambda past: past.timeline))

    async def vet(self, connection: Connection) -> None:
        """Look at a new connection. Raises DatabaseUnavailable when its server is not the newest primary."""
        where = await self._ask(connection)
        if where is None:
            return
        past, in_recovery = where
        if in_recovery:
            return  # it takes no writes, which readiness tells
        newest = self._newest
        if newest is not None and past.system != newest.system:
            if self._connected:
                raise DatabaseUnavailable(
                    f"this is another cluster of databases (system identifier {past.system}) than the one in use "
                    f"({newest.system}): if it is meant, start regiond again"
                )
            self._log.warn(
                "another cluster of databases than the last time: system identifier {system}",
                event="database.replaced",
                system=past.system,
            )
        elif newest is not None and past.timeline < newest.timeline:
            self._tell_of_former(past, newest)
            raise DatabaseUnavailable(
                f"a former primary answers: its timeline is {past.timeline}, and {newest.timeline} was seen already. "
                f"Stop it and make it a standby of the new primary; or, if the newer past is given up for good, "
                f"remove {self._file} and start regiond again"
            )
        self._connected = True
        self._connections[connection] = past.timeline
        self._see(past)

    def _tell_of_former(self, past: Past, newest: Past) -> None:
        """Say it also where another host answers and nothing fails: somebody has to stop that server."""
        now = self._reactor.seconds()
        if self._told is None or now - self._told >= TOLD_EVERY_SECONDS:
            self._told = now
            self._log.warn(
                "a former primary takes connections: it is on timeline {timeline}, the primary on {newest}",
                event="database.former-primary",
                timeline=past.timeline,
                newest=newest.timeline,
            )

    # What was seen

    def _see(self, past: Past) -> None:
        newest = self._newest
        if newest is not None and newest.system == past.system and newest.timeline >= past.timeline:
            return
        self._newest = past
        self._log.info(
            "the database is on timeline {timeline}",
            event="database.timeline",
            timeline=past.timeline,
            system=past.system,
        )
        self._remember(past)
        for connection, timeline in list(self._connections.items()):
            if timeline < past.timeline:
                connection.abort("its server is no longer the primary")

    def _recall(self) -> Past | None:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            return Past(str(kept["system"]), int(kept["timeline"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._log.warn(
                "cannot read {file}: {reason}",
                event="database.timeline-unread",
                file=str(self._file),
                reason=str(error),
            )
            return None

    def _remember(self, past: Past) -> None:
        fresh = self._file.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump({"system": past.system, "timeline": past.timeline}, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._file)
        except OSError as error:
            self._log.warn(
                "cannot write {file}: {reason}",
                event="database.timeline-unkept",
                file=str(self._file),
                reason=str(error),
            )

    # Questions

    async def _look_at(self, host: str) -> Past | None:
        parameters = extensions.parse_dsn(host)
        parameters.pop("target_session_attrs", None)
        connection = Connection(self._reactor)
        await connection.open(extensions.make_dsn(**parameters), SESSION_SETTINGS, LOOK_DEADLINE_SECONDS, None)
        try:
            where = await self._ask(connection)
        finally:
            connection.close()
        return None if where is None else where[0]

    async def _ask(self, connection: Connection) -> tuple[Past, bool] | None:
        """Where its server is and whether it is a standby; None when it does not tell (some services do not)."""
        try:
            [(system, in_recovery, timeline)] = await connection.run(_WHERE)
        except ConnectionLost:
            raise
        except psycopg2.Error as error:
            self._log.warn(
                "the server does not tell its timeline, so a former primary is not recognised: {reason}",
                event="database.timeline-untold",
                reason=str(error).strip(),
            )
            return None
        return Past(system, timeline), bool(in_recovery)
