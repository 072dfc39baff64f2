"""Between the parts of a heavy batch's planning the reactor does what else there is."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.domain.mutations import Actor, DropNode, Mutation
from regiond.storage.turns import AT_ONCE, give_way


def test_heavy_batches_give_way_and_light_ones_go_on_at_once() -> None:
    def weighing(*weights: int) -> list[Mutation]:
        return [Mutation(Actor(1, "root", True), (DropNode(1),) * weight, "r") for weight in weights]

    clock = Clock()
    assert Deferred.fromCoroutine(give_way(clock, weighing(AT_ONCE - 1, 1))).called
    for heavy in (weighing(AT_ONCE + 1), weighing(AT_ONCE, 1)):
        given = Deferred.fromCoroutine(give_way(clock, heavy))
        assert not given.called
        clock.advance(0)
        assert given.called
