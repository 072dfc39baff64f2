"""While the synchronous standby hangs nothing is acknowledged, by no way round: not by a time limit, not by a look."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from regiond.domain.mutations import Actor, Claim, Idempotency, Mutation, Outcome
from regiond.domain.reservations import Kind
from regiond.storage.connector import SESSION_SETTINGS, Connector
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import Pool, Session
from regiond.storage.reads import Reads
from regiond.storage.schema import migrate
from regiond.storage.writer import Writer
from tests.chaos.failover import pair_up
from tests.chaos.postgres import PostgresServer, Servers

reactor: Any = global_reactor

STATEMENT_TIMEOUT = "300ms"
DEADLINE_SECONDS = 1.5
BACK_SECONDS = 60.0
KEY = Idempotency(7, "key-1", "f")


class Pair:
    """A primary, its synchronous standby, and a writer on the primary."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby
        settings = {**SESSION_SETTINGS, "statement_timeout": STATEMENT_TIMEOUT}
        connector = Connector(reactor, primary.dsn, settings)
        self.pool = Pool(reactor, primary.dsn, size=4, deadline=DEADLINE_SECONDS, patience=1.0, connector=connector)
        self.writer = Writer(reactor, self.pool, lambda _: None)

    async def claim(self) -> Outcome:
        step = Claim(1, Kind.USER, 1, KEY.account, "tester")
        return await self.writer.submit(Mutation(Actor(KEY.account, "tester", True), (step,), "request", KEY))

    async def claim_when_it_answers(self) -> Outcome:
        """The standby is back; how soon it has everything is its own affair."""
        end = time.monotonic() + BACK_SECONDS
        while True:
            try:
                return await self.claim()
            except DatabaseUnavailable:
                if time.monotonic() > end:
                    raise

    async def end_waiting_commits(self) -> None:
        """As an impatient administrator: what waits for the standby is seen although only the primary has it."""
        await deferToThread(
            self.primary.query,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'regiond' AND wait_event = 'SyncRep'",
        )


@asynccontextmanager
async def pair_in(directory: Path) -> AsyncIterator[Pair]:
    servers = Servers(directory)
    # a standby that hangs must stay one that is waited for
    patience = {"wal_sender_timeout": "0", "synchronous_commit": "remote_apply"}
    primary, standby = servers.server("db1", **patience), servers.server("db2", **patience)
    try:
        await pair_up(reactor, primary, standby)
        pair = Pair(primary, standby)
        pair.pool.start()
        await migrate(pair.pool)
        primary.query("INSERT INTO account (id, name, role) VALUES (%s, 'tester', 'admin')", (KEY.account,))
        primary.query(
            "INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)"
            " VALUES (1, 1, '192.0.2.0/24', '192.0.2.1', '192.0.2.254')"
        )
        primary.query("SELECT rebuild_free_ranges(1)")
        yield pair
        await pair.writer.stop()
        await pair.pool.close()
    finally:
        primary.kill()
        standby.kill()


@pytest_twisted.ensureDeferred
async def test_a_commit_that_the_standby_does_not_have_is_not_acknowledged(state_directory: Path) -> None:
    async with pair_in(state_directory) as pair:
        frozen = pair.standby.freeze()
        try:
            with pytest.raises(DatabaseUnavailable) as unavailable:
                await pair.claim()
            assert unavailable.value.outcome_unknown

            await pair.end_waiting_commits()
            kept = await deferToThread(pair.primary.query, "SELECT count(*) FROM reservation")
            assert kept == [(1,)]  # it is there to be seen
            with pytest.raises(DatabaseUnavailable):
                await pair.claim()
            with pytest.raises(DatabaseUnavailable):
                await Reads(pair.pool).answer(KEY)
            with pytest.raises(DatabaseUnavailable):
                await pair.pool.transaction(_write)
        finally:
            pair.standby.thaw(frozen)
        outcome = await pair.claim_when_it_answers()
        assert outcome.replayed
        pair.primary.kill()
        kept = await deferToThread(pair.standby.query, "SELECT host(address) FROM reservation")
        assert kept == [(outcome.reservations[0].address,)]


async def _write(session: Session) -> None:
    await session.run("INSERT INTO account (id, name, role) VALUES (8, 'other', 'user')")
