"""The audit as it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from regiond.domain.views import AuditEntry
from regiond.storage.pool import Pool


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """A conjunction of conditions; several values of one mean any of them. Empty means no condition.

    From `since` on, before `until`.
    """

    objects: Sequence[str] = ()
    actors: Sequence[str] = ()
    actions: Sequence[str] = ()
    request_ids: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None


class AuditReads:
    """Read-only questions about what happened."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def entries(self, wanted: AuditFilter, limit: int, after: int | None = None) -> list[AuditEntry]:
        """The newest first; `after` is the last (and oldest) id of the page before."""
        conditions: dict[str, Any] = {
            "object = ANY(%s)": list(wanted.objects),
            "actor = ANY(%s)": list(wanted.actors),
            "action = ANY(%s)": list(wanted.actions),
            "request_id = ANY(%s)": list(wanted.request_ids),
        }
        used = {text: values for text, values in conditions.items() if values}
        if wanted.since is not None:
            used["at >= %s"] = wanted.since
        if wanted.until is not None:
            used["at < %s"] = wanted.until
        if after is not None:
            used["id < %s"] = after
        where = " AND ".join(used) or "true"
        rows = await self._pool.query(
            f"""SELECT id, at, account, actor, action, object, before, after, request_id
                FROM audit WHERE {where} ORDER BY id DESC LIMIT %s""",  # noqa: S608 (constants only)
            (*used.values(), limit),
            retry=True,
        )
        return [AuditEntry(*row) for row in rows]
