"""What children of the reactor write, and how they are tied to it."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from regiond.postgres import exec_child
from regiond.postgres.binaries import unenterable
from regiond.postgres.children import LAST_WORDS, LINES_PER_SECOND, Child, Identity, LineSplitter
from tests.regiond.postgres.processes import start

reactor: Any = global_reactor

NOBODY = Identity("nobody", 65534, 65534)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)), st.data())
def test_lines_do_not_depend_on_how_the_bytes_were_cut(lines: list[str], data: st.DataObject) -> None:
    stream = "".join(f"{line}\n" for line in lines).encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    splitter = LineSplitter()
    found = [
        line
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for line in splitter.feed(stream[begin:end])
    ]
    assert found + splitter.finish() == lines


@given(st.integers(1, 50), st.integers(1, 7))
def test_a_line_that_is_too_long_is_cut_once(length: int, step: int) -> None:
    stream = b"x" * length + b"\nnext\n"
    splitter = LineSplitter(limit=10)
    pieces = [splitter.feed(stream[at : at + step]) for at in range(0, len(stream), step)]
    assert [line for piece in pieces for line in piece] == ["x" * min(length, 10), "next"]
    assert splitter.finish() == []


def test_serious_lines_are_warnings_and_the_others_debug() -> None:
    child = Child(Clock(), "postgres")
    with capturedLogs() as events:
        child.childDataReceived(2, b"LOG:  ready\nFATAL:  no\n\tmore\nWARNING:  hm\nERROR:  x\ninitdb: error: y\n\n")
    levels = [(event["line"], event["log_level"], event["event"]) for event in events]
    assert levels == [
        ("LOG:  ready", LogLevel.debug, "postgres.log"),
        ("FATAL:  no", LogLevel.warn, "postgres.log"),
        ("\tmore", LogLevel.debug, "postgres.log"),
        ("WARNING:  hm", LogLevel.warn, "postgres.log"),
        ("ERROR:  x", LogLevel.warn, "postgres.log"),
        ("initdb: error: y", LogLevel.warn, "postgres.log"),
    ]


def test_a_flood_of_lines_is_counted_instead_of_logged() -> None:
    clock = Clock()
    child = Child(clock, "postgres")
    with capturedLogs() as events:
        child.childDataReceived(2, b"LOG:  again\n" * (LINES_PER_SECOND + 30))
        clock.advance(1)
        child.childDataReceived(2, b"LOG:  calm\n")
    assert len(events) == LINES_PER_SECOND + 2
    assert (events[-2]["event"], events[-2]["lines"]) == ("postgres.log-suppressed", 30)
    assert events[-1]["line"] == "LOG:  calm"
    assert len(child.last_words.splitlines()) == LAST_WORDS


@pytest_twisted.ensureDeferred
async def test_a_child_whose_parent_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for parent, begins in ((os.getpid(), True), (1, False)):
        words = [str(parent), "2", "-1", "-1", "/usr/bin/touch", str(witness)]
        process = start(["-I", "-S", exec_child.__file__, *words])
        assert await process.ended == (0 if begins else 1)
        assert witness.exists() is begins
        witness.unlink(missing_ok=True)
        if not begins:
            assert process.errors == b"the parent has ended already\n"


@pytest.mark.parametrize(("mode", "enters"), [(0o711, True), (0o700, False), (0o710, False)])
def test_who_can_enter_is_read_from_the_mode(state_directory: Path, mode: int, enters: bool) -> None:
    middle = state_directory / "middle"
    (middle / "inner").mkdir(parents=True)
    middle.chmod(mode)
    (middle / "inner").chmod(0o755)
    assert unenterable(middle / "inner", NOBODY) == (None if enters else middle)
    assert unenterable(state_directory, NOBODY) is None
    assert unenterable(middle / "inner", Identity("root", 0, 0)) is None
