"""The planner against the naive model, on tables in memory: any story of batches, clusters and time."""

from collections.abc import Sequence

from hypothesis import given, settings

from clusterd.protocol.values import Identifier, RejectedMap
from regiond.domain.errors import DomainError
from regiond.domain.mutations import Acknowledge, Actor, Claim, Forgotten, Mutation, NewDevice, Outcome, Release
from regiond.domain.reservations import Kind
from tests.fakes.tables import Tables
from tests.fakes.tables_world import TablesWorld, commit, rows_of
from tests.finished import result_of
from tests.regiond.domain.grounds import MACS
from tests.regiond.domain.player import Player, without
from tests.regiond.domain.stories import Story, stories


class LeavingOutTheRefused(TablesWorld):
    """Also plans every batch without the members that were refused: they must not have left a trace."""

    async def batch(self, mutations: Sequence[Mutation]) -> list[Outcome | DomainError]:
        elsewhere = self.tables.copy()
        outcomes = await super().batch(mutations)
        good = without(mutations, outcomes)
        assert commit(elsewhere, good) == [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
        assert rows_of(elsewhere) == rows_of(self.tables)
        return outcomes


@settings(max_examples=400, deadline=None)
@given(stories)
def test_every_story_goes_as_the_model_says(story: Story) -> None:
    async def play() -> None:
        await (await Player.on(TablesWorld(story), story, first_id=1000)).play()

    result_of(play())


@settings(max_examples=150, deadline=None)
@given(stories)
def test_a_refused_member_leaves_no_trace(story: Story) -> None:
    async def play() -> None:
        await (await Player.on(LeavingOutTheRefused(story), story, first_id=1000)).play()

    result_of(play())


def test_a_cluster_that_forgot_a_subnet_says_nothing_about_it_any_more() -> None:
    tables = Tables(accounts={1: "somebody"}, clusters={2: "rack-a"})
    tables.add_subnet(3, "192.0.2.0/24", hold=0)
    tables.add_delivery(3, 2, "draining")
    late = Acknowledge(2, 3, 1, 1, rejected=(RejectedMap(MACS[0], "no room"),))
    for step in (Forgotten(2, 3), late):
        commit(tables, [Mutation(Actor(None, "region", is_admin=True), (step,), "request")])
    assert rows_of(tables).deliveries == {(3, 2): ("former", 0, 0, None)}
    assert tables.rejected == {}


def test_one_of_two_macs_does_not_take_back_alone_what_both_had() -> None:
    """Not even when the other one's last address was another: its client may still use the first."""
    tables = Tables(accounts={1: "somebody"}, clusters={2: "rack-a"})
    tables.add_subnet(3, "192.0.2.0/24", hold=600)
    tables.rebuild_free_ranges(3)
    tables.add_delivery(3, 2, "serving")

    def claimed(number: int, *macs: Identifier) -> str:
        claim = Claim(
            number, Kind.DEVICE, 3, 1, "somebody", identifiers=macs, device=NewDevice(number + 100, None, None)
        )
        (outcome,) = commit(tables, [Mutation(actor, (claim,), "request")])
        assert isinstance(outcome, Outcome)
        return outcome.reservations[0].address

    actor = Actor(1, "somebody", is_admin=True)
    both = claimed(10, MACS[0], MACS[1])
    commit(tables, [Mutation(actor, (Release(10, 3, both),), "request")])
    alone = claimed(11, MACS[0])
    commit(tables, [Mutation(actor, (Release(11, 3, alone),), "request")])
    assert len({both, alone, claimed(12, MACS[1])}) == 3
