"""The one queue of mutations: one batch is in flight at a time, what arrives meanwhile joins the next.

Claims on one subnet serialise anyway, and a lock that is held across a commit is a convoy. Batching turns the
convoy into a group commit: all waiting mutations share one transaction and one fsync. See Note [Batch].

A batch is two round trips: begin, lock, read the facts; then write and commit. Between them the pure planner
decides every member. The next batch begins before the members of the last one are answered, and mostly is on its way to
be written by then, so that PostgreSQL has work while answers are made and new requests are read. When a connection dies
around the commit its outcome is unknown: the writer takes its own lock again, which waits for the lost transaction to
end, and looks whether the batch's id was committed.

Without its database nothing waits for ever: a mutation whose batch has not begun within WAIT_SECONDS is refused
untouched, and a batch is given up after BATCH_SECONDS and the attempt that is under way then.
"""

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg2
from psycopg2 import errorcodes
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.domain import errors
from regiond.domain.changes import Plan
from regiond.domain.mutations import Mutation, Outcome
from regiond.domain.plan import plan
from regiond.metrics.measurements import Measurements
from regiond.storage.answering import Answering, Batch, Outcomes
from regiond.storage.batch import (
    facts_request,
    owner_facts_request,
    read_facts,
    subnets_of,
)
from regiond.storage.batch_changes import changes_document, edits_document
from regiond.storage.connection import is_nobodys_fault
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.nodes import name_taken
from regiond.storage.pool import SETTLE, Pool, Session
from regiond.storage.turns import give_way

MAX_BATCH_WEIGHT = 512  # steps, or addresses of a claim: planning more would stall the reactor for over 20 ms
MAX_WAITING = 20_000
ATTEMPTS = 4
RETRY_DELAY_SECONDS = 0.2
WAIT_SECONDS = 10.0
BATCH_SECONDS = 10.0
DRAIN_SECONDS = 0.005

# Advisory locks: a subnet's id (positive), or a writer's own (negative).
_BEGIN = (
    "BEGIN; SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key; SELECT tag, fact FROM batch_facts(%s)"
)
_BEGIN_WITH_OWNERS = f"{_BEGIN} UNION ALL SELECT tag, fact FROM owner_facts(%s)"  # noqa: S608 (constants only)
_COMMIT = "SELECT batch_write(%s); COMMIT"
_COMMIT_WITH_EDITS = "SELECT batch_write(%s); SELECT batch_edit(%s); COMMIT"
_COMMIT_FOUND = f"{SETTLE}; COMMIT"
_WAS_COMMITTED = (
    "BEGIN; SELECT pg_advisory_xact_lock(%s); SELECT count(*) FROM batch WHERE id = %s::uuid"  # own lock first
)

Committed = Callable[[frozenset[int]], None]


class Writer:
    """See the module. `on_commit` hears of the subnets whose desired host maps changed, after each commit, `on_batch`
    of the ids of batches, as soon as they are known to be committed.
    """

    _log = Logger(namespace="region.writer")

    def __init__(
        self,
        clock: Any,
        pool: Pool,
        on_commit: Committed,
        measured: Measurements | None = None,
        on_batch: Callable[[str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._on_commit = on_commit
        self._on_batch = on_batch
        self._measured = measured or Measurements()
        self._own_lock = -random.getrandbits(60) - 1
        self._waiting: deque[tuple[Mutation, Deferred[Outcome], float]] = deque()
        self._running: Deferred[None] | None = None
        self._busy = False
        self._open = True
        self._submitted = self._answered = 0  # they are answered in the order in which they came
        self._kept_off: Counter[int] = Counter()
        self._gates: list[Deferred[None]] = []
        self._answering = Answering(clock)
        self._untold: list[Plan] = []  # what is committed and was not told yet

    @property
    def waiting(self) -> int:
        """How many mutations wait for the next batch."""
        return len(self._waiting)

    async def submit(self, mutation: Mutation) -> Outcome:
        """Have it done, or not at all.

        Raises the DomainError that the planner found, and DatabaseUnavailable; with `outcome_unknown` the mutation
        may have happened, and repeating it under the same idempotency key is safe.
        """
        if not self._open:
            raise DatabaseUnavailable("the region is stopping")
        if len(self._waiting) >= MAX_WAITING:
            raise DatabaseUnavailable(f"{MAX_WAITING} changes wait for the database already")
        answer: Deferred[Outcome] = Deferred()
        since = self._clock.seconds()
        if self._kept_off:
            await self._let_past(mutation, since + WAIT_SECONDS)
        self._submitted += 1
        self._waiting.append((mutation, answer, since))
        if not self._busy:
            self._busy = True
            self._running = Deferred.fromCoroutine(self._run())
        try:
            outcome = await answer
        except Exception as error:
            self._measured.decided(mutation, error, self._clock.seconds() - since)
            raise
        finally:
            self._answered += 1
        self._measured.decided(mutation, outcome, self._clock.seconds() - since)
        return outcome

    @asynccontextmanager
    async def keeping_off(self, subnets: Collection[int]) -> AsyncIterator[None]:
        """While somebody else holds the locks of these subnets for long, in here.

        Mutations on them wait beside the queue, so that they hold up nobody who wants something else: a batch that
        waits for one lock keeps everybody behind it. Those that are in the queue already are done before this begins.
        """
        self._kept_off.update(subnets)
        try:
            before = self._submitted
            while self._answered < before:
                await deferLater(self._clock, DRAIN_SECONDS)
            yield
        finally:
            self._kept_off.subtract(subnets)
            self._kept_off += Counter()  # without those that nobody keeps off any more
            gates, self._gates = self._gates, []
            for gate in gates:
                gate.callback(None)

    async def _let_past(self, mutation: Mutation, end: float) -> None:
        """Wait until nobody keeps the mutation off. Raises DatabaseUnavailable."""
        subnets = subnets_of([mutation])
        while not self._kept_off.keys().isdisjoint(subnets):
            gate: Deferred[None] = Deferred(self._gates.remove)
            self._gates.append(gate)
            gate.addTimeout(max(0.0, end - self._clock.seconds()), self._clock)
            try:
                await gate
            except DeferredTimeout as error:
                raise DatabaseUnavailable(f"no turn at the database within {WAIT_SECONDS:g} s") from error
        if not self._open:
            raise DatabaseUnavailable("the region is stopping")

    async def stop(self) -> None:
        """Refuse new mutations and wait until the accepted ones have their answers."""
        self._open = False
        if self._busy and self._running is not None:
            finished: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: finished.callback(None))
            await finished

    async def _run(self) -> None:
        decided: tuple[Batch, Outcomes] | None = None
        try:
            while self._waiting or decided is not None:
                begun = self._begin_next(len(decided[0]) if decided else 0) if self._waiting else None
                if decided is not None:
                    committed, self._untold = self._untold, []
                    self._tell(self._announce, committed)
                    if begun is not None:
                        await self._answering.until_planned()
                    await self._answering.answer(*decided)
                    self._tell(self._log_audit, committed)
                decided = None if begun is None else (begun[0], await begun[1])
                self._refuse_late()
        finally:
            self._busy = False

    def _begin_next(self, decided: int) -> tuple[Batch, Deferred[Outcomes]]:
        batch = self._next_batch(decided)
        self._answering.begun()
        return batch, Deferred.fromCoroutine(self._decide([mutation for mutation, _ in batch]))

    def _refuse_late(self) -> None:
        """Those who waited too long behind a batch in trouble."""
        while self._waiting and self._waiting[0][2] + WAIT_SECONDS < self._clock.seconds():
            _, answer, _ = self._waiting.popleft()
            answer.errback(Failure(DatabaseUnavailable(f"no turn at the database within {WAIT_SECONDS:g} s")))

    def _next_batch(self, decided: int) -> Batch:
        """At most half of those who wait or are `decided` and about to be answered: programs mostly ask again when they
        have their answer, and while the one half is written the other half's requests are read.
        """
        most = len(self._waiting)
        if decided:
            most = min(most, (most + decided + 1) // 2)
        batch = [self._waiting.popleft()[:2]]
        weight = batch[0][0].weight
        while len(batch) < most and (weight := weight + self._waiting[0][0].weight) <= MAX_BATCH_WEIGHT:
            batch.append(self._waiting.popleft()[:2])
        return batch

    async def _decide(self, mutations: Sequence[Mutation]) -> Outcomes:
        """One outcome or error for each; a batch that fails for one of its members is run again member by member."""
        began = self._clock.seconds()
        try:
            decided = await self._commit(mutations)
        except DatabaseUnavailable as error:
            return [error] * len(mutations)
        except Exception as error:
            if len(mutations) > 1:
                self._log.warn(
                    "a batch of {members} is run member by member: {reason}",
                    event="writer.batch-split",
                    members=len(mutations),
                    reason=str(error).strip()[:500],
                )
                return await self._one_by_one(mutations)
            return [await self._decide_refused(mutations[0], error)]
        self._measured.committed(len(mutations), self._clock.seconds() - began)
        return self._finish(decided)

    async def _one_by_one(self, mutations: Sequence[Mutation]) -> Outcomes:
        """Without a database the first one finds out, and the others are not tried."""
        outcomes: list[Outcome | Exception] = []
        for mutation in mutations:
            if outcomes and isinstance(outcomes[-1], DatabaseUnavailable):
                outcomes.append(DatabaseUnavailable(str(outcomes[-1])))
            else:
                outcomes.extend(await self._decide([mutation]))
        return outcomes

    async def _decide_refused(self, mutation: Mutation, error: Exception) -> Outcome | Exception:
        """A single mutation that failed: look again, heal the index of free space, or say what is missing."""
        code = error.pgcode if isinstance(error, psycopg2.Error) else None
        if code == errorcodes.FOREIGN_KEY_VIOLATION:
            return errors.NotFound("an account, subnet or node that this request names is gone, or just changed")
        if (taken := name_taken(error)) is not None:
            return taken
        if code == errorcodes.UNIQUE_VIOLATION:
            try:
                if not _is_of_key(error):
                    await self._rebuild_free_ranges(subnets_of([mutation]))
                return self._finish(await self._commit([mutation]))[0]
            except DatabaseUnavailable as unavailable:
                return unavailable
            except Exception as second:
                error = second
        self._log.failure(
            "a mutation cannot be done", Failure(error), event="writer.refused", request_id=mutation.request_id
        )
        return error

    async def _rebuild_free_ranges(self, subnets: Sequence[int]) -> None:
        self._log.warn("rebuilding the free ranges of {subnets}", event="writer.free-ranges-rebuilt", subnets=subnets)

        async def rebuild(session: Session) -> None:
            for subnet in subnets:
                await session.run("SELECT pg_advisory_xact_lock(%s)", (subnet,))
                await session.run("SELECT rebuild_free_ranges(%s)", (subnet,))

        await self._pool.transaction(rebuild, retry=True)

    async def _commit(self, mutations: Sequence[Mutation]) -> Plan:
        """Plan and commit, once: an unknown outcome is looked up before anything is done again.

        Raises DatabaseUnavailable, and whatever else went wrong before anything was committed.
        """
        batch_id = str(uuid4())
        planned: list[Plan] = []
        end = self._clock.seconds() + BATCH_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if planned and await self._was_committed(batch_id):
                    decided = planned[-1]
                else:
                    decided = await self._pool.session(lambda s: self._attempt(s, batch_id, mutations, planned))
            except (DatabaseUnavailable, psycopg2.Error) as error:
                if isinstance(error, psycopg2.Error):
                    if not is_nobodys_fault(error):
                        raise
                    planned.clear()  # the database has undone it
                if attempt == ATTEMPTS or self._clock.seconds() >= end:
                    raise DatabaseUnavailable(str(error).strip(), outcome_unknown=bool(planned)) from error
                self._log.warn(
                    "the database went away under a batch: {reason}", event="writer.retry", reason=str(error)[:500]
                )
                await deferLater(self._clock, RETRY_DELAY_SECONDS * attempt)
            else:
                if self._on_batch is not None and decided.changes.anything:
                    self._on_batch(batch_id)
                return decided
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, session: Session, batch_id: str, mutations: Sequence[Mutation], planned: list[Plan]
    ) -> Plan:
        locks = [self._own_lock, *subnets_of(mutations)]
        owners = owner_facts_request(mutations)
        if owners is None:
            rows = await session.run(_BEGIN, (locks, facts_request(mutations)))
        else:
            rows = await session.run(_BEGIN_WITH_OWNERS, (locks, facts_request(mutations), owners))
        facts = read_facts(rows)
        await give_way(self._clock, mutations)
        decided = plan(facts, mutations)
        await give_way(self._clock, mutations)
        self._clock.callLater(0, self._answering.is_planned)  # what follows is sent before
        if decided.changes.anything:
            document = changes_document(batch_id, decided.changes, facts.subnets)
            planned.append(decided)
            edits = edits_document(decided.changes)
            if edits is None:
                await session.run(_COMMIT, (document,))
            else:
                await session.run(_COMMIT_WITH_EDITS, (document, edits))
        elif any(isinstance(outcome, Outcome) for outcome in decided.outcomes):
            # what is answered was committed before, perhaps by somebody who was not told
            await session.run(_COMMIT_FOUND)
        else:
            await session.run("COMMIT")
        return decided

    async def _was_committed(self, batch_id: str) -> bool:
        async def look(session: Session) -> bool:
            rows = await session.run(_WAS_COMMITTED, (self._own_lock, batch_id))
            await session.run(_COMMIT_FOUND if rows[0][0] else "ROLLBACK")
            return bool(rows[0][0])

        try:
            return await self._pool.session(look, retry=True)
        except psycopg2.Error as error:  # the lost transaction may still be at work: that is no answer
            raise DatabaseUnavailable(str(error).strip()) from error

    def _finish(self, decided: Plan) -> Outcomes:
        """It is committed, and told of when the next batch is under way."""
        self._untold.append(decided)
        return decided.outcomes

    def _tell(self, tell: Callable[[Plan], None], committed: Sequence[Plan]) -> None:
        """Nothing that goes wrong here may look as if it were not committed."""
        for decided in committed:
            try:
                tell(decided)
            except Exception:
                self._log.failure("a commit was not told", event="writer.untold")

    def _announce(self, decided: Plan) -> None:
        if decided.mapped_subnets:
            self._on_commit(decided.mapped_subnets)

    def _log_audit(self, decided: Plan) -> None:
        for row in decided.changes.audit:
            self._log.info(
                "{actor}: {action} {object}",
                event=row.action,
                actor=row.actor.name,
                action=row.action,
                object=row.object,
                request_id=row.request_id,
                **dict(row.after or row.before or {}),
            )


def _is_of_key(error: Exception) -> bool:
    """Whether somebody else's request had the same idempotency key at the same moment: by now its answer is there."""
    return isinstance(error, psycopg2.Error) and error.diag.table_name == "idempotency"
