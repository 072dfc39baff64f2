"""Stories of recoveries: a real PostgreSQL and the fake begin, hear, settle and end them with the same rows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Protocol

import pytest_twisted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.errors import DomainError, NotRecovering
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Acknowledge, Actor, Claim, Mutation, NewDevice, Release
from regiond.domain.reservations import Kind
from regiond.storage.changes import Change
from regiond.storage.recovery import Evidence, RecoveryStore
from tests.fakes.recovery import RecoveryTables
from tests.fakes.tables import Tables
from tests.fakes.tables_world import commit
from tests.regiond.storage.region import Region, region_on

reactor: Any = global_reactor

SUBNET, CIDR, PREFIX = 101, "10.0.0.0/28", "10.0.0."
CLUSTERS = (201, 202)
ACCOUNT, OWNER_OF_RECOVERED = 1, 2
ACTOR = Actor(ACCOUNT, "tester", is_admin=True)
FIRST_HISTORY = "00000000-0000-0000-0000-000000000001"
ANOTHER_HISTORY = "00000000-0000-0000-0000-000000000002"


def mac(number: int) -> Identifier:
    return Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))


# ---- the words of a story ----


@dataclass(frozen=True)
class Claims:
    """Two identifiers have one address, or one has; without any it is a user's reservation."""

    macs: tuple[int, ...]
    address: int


@dataclass(frozen=True)
class Releases:
    nth: int


@dataclass(frozen=True)
class Has:
    """A cluster has everything, or is draining, or forgot it all."""

    cluster: int
    role: str


@dataclass(frozen=True)
class Begins:
    """Whatever the history, or only in one that the database never had; also while another recovery goes on."""

    in_vain: bool
    anew: bool = False


@dataclass(frozen=True)
class HandsUp:
    """A cluster hands up what it has at a generation, addresses by MAC, and what was removed by then and may be served.

    `known` says the subnet by its id.
    """

    cluster: int
    generation: int
    maps: tuple[tuple[int, int], ...]
    known: bool
    whole: bool
    former: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Heard:
    cluster: int


@dataclass(frozen=True)
class Settles:
    """What can be, and ends the recovery if nothing is left."""

    waits: bool


Word = Claims | Releases | Has | Begins | HandsUp | Heard | Settles

_cluster = st.integers(0, 1)
_mac = st.integers(1, 5)
_address = st.integers(2, 7)
_words = st.one_of(
    st.builds(Claims, st.lists(_mac, max_size=2, unique=True).map(tuple), st.just(0) | _address),
    st.builds(Claims, st.tuples(_mac), st.just(0) | _address),
    st.builds(Releases, st.integers(0, 3)),
    st.builds(Has, _cluster, st.sampled_from(["serving", "serving", "draining", "former"])),
    st.builds(Begins, st.sampled_from([False, False, True]), st.booleans()),
    st.builds(
        HandsUp,
        _cluster,
        st.integers(0, 8),
        st.lists(st.tuples(_mac, _address | st.just(0)), max_size=5, unique_by=lambda row: row[0]).map(tuple),
        st.booleans(),
        st.sampled_from([True, True, False]),
        st.lists(st.tuples(_mac, _address), max_size=3, unique=True).map(tuple),
    ),
    st.builds(Heard, _cluster),
    st.builds(Settles, st.booleans()),
)
stories = st.lists(_words, min_size=3, max_size=16)

HANDED_ON: list[Word] = [
    *(Claims((1,), 2), Claims((2, 3), 3), Claims((), 4), Claims((4,), 5)),
    Releases(3),
    Begins(in_vain=False),
    HandsUp(0, 9, ((5, 2), (2, 3), (1, 6), (3, 7)), known=True, whole=True),
    HandsUp(1, 3, ((1, 2), (4, 5)), known=False, whole=True),
    *(Heard(0), Heard(1), Settles(waits=True)),
    Claims((5,), 0),
    HandsUp(1, 12, ((4, 4),), known=True, whole=True),  # late, and newer than everything
    Settles(waits=True),
]

BEHIND: list[Word] = [
    Claims((1,), 2),
    Releases(0),
    Begins(in_vain=False),
    HandsUp(0, 9, ((2, 2),), known=True, whole=True),  # where the former holder still rests
    *(Heard(0), Heard(1), Settles(waits=True)),
    HandsUp(1, 3, ((5, 6),), known=True, whole=True),  # late, and of before
    Settles(waits=True),
]


BEING_REMOVED: list[Word] = [
    *(Claims((1,), 2), Claims((2,), 3), Claims((3,), 4), Claims((), 6)),
    Releases(2),
    Begins(in_vain=False),
    HandsUp(0, 9, ((2, 3),), known=True, whole=True, former=((4, 2), (4, 7), (4, 3), (3, 4), (5, 5), (5, 6))),
    *(Heard(0), Heard(1), Settles(waits=True)),
    Has(0, "serving"),
    *(Has(1, "serving"), Claims((5,), 5)),
]

# What was the region's own until its client turned out to have moved rests as that reservation, not as a new one.
MOVED_AWAY: list[Word] = [
    *(Claims((1,), 2), Begins(in_vain=False)),
    HandsUp(0, 9, ((1, 3),), known=True, whole=True, former=((1, 2),)),
    *(Heard(0), Heard(1), Settles(waits=True)),
]

NOBODYS: list[Word] = [
    *(Has(0, "former"), Has(1, "former"), Claims((1,), 2), Releases(0)),
    *(Begins(in_vain=False), Heard(0), Heard(1), Settles(waits=True)),
]


LATE_AND_YOUNGER: list[Word] = [
    *(Begins(in_vain=False), Settles(waits=False), Claims((), 0), Claims((), 0)),
    HandsUp(0, 1, (), known=False, whole=True, former=((1, 2),)),
    Settles(waits=False),
]

SEVERAL_JOIN: list[Word] = [
    Claims((), 0),
    Claims((1,), 0),
    HandsUp(0, 0, ((1, 2), (2, 2), (3, 2)), known=False, whole=True, former=()),
    Settles(waits=False),
]


# ---- what it is played on ----


@dataclass(frozen=True)
class Picture:
    """What is stored, and what the words answered since the last picture."""

    answers: tuple[Any, ...]
    subnet: tuple[Any, ...]
    reservations: frozenset[tuple[Any, ...]]
    maps: frozenset[tuple[Any, ...]]
    deliveries: frozenset[tuple[Any, ...]]
    free: tuple[tuple[int, int], ...]
    clusters: frozenset[tuple[int, bool, int]]
    findings: tuple[tuple[str, str | None], ...]


class World(Protocol):
    async def do(self, mutation: Mutation) -> Any: ...

    async def set_role(self, cluster: int, role: str) -> None: ...

    async def begin(self, in_vain: bool, anew: bool) -> bool: ...

    async def hand_up(
        self, evidence: Evidence, rows: Sequence[HostMap], whole: bool, former: Sequence[HostMap]
    ) -> int: ...

    async def may_have(self, cluster: int) -> list[int]: ...

    async def heard(self, cluster: int) -> bool: ...

    async def settle(self, waits: bool) -> list[Any]: ...

    async def generation(self) -> int: ...

    async def reservations(self) -> list[tuple[int, str]]:
        """Ids and addresses, in order of address."""

    async def picture(self, answers: Sequence[Any]) -> Picture: ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        accounts = {ACCOUNT: "tester", OWNER_OF_RECOVERED: "local"}
        self.tables = Tables(accounts=accounts, clusters={of: f"rack-{of}" for of in CLUSTERS}, history=FIRST_HISTORY)
        self.tables.add_subnet(SUBNET, CIDR, 600)
        self.tables.rebuild_free_ranges(SUBNET)
        for cluster in CLUSTERS:
            self.tables.add_delivery(SUBNET, cluster, "serving")
        numbers = count(10_000)
        self.recovery = RecoveryTables(self.tables, lambda: next(numbers))

    async def do(self, mutation: Mutation) -> Any:
        self.tables.now += timedelta(seconds=1)  # what is made after a recovery has begun is younger than that
        (outcome,) = commit(self.tables, [mutation])
        return type(outcome).__name__ if isinstance(outcome, DomainError) else None

    async def set_role(self, cluster: int, role: str) -> None:
        self.tables.deliveries[SUBNET, cluster]["role"] = role

    async def begin(self, in_vain: bool, anew: bool) -> bool:
        return self.recovery.begin("a reason", ANOTHER_HISTORY if in_vain else None, anew=anew) is not None

    async def hand_up(self, evidence: Evidence, rows: Sequence[HostMap], whole: bool, former: Sequence[HostMap]) -> int:
        key = (evidence.cluster, evidence.name)
        self.recovery.take(evidence)
        self.recovery.add_maps(*key, rows)
        self.recovery.add_maps(*key, rows[:1])
        self.recovery.add_maps(*key, former, former=True)
        self.recovery.add_maps(*key, former[:1], former=True)
        contradicting = self.recovery.contradictions(*key)
        if whole:
            self.recovery.hearing(evidence.cluster, evidence.history)
            self.recovery.complete(*key)
        else:
            self.recovery.drop(*key)
        return contradicting

    async def may_have(self, cluster: int) -> list[int]:
        return self.recovery.may_have(cluster)

    async def heard(self, cluster: int) -> bool:
        waited = self.recovery.waits_for(cluster)
        self.recovery.heard(cluster)
        return waited

    async def settle(self, waits: bool) -> list[Any]:
        if not waits and self.tables.recovering:
            self.recovery.end_waiting()
        due = self.recovery.to_settle()
        settled = [self.recovery.settle(subnet) for subnet in due or [SUBNET]]  # who looked earlier may be wrong by now
        counted = [None if one is None else (one.generation, one.counts) for one in settled]
        return [due, counted, self.recovery.finish() is not None]

    async def generation(self) -> int:
        return int(self.tables.subnets[SUBNET]["generation"])

    async def reservations(self) -> list[tuple[int, str]]:
        return [(row["id"], row["address"]) for _, row in sorted(self.tables.reservations.items())]

    async def picture(self, answers: Sequence[Any]) -> Picture:
        tables, subnet = self.tables, self.tables.subnets[SUBNET]
        return Picture(
            tuple(answers),
            (subnet["generation"], subnet["digest"], subnet["recovering"], subnet["evidence_generation"]),
            frozenset(
                (
                    *(r["address"], r["id"] if r["kind"] != "recovered" else 0, r["kind"], r["status"], r["owner"]),
                    *(tuple(r["macs"]), r["map_generation"], r["release_generation"], r["confirmed_at"] is not None),
                )
                for r in tables.reservations.values()
            ),
            frozenset((m["identifier"], m["address"], m["removed"], m["generation"]) for m in tables.maps.values()),
            frozenset(
                (d["cluster"], d["role"], d["accepted_generation"], d["applied_generation"])
                for d in tables.deliveries.values()
            ),
            tuple(tables.free_ranges(SUBNET)),
            frozenset((of, of in tables.unheard, tables.epochs.get(of, 0)) for of in CLUSTERS),
            tuple(sorted((kind, address) for kind, _, address in tables.findings)),
        )


class OnPostgres:
    """`RecoveryStore`, and the writer."""

    def __init__(self, region: Region) -> None:
        self.region = region
        numbers = count(10_000)
        self.store = RecoveryStore(region.pool, lambda: next(numbers))

    async def prepare(self) -> None:
        run = self.region.pool.execute
        await run("TRUNCATE account, cluster, subnet, former_history, recovery_finding CASCADE")
        await run("UPDATE region SET recovering_since = NULL, history = %s", (FIRST_HISTORY,))
        for account in ((ACCOUNT, "tester"), (OWNER_OF_RECOVERED, "local")):
            await run("INSERT INTO account (id, name, role) VALUES (%s, %s, 'admin')", account)
        await run(
            """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, release_hold_seconds)
               SELECT %s, min(id), %s, %s, %s, 600 FROM vrf""",
            (SUBNET, CIDR, f"{PREFIX}1", f"{PREFIX}14"),
        )
        await run("SELECT rebuild_free_ranges(%s)", (SUBNET,))
        for cluster in CLUSTERS:
            await run("INSERT INTO cluster (id, name) VALUES (%s, %s)", (cluster, f"rack-{cluster}"))
            await run("INSERT INTO delivery (subnet, cluster, role) VALUES (%s, %s, 'serving')", (SUBNET, cluster))

    async def do(self, mutation: Mutation) -> Any:
        try:
            await self.region.writer.submit(mutation)
        except DomainError as error:
            return type(error).__name__
        return None

    async def set_role(self, cluster: int, role: str) -> None:
        await self.region.pool.execute("UPDATE delivery SET role = %s WHERE cluster = %s", (role, cluster))

    async def begin(self, in_vain: bool, anew: bool) -> bool:
        change, of_history = Change(ACTOR, "test-request"), ANOTHER_HISTORY if in_vain else None
        return await self.store.begin(change, "a reason", of_history, anew=anew) is not None

    async def hand_up(self, evidence: Evidence, rows: Sequence[HostMap], whole: bool, former: Sequence[HostMap]) -> int:
        key = (evidence.cluster, evidence.name)
        await self.store.take(evidence)
        await self.store.add_maps(*key, rows)
        await self.store.add_maps(*key, rows[:1])
        await self.store.add_maps(*key, former, former=True)
        await self.store.add_maps(*key, former[:1], former=True)
        contradicting = await self.store.contradictions(*key)
        if whole:
            await self.store.hearing(evidence.cluster, evidence.history)
            await self.store.complete(*key)
        else:
            await self.store.drop(*key)
        return contradicting

    async def may_have(self, cluster: int) -> list[int]:
        return await self.store.may_have(cluster)

    async def heard(self, cluster: int) -> bool:
        waited = await self.store.waits_for(cluster)
        await self.store.heard(cluster)
        return waited

    async def settle(self, waits: bool) -> list[Any]:
        if not waits:
            with suppress(NotRecovering):
                await self.store.end_waiting(Change(ACTOR, "test-request"), force=True)
        due = await self.store.to_settle()
        settled = [await self.store.settle(subnet) for subnet in due or [SUBNET]]
        counted = [None if one is None else (one.generation, one.counts) for one in settled]
        return [due, counted, await self.store.finish() is not None]

    async def generation(self) -> int:
        return int((await self.region.pool.query("SELECT generation FROM subnet"))[0][0])

    async def reservations(self) -> list[tuple[int, str]]:
        rows = await self.region.pool.query("SELECT id, host(address) FROM reservation ORDER BY address")
        return [(row[0], row[1]) for row in rows]

    async def picture(self, answers: Sequence[Any]) -> Picture:
        query = self.region.pool.query
        [subnet] = await query(
            "SELECT generation, digest, recovering_since IS NOT NULL, evidence_generation FROM subnet"
        )
        reservations = await query(
            """SELECT host(address), CASE kind WHEN 'recovered' THEN 0 ELSE id END, kind, status, owner, macs,
                      map_generation, release_generation, confirmed_at IS NOT NULL FROM reservation"""
        )
        maps = await query("SELECT encode(identifier, 'hex'), host(address), removed, generation FROM host_map")
        free = await query("SELECT host(low), host(high) FROM free_range ORDER BY low")
        findings = await query("SELECT kind, host(address) FROM recovery_finding")
        return Picture(
            tuple(answers),
            tuple(subnet),
            frozenset((*row[:5], tuple(row[5]), *row[6:]) for row in reservations),
            frozenset(map(tuple, maps)),
            frozenset(
                map(tuple, await query("SELECT cluster, role, accepted_generation, applied_generation FROM delivery"))
            ),
            tuple((address_to_int(low)[1], address_to_int(high)[1]) for low, high in free),
            frozenset(map(tuple, await query("SELECT id, unheard, epoch FROM cluster"))),
            tuple(sorted(map(tuple, findings))),
        )


def _claim(number: int, word: Claims) -> Mutation:
    address = f"{PREFIX}{word.address}" if word.address else None
    identifiers = tuple(map(mac, word.macs))
    device = NewDevice(number, None, None) if identifiers else None
    kind = Kind.DEVICE if identifiers else Kind.USER
    claim = Claim(number, kind, SUBNET, ACCOUNT, "tester", address, identifiers=identifiers, device=device)
    return Mutation(ACTOR, (claim,), "claim")


async def play(world: World, story: Sequence[Word]) -> AsyncIterator[Picture]:
    """The picture after each word."""
    numbers = count(1000)
    for word in story:
        answers: list[Any] = []
        match word:
            case Claims():
                answers.append(await world.do(_claim(next(numbers), word)))
            case Releases(nth):
                if held := await world.reservations():
                    number, address = held[nth % len(held)]
                    answers.append(await world.do(Mutation(ACTOR, (Release(number, SUBNET, address),), "release")))
            case Has(cluster, role):
                await world.set_role(CLUSTERS[cluster], role)
                generation = await world.generation()
                step = Acknowledge(CLUSTERS[cluster], SUBNET, generation, generation)
                answers.append(await world.do(Mutation(ACTOR, (step,), "acknowledge")))
            case Begins(in_vain, anew):
                answers.append(await world.begin(in_vain, anew))
            case HandsUp(cluster, generation, maps, known, whole, removed):
                name = format_id(Prefix.SUBNET, SUBNET if known else 999)
                rows = [HostMap(mac(number), f"{PREFIX}{address}") for number, address in maps]
                evidence = Evidence(CLUSTERS[cluster], name, CIDR, ANOTHER_HISTORY, generation, generation)
                former = [HostMap(mac(number), f"{PREFIX}{address}") for number, address in removed]
                answers.append(await world.hand_up(evidence, rows, whole, former))
            case Heard(cluster):
                answers += [await world.may_have(CLUSTERS[cluster]), await world.heard(CLUSTERS[cluster])]
            case Settles(waits):
                answers.append(await world.settle(waits))
        yield await world.picture(answers)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@example(story=HANDED_ON)
@example(story=BEHIND)
@example(story=BEING_REMOVED)
@example(story=MOVED_AWAY)
@example(story=NOBODYS)
@example(story=SEVERAL_JOIN)
@example(story=LATE_AND_YOUNGER)
@pytest_twisted.ensureDeferred
async def test_a_story_of_recoveries_goes_the_same_way_on_postgresql_and_in_memory(
    database: str, story: list[Word]
) -> None:
    async with region_on(database, reactor) as region:
        real, fake = OnPostgres(region), InMemory()
        await real.prepare()
        expected = [picture async for picture in play(fake, story)]
        assert [picture async for picture in play(real, story)] == expected
