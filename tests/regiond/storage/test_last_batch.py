"""What is committed last has to be there on each new connection; else a recovery begins, once, before anything else."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent

from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.last_batch import REMEMBERED_SECONDS, LastBatch
from tests.clusterd.links import Outcome


@dataclass
class Database:
    """Its batches, its history and the former ones; a recovery takes until `answer`, where there is one."""

    batches: set[str] = field(default_factory=set)
    history: str = "history-1"
    former: set[str] = field(default_factory=set)
    standby: bool = False
    asked: int = 0
    begun: list[str] = field(default_factory=list)
    answer: Deferred[None] | None = None
    trouble: Exception | None = None

    async def run(self, sql: str, args: tuple[str, str]) -> list[tuple[Any, ...]]:
        self.asked += 1
        return [(self.standby, self.history, args[0] in self.batches, args[1] in self.former)]

    async def begin(self, reason: str, history: str) -> None:
        if self.answer is not None:
            await self.answer
        if self.trouble is not None:
            raise self.trouble
        if history == self.history:
            self.begun.append(reason)
            self.former.add(history)
            self.history = f"history-{len(self.former) + 1}"


class Desk:
    def __init__(self) -> None:
        self.clock = Clock()
        self.database = Database()
        self.last = LastBatch(self.clock, self.database.begin)

    def commit(self, batch: str) -> None:
        self.database.batches.add(batch)
        self.last.committed(batch)
        self.last.seen(self.database.history)

    def connect(self) -> Exception | None:
        """What a new connection is refused for."""
        outcome = Outcome(Deferred.fromCoroutine(self.last.vet(self.database)))  # type: ignore[arg-type]
        error = outcome.error
        assert error is None or isinstance(error, DatabaseUnavailable)
        return error


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_who_has_committed_nothing_has_lost_nothing(desk: Desk) -> None:
    desk.last.seen("history-1")
    assert desk.connect() is None
    assert desk.database.asked == 0


def test_what_is_there_is_not_lost(desk: Desk) -> None:
    desk.commit("a")
    desk.commit("b")
    desk.database.batches.discard("a")  # forgotten after an hour: only the last one counts
    assert desk.connect() is None
    assert desk.database.begun == []


def test_no_connection_is_lent_before_a_recovery_of_what_is_lost_has_begun(desk: Desk) -> None:
    desk.commit("a")
    desk.database.batches.clear()
    desk.database.answer = Deferred()
    refusals = [desk.connect() for _ in range(3)]
    assert all("lost the last commit" in str(refusal) for refusal in refusals)
    desk.database.answer.callback(None)
    assert len(desk.database.begun) == 1
    assert desk.connect() is None
    asked = desk.database.asked
    assert desk.connect() is None
    assert desk.database.asked == asked, "it is over"


def test_what_was_recovered_from_by_somebody_else_is_not_lost_once_more(desk: Desk) -> None:
    desk.commit("a")
    desk.database.batches.clear()
    desk.database.former.add("history-1")
    desk.database.history = "history-9"
    assert desk.connect() is None
    assert desk.database.begun == []


def test_a_recovery_that_was_itself_lost_is_none(desk: Desk) -> None:
    """The history that was seen last is unknown to the database, which is back in the one before."""
    desk.database.history = "history-2"
    desk.commit("a")
    desk.database.batches.clear()
    desk.database.history = "history-1"
    assert desk.connect() is not None
    assert len(desk.database.begun) == 1


def test_an_old_commit_may_be_forgotten(desk: Desk) -> None:
    desk.commit("a")
    desk.database.batches.clear()
    desk.clock.advance(REMEMBERED_SECONDS + 1)
    assert desk.connect() is None


def test_a_standby_that_lags_has_lost_nothing(desk: Desk) -> None:
    desk.commit("a")
    desk.database.batches.clear()
    desk.database.standby = True
    assert desk.connect() is None
    assert desk.database.begun == []


def test_a_recovery_that_cannot_begin_is_tried_with_the_next_connection(
    desk: Desk, logged_failures: list[LogEvent]
) -> None:
    desk.commit("a")
    desk.database.batches.clear()
    desk.database.trouble = DatabaseUnavailable("it is away again")
    assert desk.connect() is not None
    desk.database.trouble = None
    assert desk.connect() is not None
    assert desk.connect() is None
    assert len(desk.database.begun) == 1
    assert logged_failures == []


def test_a_server_that_is_refused_before_is_not_asked(desk: Desk) -> None:
    async def former_primary(connection: object) -> None:
        raise DatabaseUnavailable("a former primary answers")

    desk.last = LastBatch(desk.clock, desk.database.begin, former_primary)
    desk.commit("a")
    assert "former primary" in str(desk.connect())
    assert desk.database.asked == 0
