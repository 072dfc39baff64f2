"""Sweeps of two regionds at once on one database: what is due happens, once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from clusterd.protocol.values import Identifier
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge, EditReservation, Place, Reclaim
from regiond.storage.pool import Pool, Session
from regiond.storage.writer import Writer
from regiond.sweeps import MAX_PER_SWEEP, Sweeps
from tests.regiond.storage.region import Region, addresses, region_on

reactor: Any = global_reactor

PAST = datetime.now(UTC) - timedelta(seconds=5)
FUTURE = datetime.now(UTC) + timedelta(hours=5)


async def nothing() -> None:
    """A sweep that this test does not look at."""


def sweeps_of(region: Region) -> Sweeps:
    return Sweeps(reactor, region.pool, region.writer, *[nothing] * 8)


class TwoRegionds:
    """Sweeps of two regionds, each with connections and a writer of its own."""

    def __init__(self, region: Region, database: str) -> None:
        self.pool = Pool(reactor, database, size=3)
        self.pool.start()
        self.writer = Writer(reactor, self.pool, lambda _: None)
        self.both = [sweeps_of(region), Sweeps(reactor, self.pool, self.writer, *[nothing] * 8)]

    async def at_once(self, name: str) -> None:
        await gatherResults([Deferred.fromCoroutine(getattr(each, name)()) for each in self.both], consumeErrors=True)

    async def stop(self) -> None:
        await self.writer.stop()
        await self.pool.close()


async def audited(region: Region, action: str) -> list[str]:
    rows = await region.pool.query(
        "SELECT object FROM audit WHERE action = %s AND actor = 'region' ORDER BY object", (action,)
    )
    return [row[0] for row in rows]


@pytest_twisted.ensureDeferred
async def test_what_expires_is_released_once_whoever_sweeps(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        due = [(await region.do(region.user(subnet, expires_at=PAST))).reservations[0] for _ in range(40)]
        kept = await region.do(region.user(subnet, expires_at=FUTURE), region.user(subnet))
        regionds = TwoRegionds(region, database)
        try:
            await regionds.at_once("release_expired")
            left = await region.pool.query("SELECT host(address) FROM reservation ORDER BY address")
            assert [row[0] for row in left] == list(addresses(kept))
            released = sorted(format_id(Prefix.RESERVATION, each.id) for each in due)
            assert await audited(region, "reservation.release") == released
            again = [(await region.do(region.user(subnet))).reservations[0] for _ in range(3)]
            assert [each.address for each in again] == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
            await regionds.at_once("release_expired")
            assert await audited(region, "reservation.release") == released
            assert await region.tiles([subnet])
        finally:
            await regionds.stop()


@pytest_twisted.ensureDeferred
async def test_an_expired_address_with_host_maps_rests_before_it_is_freed_once(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        macs = [Identifier.mac(f"00:16:3e:00:00:{n:02x}") for n in range(30)]
        for mac in macs:
            await region.do(region.device(subnet, mac, expires_at=PAST))
        regionds = TwoRegionds(region, database)
        try:
            for _ in range(2):
                await regionds.at_once("release_expired")
                await regionds.at_once("free_rested")
            rows = await region.pool.query("SELECT status, count(*) FROM reservation GROUP BY status")
            assert rows == [("releasing", 30)]
            assert len(await audited(region, "reservation.release")) == 30
            generation = (await region.pool.query("SELECT generation FROM subnet"))[0][0]
            await region.do(Acknowledge(cluster, subnet, generation, generation, rejected=()))
            await regionds.at_once("free_rested")
            assert await audited(region, "reservation.free") == []
            await region.pool.execute("UPDATE reservation SET free_at = now()")
            await region.pool.execute("UPDATE subnet SET recovering_since = now()")
            await regionds.at_once("free_rested")
            [(held, address)] = await region.pool.query("SELECT id, host(address) FROM reservation LIMIT 1")
            await region.do(Reclaim(held, subnet, address))
            assert await audited(region, "reservation.free") == [], "they may have been taken once more since"
            await region.pool.execute("UPDATE subnet SET recovering_since = NULL")
            for _ in range(2):
                await regionds.at_once("free_rested")
            assert await region.pool.query("SELECT FROM reservation") == []
            assert len(set(await audited(region, "reservation.free"))) == 30
            assert len(await audited(region, "reservation.free")) == 30
            assert await region.tiles([subnet])
        finally:
            await regionds.stop()


@pytest_twisted.ensureDeferred
async def test_more_than_one_sweep_takes_follow_in_the_next(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "10.0.0.0/16")
        many = MAX_PER_SWEEP + 20
        await region.do(*[region.user(subnet, expires_at=PAST) for _ in range(many // 2)])
        await region.do(*[region.user(subnet, expires_at=PAST) for _ in range(many - many // 2)])
        sweeps = sweeps_of(region)
        await sweeps.release_expired()
        assert len(await audited(region, "reservation.release")) == MAX_PER_SWEEP
        await sweeps.release_expired()
        assert len(set(await audited(region, "reservation.release"))) == many
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_claim_that_took_over_the_address_is_not_released_for_the_one_that_expired(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (expired,) = (await region.do(region.user(subnet, expires_at=PAST))).reservations
        sweeps = sweeps_of(region)
        sweeping = Deferred.fromCoroutine(sweeps.release_expired())  # has its question under way
        await region.release(expired)
        (taken,) = (await region.do(region.user(subnet))).reservations
        await sweeping
        assert taken.address == expired.address
        assert (await region.reads.reservation(taken.id)) is not None


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("until", [FUTURE, None])
async def test_what_is_kept_for_longer_while_a_sweep_is_about_to_release_it_stays(
    database: str, until: datetime | None
) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.user(subnet, expires_at=PAST))).reservations
        sweeping = Deferred.fromCoroutine(sweeps_of(region).release_expired())  # has its question under way
        place = Place(held.id, held.subnet, held.address)
        await region.do(EditReservation(place, {"expires_at": until}))
        await sweeping
        view = await region.reads.reservation(held.id)
        assert view is not None and view.reservation.expires_at == until
        assert await audited(region, "reservation.release") == []


async def many_releasing(region: Region, subnet: int, count: int) -> None:
    """So many addresses whose removal nobody has confirmed, of generations 1 to 5."""

    async def fill(session: Session) -> None:
        await session.run(
            """INSERT INTO reservation (subnet, address, id, kind, status, owner, map_generation, release_generation)
               SELECT %s, '10.1.0.0'::inet + n, n, 'device', 'releasing', %s, 1, 1 + n %% 5
               FROM generate_series(1, %s) n""",
            (subnet, region.owner, count),
        )
        await session.run("UPDATE subnet SET generation = 10 WHERE id = %s", (subnet,))

    await region.pool.transaction(fill)


async def unconfirmed(region: Region) -> int:
    rows = await region.pool.query("SELECT count(*) FROM reservation WHERE confirmed_at IS NULL OR free_at IS NULL")
    return int(rows[0][0])


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_was_away_confirms_more_than_one_batch_can_write(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", "10.0.0.0/8")
        await many_releasing(region, subnet, 21_000)
        sweeps = sweeps_of(region)
        await sweeps.confirm_rest()
        assert await unconfirmed(region) == 21_000, "nobody has confirmed anything yet"
        await region.do(Acknowledge(cluster, subnet, 4, 4, rejected=()))
        assert await unconfirmed(region) == 11_000
        await sweeps.confirm_rest()
        assert await unconfirmed(region) == 4_200, "those of generation 5 have yet to be confirmed"
        await region.do(Acknowledge(cluster, subnet, 10, 10, rejected=()))
        assert await unconfirmed(region) == 0


@pytest_twisted.ensureDeferred
async def test_what_cleaning_has_to_forget_is_forgotten_some_at_a_time(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regiond.sweeps.MAX_CLEANED", 7)
    async with region_on(database, reactor) as region:
        for hours, count in ((25, 30), (23, 2)):
            await region.pool.execute(
                """INSERT INTO idempotency (account, key, fingerprint, answer, created)
                   SELECT %s, %s || '-' || n, '', '', now() - make_interval(hours => %s)
                   FROM generate_series(1, %s) n""",
                (region.owner, str(hours), hours, count),
            )
        for minutes, count in ((61, 28), (59, 3)):
            await region.pool.execute(
                """INSERT INTO batch (id, committed)
                   SELECT gen_random_uuid(), now() - make_interval(mins => %s) FROM generate_series(1, %s)""",
                (minutes, count),
            )

        async def kept() -> tuple[Any, ...]:
            return (await region.pool.query("SELECT (SELECT count(*) FROM idempotency), (SELECT count(*) FROM batch)"))[
                0
            ]

        stopped = sweeps_of(region)
        cleaning = Deferred.fromCoroutine(stopped.clean())  # has its first statement under way
        await stopped.stop()
        await cleaning
        assert await kept() == (25, 31), "a stop does not wait for all the rest"
        await sweeps_of(region).clean()
        assert await kept() == (2, 3)
