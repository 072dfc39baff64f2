"""What entries of the audit look like."""

from collections.abc import Mapping
from typing import Any

from regiond.http.shapes.values import AccountId, AuditEntryId, Moment, Shape


class AuditEntry(Shape):
    """Who did what; `account` is null for the region itself."""

    id: AuditEntryId
    at: Moment
    account: AccountId | None
    actor: str
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    request_id: str
