"""A regiond with its own PostgreSQL: either is killed with -9 under claims, and everything acknowledged is there."""

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from regiond.postgres.place import DATABASE, PORT, ROLE
from tests.chaos.postgres import run_query
from tests.chaos.regionds import Regiond
from tests.chaos.setting import Crowd, Trouble, furnish, stop_all, until
from tests.chaos.verify import violations

reactor: Any = global_reactor

CLIENTS = 6
ROUNDS = 2
SERVED_SECONDS = 1.0  # and as long as it takes for so many claims
CLAIMS_IN_BETWEEN = 26
LOOK_SECONDS = 0.1
MOST_LOOKS = 600


class EmbeddedDatabase:
    """The PostgreSQL inside of a regiond's state directory."""

    def __init__(self, state: Path) -> None:
        self._place = state / "postgres"

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        parameters = {"host": str(self._place / "socket"), "port": str(PORT), "user": ROLE, "dbname": DATABASE}
        return run_query(parameters, sql, args)

    def kill(self) -> None:
        """kill -9 of the postmaster."""
        text = (self._place / "data" / "postmaster.pid").read_text()
        os.kill(int(text.split("\n")[0]), signal.SIGKILL)


async def back(regiond: Regiond) -> None:
    """What an init system does, until everything works again."""
    for _ in range(MOST_LOOKS):
        if await deferToThread(lambda: regiond.ready):
            return
        regiond.supervise()
        await deferLater(reactor, LOOK_SECONDS)
    raise Trouble(f"regiond does not come back:\n{regiond.tail()}")


@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_when_regiond_or_its_postgresql_is_killed(state_directory: Path) -> None:
    seed = random.randrange(1_000_000)
    regiond = Regiond(state_directory, "region", "")
    database = EmbeddedDatabase(regiond.state)
    regiond.start()
    try:
        world = await furnish(reactor, database, [regiond])
        crowd = Crowd(reactor, CLIENTS, seed, world)
        crowd.start()

        async def served() -> None:
            enough = len(crowd.ledger.claims) + CLAIMS_IN_BETWEEN
            await deferLater(reactor, SERVED_SECONDS)
            await until(reactor, lambda: len(crowd.ledger.claims) >= enough, "claims are served", 60.0)

        for _ in range(ROUNDS):
            await served()
            regiond.kill()
            regiond.start()
            await back(regiond)
            await served()
            database.kill()
            await until(reactor, lambda: not regiond.alive, "regiond ends without its database", 30.0)
            await back(regiond)
        await crowd.settle()
        found = violations(crowd.ledger, database)
        # it says that its database ended: that is no bug of its own
        found += [
            bug for bug in await stop_all([regiond]) if "database-ended" not in bug and "postgres.ended" not in bug
        ]
    finally:
        regiond.kill()
    if found:
        pytest.fail("\n".join([f"seed {seed}", *(line[:1500] for line in found[:12])]), pytrace=False)
    assert regiond.exit_codes == [1] * ROUNDS
    assert len(crowd.ledger.claims) >= 2 * ROUNDS * CLAIMS_IN_BETWEEN
