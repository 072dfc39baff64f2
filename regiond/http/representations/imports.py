"""Imports as JSON."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportView
from regiond.http.representations.values import moment
from regiond.http.shapes import imports as shapes


def an_import(view: ImportView) -> shapes.Import:
    mistakes = sorted(view.mistakes, key=lambda mistake: mistake.line or 0)
    return {
        "id": format_id(Prefix.IMPORT, view.id),
        "state": view.state,
        "dry_run": view.dry_run,
        "format": view.form,
        "account": view.account_name,
        "checked": view.checked,
        "applied": view.applied,
        "created": view.created,
        "present": view.present,
        "skipped": view.skipped,
        "mistake_count": view.mistake_count,
        "mistakes": [
            {"line": each.line, "column": each.column, "type": each.slug, "detail": each.detail} for each in mistakes
        ],
        "reason": view.reason,
        "request_id": view.request_id,
        "began": moment(view.began),
        "finished": moment(view.finished),
    }
