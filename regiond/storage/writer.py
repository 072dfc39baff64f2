"""The one queue of mutations: one batch is in flight at a time, what arrives meanwhile joins the next.

Claims on one subnet serialise anyway, and a lock that is held across a commit is a convoy. Batching turns the
convoy into a group commit: all waiting mutations share one transaction and one fsync. See Note [Batch].

A batch is two round trips: begin, lock, read the facts; then write and commit. Between them the pure planner
decides every member. When a connection dies around the commit its outcome is unknown: the writer takes its own lock
again, which waits for the lost transaction to end, and looks whether the batch's id was committed.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import psycopg2
from psycopg2 import errorcodes
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.domain import errors
from regiond.domain.changes import Changes, Plan
from regiond.domain.mutations import Mutation, Outcome
from regiond.domain.plan import plan
from regiond.storage.batch import changes_document, facts_request, read_facts, subnets_of
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, Pool, Session

MAX_BATCH_STEPS = 1000
MAX_WAITING = 20_000
ATTEMPTS = 4
RETRY_DELAY_SECONDS = 0.2

# Advisory locks: a subnet's id (positive), or a writer's own (negative).
_BEGIN = (
    "BEGIN; SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key; SELECT tag, fact FROM batch_facts(%s)"
)
_COMMIT = "SELECT batch_write(%s); COMMIT"
_WAS_COMMITTED = (
    "BEGIN; SELECT pg_advisory_xact_lock(%s); SELECT count(*) FROM batch WHERE id = %s::uuid"  # own lock first
)

Committed = Callable[[frozenset[int]], None]


class Writer:
    """See the module. `on_commit` hears of the subnets whose desired host maps changed, after each commit."""

    _log = Logger(namespace="region.writer")

    def __init__(self, clock: Any, pool: Pool, on_commit: Committed) -> None:
        self._clock = clock
        self._pool = pool
        self._on_commit = on_commit
        self._own_lock = -random.getrandbits(60) - 1
        self._waiting: deque[tuple[Mutation, Deferred[Outcome]]] = deque()
        self._running: Deferred[None] | None = None
        self._open = True

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
        self._waiting.append((mutation, answer))
        if self._running is None:
            self._running = Deferred.fromCoroutine(self._run())
        return await answer

    async def stop(self) -> None:
        """Refuse new mutations and wait until the accepted ones have their answers."""
        self._open = False
        if self._running is not None:
            finished: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: finished.callback(None))
            await finished

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                outcomes = await self._decide([mutation for mutation, _ in batch])
                for (_, answer), outcome in zip(batch, outcomes, strict=True):
                    if isinstance(outcome, Outcome):
                        answer.callback(outcome)
                    else:
                        answer.errback(Failure(outcome))
        finally:
            self._running = None

    def _next_batch(self) -> list[tuple[Mutation, Deferred[Outcome]]]:
        batch = [self._waiting.popleft()]
        steps = len(batch[0][0].steps)
        while self._waiting and (steps := steps + len(self._waiting[0][0].steps)) <= MAX_BATCH_STEPS:
            batch.append(self._waiting.popleft())
        return batch

    async def _decide(self, mutations: Sequence[Mutation]) -> Sequence[Outcome | Exception]:
        """One outcome or error for each; a batch that the database refuses is run again member by member."""
        try:
            return await self._commit(mutations)
        except psycopg2.Error as error:
            if len(mutations) > 1:
                self._log.warn(
                    "a batch of {members} is run member by member: {reason}",
                    event="writer.batch-split",
                    members=len(mutations),
                    reason=str(error).strip()[:500],
                )
                return [(await self._decide([mutation]))[0] for mutation in mutations]
            return [await self._decide_refused(mutations[0], error)]
        except Exception as error:
            return [error] * len(mutations)

    async def _decide_refused(self, mutation: Mutation, error: psycopg2.Error) -> Outcome | Exception:
        """A single mutation that the database refused: heal the index of free space, or say what is missing."""
        if error.pgcode == errorcodes.FOREIGN_KEY_VIOLATION:
            return errors.NotFound("an account or subnet that this request names is gone")
        if error.pgcode != errorcodes.UNIQUE_VIOLATION:
            self._log.failure("the database refused a mutation", event="writer.refused", request_id=mutation.request_id)
            return error
        try:
            await self._rebuild_free_ranges(subnets_of([mutation]))
            return (await self._commit([mutation]))[0]
        except Exception as second:
            self._log.failure("the database refused a mutation", event="writer.refused", request_id=mutation.request_id)
            return second

    async def _rebuild_free_ranges(self, subnets: Sequence[int]) -> None:
        self._log.warn("rebuilding the free ranges of {subnets}", event="writer.free-ranges-rebuilt", subnets=subnets)

        async def rebuild(session: Session) -> None:
            for subnet in subnets:
                await session.run("SELECT pg_advisory_xact_lock(%s)", (subnet,))
                await session.run("SELECT rebuild_free_ranges(%s)", (subnet,))

        await self._pool.transaction(rebuild, retry=True)

    async def _commit(self, mutations: Sequence[Mutation]) -> Sequence[Outcome | errors.DomainError]:
        """Plan and commit, once: an unknown outcome is looked up before anything is done again."""
        batch_id = str(uuid4())
        planned: list[Plan] = []
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if planned and await self._was_committed(batch_id):
                    return self._finish(planned[-1])
                planned_now = await self._pool.session(lambda s: self._attempt(s, batch_id, mutations, planned))
                return self._finish(planned_now)
            except (ConnectionLost, DatabaseUnavailable) as error:
                if attempt == ATTEMPTS:
                    raise DatabaseUnavailable(str(error), outcome_unknown=bool(planned)) from error
                self._log.warn(
                    "the database went away under a batch: {reason}", event="writer.retry", reason=str(error)[:500]
                )
                await deferLater(self._clock, RETRY_DELAY_SECONDS * attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(
        self, session: Session, batch_id: str, mutations: Sequence[Mutation], planned: list[Plan]
    ) -> Plan:
        locks = [self._own_lock, *subnets_of(mutations)]
        rows = await session.run(_BEGIN, (locks, facts_request(mutations)))
        facts = read_facts(rows)
        decided = plan(facts, mutations)
        if decided.changes.anything:
            document = changes_document(batch_id, decided.changes, facts.subnets)
            planned.append(decided)
            await session.run(_COMMIT, (document,))
        else:
            await session.run("COMMIT")
        return decided

    async def _was_committed(self, batch_id: str) -> bool:
        async def look(session: Session) -> bool:
            rows = await session.run(_WAS_COMMITTED, (self._own_lock, batch_id))
            await session.run("ROLLBACK")
            return bool(rows[0][0])

        return await self._pool.session(look, retry=True)

    def _finish(self, decided: Plan) -> Sequence[Outcome | errors.DomainError]:
        self._tell(decided.changes)
        if decided.mapped_subnets:
            self._on_commit(decided.mapped_subnets)
        return decided.outcomes

    def _tell(self, changes: Changes) -> None:
        for row in changes.audit:
            self._log.info(
                "{actor}: {action} {object}",
                event=row.action,
                actor=row.actor.name,
                action=row.action,
                object=row.object,
                request_id=row.request_id,
                **dict(row.after or row.before or {}),
            )
