"""Limits on user reservations: a real PostgreSQL and the tables in memory refuse the same claims and count the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest_twisted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor

from regiond.domain.errors import DomainError
from regiond.domain.mutations import Actor, Claim, Mutation, NewDevice, Outcome, Reclaim, Release, Step
from regiond.domain.reservations import Kind, Reservation
from tests.fakes.tables_world import TablesWorld
from tests.regiond.domain.grounds import MACS, V4_GROUNDS, V6_GROUNDS
from tests.regiond.domain.stories import Story, World
from tests.regiond.storage.postgres_world import PostgresWorld
from tests.regiond.storage.region import region_on

reactor: Any = global_reactor


@dataclass(frozen=True)
class Limits:
    """What an account may have from now on."""

    account: int
    in_all: int | None
    per_subnet: int | None


@dataclass(frozen=True)
class Wants:
    """So many user reservations in one claim, or a device's address, which no limit counts."""

    account: int
    subnet: int
    how_many: int
    device: bool


@dataclass(frozen=True)
class GivesBack:
    """The nth from last; then it is free at once, or asked for again."""

    nth: int
    again: bool


Word = Limits | tuple[tuple[Wants | GivesBack, ...], ...]
"""Limits, or a batch: its members with their steps."""

_flag, _two = st.booleans(), st.integers(0, 1)
_limit = st.none() | st.integers(0, 4)
_steps = st.one_of(
    st.builds(Wants, _two, _two, st.integers(1, 3), st.sampled_from([False, False, False, True])),
    st.builds(GivesBack, st.integers(0, 3), _flag),
)
_members = st.lists(_steps, min_size=1, max_size=2).map(tuple)
words = st.one_of(st.builds(Limits, _two, _limit, _limit), st.lists(_members, min_size=1, max_size=4).map(tuple))
Counts = dict[tuple[int, int], int]
"""By number of the account and of the subnet in the story."""


class InMemory(TablesWorld):
    async def limit(self, account: int, in_all: int | None, per_subnet: int | None) -> None:
        self.tables.limits[self.accounts[account]] = (in_all, per_subnet)

    async def counts(self) -> Counts:
        return {
            (self.accounts.index(account), self.subnets.index(subnet)): had
            for (account, subnet), had in self.tables.counts.items()
            if had
        }


class OnPostgres(PostgresWorld):
    def __init__(self, region: Any) -> None:
        super().__init__(region.pool, region.writer)
        self.pool = region.pool

    async def limit(self, account: int, in_all: int | None, per_subnet: int | None) -> None:
        await self.pool.execute(
            "UPDATE account SET max_reservations = %s, max_reservations_per_subnet = %s WHERE id = %s",
            (in_all, per_subnet, self.accounts[account]),
        )

    async def counts(self) -> Counts:
        rows = await self.pool.query(
            "SELECT account, subnet, reservations FROM reservation_count WHERE account = ANY(%s) AND reservations <> 0",
            (list(self.accounts),),
        )
        return {(self.accounts.index(account), self.subnets.index(subnet)): had for account, subnet, had in rows}


class Speaker:
    """Turns words into mutations of one world."""

    def __init__(self, world: World, first_id: int) -> None:
        self._world = world
        self._ids = count(first_id)
        self._made: list[Reservation] = []

    def mutation(self, steps: Sequence[Wants | GivesBack]) -> Mutation:
        actor = Actor(self._world.accounts[0], "tester", is_admin=True)
        return Mutation(actor, tuple(self._step(step) for step in steps), "quotas")

    def _step(self, step: Wants | GivesBack) -> Step:
        if isinstance(step, Wants):
            owner, subnet, number = (
                self._world.accounts[step.account],
                self._world.subnets[step.subnet],
                next(self._ids),
            )
            if step.device:
                device = NewDevice(next(self._ids), None, None)
                mac = MACS[number % len(MACS)]
                return Claim(number, Kind.DEVICE, subnet, owner, "owner", identifiers=(mac,), device=device)
            others = tuple(next(self._ids) for _ in range(step.how_many - 1))
            group = next(self._ids) if others else None
            return Claim(number, Kind.USER, subnet, owner, "owner", group=group, others=others)
        if not self._made:
            return Release(7, self._world.subnets[0], "192.0.2.1", force=False)
        held = self._made[-1 - step.nth % len(self._made)]
        if step.again:
            return Reclaim(held.id, held.subnet, held.address)
        return Release(held.id, held.subnet, held.address, force=False)

    def remember(self, outcomes: Sequence[Outcome | DomainError]) -> None:
        self._made += [r for outcome in outcomes if isinstance(outcome, Outcome) for r in outcome.reservations]


async def play(world: InMemory | OnPostgres, story: Sequence[Word], first_id: int) -> list[object]:
    """What was said to everybody, and what is counted after each word."""
    speaker = Speaker(world, first_id)
    said: list[object] = []
    for word in story:
        if isinstance(word, Limits):
            await world.limit(word.account, word.in_all, word.per_subnet)
            continue
        outcomes = await world.batch([speaker.mutation(steps) for steps in word])
        speaker.remember(outcomes)
        said += [_told(outcome) for outcome in outcomes]
        said.append(await world.counts())
    return said


def _told(outcome: Outcome | DomainError) -> object:
    if isinstance(outcome, DomainError):
        return type(outcome), outcome.members.get("scope"), outcome.members.get("used"), outcome.members.get("wanted")
    return [(r.id, r.address) for r in outcome.reservations]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(words, min_size=1, max_size=10))
@example(
    story=[
        Limits(0, 3, 2),
        ((Wants(0, 0, 2, device=False),), (Wants(0, 0, 1, device=False),), (Wants(0, 1, 1, device=False),)),
        ((Wants(0, 1, 1, device=False),), (Wants(0, 0, 1, device=True),), (Wants(1, 0, 3, device=False),)),
        ((GivesBack(0, again=False), Wants(0, 1, 1, device=False)),),
        Limits(0, None, 1),
        ((Wants(0, 1, 1, device=False),), (Wants(0, 1, 1, device=False),)),
    ]
)
@pytest_twisted.ensureDeferred
async def test_limits_go_the_same_way_on_postgresql_and_in_memory(database: str, story: list[Word]) -> None:
    site = Story((V4_GROUNDS[0], V6_GROUNDS[0]), (False, False), 0, ())
    async with region_on(database, reactor) as region:
        real = OnPostgres(region)
        await real.prepare(site)
        fake = InMemory(site, real.subnets, real.clusters, real.owners)
        first = real.base + 1000
        assert await play(real, story, first) == await play(fake, story, first)
