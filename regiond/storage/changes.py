"""Changes that do not go through the writer: accounts, tokens, nodes, ranges, clusters. Once each, and audited.

A change is safe to repeat after a lost answer: it is recognised by the id that its caller made, or by its idempotency
key. What is stored under the key is only the id of what was made or changed: a repeated request does nothing, and shows
how that is now.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from regiond.domain import errors
from regiond.domain.mutations import Actor, Idempotency
from regiond.storage.pool import SETTLE, Pool, Session

LONG_DEADLINE_SECONDS: Final = 60.0
"""For what may have to recompute the free space of a large subnet."""


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes something, in which request."""

    actor: Actor
    request_id: str
    idempotency: Idempotency | None = None
    if_match: frozenset[str] | None = None  # the versions in which the thing may be changed; None: in any


async def once(
    pool: Pool,
    change: Change,
    work: Callable[[Session], Awaitable[int]],
    made_before: str | None = None,
    args: Sequence[Any] = (),
    *,
    subnet: int | None = None,
    deadline: float | None = None,
    sets: bool = False,
) -> int:
    """Do the work in a transaction, unless it was done before: under the same key, or by us (`made_before` finds it).

    With `subnet` all of it happens under that subnet's lock, which is taken first, as the writer does. `sets`: the work
    sets values, so that doing it twice is doing it once. Returns the id of what was made or set, then or now. Raises
    IdempotencyKeyReused.
    """
    key = change.idempotency

    async def run(session: Session) -> int:
        if subnet is not None:
            await lock_subnet(session, subnet)
        if key is not None:
            # a second request with the key waits here until the first one has committed or failed
            first = await session.run(
                """INSERT INTO idempotency (account, key, fingerprint, answer) VALUES (%s, %s, %s, '')
                   ON CONFLICT (account, key) DO NOTHING RETURNING key""",
                (key.account, key.key, key.fingerprint),
            )
            if not first:
                return await _answered(session, key)
        if made_before is not None:
            mine = await session.run(made_before, args)
            if mine:
                return int(mine[0][0])
        made = await work(session)
        if key is not None:
            await session.run(
                "UPDATE idempotency SET answer = %s WHERE account = %s AND key = %s",
                (json.dumps({"id": made}), key.account, key.key),
            )
        return made

    # Without a key a repeated DELETE would find nothing, and say so of its own success; and what is set only in a
    # version that was read is in another one afterwards.
    repeatable = made_before is not None or key is not None or (sets and change.if_match is None)
    return await pool.transaction(run, retry=repeatable, deadline=deadline)


async def done_before(pool: Pool, change: Change) -> int | None:
    """The id of what a request with this key made or changed before. Raises IdempotencyKeyReused if it was another."""
    key = change.idempotency
    if key is None:
        return None
    rows = await pool.query(
        "SELECT fingerprint, answer FROM idempotency WHERE account = %s AND key = %s",
        (key.account, key.key),
        retry=True,
    )
    if not rows:
        return None
    if rows[0][0] != key.fingerprint:
        raise _reused()
    await pool.execute(SETTLE, retry=True)
    return int(json.loads(rows[0][1])["id"])


async def was_done(pool: Pool, change: Change) -> bool:
    """Whether a request with this key was carried out before. Raises IdempotencyKeyReused if it was another one."""
    return await done_before(pool, change) is not None


async def answered(pool: Pool, change: Change) -> str | None:
    """What `keep_answer` kept for a request with this key; None when it was not carried out to its end, or has no key.

    For what is no single transaction, and is done again until it was done to its end. Raises IdempotencyKeyReused.
    """
    key = change.idempotency
    if key is None:
        return None

    async def run(session: Session) -> str | None:
        await session.run(
            """INSERT INTO idempotency (account, key, fingerprint, answer) VALUES (%s, %s, %s, '')
               ON CONFLICT (account, key) DO NOTHING""",
            (key.account, key.key, key.fingerprint),
        )
        [(fingerprint, answer)] = await session.run(
            "SELECT fingerprint, answer FROM idempotency WHERE account = %s AND key = %s", (key.account, key.key)
        )
        if fingerprint != key.fingerprint:
            raise _reused()
        await session.run(SETTLE)
        return answer or None

    return await pool.transaction(run, retry=True)


async def keep_answer(pool: Pool, change: Change, answer: str) -> None:
    """The answer to whoever repeats the request under its key; the first one that is kept stays."""
    if (key := change.idempotency) is not None:
        await pool.execute(
            "UPDATE idempotency SET answer = %s WHERE account = %s AND key = %s AND answer = ''",
            (answer, key.account, key.key),
            retry=True,
        )


def _reused() -> errors.IdempotencyKeyReused:
    return errors.IdempotencyKeyReused("this Idempotency-Key was used for another request")


async def _answered(session: Session, key: Idempotency) -> int:
    rows = await session.run(
        "SELECT fingerprint, answer FROM idempotency WHERE account = %s AND key = %s", (key.account, key.key)
    )
    if not rows or rows[0][0] != key.fingerprint:
        raise _reused()
    await session.run(SETTLE)
    return int(json.loads(rows[0][1])["id"])


async def lock_subnet(session: Session, subnet: int) -> None:
    """Wait for the subnet's lock: what later statements of the transaction read of it is what it is until the end."""
    await session.run("SELECT pg_advisory_xact_lock(%s)", (subnet,))


async def rebuild_free_ranges(session: Session, subnet: int, low: str | None = None, high: str | None = None) -> int:
    """Recompute the index of free space under the subnet's lock, of the whole subnet or from `low` to `high`, both
    included; how many rows changed.

    A whole subnet with a million scattered reservations takes seconds.
    """
    await session.run(f"SET LOCAL statement_timeout = '{LONG_DEADLINE_SECONDS:.0f}s'")
    return int((await session.run("SELECT rebuild_free_ranges(%s, %s, %s)", (subnet, low, high)))[0][0])


async def write_audit(
    session: Session,
    change: Change,
    action: str,
    object_id: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Who did what to which object. `before` and `after` must be plain JSON values."""
    await session.run(
        """INSERT INTO audit (account, actor, action, object, before, after, request_id)
           VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s)""",
        (
            *(change.actor.account, change.actor.name, action, object_id),
            *(None if value is None else json.dumps(value) for value in (before, after)),
            change.request_id,
        ),
    )
