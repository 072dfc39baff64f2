"""A reservation as a line of a file: what an export writes and an import reads; pure.

Two formats: CSV with a line of column names first (RFC 4180, for spreadsheets), and one JSON object a line (for
programs). Both have the same columns under the same names.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from regiond.domain.reservations import Kind, Status

FORMULA_STARTS: Final = frozenset("=+-@\t\r'")
"""With what a cell begins that a spreadsheet would run, or that was made harmless already."""


class LineFormat(StrEnum):
    """How the lines of a file are written."""

    CSV = "csv"
    JSONL = "jsonl"

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self]


_MEDIA_TYPES: Final[Mapping[LineFormat, str]] = {
    LineFormat.CSV: "text/csv",
    LineFormat.JSONL: "application/jsonl",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One reservation. Texts are canonical, times are UTC.

    `subnet` is a network or any other selector. `device` and `group` are labels here: lines with the same one belong
    together. `node` is the node's host name, or its id. `status`, `created` and `id` are what an export says besides.
    """

    address: str
    subnet: str | None = None
    vrf: str | None = None
    kind: Kind | None = None
    macs: tuple[str, ...] = ()
    client_id: str | None = None
    duid: str | None = None
    alias: str | None = None
    hostname: str | None = None
    owner: str | None = None
    device: str | None = None
    node: str | None = None
    group: str | None = None
    purpose: str | None = None
    comment: str | None = None
    expires_at: datetime | None = None
    status: Status | None = None
    created: datetime | None = None
    id: str | None = None


COLUMNS: Final = tuple(Line.__dataclass_fields__)


def header(form: LineFormat) -> bytes:
    """What stands before the first line."""
    return _csv_row(COLUMNS) if form is LineFormat.CSV else b""


def written(form: LineFormat, line: Line) -> bytes:
    """The line with its end."""
    values = {name: getattr(line, name) for name in COLUMNS}
    if form is LineFormat.JSONL:
        told = {name: _json_value(value) for name, value in values.items() if value not in (None, ())}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return _csv_row([_cell(value) for value in values.values()])


def harmless(text: str) -> str:
    """A text that a spreadsheet shows and does not run as a formula; `restored` is the inverse."""
    return f"'{text}" if text and text[0] in FORMULA_STARTS else text


def restored(cell: str) -> str:
    """What a cell says; see `harmless`."""
    return cell[1:] if cell.startswith("'") and len(cell) > 1 and cell[1] in FORMULA_STARTS else cell


def written_moment(time: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond that the database keeps: nothing is lost on the way out and back."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return written_moment(value)
    return list(value) if isinstance(value, tuple) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    return harmless(written_moment(value) if isinstance(value, datetime) else str(value))


def _csv_row(cells: Any) -> bytes:
    row = io.StringIO()
    csv.writer(row).writerow(cells)
    return row.getvalue().encode()
