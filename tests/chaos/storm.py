"""Three regionds on one PostgreSQL, and everything is killed all the time."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.chaos.ledger import Ledger
from tests.chaos.postgres import PostgresServer, Servers
from tests.chaos.reader import Reader
from tests.chaos.regionds import Regiond
from tests.chaos.setting import Crowd, furnish, make_regionds, stop_all, subnet_ids, until
from tests.chaos.verify import feed_violations, violations

REGIONDS: Final = 3
CLIENTS: Final = 10
REGIOND_KILLED_EVERY: Final = 1.0
BACKENDS_KILLED_EVERY: Final = 0.7
SERVER_KILLED_EVERY: Final = 7.0
REGIOND_FROZEN_EVERY: Final = 4.0
FROZEN_SECONDS: Final = (0.5, 2.0, 7.0)
SUPERVISED_EVERY: Final = 0.05
LONGEST: Final = 4
MOST_TOLD: Final = 12
LONGEST_TOLD: Final = 1500


@dataclass(slots=True)
class Report:
    """What happened. `violations` is empty when every promise was kept."""

    seed: int
    seconds: float
    regiond_kills: int = 0
    freezes: int = 0
    backend_terminations: int = 0
    backend_kills: int = 0
    server_kills: int = 0
    differences: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    violations: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        ledger = self.ledger
        answers = ", ".join(f"{count} × {what}" for what, count in sorted(ledger.answers.items()))
        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds:g} s: {self.regiond_kills} kills of regionds, of PostgreSQL "
                f"{self.server_kills} and of its backends {self.backend_kills}; {self.backend_terminations} backends "
                f"terminated; {self.freezes} regionds frozen for a while",
                f"{len(ledger.acknowledgements)} requests acknowledged ({len(ledger.claims)} claims, "
                f"{len(ledger.live())} addresses held at the end), {sum(ledger.refused.values())} refused; "
                f"{self.differences} differences replayed",
                f"answers: {answers}; the slowest after {ledger.slowest_answer:.2f} s",
                *(f"VIOLATION: {violation[:LONGEST_TOLD]}" for violation in self.violations[:MOST_TOLD]),
                *([f"… and {len(self.violations) - MOST_TOLD} more"] if len(self.violations) > MOST_TOLD else []),
            ]
        )


class Storm:
    """One run. The seed decides who is killed when and what clients want; what comes of it depends on the machine."""

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        seconds: float,
        seed: int,
        is_enough: Callable[[Report], bool] = lambda report: True,
    ) -> None:
        """A storm that is not enough after these seconds, on a slow machine, goes on for up to LONGEST times them."""
        self._reactor = reactor
        self._directory = directory
        self._is_enough = is_enough
        self._seed = seed
        self._random = random.Random(seed)
        self._server: PostgresServer = Servers(directory).server("postgres")
        self._regionds: list[Regiond] = make_regionds(directory, REGIONDS, self._server.dsn)
        self._raging = False
        self._end = 0.0
        self.report = Report(seed, seconds)

    async def play(self) -> Report:
        """Play it from beginning to end; nothing runs afterwards."""
        report = self.report
        try:
            await deferToThread(self._server.initialize)
            self._server.start()
            self._server.create_database()
            for regiond in self._regionds:
                regiond.start()
            world = await furnish(self._reactor, self._server, self._regionds)
            reader = Reader(self._reactor, self._server.dsn, subnet_ids(self._server))
            reader.start()
            crowd = Crowd(self._reactor, CLIENTS, self._seed, world)
            report.ledger = crowd.ledger
            crowd.start()
            await self._rage(report.seconds, lambda: reader.differences)
            await until(self._reactor, lambda: all(r.ready for r in self._regionds), "all regionds come back", 60.0)
            await crowd.settle()
            await reader.finish()
            report.differences = reader.differences
            report.violations += await stop_all(self._regionds)
            report.violations += reader.violations
            report.violations += violations(crowd.ledger, self._server)
            report.violations += feed_violations(reader.maps, self._server)
            report.violations += self._unexpected_exits()
        finally:
            for regiond in self._regionds:
                regiond.kill()
            self._server.kill()
        return report

    async def _rage(self, seconds: float, differences: Callable[[], int]) -> None:
        self._end = time.monotonic() + seconds
        self._very_end = self._end + (LONGEST - 1) * seconds
        self._differences = differences
        self._raging = True
        evils: list[tuple[float, Callable[[], Any]]] = [
            (REGIOND_KILLED_EVERY, self._kill_a_regiond),
            (REGIOND_FROZEN_EVERY, self._freeze_a_regiond),
            (BACKENDS_KILLED_EVERY, self._terminate_backends),
            (SERVER_KILLED_EVERY, self._kill_postgres),
            (SUPERVISED_EVERY, self._supervise),
        ]
        await gatherResults([Deferred.fromCoroutine(self._repeat(*evil)) for evil in evils], consumeErrors=True)
        self._raging = False
        self._supervise()

    async def _repeat(self, every: float, evil: Callable[[], Any]) -> None:
        while True:
            await deferLater(self._reactor, every)
            if self._is_over():
                return
            await Deferred.fromCoroutine(_awaited(evil()))

    def _is_over(self) -> bool:
        now = time.monotonic()
        if now < self._end:
            return False
        self.report.differences = self._differences()
        return now >= self._very_end or self._is_enough(self.report)

    # Evils

    def _supervise(self) -> None:
        for regiond in self._regionds:
            regiond.supervise()

    def _kill_a_regiond(self) -> None:
        """One that has had its chance: its door is open."""
        standing = [regiond for regiond in self._regionds if regiond.open]
        if not standing:
            return
        victim = self._random.choice(standing)
        victim.kill()
        victim.start()
        self.report.regiond_kills += 1

    async def _freeze_a_regiond(self) -> None:
        """It stops in the middle of whatever it does, locks and all, and goes on later as if nothing had been."""
        standing = [regiond for regiond in self._regionds if regiond.open]
        if not standing:
            return
        victim = self._random.choice(standing)
        pid = victim.freeze()
        self.report.freezes += 1
        await deferLater(self._reactor, self._random.choice(FROZEN_SECONDS))
        victim.thaw(pid)

    async def _terminate_backends(self) -> None:
        """Some of those that serve regionds or the reader, as an administrator or a proxy does."""
        share = self._random.choice((0.1, 0.3, 1.0))
        self.report.backend_terminations += await deferToThread(self._terminate, share)

    def _terminate(self, share: float) -> int:
        try:
            rows = self._server.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'regiond' AND random() < %s",
                (share,),
            )
        except psycopg2.Error:
            return 0
        return len(rows)

    async def _kill_postgres(self) -> None:
        """The whole server, or one backend, which makes the server throw everybody out and recover."""
        if self._random.random() < 0.5 and self.report.server_kills:
            self.report.backend_kills += await deferToThread(self._kill_a_backend)
            return
        self._server.kill()
        self.report.server_kills += 1
        await deferLater(self._reactor, self._random.choice((0.0, 0.3, 1.5)))
        self._server.start()

    def _kill_a_backend(self) -> int:
        try:
            self._server.query("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
        except psycopg2.Error:
            return 1
        return 0

    def _unexpected_exits(self) -> list[str]:
        """A regiond that has started never ends by itself; one that cannot start says so and ends with 1."""
        found = []
        for regiond in self._regionds:
            excused = sum(1 for line in regiond.lines() if line.get("event") == "regiond.start-failed")
            if len(regiond.exit_codes) > excused or set(regiond.exit_codes) - {1}:
                found.append(
                    f"{regiond.name} ended by itself with {regiond.exit_codes}, {excused} times unable to start"
                )
        return found


async def _awaited(maybe: Any) -> None:
    if maybe is not None:
        await maybe
