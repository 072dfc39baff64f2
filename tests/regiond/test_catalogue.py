"""The catalogue: fresh enough, told of changes, and read once for many."""

from collections.abc import Sequence

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.catalogue import FRESH_SECONDS, Catalogue
from regiond.domain import errors
from regiond.domain.views import InterfaceView, SubnetView
from regiond.storage.errors import DatabaseUnavailable
from tests.clusterd.links import Outcome


class FakeReads:
    """Subnets, mostly without interfaces; answers at once unless held."""

    def __init__(self) -> None:
        self.cidrs: list[tuple[str, str]] = []
        self.found: list[InterfaceView] = []
        self.readings = 0
        self.down = False
        self._turns: list[Deferred[None]] | None = None

    def hold(self) -> None:
        self._turns = []

    def let_go(self) -> None:
        turns, self._turns = self._turns or [], None
        for turn in turns:
            turn.callback(None)

    async def interfaces(self) -> Sequence[InterfaceView]:
        self.readings += 1
        return self.found

    async def subnets(self) -> list[SubnetView]:
        views = [SubnetView(number, cidr, vrf, 0, 600, (), 0, 0) for number, (cidr, vrf) in enumerate(self.cidrs, 1)]
        if self._turns is not None:
            turn: Deferred[None] = Deferred()
            self._turns.append(turn)
            await turn
        if self.down:
            raise DatabaseUnavailable("away")
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


def test_after_a_change_one_reads_for_all_who_ask_meanwhile(desk: Desk) -> None:
    desk.catalogue.changed()
    desk.reads.hold()
    before = [desk.resolve() for _ in range(50)]
    desk.reads.cidrs.append(("198.51.100.0/24", "default"))
    desk.catalogue.changed()
    after = [desk.resolve("198.51.100.0/24") for _ in range(50)]
    desk.reads.let_go()
    desk.clock.pump([0, 0, 0])
    assert {each.value.id for each in before} == {1}
    assert {each.value.id for each in after} == {2}, "what was read before they asked is not for them"
    assert desk.reads.readings == 2


def test_without_a_database_nobody_waits_for_the_others_to_try(desk: Desk) -> None:
    desk.reads.down = True
    desk.reads.hold()
    asking = [desk.resolve() for _ in range(50)]
    desk.reads.let_go()
    assert all(isinstance(each.error, DatabaseUnavailable) for each in asking)
    assert desk.reads.readings == 2
    desk.reads.down = False
    assert desk.resolve().value.id == 1


def test_a_subnet_that_is_removed_while_it_is_read_is_not_there(desk: Desk) -> None:
    gone = InterfaceView(
        *(1, 7, "rack-a", "eth0", "198.51.100.0/24", "default", 9, (), (), None),
        *("physical", None, True, True, "serving"),
    )
    desk.reads.found = [gone]
    assert isinstance(desk.resolve("rack-a:eth0").error, errors.NoSuchClusterInterface)


def test_very_many_wait_for_one_reading(desk: Desk) -> None:
    """None of them goes on inside of another: there is an end to how deep calls go."""
    desk.reads.hold()
    asking = [desk.resolve() for _ in range(3000)]
    desk.reads.let_go()
    for _ in range(60):
        desk.clock.advance(0)
    assert {each.value.id for each in asking} == {1}
    assert desk.reads.readings <= 2
    assert desk.resolve().value.id == 1
