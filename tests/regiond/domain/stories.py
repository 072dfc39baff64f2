"""Stories of a region's storage: generated batches of mutations with what clusters and time do between them.

A story is played on a `World` (tables in memory, or a real PostgreSQL) and, at the same time, on the naive model and on
clusters that keep what they were given, so that after each batch everything can be compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import strategies as st

from clusterd.protocol.values import Identifier, RejectedMap
from regiond.domain.errors import DomainError
from regiond.domain.mutations import (
    Acknowledge,
    Actor,
    Claim,
    DropDevice,
    EditDevice,
    EditReservation,
    Forgotten,
    Idempotency,
    Mutation,
    NewDevice,
    Outcome,
    Place,
    Reclaim,
    Release,
    Step,
)
from regiond.domain.reservations import Kind
from tests.regiond.domain.grounds import IDENTIFIERS, MACS, V4_GROUNDS, V6_GROUNDS, Ground

HOLD_SECONDS = 600
HOLD_PASSES_SECONDS = 10_000.0
DEVICE_IDS = 1_000_000  # a device's id is that of its one reservation, and this

# ---- the words of a story ----


@dataclass(frozen=True)
class Claims:
    """`address` is an index into the ground's named addresses."""

    subnet: int
    kind: Kind
    identifiers: tuple[Identifier, ...]
    address: int | None
    hostname: str | None
    owner: int
    count: int = 1


@dataclass(frozen=True)
class Releases:
    """The reservation made `nth` from last."""

    nth: int
    force: bool


@dataclass(frozen=True)
class Reclaims:
    nth: int


@dataclass(frozen=True)
class Drops:
    """A device goes. (The node of these stories stays: a node with addresses is not deleted.)"""

    nth: int


@dataclass(frozen=True)
class Says:
    """A cluster tells what it has of a subnet: its whole state, an old one, or what it has after a registration."""

    cluster: int
    subnet: int
    how: str
    error: str | None
    rejects: bool


@dataclass(frozen=True)
class Forgets:
    cluster: int
    subnet: int


@dataclass(frozen=True)
class Renames:
    """A reservation gets another host name, or none."""

    nth: int
    hostname: str | None


@dataclass(frozen=True)
class Replaces:
    """A device gets other MAC addresses and keeps its address."""

    nth: int
    macs: tuple[Identifier, ...]


Word = Claims | Releases | Reclaims | Drops | Says | Forgets | Renames | Replaces


@dataclass(frozen=True)
class Member:
    words: tuple[Word, ...]
    key: str | None
    fingerprint: str


@dataclass(frozen=True)
class Batch:
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Delivered:
    """A cluster stores what is desired, and its DHCP server has it at once or does not yet."""

    cluster: int
    subnet: int
    applied: bool


@dataclass(frozen=True)
class RoleChanges:
    """What a topology report or an absent interface does to a delivery."""

    cluster: int
    subnet: int
    role: str


@dataclass(frozen=True)
class HoldPasses:
    pass


Event = Batch | Delivered | RoleChanges | HoldPasses


@dataclass(frozen=True)
class Story:
    grounds: tuple[Ground, Ground]
    served: tuple[bool, bool]  # whether the clusters serve the subnets from the start
    hold: int
    events: tuple[Event, ...]


_subnets = st.sampled_from([0, 0, 0, 1])
_clusters = st.integers(0, 1)
_identifiers = st.lists(st.sampled_from(IDENTIFIERS), min_size=1, max_size=2, unique=True).map(tuple)
_pair = st.sampled_from([(MACS[0], MACS[1]), (MACS[0],), (MACS[1],)])  # so that the same ones meet again
_addresses = st.none() | st.integers(0, 50)
_maps = st.builds(
    Claims,
    _subnets,
    st.sampled_from([Kind.DEVICE, Kind.DEVICE, Kind.NODE]),
    _pair | _identifiers,
    st.none() | _addresses,
    st.sampled_from([None, None, "a", "b"]),
    st.sampled_from([1, 1, 2]),
)
_users = st.builds(Claims, _subnets, st.just(Kind.USER), st.just(()), _addresses, st.none(), st.just(1)) | st.builds(
    Claims, _subnets, st.just(Kind.USER), st.just(()), st.none(), st.none(), st.just(1), st.integers(2, 4)
)
_releases = st.builds(Releases, st.integers(0, 3), st.sampled_from([False, False, False, True]))
_says = st.builds(
    Says,
    _clusters,
    _subnets,
    st.sampled_from(["all", "all", "all", "accepted", "old", "reset", "ahead"]),
    st.sampled_from([None, None, "no room"]),
    st.booleans(),
)
_words = st.one_of(
    _maps,
    _users,
    _releases,
    _says,
    st.builds(Reclaims, st.integers(0, 3)),
    st.builds(Forgets, _clusters, _subnets),
    st.builds(Drops, st.integers(0, 3)),
    st.builds(Renames, st.integers(0, 3), st.sampled_from([None, "a", "b"])),
    st.builds(Replaces, st.integers(0, 3), _pair),
)
_members = st.builds(
    Member,
    st.lists(_words, min_size=1, max_size=3).map(tuple),
    st.sampled_from([None, None, None, "k1", "k2"]),
    st.sampled_from(["f", "f", "g"]),
)
_batches = st.builds(Batch, st.lists(_members, min_size=1, max_size=6).map(tuple))


def _alone(*words: Word) -> Batch:
    """A batch of members with one step each: nothing that one of them says undoes another."""
    return Batch(tuple(Member((word,), None, "f") for word in words))


# One host map's way, with gaps in it: later events fall into those.
_ways = st.builds(
    lambda claim, release, delivered, cluster, reclaim: (
        _alone(claim),
        *delivered,
        _alone(release),
        *(Delivered(which, claim.subnet, applied=True) for which in cluster),
        _alone(*(Says(which, claim.subnet, "all", None, rejects=False) for which in cluster), *reclaim),
        *([_alone(*reclaim)] if reclaim else ()),
    ),
    _maps,
    st.builds(Releases, st.just(0), st.just(False)),
    st.lists(st.builds(Delivered, _clusters, _subnets, st.just(True)), max_size=2),
    st.sampled_from([(0,), (1,), (0, 1), (0, 1)]),
    st.lists(st.builds(Reclaims, st.just(0)) | _maps, max_size=2),
)
_events = st.one_of(
    _batches.map(lambda batch: (batch,)),
    _batches.map(lambda batch: (batch,)),
    st.builds(Delivered, _clusters, _subnets, st.sampled_from([True, True, False])).map(lambda event: (event,)),
    st.builds(RoleChanges, _clusters, _subnets, st.sampled_from(["serving", "draining"])).map(lambda event: (event,)),
    st.just((HoldPasses(),)),
    _ways,
)
stories = st.builds(
    Story,
    st.tuples(st.sampled_from(V4_GROUNDS), st.sampled_from(V6_GROUNDS)).flatmap(
        lambda grounds: st.sampled_from([grounds, grounds[::-1]])
    ),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([0, HOLD_SECONDS]),
    st.lists(_events, min_size=1, max_size=10).map(lambda parts: tuple(event for part in parts for event in part)),
)

# ---- what it is played on ----


@dataclass(frozen=True)
class Rows:
    """What is stored, comparable between worlds: times are only there or not."""

    subnets: dict[int, tuple[int, int]]  # generation, digest
    free: dict[int, list[tuple[int, int]]]
    reservations: dict[tuple[int, str], dict[str, Any]]
    maps: dict[tuple[int, str, str], dict[str, Any]]
    deliveries: dict[tuple[int, int], tuple[str, int, int, str | None]]
    rejected: dict[tuple[int, int, str, str], str]
    devices: set[int]
    answers: dict[tuple[int, str], str]
    audit: list[tuple[str, str]]


class World(Protocol):
    """A storage with two subnets, two clusters and two accounts; ids are the world's own."""

    @property
    def subnets(self) -> Sequence[int]: ...

    @property
    def clusters(self) -> Sequence[int]: ...

    @property
    def accounts(self) -> Sequence[int]: ...

    async def batch(self, mutations: Sequence[Mutation]) -> list[Outcome | DomainError]: ...

    async def sooner(self, seconds: float) -> None: ...

    async def set_role(self, subnet: int, cluster: int, role: str) -> None: ...

    async def rows(self) -> Rows: ...


@dataclass
class SimulatedCluster:
    """What one cluster truly has of one subnet: on disk, and in its DHCP server, with what it was made of."""

    accepted: int = 0
    applied: int = 0
    stored: dict[Identifier, str] = field(default_factory=dict)
    server: dict[Identifier, str] = field(default_factory=dict)
    made_of: dict[Identifier, int] = field(default_factory=dict)
    reported: list[tuple[int, int]] = field(default_factory=list)

    def forget(self) -> None:
        self.accepted = self.applied = 0
        self.stored, self.server, self.reported = {}, {}, []


class Ids:
    """Numbers that are the same whenever a story is played."""

    def __init__(self, base: int) -> None:
        self._next = base

    def __call__(self) -> int:
        self._next += 1
        return self._next


@dataclass
class Speaker:
    """Turns a story's words into mutations."""

    world: World
    story: Story
    new_id: Ids
    clusters: dict[tuple[int, int], SimulatedCluster]
    made: list[tuple[int, int, str]] = field(default_factory=list)  # reservation, subnet, address
    devices: list[int] = field(default_factory=list)

    def mutation(self, member: Member) -> Mutation:
        account = self.world.accounts[0]
        key = None if member.key is None else Idempotency(account, member.key, member.fingerprint)
        steps = tuple(step for word in member.words for step in self._steps(word))
        return Mutation(Actor(account, "tester", is_admin=True), steps, f"request-{self.new_id()}", key)

    def remember(self, outcomes: Iterable[Outcome | DomainError]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Outcome):
                for r in outcome.reservations:
                    if (entry := (r.id, r.subnet, r.address)) not in self.made:
                        self.made.append(entry)
                    if r.device is not None and r.device not in self.devices:
                        self.devices.append(r.device)

    def _steps(self, word: Word) -> list[Step]:
        match word:
            case Claims():
                return [self._claim(word)]
            case Releases(nth, force):
                return [Release(*self._nth(nth), force=force)]
            case Reclaims(nth):
                return [Reclaim(*self._nth(nth))]
            case Drops(nth):
                return [DropDevice(self.devices[-1 - nth % len(self.devices)] if self.devices else 1)]
            case Says():
                return [self._acknowledge(word)]
            case Forgets(cluster, subnet):
                self.clusters[cluster, subnet].forget()
                return [Forgotten(self.world.clusters[cluster], self.world.subnets[subnet])]
            case Renames(nth, hostname):
                return [EditReservation(Place(*self._nth(nth)), {"hostname": hostname})]
            case Replaces(nth, macs):
                device = self.devices[-1 - nth % len(self.devices)] if self.devices else 1
                places = tuple(Place(*one) for one in self.made if one[0] == device - DEVICE_IDS)
                return [EditDevice(device, places, {"macs": macs})]

    def _claim(self, word: Claims) -> Claim:
        named = self.story.grounds[word.subnet].named()
        account = self.world.accounts[word.owner - 1]
        reservation = self.new_id()
        return Claim(
            reservation,
            word.kind,
            self.world.subnets[word.subnet],
            self.world.accounts[0] if word.kind is Kind.NODE else account,
            f"account-{word.owner}",
            address=None if word.address is None else named[word.address % len(named)],
            identifiers=word.identifiers,
            mac="00:16:3e:ff:ff:ff" if word.kind is Kind.USER else None,
            hostname=word.hostname,
            device=NewDevice(reservation + DEVICE_IDS, word.hostname, None) if word.kind is Kind.DEVICE else None,
            node=1 if word.kind is Kind.NODE else None,
            group=self.new_id() if word.count > 1 else None,
            others=tuple(self.new_id() for _ in range(word.count - 1)),
        )

    def _nth(self, nth: int) -> tuple[int, int, str]:
        if not self.made:
            return 7, self.world.subnets[0], self.story.grounds[0].named()[1]
        return self.made[-1 - nth % len(self.made)]

    def _acknowledge(self, word: Says) -> Acknowledge:
        has = self.clusters[word.cluster, word.subnet]
        accepted, applied = has.accepted, has.applied
        if word.how == "old" and has.reported:
            accepted, applied = has.reported[0]
        if word.how == "ahead":  # of a past that this region has not had
            accepted = applied = 1_000_000
        else:
            has.reported.append((accepted, applied))
        rejected = tuple(RejectedMap(i, "no room") for i in list(has.stored)[:1]) if word.rejects else None
        return Acknowledge(
            self.world.clusters[word.cluster],
            self.world.subnets[word.subnet],
            accepted_generation=accepted,
            applied_generation=None if word.how == "accepted" else applied,
            error=word.error,
            rejected=rejected,
            reset=word.how == "reset",
        )
