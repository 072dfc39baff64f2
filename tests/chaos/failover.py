"""A primary is killed, its synchronous standby promoted, and later the former primary comes back by mistake."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from psycopg2 import extensions
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.chaos.ledger import Ledger
from tests.chaos.postgres import DATABASE, PostgresServer, Servers
from tests.chaos.reader import Reader
from tests.chaos.setting import Crowd, furnish, make_regionds, stop_all, subnet_ids, until
from tests.chaos.verify import feed_violations, violations

CLIENTS: Final = 8
REGIONDS: Final = 2
PROMOTED_AFTER_SECONDS: Final = 0.5
SERVED_SECONDS: Final = 3.0
SERVED_IN_BETWEEN: Final = 110


@dataclass(slots=True)
class Failover:
    """How it went. `promotion` and `gap` are seconds since the kill and between two acknowledgements."""

    promotion: float = 0.0
    gap: float = 0.0
    acknowledged: int = 0
    since_promotion: int = 0
    noticed_by: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join(
            [
                f"the standby took writes {self.promotion:.2f} s after the kill of the primary, clients went "
                f"{self.gap:.2f} s without an acknowledgement; {self.acknowledged} requests acknowledged, "
                f"{self.since_promotion} of them after the promotion",
                f"the former primary was noticed by {self.noticed_by} of {REGIONDS} regionds",
                *(f"VIOLATION: {violation[:1500]}" for violation in self.violations[:12]),
            ]
        )


class FailoverPlay:
    """One run."""

    def __init__(self, reactor: Any, directory: Path, seed: int) -> None:
        self._reactor = reactor
        self._seed = seed
        servers = Servers(directory)
        self._first = servers.server("db1", synchronous_commit="remote_apply")
        self._second = servers.server("db2", synchronous_commit="remote_apply")
        self._regionds = make_regionds(directory, REGIONDS, two_hosts(self._first, self._second))

    async def play(self) -> Failover:
        """Play it from beginning to end; nothing runs afterwards."""
        result = Failover()
        try:
            await pair_up(self._reactor, self._first, self._second)
            for regiond in self._regionds:
                regiond.start()
            world = await furnish(self._reactor, self._first, self._regionds)
            reader = Reader(
                self._reactor, two_hosts(self._first, self._second), await deferToThread(subnet_ids, self._first)
            )
            reader.start()
            crowd = Crowd(self._reactor, CLIENTS, self._seed, world)
            result.ledger = crowd.ledger
            crowd.start()
            await self._served(crowd, SERVED_IN_BETWEEN)
            killed = time.monotonic()
            await self._fail_over(result)
            promoted = time.monotonic()
            await self._served(crowd, len(crowd.ledger.acknowledgements) + SERVED_IN_BETWEEN)
            _, result.gap = crowd.ledger.longest_gap(killed, time.monotonic())
            await self._former_primary_returns(result)
            await crowd.settle()
            await reader.finish()
            result.acknowledged = len(crowd.ledger.acknowledgements)
            result.since_promotion = sum(1 for moment in crowd.ledger.acknowledgements if moment > promoted)
            result.violations += await stop_all(self._regionds)
            result.violations += reader.violations
            result.violations += violations(crowd.ledger, self._second)
            result.violations += feed_violations(reader.maps, self._second)
        finally:
            for regiond in self._regionds:
                regiond.kill()
            for server in (self._first, self._second):
                server.kill()
        return result

    async def _served(self, crowd: Crowd, enough: int) -> None:
        """For a while, and until so many requests are acknowledged, however slow the machine is."""
        await deferLater(self._reactor, SERVED_SECONDS)
        await until(
            self._reactor, lambda: len(crowd.ledger.acknowledgements) > enough, "requests are acknowledged", 60.0
        )

    async def _fail_over(self, result: Failover) -> None:
        began = time.monotonic()
        self._first.kill()
        await deferLater(self._reactor, PROMOTED_AFTER_SECONDS)
        await deferToThread(self._second.query, "SELECT pg_promote(wait => false)")
        await until(self._reactor, lambda: not in_recovery(self._second), "the standby is promoted", 60.0)
        result.promotion = time.monotonic() - began

    async def _former_primary_returns(self, result: Failover) -> None:
        """It takes writes, alone, and is the first host of the DSN. Everybody has to connect anew."""
        self._first.start(synchronous_standby_names="")
        before = await deferToThread(_writes, self._first)
        # one that has only a file to know it from, one that has seen the new primary, one that knows nothing
        killed, living = self._regionds
        killed.kill()
        killed.start()
        await deferToThread(
            self._second.query,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'regiond'",
        )
        await deferLater(self._reactor, SERVED_SECONDS)
        living.kill()
        (living.state / "database-timeline.json").unlink()
        living.start()
        await until(self._reactor, lambda: killed.ready and living.ready, "both regionds are back", 60.0)
        await deferLater(self._reactor, SERVED_SECONDS)
        if await deferToThread(_writes, self._first) != before:
            result.violations.append("something was written to the former primary")
        result.noticed_by = sum(
            any(line.get("event") == "database.former-primary" for line in regiond.lines())
            for regiond in self._regionds
        )


async def pair_up(reactor: Any, primary: PostgresServer, standby: PostgresServer) -> None:
    """Make a primary whose commits wait for the standby."""
    await deferToThread(primary.initialize)
    primary.start()
    primary.create_database()
    await deferToThread(standby.clone, primary)
    standby.start()
    primary.stop()
    primary.start(synchronous_standby_names=standby.place.name)
    await until(reactor, lambda: _is_synchronous(primary), "the standby is synchronous", 60.0)


def two_hosts(first: PostgresServer, second: PostgresServer) -> str:
    """The DSN of whichever of the two takes writes."""
    return str(
        extensions.make_dsn(
            host=f"{first.sockets},{second.sockets}",
            port="5432",
            user=first.parameters["user"],
            dbname=DATABASE,
            target_session_attrs="read-write",
        )
    )


def in_recovery(server: PostgresServer) -> bool:
    return bool(server.query("SELECT pg_is_in_recovery()")[0][0])


def _is_synchronous(primary: PostgresServer) -> bool:
    return bool(primary.query("SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'"))


def _writes(server: PostgresServer) -> tuple[int, ...]:
    """Grows with everything that a regiond writes."""
    (row,) = server.query("SELECT (SELECT count(*) FROM batch), (SELECT count(*) FROM audit)")
    return row
