"""What happened, for admins: who did what to which object, in which request."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id
from regiond.domain.views import AuditEntry
from regiond.storage.audit import AuditFilter, AuditReads
from regiond.use_cases.conditions import require_admin
from regiond.use_cases.requests import RequestContext

FILTERS: Final = {"object": "objects", "actor": "actors", "action": "actions", "request_id": "request_ids"}


class AuditTrail:
    """Reads the audit; it is written in the transactions of what it tells of."""

    def __init__(self, reads: AuditReads) -> None:
        self._reads = reads

    async def entries(
        self,
        context: RequestContext,
        *,
        filters: Mapping[str, Sequence[str]],
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int,
        after: str | None,
    ) -> Sequence[AuditEntry]:
        """The newest first, of what happened from `since` on and before `until`.

        Raises NotPermitted, and InvalidRequest for a filter that there is not.
        """
        require_admin(context)
        conditions = {}
        for name, values in filters.items():
            if name not in FILTERS:
                raise errors.InvalidRequest(f"?{name}", f"there is no filter {name}; there are {', '.join(FILTERS)}")
            conditions[FILTERS[name]] = values
        number = None if after is None else parse_id(Prefix.AUDIT_ENTRY, after)
        if after is not None and number is None:
            raise errors.InvalidRequest("?after", f"not an id: {after[:64]}")
        return await self._reads.entries(AuditFilter(**conditions, since=since, until=until), limit, number)
