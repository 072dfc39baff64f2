"""Lines of files: what a spreadsheet does with them, and that nothing of a text is lost."""

import csv
import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regiond.domain.line_files import MAX_COLUMNS, MAX_LINES, read_file
from regiond.domain.lines import COLUMNS, Line, LineFormat, harmless, header, restored, written
from regiond.domain.reservations import Kind, Status

LINE = Line(
    address="192.0.2.7",
    subnet="192.0.2.0/24",
    vrf="default",
    kind=Kind.DEVICE,
    macs=("00:16:3e:00:00:01", "00:16:3e:00:00:02"),
    hostname="web1",
    owner="alice",
    comment='=HYPERLINK("http://evil.example"), or\nnot',
    expires_at=datetime(2026, 1, 31, 12, 0, 0, 123456, UTC),
    status=Status.ACTIVE,
)


def test_a_line_of_a_spreadsheet() -> None:
    text = (header(LineFormat.CSV) + written(LineFormat.CSV, LINE)).decode()
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert tuple(row) == COLUMNS
    assert {name: value for name, value in row.items() if value} == {
        "address": "192.0.2.7",
        "subnet": "192.0.2.0/24",
        "vrf": "default",
        "kind": "device",
        "macs": "00:16:3e:00:00:01 00:16:3e:00:00:02",
        "hostname": "web1",
        "owner": "alice",
        "comment": '\'=HYPERLINK("http://evil.example"), or\nnot',
        "expires_at": "2026-01-31T12:00:00.123456Z",
        "status": "active",
    }


def test_a_json_line_leaves_out_what_is_not_there() -> None:
    assert header(LineFormat.JSONL) == b""
    line = written(LineFormat.JSONL, LINE)
    assert line.endswith(b"}\n") and line.count(b"\n") == 1
    told = json.loads(line)
    assert set(told) == set(COLUMNS) - {"client_id", "duid", "alias", "device", "node", "group", "purpose"} - {
        "created",
        "id",
    }
    assert told["macs"] == list(LINE.macs) and told["comment"] == LINE.comment


@given(st.text(st.characters(codec="utf-8")))
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    assert harmless(text)[:1] not in tuple("=+-@\t\r")
    assert restored(harmless(text)) == text


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00", "tomorrow"])
def test_a_moment_that_cannot_be_written_is_a_mistake_of_its_line(moment: str) -> None:
    content = f"address,expires_at\n192.0.2.1,{moment}\n192.0.2.2,9999-12-31T23:59:59Z\n"
    bad, good = read_file(LineFormat.CSV, content)
    (mistake,) = bad.mistakes
    assert (mistake.line, mistake.column) == (2, "expires_at")
    assert moment in mistake.detail
    assert good.line is not None


@pytest.mark.parametrize("above", [0, 1])
def test_a_line_has_so_many_columns_and_no_more(above: int) -> None:
    """Columns are compared with each other: a file may have 8 MB, and one line with commas only may be all of it."""
    others = [f"x{number}" for number in range(MAX_COLUMNS - 1 + above)]
    ignored = frozenset(others)
    spreadsheet = f"{','.join(['address', *others])}\n192.0.2.7{',' * len(others)}\n"
    wide_row = f"address\n192.0.2.7{',' * len(others)}\n192.0.2.8\n"
    line = json.dumps({"address": "192.0.2.7"} | dict.fromkeys(others, "x"))
    for form, content, number in (
        (LineFormat.CSV, spreadsheet, 1),
        (LineFormat.CSV, wide_row, 2),
        (LineFormat.JSONL, line, 1),
    ):
        reads = list(read_file(form, content, ignored))
        told = [(mistake.line, mistake.detail) for read in reads for mistake in read.mistakes]
        assert told == ([(number, f"a line has at most {MAX_COLUMNS} columns")] if above else [])
        assert any(read.line is not None for read in reads) != bool(above)


@pytest.mark.parametrize("above", [0, 1])
def test_a_spreadsheet_has_so_many_empty_lines_and_no_more(above: int) -> None:
    reads = list(read_file(LineFormat.CSV, "address\n" + "\n" * (MAX_LINES + above) + "192.0.2.7\n"))
    told = [(mistake.line, mistake.detail) for read in reads for mistake in read.mistakes]
    assert told == ([(MAX_LINES + 2, f"a file has at most {MAX_LINES} empty lines")] if above else [])
