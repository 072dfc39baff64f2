"""What has to happen as time goes by: stragglers, confirmations, addresses whose rest is over, what expires.

Any regiond may run any of these at any time, several at once: each is a mutation that does nothing when somebody
else was faster.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.domain import errors
from regiond.domain.mutations import Actor, Confirm, Mutation, Reclaim, Release, Step
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import ConnectionLost, Pool
from regiond.storage.writer import Writer
from regiond.witness import WITNESS_SECONDS

SWEEP_SECONDS = 1.0
HEARTBEAT_SECONDS = 15.0
DRAINING_SECONDS = 10.0
CONFIRMING_SECONDS = 10.0
CLEANING_SECONDS = 300.0
MARKS_SECONDS = 15.0
QUESTIONS_SECONDS = 60.0
MAX_PER_SWEEP = 500
MAX_CLEANED = 20_000
MAX_ROUNDS = 100

REGION = Actor(None, "region", is_admin=True)

_RESTED = """SELECT r.id, r.subnet, host(r.address) FROM reservation r
    WHERE r.status = 'releasing' AND r.confirmed_at IS NOT NULL AND r.free_at <= now()
    AND NOT EXISTS (SELECT FROM subnet s WHERE s.id = r.subnet AND s.recovering_since IS NOT NULL)
    ORDER BY r.free_at LIMIT %s"""
_EXPIRED = """SELECT id, subnet, host(address) FROM reservation
    WHERE expires_at IS NOT NULL AND expires_at <= now() AND status = 'active' ORDER BY expires_at LIMIT %s"""
# One look into the index for each subnet, however many addresses wait there for a cluster that is away.
_UNCONFIRMED = """SELECT s.id FROM subnet s CROSS JOIN LATERAL (
        SELECT FROM reservation r WHERE r.subnet = s.id AND r.status = 'releasing' AND r.confirmed_at IS NULL
        AND r.release_generation <= coalesce((SELECT min(d.applied_generation) FROM delivery d
            WHERE d.subnet = s.id AND d.role IN ('serving', 'draining')), s.generation + 1) LIMIT 1) waiting
    WHERE s.recovering_since IS NULL LIMIT %s"""
# By their places: looked up by their keys, PostgreSQL would rather read the whole table for so many.
_CLEAN = (
    """DELETE FROM idempotency WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency
        WHERE created < now() - interval '24 hours' ORDER BY created LIMIT %s)) RETURNING 1""",
    """DELETE FROM batch WHERE ctid = ANY(ARRAY(SELECT ctid FROM batch
        WHERE committed < now() - interval '1 hour' ORDER BY committed LIMIT %s)) RETURNING 1""",
)


class Sweeps:
    """Runs the sweeps of one regiond until it is stopped."""

    _log = Logger(namespace="region.sweeps")

    def __init__(
        self,
        clock: Any,
        pool: Pool,
        writer: Writer,
        stragglers: Callable[[], Awaitable[None]],
        drain_absent: Callable[[], Awaitable[None]],
        heartbeat: Callable[[], Awaitable[None]],
        settle: Callable[[], Awaitable[None]],
        witness: Callable[[], Awaitable[None]],
        prune: Callable[[], Awaitable[None]],
        expire_marks: Callable[[], Awaitable[None]],
        forget_questions: Callable[[], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._writer = writer
        self._stragglers = stragglers
        self._drain_absent = drain_absent
        self._heartbeat = heartbeat
        self._settle = settle
        self._witness = witness
        self._prune = prune
        self._expire_marks = expire_marks
        self._forget_questions = forget_questions
        self._loops: list[LoopingCall] = []
        self._idle: list[Deferred[Any]] = []
        self._stopping = False

    def start(self) -> None:
        for name, seconds, sweep in (
            ("stragglers", SWEEP_SECONDS, self._stragglers),
            ("rested", SWEEP_SECONDS, self.free_rested),
            ("expired", SWEEP_SECONDS, self.release_expired),
            ("confirmed", CONFIRMING_SECONDS, self.confirm_rest),
            ("absent interfaces", DRAINING_SECONDS, self._drain_absent),
            ("heartbeat", HEARTBEAT_SECONDS, self._heartbeat),
            ("recovery", SWEEP_SECONDS, self._settle),
            ("witness", WITNESS_SECONDS, self._witness),
            ("cleaning", CLEANING_SECONDS, self.clean),
            ("tombstones", CLEANING_SECONDS, self._prune),
            ("marks", MARKS_SECONDS, self._expire_marks),
            ("questions", QUESTIONS_SECONDS, self._forget_questions),
        ):
            loop = LoopingCall(self._guarded, name, sweep)
            loop.clock = self._clock
            self._loops.append(loop)
            self._idle.append(loop.start(seconds))

    async def stop(self) -> None:
        """Stop, and wait for the sweeps that are running: those in many turns end with the present one."""
        self._stopping = True
        for loop in self._loops:
            loop.stop()
        for idle in self._idle:
            await idle

    async def free_rested(self) -> None:
        """Free the addresses whose removal is confirmed everywhere and whose hold has passed."""
        rows = await self._pool.query(_RESTED, (MAX_PER_SWEEP,), retry=True)
        await self._submit([Reclaim(*row) for row in rows])

    async def release_expired(self) -> None:
        """Release what its claimant wanted for a time only."""
        rows = await self._pool.query(_EXPIRED, (MAX_PER_SWEEP,), retry=True)
        await self._submit([Release(number, subnet, at, if_expired=True) for number, subnet, at in rows])

    async def confirm_rest(self) -> None:
        """Begin the release hold of what clusters have confirmed, where it was too much for one batch."""
        for _ in range(MAX_ROUNDS):
            rows = await self._pool.query(_UNCONFIRMED, (MAX_PER_SWEEP,), retry=True)
            if not rows or self._stopping:
                return
            await self._submit([Confirm(*row) for row in rows])

    async def clean(self) -> None:
        """Forget answers to idempotency keys after 24 hours, and which batches were committed after one.

        Some at a time: no statement could delete in time all that a busy day left to a regiond that was stopped.
        """
        for statement in _CLEAN:
            cleaned = MAX_CLEANED
            while cleaned == MAX_CLEANED and not self._stopping:
                cleaned = len(await self._pool.query(statement, (MAX_CLEANED,), retry=True))

    async def _submit(self, steps: Sequence[Step]) -> None:
        waiting = [Deferred.fromCoroutine(self._writer.submit(Mutation(REGION, (step,), "sweep"))) for step in steps]
        results: list[tuple[bool, Any]] = await DeferredList(waiting, consumeErrors=True)
        for _, result in results:
            # Not found: somebody else was faster.
            if isinstance(result, Failure) and not result.check(errors.NotFound):
                result.raiseException()

    async def _guarded(self, name: str, sweep: Callable[[], Awaitable[None]]) -> None:
        try:
            await sweep()
        except (DatabaseUnavailable, ConnectionLost) as error:
            self._log.warn(
                "the sweep {sweep} could not run: {reason}",
                event="sweep.postponed",
                sweep=name,
                reason=str(error)[:500],
            )
        except Exception:
            self._log.failure("the sweep {sweep} failed", event="sweep.failed", sweep=name)
