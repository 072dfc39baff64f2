"""Clusters that hang, are older, or say what makes no sense: the question has an end, and the answer is sane."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.protocols import amp

from clusterd.protocol import commands
from clusterd.protocol.connection import Responders
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier
from regiond.cluster_rpc.asking import AskHere
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.domain.leases import FoundLease
from regiond.domain.mutations import Claim
from regiond.domain.reservations import Kind
from regiond.domain.views import ReservationView, SubnetView
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases.leases import ASK_SECONDS, LIST_SECONDS, Leases
from regiond.use_cases.requests import Caller, RequestContext
from tests.clusterd.links import Outcome, Wire, linked

WANTED = Claim(1, Kind.USER, 5, 1, "root", address="10.0.0.7")
MAC = Identifier.mac("00:16:3e:00:00:01")
ADMIN = RequestContext(Caller(1, "root", is_admin=True, read_only=False), "test-request")
SUBNET = SubnetView(5, "10.0.0.0/24", "default", 1, 600, ("rack-a",), 0, 0, cluster_ids=(9,))


class Inventory:
    async def subnet(self, subnet: str) -> SubnetView:
        return SUBNET

    async def known(self, number: int) -> SubnetView | None:
        return SUBNET if number == SUBNET.id else None


class Reads:
    async def reservations(
        self, wanted: ReservationFilter, limit: int = 1000, after: int | None = None
    ) -> Sequence[ReservationView]:
        return []


class Cluster(Responders):
    """Answers what a test says."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []
        self._answer = answer

    @commands.ListLeases.responder
    def list_leases(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return self._answer(**asked)

    @commands.EndLease.responder
    def end_lease(self, leases: Sequence[ServerLease]) -> Any:
        return Deferred()


class World:
    def __init__(self, cluster: amp.CommandLocator) -> None:
        self.clock = Clock()
        self.wire: Wire = linked(self.clock, None, cluster)
        connections = Connections({9: Connection(9, "rack-a", 1, self.wire.server, "h", False)})
        self.leases = Leases(self.clock, AskHere(connections), Inventory(), Reads())

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.wire.flush()

    def listing(self, limit: int = 1000) -> Outcome:
        asked = self.leases.on_subnet(ADMIN, "x", addresses=(), macs=(), limit=limit, after=None)
        outcome = Outcome(asked)
        for _ in range(10):
            self.wire.flush()
        return outcome


@pytest.fixture
def hung() -> Iterator[World]:
    world = World(Cluster(lambda **_: Deferred()))
    yield world
    world.wire.cut()


def test_a_claim_waits_for_a_hung_cluster_for_a_bounded_time(hung: World) -> None:
    outcome = Outcome(hung.leases.look([WANTED]))
    hung.pass_time(ASK_SECONDS - 0.2)
    assert not outcome.done()
    hung.pass_time(0.4)
    assert outcome.value == [WANTED]


def test_so_does_a_list_and_the_end_of_a_lease(hung: World) -> None:
    listing = hung.listing()
    ending = Outcome(hung.leases.end([FoundLease(9, "rack-a", ServerLease("10.0.0.7", (MAC,)))], "r"))
    hung.pass_time(LIST_SECONDS + 0.2)
    (source,) = listing.value.sources
    assert "no answer" in source.error and listing.value.leases == ()
    assert ending.done() and ending.error is None


def test_an_older_cluster_says_so() -> None:
    world = World(Responders())
    (source,) = world.listing().value.sources
    assert "older version" in source.error
    world.wire.cut()


def lease(text: str) -> ServerLease:
    return ServerLease(text, (MAC,))


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (["10.0.0.9", "10.0.0.7", "10.0.0.9"], ["10.0.0.7", "10.0.0.9"]),
        (["10.0.1.1", "2001:db8::1", "0.0.0.1"], []),
        ([], []),
    ],
)
def test_what_makes_no_sense_is_left_out_and_ends(told: list[str], kept: list[str]) -> None:
    cluster = Cluster(lambda **_: {"leases": [lease(text) for text in told], "more": 1})
    world = World(cluster)
    outcome = world.listing()
    assert [view.found.lease.address for view in outcome.value.leases] == kept
    assert len(cluster.asked) <= 3
    world.wire.cut()


def test_another_address_than_the_wanted_one_is_no_obstacle() -> None:
    world = World(Cluster(lambda **_: {"leases": [lease("10.0.0.8")], "more": 0}))
    outcome = Outcome(world.leases.look([WANTED]))
    world.wire.flush()
    assert outcome.value == [WANTED]
    world.wire.cut()


def test_one_question_for_many_claims() -> None:
    cluster = Cluster(lambda **_: {"leases": [lease("10.0.0.7"), lease("10.0.0.8")], "more": 0})
    world = World(cluster)
    claims = [replace(WANTED, address=address) for address in ("10.0.0.7", None, "10.0.0.8", "10.0.0.9")]
    claims += [replace(WANTED, address="10.0.0.8", mac=MAC.text), replace(WANTED, subnet=6)]
    outcome = Outcome(world.leases.look(claims))
    world.wire.flush()
    assert [[found.lease.address for found in claim.leases] for claim in outcome.value] == [
        *(["10.0.0.7"], [], ["10.0.0.8"], []),
        *([], []),
    ]
    (asked,) = cluster.asked
    assert (asked["addresses"], asked["limit"]) == (("10.0.0.7", "10.0.0.8", "10.0.0.9"), 3)
    world.wire.cut()
