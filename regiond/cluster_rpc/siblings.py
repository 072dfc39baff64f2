"""Questions to clusters that are connected to another regiond of this region.

# Note [Questions to siblings]
Whoever wants to know something from a cluster asks `Siblings`. One that is connected here is asked at once. For any
other the question is put into a table, and the doorbell rung: the regiond that has the cluster's latest connection
takes the question, asks, and writes the answer beside it; rung again, the first one takes the answer away. The answer
counts for as long as the asker would have waited for a cluster of its own, and no longer.

A question that nobody takes in TAKE_SECONDS is withdrawn: the regiond that had the cluster was killed, or is of a
version that knows no questions. One that was killed after that has the same end as a cluster that does not answer. A
bell that is not heard costs that answer and nothing else: no caller depends on it. What is left in the table expires.
"""

from collections.abc import Awaitable, Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols import amp

from clusterd.protocol.connection import CallTimedOut
from regiond.cluster_rpc.asking import AskHere, NotAsked
from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.question_boxes import (
    FAILURES,
    RELAYED,
    pack_answer,
    pack_arguments,
    pack_failure,
    unpack_answer,
    unpack_arguments,
)
from regiond.domain.ids import NewId
from regiond.domain.questions import Answer, Question, TakenQuestion
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost

TAKE_SECONDS: Final = 1.0
MAX_OPEN_QUESTIONS: Final = 200
"""Of one regiond at a time: what the table holds is bounded by that, and by the size of a box."""

_AWAY = (DatabaseUnavailable, ConnectionLost)
_MISSED = "no regiond that has it answers"


class Questions(Protocol):
    """`storage.questions.QuestionStore`."""

    async def put(self, question: Question, seconds: float) -> bool: ...

    async def take(self, epochs: dict[int, int]) -> list[TakenQuestion]: ...

    async def answer(self, question: int, answer: Answer) -> None: ...

    async def withdraw(self, question: int) -> bool: ...

    async def collect(self, question: int) -> Answer | None: ...


class Bell(Protocol):
    """`storage.doorbell.Doorbell`, as far as it is needed here."""

    def asked(self, clusters: Iterable[int]) -> None: ...

    def answered(self, questions: Iterable[int]) -> None: ...


class Siblings:
    """Asks any cluster, and answers for those that are connected here. See Note [Questions to siblings]."""

    _log = Logger(namespace="region.siblings")

    def __init__(
        self, clock: IReactorTime, connections: Connections, questions: Questions, bell: Bell, new_id: NewId
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._here = AskHere(connections)
        self._questions = questions
        self._bell = bell
        self._new_id = new_id
        self._waiting: dict[int, _Waiter] = {}
        self._stopped = False

    # ---- asking ----

    async def ask(
        self, cluster: int, command: type[amp.Command], *, deadline: float, **arguments: Any
    ) -> dict[str, Any]:
        """See `Asks`. A database that is away is no other end than a cluster that is: nobody can be asked."""
        if self._connections.get(cluster) is not None:
            return await self._here.ask(cluster, command, deadline=deadline, **arguments)
        end = self._clock.seconds() + deadline
        name = command.commandName.decode()
        question = Question(self._new_id(), cluster, name, pack_arguments(command, arguments))
        if self._stopped or len(self._waiting) >= MAX_OPEN_QUESTIONS:
            raise NotAsked("it is connected elsewhere, and no more questions are sent there now")
        waiter = self._waiting[question.id] = _Waiter(self._clock)  # before anybody can answer
        try:
            if deadline <= 0 or not await self._questions.put(question, deadline):
                raise NotAsked("it is not connected")
            self._bell.asked([cluster])
            answer = await self._answer(question.id, waiter, end)
        except _AWAY as error:
            raise NotAsked(f"{_MISSED}: the database does not answer") from error
        finally:
            del self._waiting[question.id]
        if answer is None:
            raise CallTimedOut(f"{name}: no answer in {deadline} s by way of another regiond")
        return unpack_answer(command, answer)

    async def _answer(self, question: int, waiter: "_Waiter", end: float) -> Answer | None:
        left = end - self._clock.seconds()
        if not await waiter.rung_within(max(0.0, min(TAKE_SECONDS, left))) and await self._questions.withdraw(question):
            raise NotAsked(_MISSED)
        while (answer := await self._questions.collect(question)) is None and not self._stopped:
            left = end - self._clock.seconds()
            if left <= 0:
                return None
            await waiter.rung_within(left)
        return answer

    def heard_of_answers(self, questions: Iterable[int] | None) -> None:
        """These are answered; None: any may be."""
        for question in list(self._waiting) if questions is None else questions:
            if (waiter := self._waiting.get(question)) is not None:
                waiter.ring()

    def wait_no_longer(self) -> None:
        """Whoever waits for an answer has it now or not at all: the daemon is stopping."""
        self._stopped = True
        self.heard_of_answers(None)

    # ---- answering ----

    def heard_of_questions(self, clusters: Iterable[int] | None) -> None:
        """Somebody wants to know something from these clusters; None: from any."""
        mine = self._connections.by_cluster
        epochs = {
            cluster: mine[cluster].epoch for cluster in (mine if clusters is None else clusters) if cluster in mine
        }
        if epochs and not self._stopped:
            self._in_background(self._take(epochs))

    async def _take(self, epochs: dict[int, int]) -> None:
        for taken in await self._questions.take(epochs):
            self._in_background(self._reply(taken))

    async def _reply(self, taken: TakenQuestion) -> None:
        await self._questions.answer(taken.question.id, await self._found_out(taken))
        self._bell.answered([taken.question.id])

    async def _found_out(self, taken: TakenQuestion) -> Answer:
        question = taken.question
        command = RELAYED.get(question.command)
        if command is None:
            return Answer(None, amp.UNHANDLED_ERROR_CODE.decode(), "this regiond does not pass that on")
        try:
            arguments = unpack_arguments(command, question.arguments)
            return pack_answer(
                command, await self._here.ask(question.cluster, command, deadline=taken.seconds, **arguments)
            )
        except FAILURES as error:
            return pack_failure(command, error)

    def _in_background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except _AWAY as error:
                self._log.warn(
                    "a question of another regiond stays unanswered: {reason}",
                    event="question.unanswered",
                    reason=str(error)[:500],
                )

        Deferred.fromCoroutine(run()).addErrback(
            lambda failure: self._log.failure("answering another regiond broke", failure, event="question.bug")
        )


class _Waiter:
    """A bell that may ring before anybody waits for it."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._has_rung = False
        self._waits: Deferred[None] | None = None

    def ring(self) -> None:
        self._has_rung = True
        waits, self._waits = self._waits, None
        if waits is not None:
            waits.callback(None)

    async def rung_within(self, seconds: float) -> bool:
        """Whether it has rung since the last time, or does within so many seconds."""
        if not self._has_rung:
            waits = self._waits = Deferred()
            timer = self._clock.callLater(seconds, waits.callback, None)
            await waits
            self._waits = None
            if timer.active():
                timer.cancel()
        rung, self._has_rung = self._has_rung, False
        return rung
