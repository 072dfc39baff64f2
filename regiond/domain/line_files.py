"""Reading the lines of a file (see `lines`): spreadsheets as people save them, and JSON objects; pure.

A file is read to its end whatever is wrong with it, so that everybody learns of every bad line at once.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import (
    Identifier,
    IdentifierKind,
    format_mac,
    parse_hex,
    parse_hostname,
    parse_mac,
    parse_name,
)
from regiond.domain.lines import COLUMNS, Line, LineFormat, restored
from regiond.domain.reservations import Kind, Status

MAX_LINES: Final = 10_000
MAX_COLUMNS: Final = 1000  # most of them passed over
MAX_CELL_LENGTH: Final = 500
MAX_MACS: Final = 16

# What people call these columns.
_OTHER_NAMES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("ip", "ip_address", "ipaddress", "ipv4", "ipv6"), "address"),
    **dict.fromkeys(("network", "cidr", "interface"), "subnet"),
    **dict.fromkeys(
        ("mac", "mac_address", "mac_addresses", "macaddress", "hw_address", "hardware_address", "ethernet"), "macs"
    ),
    **dict.fromkeys(("name", "host", "host_name"), "hostname"),
    **dict.fromkeys(("user", "account"), "owner"),
    **dict.fromkeys(("description", "note", "notes", "remark", "remarks"), "comment"),
    **dict.fromkeys(("expires", "expiry"), "expires_at"),
}
_SEPARATORS: Final = re.compile(r"[\s,;|]+")
_FREE_TEXTS: Final = frozenset({"purpose", "comment"})
_DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong with a line, which counts from 1; None: with the file as a whole. `slug` is as of problems."""

    line: int | None
    column: str | None
    slug: str
    detail: str


@dataclass(frozen=True, slots=True)
class Read:
    """A line of the file that was understood, or what is wrong with it."""

    number: int
    line: Line | None
    mistakes: tuple[Mistake, ...] = ()


def read_file(form: LineFormat, content: str, ignored: frozenset[str] = frozenset()) -> Iterator[Read]:
    """All lines with something in them. `ignored`: columns that are passed over, as they are called in the file.

    Lazy, so that the caller can pause between lines. More than MAX_LINES lines are a mistake of the first one too many,
    and the last that is read.
    """
    content = content.removeprefix("\ufeff")
    passed_over = frozenset(map(_normal, ignored))
    rows = _csv_rows(content, passed_over) if form is LineFormat.CSV else _json_rows(content, passed_over)
    for count, (number, values) in enumerate(rows):
        if count == MAX_LINES:
            yield _bad(number, None, f"a file has at most {MAX_LINES} lines: send the rest as another one")
            return
        yield values if isinstance(values, Read) else _understood(number, values)


def column_named(name: str) -> str | None:
    """The column that people call so, or None."""
    plain = _normal(name)
    return plain if plain in COLUMNS else _OTHER_NAMES.get(plain)


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _bad(number: int, column: str | None, detail: str) -> Read:
    return Read(number, None, (Mistake(number, column, "invalid-request", detail),))


def _too_wide(number: int) -> Read:
    return _bad(number, None, f"a line has at most {MAX_COLUMNS} columns")


Row = tuple[int, "dict[str, Any] | Read"]


# ---- CSV ----


def _csv_rows(content: str, ignored: frozenset[str]) -> Iterator[Row]:
    first = next((line for line in io.StringIO(content) if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    columns: _Columns | None = None
    empty = 0
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, _bad(number, None, f"this is no CSV: {error}")
            return
        if not any(cell.strip() for cell in cells):
            empty += 1
            if empty > MAX_LINES:  # nobody can pause in between
                yield number, _bad(number, None, f"a file has at most {MAX_LINES} empty lines")
                return
            continue
        if len(cells) > MAX_COLUMNS:
            yield number, _too_wide(number)
            return
        if columns is None:
            header = _columns(number, cells, ignored)
            if isinstance(header, Read):
                yield number, header
                return
            columns = header
        elif any(cell.strip() and columns[at : at + 1] in ([], [""]) for at, cell in enumerate(cells)):
            yield number, _bad(number, None, "a cell stands in a column without a name")
        else:
            yield number, _of_cells(columns, cells)


_Columns = list[str | None]


def _columns(number: int, cells: list[str], ignored: frozenset[str]) -> _Columns | Read:
    """What each column holds; None for one that is passed over, no text for one without a name."""
    mistakes = []
    columns: _Columns = []
    for cell in cells:
        name = column_named(cell)
        if not cell.strip():
            columns.append("")
        elif _normal(cell) in ignored:
            columns.append(None)
        elif name is None:
            mistakes.append(
                f"there is no column {cell.strip()[:64]!r}: leave it out, or say that it is to be ignored; "
                f"there are {', '.join(COLUMNS)}"
            )
        elif name in columns:
            mistakes.append(f"two columns hold {name}")
        else:
            columns.append(name)
    if "address" not in columns:
        mistakes.append("the first line has to name the columns, one of them address")
    if mistakes:
        return Read(number, None, tuple(Mistake(number, None, "invalid-request", detail) for detail in mistakes))
    return columns


def _of_cells(columns: Iterable[str | None], cells: Iterable[str]) -> dict[str, Any]:
    values = {}
    for name, cell in zip(columns, cells, strict=False):
        text = restored(cell) if name in _FREE_TEXTS else restored(cell.strip())
        if name and text:
            values[name] = text
    return values


# ---- JSON ----


def _json_rows(content: str, ignored: frozenset[str]) -> Iterator[Row]:
    for number, text in enumerate(content.split("\n"), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            yield number, _bad(number, None, f"this is no JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            yield number, _bad(number, None, f"this is no JSON: {str(error)[:200] or 'nested too deeply'}")
        else:
            yield number, _of_object(number, value, ignored)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def _of_object(number: int, value: Any, ignored: frozenset[str]) -> dict[str, Any] | Read:
    if not isinstance(value, dict):
        return _bad(number, None, "each line is a JSON object")
    if len(value) > MAX_COLUMNS:
        return _too_wide(number)
    mistakes = []
    values: dict[str, Any] = {}
    for name, member in value.items():
        if _normal(name) in ignored or member is None or member == "":
            continue
        if name not in COLUMNS:
            detail = f"there is no column {name[:64]!r}; there are {', '.join(COLUMNS)}"
            mistakes.append(Mistake(number, name[:64], "invalid-request", detail))
        elif isinstance(member, str) or (name == "macs" and _are_texts(member)):
            values[name] = member
        else:
            expected = "a list of texts" if name == "macs" else "a text"
            mistakes.append(Mistake(number, name, "invalid-request", f"{expected} or null"))
    return Read(number, None, tuple(mistakes)) if mistakes else values


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


# ---- values ----


def _understood(number: int, values: Mapping[str, Any]) -> Read:
    found: dict[str, Any] = {}
    mistakes = []
    for name, value in values.items():
        try:
            if name == "macs":
                found[name] = _macs(value)
            else:
                found[name] = _READERS.get(name, _text)(value)
        except ValueError as error:
            mistakes.append(Mistake(number, name, "invalid-request", str(error)))
    if not values.get("address"):
        mistakes.append(Mistake(number, "address", "invalid-request", "there is no address in this line"))
    return Read(number, None, tuple(mistakes)) if mistakes else Read(number, Line(**found))


def _text(value: str) -> str:
    if len(value) > MAX_CELL_LENGTH:
        raise ValueError(f"at most {MAX_CELL_LENGTH} characters")
    if not all(character.isprintable() or character in "\n\t" for character in value):
        raise ValueError("control characters are not allowed")
    return value


def _macs(value: str | list[str]) -> tuple[str, ...]:
    texts = [text for text in _SEPARATORS.split(value) if text] if isinstance(value, str) else value
    macs = tuple(format_mac(parse_mac(text)) for text in texts)
    if len(macs) > MAX_MACS:
        raise ValueError(f"at most {MAX_MACS} MAC addresses")
    if len(set(macs)) < len(macs):
        raise ValueError("a MAC address is given twice")
    return macs


def _moment(value: str) -> datetime:
    try:
        time = datetime.fromisoformat(value.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # a day before the year 1 in UTC, or after 9999, is none that can be written
        raise ValueError(f"not a time: {value[:64]!r} (expected one such as 2026-01-31T12:00:00Z)") from None


def _kind(value: str) -> Kind:
    try:
        return Kind(value.strip().lower())
    except ValueError:
        raise ValueError(f"not a kind: {value[:64]!r} (there are {', '.join(Kind)})") from None


def _status(value: str) -> Status:
    try:
        return Status(value.strip().lower())
    except ValueError:
        raise ValueError(f"not a status: {value[:64]!r} (there are {', '.join(Status)})") from None


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "address": canonical_address,
    "kind": _kind,
    "client_id": lambda value: Identifier(IdentifierKind.CLIENT_ID, parse_hex(value)).text,
    "duid": lambda value: Identifier(IdentifierKind.DUID, parse_hex(value)).text,
    "hostname": parse_hostname,
    "owner": parse_name,
    "expires_at": _moment,
    "status": _status,
    "created": _moment,
}
