"""The audit over HTTP."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.audit import AuditPage
from regiond.http.representations import audit as show
from regiond.http.routing import BASE, Access, Answer, Call, Route, page
from regiond.http.shapes import audit as shapes
from regiond.http.use_cases import UseCases


async def read_list(use: UseCases, call: Call[None, AuditPage]) -> Answer:
    """The newest first: a page goes on with what is older."""
    query = call.query
    rows = await use.audit.entries(
        call.context,
        filters=query.filters,
        since=query.since,
        until=query.until,
        limit=query.limit + 1,
        after=query.after,
    )
    return page(call, rows, show.audit_entry, lambda entry: format_id(Prefix.AUDIT_ENTRY, entry.id))


ROUTES = [
    Route(
        "GET",
        f"{BASE}/audit",
        read_list,
        Access.ADMIN,
        "Who did what, the newest first",
        query=AuditPage,
        list_of=Prefix.AUDIT_ENTRY,
        shows=shapes.AuditEntry,
    ),
]
