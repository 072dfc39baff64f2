"""Entries of the audit as people and programs see them."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import AuditEntry
from regiond.http.representations.values import moment, optional_id
from regiond.http.shapes import audit as shapes


def audit_entry(entry: AuditEntry) -> shapes.AuditEntry:
    return {
        "id": format_id(Prefix.AUDIT_ENTRY, entry.id),
        "at": moment(entry.at),
        "account": optional_id(Prefix.ACCOUNT, entry.account),
        "actor": entry.actor,
        "action": entry.action,
        "object": entry.object,
        "before": entry.before,
        "after": entry.after,
        "request_id": entry.request_id,
    }
