"""Changes for which the server pauses wait, and what need not wait goes before."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.convergence.plan import Key, Transition, plan_changes
from clusterd.convergence.turns import take_turn
from clusterd.protocol.values import HostMap
from tests.clusterd.convergence.site import Site, host_map, site
from tests.fakes.backend import AppliedChange, FakeBackend
from tests.finished import result_of

__all__ = ["site"]

SUBNETS = {"subnet-1": "192.0.2.0/24", "subnet-2": "198.51.100.0/24"}
CIDR = SUBNETS["subnet-2"]


@st.composite
def pending(draw: st.DrawFn) -> dict[Key, Transition]:
    """What clients had and get: few addresses, so that they often move."""
    changes: dict[Key, Transition] = {}
    for (subnet, cidr), number in product(SUBNETS.items(), range(1, 6)):
        maps = st.none() | st.integers(1, 4).map(
            lambda last, cidr=cidr, number=number: host_map(number, cidr.replace("0/24", str(last)))  # type: ignore[misc]
        )
        before, after = draw(maps), draw(maps)
        if before is not None or after is not None:
            changes[subnet, host_map(number).identifier] = Transition(before, after, 1)
    return changes


@given(pending(), st.data())
def test_all_go_or_wait_and_no_address_is_given_away_before_it_is_taken(
    changes: dict[Key, Transition], data: st.DataObject
) -> None:
    pauses = {key: data.draw(st.sampled_from([0.0, 0.0, 1.5, 4.0])) for key in changes}
    of_change = {id(change): pauses[key] for key, change in changes.items()}
    turn = take_turn(changes, lambda change: of_change[id(change)])
    assert turn.due | turn.waiting == changes and not turn.due.keys() & turn.waiting.keys()
    assert all(pauses[key] == 0 for key in turn.due)
    assert turn.seconds == min((seconds for seconds in pauses.values() if seconds), default=0.0)
    still_theirs = {change.before.address for change in turn.waiting.values() if change.before is not None}
    given_away = {change.after.address for change in turn.due.values() if change.after is not None}
    assert not still_theirs & given_away
    # Who waits without a pause of its own waits for somebody.
    for key, change in turn.waiting.items():
        assert pauses[key] or (change.after is not None and change.after.address in still_theirs)


@given(pending())
def test_two_turns_come_to_the_same_as_one(changes: dict[Key, Transition]) -> None:
    can = FakeBackend().capabilities
    before = {change.before for change in changes.values() if change.before is not None}

    def after(maps: set[HostMap], part: dict[Key, Transition]) -> set[HostMap]:
        plan = plan_changes(part, SUBNETS, can)
        return (maps - plan.removed) | plan.added

    turn = take_turn(changes, lambda change: 1.0 if change.before is not None else 0.0)
    assert after(after(before, turn.due), turn.waiting) == after(before, changes)


# ---- in the driver ----


@pytest.fixture
def pausing(site: Site) -> Site:
    """Three clients in a subnet, none in another one, and a server that lets 4 s pass before each removal."""
    site.change([host_map(1), host_map(2), host_map(3)])
    site.change(subnet="subnet-2", cidr=CIDR)
    site.backend.removals_pause = 4.0
    return site


def over(site: Site) -> None:
    """The server's pause ends."""
    site.clock.advance(3.9)
    site.backend.removals_pause = 0.0
    site.clock.advance(0.1)


def test_additions_go_before_a_removal_that_waits_and_applied_does_not_pass_it(pausing: Site) -> None:
    assert pausing.change(removals=[host_map(1).identifier]) == 2
    pausing.change([host_map(201, "198.51.100.1")], subnet="subnet-2", cidr=CIDR)
    assert pausing.change([host_map(4)]) == 3
    assert pausing.backend.maps == {host_map(n) for n in (1, 2, 3, 4)} | {host_map(201, "198.51.100.1")}
    assert (pausing.applied("subnet-2"), pausing.applied()) == (2, 1)
    over(pausing)
    assert host_map(1) not in pausing.backend.maps
    assert pausing.applied() == pausing.state().applied_generation == 3
    assert pausing.backend.released[-1] == {host_map(1)}


def test_removals_that_wait_go_together(pausing: Site) -> None:
    for number in (1, 2, 3):
        pausing.change(removals=[host_map(number).identifier])
    told = len(pausing.backend.changes)
    over(pausing)
    gone = frozenset(host_map(number) for number in (1, 2, 3))
    assert pausing.backend.changes[told:] == [AppliedChange("apply", gone, frozenset())]
    assert pausing.applied() == 4


def test_what_goes_and_comes_back_while_it_waits_need_not_wait(pausing: Site) -> None:
    pausing.change(removals=[host_map(1).identifier])
    told = len(pausing.backend.changes)
    pausing.change([host_map(1)])
    assert pausing.applied() == 3 and pausing.backend.changes[told:] == []


def test_an_address_is_not_given_away_while_its_removal_waits(pausing: Site) -> None:
    new = host_map(9, host_map(1).address)
    pausing.change(removals=[host_map(1).identifier])
    pausing.change([new])
    assert new not in pausing.backend.maps
    over(pausing)
    assert pausing.backend.maps == {new, host_map(2), host_map(3)}
    assert pausing.backend.changes[-1] == AppliedChange("apply", frozenset({host_map(1)}), frozenset({new}))


def test_a_pause_that_lasts_longer_is_waited_for_again(pausing: Site) -> None:
    pausing.change(removals=[host_map(1).identifier])
    pausing.clock.advance(4.0)
    assert host_map(1) in pausing.backend.maps
    over(pausing)
    assert host_map(1) not in pausing.backend.maps


def test_a_comparison_does_not_forget_what_waits(pausing: Site) -> None:
    pausing.change(removals=[host_map(1).identifier])
    pausing.backend.refuse_all("away")
    pausing.change([host_map(4)])
    assert pausing.state().error == "away"
    pausing.backend.accept_all()
    pausing.clock.advance(2.0)  # the next attempt compares everything; the backend itself waits where it has to
    assert pausing.backend.maps == {host_map(n) for n in (2, 3, 4)}
    assert pausing.applied() == 3


def test_what_waits_when_clusterd_stops_is_done_after_its_start(pausing: Site) -> None:
    pausing.change(removals=[host_map(1).identifier])
    result_of(pausing.convergence.stop())
    assert pausing.clock.getDelayedCalls() == []
    pausing.kill()
    pausing.boot()
    assert host_map(1) not in pausing.backend.maps and pausing.applied() == 2
