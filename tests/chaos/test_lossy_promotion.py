"""A standby that lagged is promoted: what it lacks is noticed before an address is given to somebody else."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.threads import deferToThread

from clusterd.protocol.values import Identifier
from regiond.domain.errors import SubnetRecovering
from regiond.domain.mutations import Actor, Claim, Mutation, NewDevice
from regiond.domain.reservations import Kind
from regiond.hearing import Hearing
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.last_batch import LastBatch
from regiond.storage.pool import Pool
from regiond.storage.primary import NewestPrimary
from regiond.storage.recovery import RecoveryStore
from regiond.storage.schema import migrate
from regiond.storage.writer import Writer
from tests.chaos.failover import in_recovery, two_hosts
from tests.chaos.postgres import PostgresServer, Servers
from tests.chaos.setting import until
from tests.regiond.storage.region import new_id

reactor: Any = global_reactor

ACCOUNT = 7
PROMOTION_SECONDS = 60.0


@dataclass
class Site:
    """A primary and a standby that nobody waits for, and what regiond has between itself and them."""

    primary: PostgresServer
    standby: PostgresServer
    pool: Pool
    writer: Writer
    last_batch: LastBatch

    async def claim(self, number: int) -> str:
        mac = Identifier.mac(f"00:16:3e:00:00:{number:02x}")
        device = NewDevice(new_id(), None, None)
        step = Claim(new_id(), Kind.DEVICE, 1, ACCOUNT, "tester", identifiers=(mac,), device=device)
        outcome = await self.writer.submit(Mutation(Actor(ACCOUNT, "tester", True), (step,), "request"))
        return outcome.reservations[0].address

    async def history(self) -> str:
        [(history,)] = await self.pool.query("SELECT history::text FROM region")
        return str(history)

    async def follows(self) -> None:
        """The standby has everything."""
        [(position,)] = await deferToThread(self.primary.query, "SELECT pg_current_wal_lsn()::text")
        await until(reactor, lambda: self._replayed(position), "the standby has everything", PROMOTION_SECONDS)

    def _replayed(self, position: str) -> bool:
        return bool(self.standby.query("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,))[0][0])

    async def lags(self) -> None:
        """The standby gets nothing from now on."""
        await deferToThread(self.standby.query, "ALTER SYSTEM SET primary_conninfo = ''")
        await deferToThread(self.standby.query, "SELECT pg_reload_conf()")
        receiving = "SELECT FROM pg_stat_wal_receiver"
        await until(reactor, lambda: not self.standby.query(receiving), "the standby lags", PROMOTION_SECONDS)

    async def fails_over(self) -> None:
        self.primary.kill()
        await deferToThread(self.standby.query, "SELECT pg_promote(wait => false)")
        await until(reactor, lambda: not in_recovery(self.standby), "the standby is promoted", PROMOTION_SECONDS)


@asynccontextmanager
async def site_in(directory: Path) -> AsyncIterator[Site]:
    servers = Servers(directory)
    primary, standby = servers.server("db1"), servers.server("db2")
    try:
        await deferToThread(primary.initialize)
        primary.start()
        primary.create_database()
        await deferToThread(standby.clone, primary)
        standby.start()
        dsn = two_hosts(primary, standby)
        newest = NewestPrimary(reactor, directory / "timeline.json")

        async def begin(reason: str, history: str) -> None:
            recovering = Pool(reactor, dsn, size=1, vet=newest.vet)
            recovering.start()
            await Hearing(reactor, RecoveryStore(recovering, new_id)).begin_anew(reason, history)
            await recovering.close()

        last_batch = LastBatch(reactor, begin, newest.vet)
        pool = Pool(reactor, dsn, size=2, vet=last_batch.vet)
        pool.start()
        await migrate(pool)
        await pool.execute("INSERT INTO account (id, name, role) VALUES (%s, 'tester', 'admin')", (ACCOUNT,))
        await pool.execute(
            "INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)"
            " VALUES (1, 1, '192.0.2.0/24', '192.0.2.1', '192.0.2.254')"
        )
        await pool.execute("INSERT INTO cluster (id, name) VALUES (1, 'rack-1')")
        await pool.execute("INSERT INTO delivery (subnet, cluster, role) VALUES (1, 1, 'serving')")
        await pool.execute("SELECT rebuild_free_ranges(1)")
        writer = Writer(reactor, pool, lambda _: None, on_batch=last_batch.committed)
        site = Site(primary, standby, pool, writer, last_batch)
        last_batch.seen(await site.history())
        yield site
        await writer.stop()
        await pool.close()
    finally:
        primary.kill()
        standby.kill()


async def claim_when_it_answers(site: Site, number: int) -> str:
    """While the servers change places the database may be away for longer than a claim waits."""
    end = time.monotonic() + PROMOTION_SECONDS
    while True:
        try:
            return await site.claim(number)
        except DatabaseUnavailable:
            if time.monotonic() > end:
                raise


@pytest_twisted.ensureDeferred
async def test_nothing_is_claimed_before_the_loss_of_the_last_commit_is_recovered_from(state_directory: Path) -> None:
    async with site_in(state_directory) as site:
        before = await site.history()
        await site.claim(1)
        await site.follows()
        await site.lags()
        lost = await site.claim(2)
        await site.fails_over()
        kept = await deferToThread(site.standby.query, "SELECT count(*) FROM reservation WHERE address = %s", (lost,))
        assert kept == [(0,)], "the promotion lost it"
        with pytest.raises(SubnetRecovering, match="rack-1"):
            await claim_when_it_answers(site, 3)
        rows = await site.pool.query("SELECT history::text, reason FROM former_history")
        assert [history for history, _ in rows] == [before]
        assert "lost the last commit" in rows[0][1]
        assert await site.history() != before


@pytest_twisted.ensureDeferred
async def test_a_promotion_that_lost_nothing_is_nobodys_business(state_directory: Path) -> None:
    async with site_in(state_directory) as site:
        before = await site.history()
        await site.claim(1)
        await site.follows()
        await site.fails_over()
        assert await claim_when_it_answers(site, 2) == "192.0.2.2"
        assert await site.history() == before
