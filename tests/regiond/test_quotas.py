"""How many user reservations an account may have: counted exactly, also by several regionds at once."""

from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.facts import QuotaFacts
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Claim, Mutation, Outcome, Release
from regiond.domain.quotas import Quotas
from regiond.domain.reservations import Kind
from regiond.storage.batch import facts_request, read_facts
from regiond.storage.pool import Pool, Session
from regiond.storage.writer import Writer
from tests.regiond.storage.region import new_id
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor


SCANS = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'reservation'"


def claims(*owners_and_subnets: tuple[int, int], kind: Kind = Kind.USER) -> list[Claim]:
    return [Claim(new_id(), kind, subnet, owner, f"account-{owner}") for owner, subnet in owners_and_subnets]


def facts(limit: int | None = None, per_subnet: int | None = None, used_on: Mapping[int, int] | None = None) -> Any:
    used_on = used_on or {}
    return {1: QuotaFacts(limit, per_subnet, sum(used_on.values()), used_on)}


def test_the_numbers_are_told() -> None:
    with pytest.raises(errors.QuotaExceeded) as refused:
        Quotas(facts(5, used_on={7: 2, 8: 2})).check(claims((1, 7), (1, 7)), {})
    assert refused.value.members == {"scope": "account", "limit": 5, "used": 4, "wanted": 2}
    assert refused.value.detail == "account account-1 may have 5 user reservations and has 4: 2 more are too many"
    with pytest.raises(errors.QuotaExceeded) as refused:
        Quotas(facts(5, 2, {7: 2})).check(claims((1, 7)), {})
    assert refused.value.members == {"scope": "subnet", "limit": 2, "used": 2, "wanted": 1}


def test_only_user_reservations_of_limited_accounts_count() -> None:
    quotas = Quotas(facts(0, 0))
    quotas.check(claims((2, 7), (3, 7)), {})
    quotas.check(claims((1, 7), kind=Kind.DEVICE), {})
    quotas.check([Release(1, 7, "192.0.2.1")], {})
    Quotas(facts(None, 1)).check(claims((1, 7), (1, 8)), {})


@given(
    limit=st.integers(0, 4),
    per_subnet=st.integers(0, 4),
    members=st.lists(st.lists(st.sampled_from([7, 8]), min_size=1, max_size=3), max_size=8),
)
def test_members_of_one_batch_count_up_and_never_above(limit: int, per_subnet: int, members: list[list[int]]) -> None:
    quotas = Quotas(facts(limit, per_subnet))
    had: list[int] = []
    for subnets in members:
        fits = len(had) + len(subnets) <= limit and all((had + subnets).count(s) <= per_subnet for s in set(subnets))
        try:
            quotas.check(claims(*((1, subnet) for subnet in subnets)), {})
        except errors.QuotaExceeded:
            assert not fits
            continue
        assert fits
        had += subnets
        for subnet in subnets:
            quotas.count(1, subnet, 1)


async def limit(world: SubnetWorld, **limits: int | None) -> None:
    account = format_id(Prefix.ACCOUNT, world.region.owner)
    await world.accounts.change_account(world.admin, account, changes=limits)


async def used(world: SubnetWorld) -> int:
    return (await world.accounts.account(world.admin, format_id(Prefix.ACCOUNT, world.region.owner))).reservations


@pytest_twisted.ensureDeferred
async def test_a_limit_holds_until_something_is_released(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        (number, subnet), (other, _) = await world.subnet(), await world.subnet("198.51.100.0/24")
        region = world.region
        await limit(world, max_reservations=3, max_reservations_per_subnet=2)
        (first,) = (await region.do(region.user(number))).reservations
        with pytest.raises(errors.QuotaExceeded):
            await region.do(region.user(number), region.user(number))
        await region.do(region.user(number))
        with pytest.raises(errors.QuotaExceeded) as refused:
            await region.do(region.user(number))
        assert refused.value.members == {"scope": "subnet", "limit": 2, "used": 2, "wanted": 1}
        assert "192.0.2.0/24" in refused.value.detail
        await region.do(region.user(other))
        with pytest.raises(errors.QuotaExceeded) as refused:
            await region.do(region.user(other))
        assert refused.value.members == {"scope": "account", "limit": 3, "used": 3, "wanted": 1}
        await region.do(region.device(number, Identifier.mac("00:16:3e:00:00:01")))
        await region.release(first)
        await region.do(region.user(other))
        assert await used(world) == 3
        await limit(world, max_reservations=1)
        with pytest.raises(errors.QuotaExceeded):
            await region.do(region.user(other))
        await limit(world, max_reservations=None, max_reservations_per_subnet=None)
        await region.do(*[region.user(other) for _ in range(20)])
        assert await used(world) == 23
        assert await world.sound(subnet)
        assert await world.actions("account.") == [
            (
                "account.limit",
                {"max_reservations": None, "max_reservations_per_subnet": None},
                {"max_reservations": 3, "max_reservations_per_subnet": 2},
            ),
            ("account.limit", {"max_reservations": 3}, {"max_reservations": 1}),
            (
                "account.limit",
                {"max_reservations": 1, "max_reservations_per_subnet": 2},
                {"max_reservations": None, "max_reservations_per_subnet": None},
            ),
        ]


@pytest_twisted.ensureDeferred
async def test_a_repeated_key_uses_nothing_more(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, _ = await world.subnet()
        region = world.region
        await limit(world, max_reservations=1)
        first = await region.do(region.user(number), key="k")
        again = await region.do(region.user(number), key="k")
        assert again.replayed and again.reservations == first.reservations
        with pytest.raises(errors.QuotaExceeded):
            await region.do(region.user(number), key="other")
        await region.release(first.reservations[0])
        await region.do(region.user(number), key="other")


@pytest_twisted.ensureDeferred
async def test_neighbours_in_a_batch_are_not_harmed(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        region = world.region
        await limit(world, max_reservations=4)
        other = new_id()
        await region.pool.execute("INSERT INTO account (id, name, role) VALUES (%s, 'bob', 'user')", (other,))
        waiting = [Deferred.fromCoroutine(region.do(region.user(number))) for _ in range(10)]
        of_bob = Claim(new_id(), Kind.USER, number, other, "bob")
        waiting.append(Deferred.fromCoroutine(region.do(of_bob)))
        results = [await _result(each) for each in waiting]
        assert [isinstance(each, Outcome) for each in results] == [True] * 4 + [False] * 6 + [True]
        assert await used(world) == 4
        assert await world.sound(subnet)


async def _result(waiting: Awaitable[Outcome]) -> Outcome | errors.QuotaExceeded:
    try:
        return await waiting
    except errors.QuotaExceeded as error:
        return error


@pytest_twisted.ensureDeferred
async def test_two_regionds_on_two_subnets_never_exceed_the_limit_of_an_account(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        (one, _), (two, subnet) = await world.subnet(), await world.subnet("198.51.100.0/24")
        region = world.region
        pool = Pool(reactor, database, size=2)
        pool.start()
        other = Writer(reactor, pool, lambda _: None)
        try:
            await limit(world, max_reservations=25)
            results = []
            for _ in range(20):
                here = _result(region.do(region.user(one)))
                there = _result(other.submit(Mutation(region.actor, (region.user(two),), "test")))
                results += await gatherResults([Deferred.fromCoroutine(here), Deferred.fromCoroutine(there)])
            done = [each for each in results if isinstance(each, Outcome)]
            assert len(done) == 25
            assert {reservation.subnet for outcome in done for reservation in outcome.reservations} == {one, two}
            assert await used(world) == 25
            assert await world.sound(subnet)
        finally:
            await other.stop()
            await pool.close()


@pytest_twisted.ensureDeferred
async def test_counting_reads_no_reservation(database: str) -> None:
    """What a limit costs does not grow with what an account has."""
    async with subnet_world(database, reactor) as world:
        number, _ = await world.subnet()
        region = world.region
        await limit(world, max_reservations=10, max_reservations_per_subnet=10)
        await region.do(*[region.user(number) for _ in range(9)])
        request = facts_request([Mutation(region.actor, (region.user(number),), "test")])

        async def look(session: Session) -> None:
            before = await session.run(SCANS)
            read = read_facts(await session.run("SELECT tag, fact FROM batch_facts(%s)", (request,)))
            assert read.quotas == {region.owner: QuotaFacts(10, 10, 9, {number: 9})}
            assert await session.run(SCANS) == before

        await region.pool.transaction(look)
