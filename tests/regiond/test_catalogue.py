"""The catalogue: fresh enough, told of changes, and read once for many."""

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.catalogue import FRESH_SECONDS, Catalogue
from regiond.domain import errors
from regiond.domain.views import InterfaceView, SubnetView
from tests.clusterd.links import Outcome


class FakeReads:
    """Subnets without interfaces; answers at once unless held."""

    def __init__(self) -> None:
        self.cidrs: list[tuple[str, str]] = []
        self.readings = 0
        self._turns: list[Deferred[None]] | None = None

    def hold(self) -> None:
        self._turns = []

    def let_go(self) -> None:
        turns, self._turns = self._turns or [], None
        for turn in turns:
            turn.callback(None)

    async def interfaces(self) -> Sequence[InterfaceView]:
        self.readings += 1
        return []

    async def subnets(self) -> list[SubnetView]:
        views = [SubnetView(number, cidr, vrf, 0, 600, (), 0, 0) for number, (cidr, vrf) in enumerate(self.cidrs, 1)]
        if self._turns is not None:
            turn: Deferred[None] = Deferred()
            self._turns.append(turn)
            await turn
        return views


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        self.reads = FakeReads()
        self.reads.cidrs = [("192.0.2.0/24", "default")]
        self.catalogue = Catalogue(self.clock, self.reads)  # type: ignore[arg-type]

    def resolve(self, text: str = "192.0.2.0/24") -> Outcome:
        return Outcome(self.catalogue.resolve(text))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_picture_serves_until_it_is_stale(desk: Desk) -> None:
    for _ in range(3):
        assert desk.resolve().value.id == 1
    assert desk.reads.readings == 1
    desk.clock.advance(FRESH_SECONDS)
    assert desk.resolve().value.id == 1
    assert desk.reads.readings == 2


def test_a_change_is_seen_at_once(desk: Desk) -> None:
    assert desk.resolve().value.id == 1
    desk.reads.cidrs = [("198.51.100.0/24", "default"), ("192.0.2.0/24", "default")]
    assert desk.resolve().value.id == 1
    desk.catalogue.changed()
    assert desk.resolve().value.id == 2


def test_what_is_not_found_is_looked_for_once_more_on_a_fresh_picture(desk: Desk) -> None:
    assert isinstance(desk.resolve("198.51.100.0/24").error, errors.NoSuchClusterInterface)
    desk.reads.cidrs.append(("198.51.100.0/24", "default"))
    assert desk.resolve("198.51.100.0/24").value.id == 2


def test_what_was_ambiguous_may_be_unique_by_now(desk: Desk) -> None:
    desk.reads.cidrs.append(("192.0.2.0/24", "other"))
    assert isinstance(desk.resolve().error, errors.AmbiguousSelector)
    desk.reads.cidrs.pop()
    assert desk.resolve().value.id == 1


def test_nonsense_costs_no_query(desk: Desk) -> None:
    assert isinstance(desk.resolve("???").error, errors.BadSelector)
    assert desk.reads.readings == 0


def test_one_reads_anew_while_the_others_take_what_is_there(desk: Desk) -> None:
    assert desk.resolve().value.id == 1
    desk.clock.advance(FRESH_SECONDS)
    desk.reads.hold()
    reading = desk.resolve()
    assert [desk.resolve().value.id for _ in range(5)] == [1] * 5
    assert desk.reads.readings == 2
    desk.reads.let_go()
    assert reading.value.id == 1


def test_a_change_during_a_reading_is_not_covered_by_it(desk: Desk) -> None:
    desk.reads.hold()
    reading = desk.resolve()
    desk.reads.cidrs = [("198.51.100.0/24", "default"), ("192.0.2.0/24", "default")]
    desk.catalogue.changed()
    desk.reads.let_go()
    assert reading.value.id == 1
    assert desk.resolve().value.id == 2
