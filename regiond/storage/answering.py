"""When the members of a batch get their answers: while PostgreSQL writes the next one.

Answers, and what they cause, take the reactor several milliseconds. PostgreSQL would meanwhile wait for the plan of the
next batch, whose facts it mostly has within a millisecond: so that plan is made first, and answers leave a few in a
turn. Where another regiond holds the subnet's lock the facts take as long as its batch; nobody waits for that.
"""

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from regiond.domain.mutations import Mutation, Outcome

ANSWERED_AT_ONCE = 4  # steps, or addresses of a claim
FACTS_SECONDS = 0.001
IMPATIENT_BATCHES = 100  # after one whose facts took longer

Batch = Sequence[tuple[Mutation, Deferred[Outcome]]]
Outcomes = Sequence[Outcome | Exception]


class Answering:
    """See the module. One batch is being planned at a time."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._planned: Deferred[None] | None = None
        self._impatient = 0

    def begun(self) -> None:
        """A batch's facts are being asked for."""
        self._planned = Deferred()

    def is_planned(self) -> None:
        """The batch that has begun is on its way to PostgreSQL. Without one nothing happens."""
        planned, self._planned = self._planned, None
        if planned is not None:
            planned.callback(None)

    async def until_planned(self) -> None:
        """Until the batch that has begun is planned, if that can be expected soon; FACTS_SECONDS at most."""
        if self._impatient > 0:
            self._impatient -= 1
        elif self._planned is not None:
            late = self._clock.callLater(FACTS_SECONDS, self.is_planned)
            await self._planned
            if late.active():
                late.cancel()
            else:
                self._impatient = IMPATIENT_BATCHES

    async def answer(self, batch: Batch, outcomes: Outcomes) -> None:
        """A few in a turn of the reactor: the next batch's facts may have come."""
        weight = 0
        for (mutation, answer), outcome in zip(batch, outcomes, strict=True):
            if weight >= ANSWERED_AT_ONCE:
                weight = 0
                await deferLater(self._clock, 0)
            weight += mutation.weight
            if isinstance(outcome, Outcome):
                answer.callback(outcome)
            else:
                answer.errback(Failure(outcome))
