"""Imports: the file and how far it is; looking at its lines; and all of it in one transaction."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import uuid4

from pydantic_core import to_json

from regiond.domain import errors
from regiond.domain.facts import Facts
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.importing import ImportState, ImportView
from regiond.domain.line_files import Mistake
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import Actor, Mutation, Outcome
from regiond.domain.plan import plan
from regiond.storage.batch import facts_request, read_facts, subnets_of
from regiond.storage.batch_changes import changes_document
from regiond.storage.changes import Change, once, write_audit
from regiond.storage.pool import Pool, Session

MAX_UNFINISHED: Final = 4
ABANDONED_SECONDS: Final = 30
KEPT_DAYS: Final = 7
APPLY_DEADLINE_SECONDS: Final = 120.0

_VIEW: Final = """
SELECT i.id, i.account, a.name, i.state, i.dry_run, i.format, i.checked, i.applied, i.created, i.present, i.skipped,
       i.mistakes, i.mistake_count, i.reason, i.began, i.finished, i.request_id
FROM import i JOIN account a ON a.id = i.account
"""
_TAKE: Final = """
UPDATE import i SET worker = %(worker)s, heartbeat = now(), attempts = i.attempts + 1, state = 'checking',
       checked = 0, applied = 0, created = 0, present = 0, skipped = 0
FROM account a
WHERE a.id = i.account AND i.id = (
    SELECT id FROM import WHERE finished IS NULL
      AND (worker IS NULL OR heartbeat < now() - make_interval(secs => %(abandoned)s))
    ORDER BY began LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING i.id, i.account, a.name, a.role = 'admin', i.request_id, i.format, i.dry_run, i.ignored, i.content, i.attempts
"""


@dataclass(frozen=True, slots=True)
class Job:
    """An import that this regiond works on. `attempts` counts this one."""

    id: int
    actor: Actor
    request_id: str
    form: LineFormat
    dry_run: bool
    ignored: frozenset[str]
    content: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many lines: looked at, to be made, there already, passed over, written so far."""

    checked: int = 0
    created: int = 0
    present: int = 0
    skipped: int = 0
    applied: int = 0


class Abandoned(Exception):
    """Another regiond works on the import by now."""


class LinesRefused(Exception):
    """Lines that could be done when they were looked at, and cannot now: by their place among the mutations."""

    def __init__(self, refused: dict[int, errors.DomainError]) -> None:
        super().__init__(f"{len(refused)} lines")
        self.refused = refused


class ImportStore:
    """`worker` is this regiond's name for itself in the table."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id
        self._worker = str(uuid4())

    # ---- what people see ----

    async def create(
        self, change: Change, form: LineFormat, content: str, *, dry_run: bool, ignored: Sequence[str]
    ) -> int:
        """The new import's id, or with a repeated idempotency key the one first made. Raises TooManyImports."""
        number = self._new_id()
        account = change.actor.account
        assert account is not None

        async def create(session: Session) -> int:
            await session.run("SELECT FROM account WHERE id = %s FOR NO KEY UPDATE", (account,))
            rows = await session.run("SELECT count(*) FROM import WHERE account = %s AND finished IS NULL", (account,))
            if rows[0][0] >= MAX_UNFINISHED:
                raise errors.TooManyImports(f"{MAX_UNFINISHED} imports of this account are not finished yet")
            await session.run(
                """INSERT INTO import (id, account, request_id, format, dry_run, ignored, content)
                   VALUES (%s, %s, %s, %s, %s, %s, %s)""",
                (number, account, change.request_id, form, dry_run, list(ignored), content),
            )
            return number

        return await once(self._pool, change, create, "SELECT id FROM import WHERE id = %s", (number,))

    async def views(
        self, ids: Sequence[int] = (), account: int | None = None, limit: int = 1000, after: int | None = None
    ) -> list[ImportView]:
        rows = await self._pool.query(
            f"""{_VIEW} WHERE (%s OR i.id = ANY(%s)) AND (%s::bigint IS NULL OR i.account = %s) AND i.id > %s
                ORDER BY i.id LIMIT %s""",
            (not ids, list(ids), account, account, after or 0, limit),
            retry=True,
        )
        return [_view(row) for row in rows]

    # ---- for whoever works on them ----

    async def take(self) -> Job | None:
        """The oldest import that nobody works on."""
        rows = await self._pool.query(_TAKE, {"worker": self._worker, "abandoned": ABANDONED_SECONDS})
        if not rows:
            return None
        number, account, name, is_admin, request_id, form, dry_run, ignored, content, attempts = rows[0]
        actor = Actor(account, name, is_admin)
        return Job(number, actor, request_id, LineFormat(form), dry_run, frozenset(ignored), content, attempts)

    async def tell(self, job: Job, state: ImportState, counts: Counts) -> None:
        """How far it is, and that it is worked on. Raises Abandoned."""
        await self._update(job, "state = %s, heartbeat = now()", [state], counts)

    async def finish(
        self, job: Job, state: ImportState, counts: Counts, mistakes: Sequence[Mistake], count: int, reason: str | None
    ) -> None:
        """It is over without a change of anything. Raises Abandoned."""
        sets = "state = %s, mistakes = %s::jsonb, mistake_count = %s, reason = %s, content = NULL, finished = now()"
        told = to_json([asdict(mistake) for mistake in mistakes]).decode()
        await self._update(job, sets, [state, told, count, reason], counts)

    async def put_back(self, job: Job) -> None:
        """Somebody else may go on at once."""
        await self._pool.execute(
            "UPDATE import SET worker = NULL, state = 'waiting' WHERE id = %s AND worker = %s AND finished IS NULL",
            (job.id, self._worker),
            retry=True,
        )

    async def prune(self) -> None:
        """Forget what is over for KEPT_DAYS."""
        await self._pool.execute(
            "DELETE FROM import WHERE finished < now() - make_interval(days => %s)", (KEPT_DAYS,), retry=True
        )

    async def facts(self, mutations: Sequence[Mutation]) -> Facts:
        """What the planner needs, read without any lock: as it is now, and perhaps not any more in a moment."""
        rows = await self._pool.query("SELECT tag, fact FROM batch_facts(%s)", (facts_request(mutations),), retry=True)
        return read_facts(rows)

    async def devices_there(self, ids: Sequence[int]) -> set[int]:
        """Those of these devices that exist."""
        rows = await self._pool.query("SELECT id FROM device WHERE id = ANY(%s)", (list(ids),), retry=True)
        return {row[0] for row in rows}

    async def apply(
        self,
        job: Job,
        mutations: Sequence[Mutation],
        counts: Counts,
        size: int,
        between: Callable[[int], Awaitable[None]],
    ) -> frozenset[int]:
        """All of it, or nothing: one transaction that holds the locks of all its subnets; the subnets whose host maps
        changed.

        It is planned and written `size` mutations at a time, as batches of the writer are, each part on what the ones
        before it left. `between` is called after each part with how many there were so far; what it raises undoes all.
        Raises LinesRefused, Abandoned.
        """
        subnets = subnets_of(mutations)

        async def work(session: Session) -> frozenset[int]:
            mapped: set[int] = set()
            await session.run("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", (subnets,))
            for start in range(0, len(mutations), size):
                part = mutations[start : start + size]
                facts = read_facts(await session.run("SELECT tag, fact FROM batch_facts(%s)", (facts_request(part),)))
                decided = plan(facts, part)
                refused = {start + at: why for at, each in enumerate(decided.outcomes) if (why := _refusal(each))}
                if refused:
                    raise LinesRefused(refused)
                document = changes_document(str(uuid4()), decided.changes, facts.subnets)
                await session.run("SELECT batch_write(%s)", (document,))
                mapped |= decided.mapped_subnets
                await between(start + len(part))
            await self._applied(session, job, counts)
            return frozenset(mapped)

        return await self._pool.transaction(work, deadline=APPLY_DEADLINE_SECONDS)

    async def _applied(self, session: Session, job: Job, counts: Counts) -> None:
        change = Change(job.actor, job.request_id)
        after = {"created": counts.created, "present": counts.present, "skipped": counts.skipped}
        await write_audit(session, change, "import.apply", format_id(Prefix.IMPORT, job.id), None, after)
        rows = await session.run(
            """UPDATE import SET state = 'done', applied = created, content = NULL, finished = now()
               WHERE id = %s AND worker = %s AND finished IS NULL RETURNING id""",
            (job.id, self._worker),
        )
        if not rows:
            raise Abandoned

    async def _update(self, job: Job, sets: str, values: Sequence[Any], counts: Counts) -> None:
        told = asdict(counts)
        rows = await self._pool.query(
            f"""UPDATE import SET {sets}, {", ".join(f"{name} = %s" for name in told)}
                WHERE id = %s AND worker = %s AND finished IS NULL RETURNING id""",  # noqa: S608 (names of columns only)
            (*values, *told.values(), job.id, self._worker),
        )
        if not rows:
            raise Abandoned


def _refusal(outcome: Outcome | errors.DomainError) -> errors.DomainError | None:
    """Why a line is not done. What somebody else made just so in the meantime is not made: no device that other lines
    are to be hung on, and not as many reservations as are told.
    """
    if not isinstance(outcome, Outcome):
        return outcome
    if outcome.created:
        return None
    return errors.AddressTaken(
        f"{outcome.reservations[0].address} was reserved just so while the file was looked at: import it again"
    )


def _view(row: Sequence[Any]) -> ImportView:
    number, account, name, state, dry_run, form, checked, applied, created, present, skipped = row[:11]
    mistakes, mistake_count, reason, began, finished, request_id = row[11:]
    return ImportView(
        id=number,
        account=account,
        account_name=name,
        state=ImportState(state),
        dry_run=dry_run,
        form=LineFormat(form),
        checked=checked,
        applied=applied,
        created=created,
        present=present,
        skipped=skipped,
        mistakes=tuple(Mistake(**each) for each in mistakes),
        mistake_count=mistake_count,
        reason=reason,
        began=began,
        finished=finished,
        request_id=request_id,
    )
