"""What becomes of a claim, as a label."""

import pytest

from regiond.domain import errors
from regiond.domain.mutations import Actor, Claim, DropNode, Mutation, Outcome, Step
from regiond.domain.reservations import Kind
from regiond.metrics.measurements import Measurements
from regiond.storage.errors import DatabaseUnavailable


def mutation(*steps: Step) -> Mutation:
    return Mutation(Actor(1, "a", True), steps, "r")


DEVICE, USER = Claim(1, Kind.DEVICE, 1, 1, "a"), Claim(2, Kind.USER, 1, 1, "a")


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome(True, ()), "created"),
        (Outcome(False, ()), "existing"),
        (Outcome(True, (), replayed=True), "repeated"),
        (errors.AddressTaken("taken"), "address-taken"),
        (DatabaseUnavailable("away"), "database-unavailable"),
        (ZeroDivisionError("a bug"), "internal-error"),
    ],
)
def test_every_claim_of_a_mutation_counts_by_its_kind(outcome: Outcome | Exception, word: str) -> None:
    measured = Measurements()
    measured.decided(mutation(DEVICE, DropNode(7), USER), outcome, 0.02)
    measured.decided(mutation(DropNode(7)), outcome, 0.02)
    measured.decided(mutation(DEVICE), errors.ChangedMeanwhile("its maker looks again"), 0.02)
    assert measured.claims.values == {("device", word): 1, ("user", word): 1}
    assert measured.claim_seconds.cumulative()[-1] == ("+Inf", 1)
