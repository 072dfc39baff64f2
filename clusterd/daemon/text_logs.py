"""Logs for a person at a terminal: time, level, message, then `key=value` fields, one line per event.

A failure's traceback follows, indented. Debug events are left out. Control characters
are escaped: nothing that a client sends can move the cursor or forge a line.
"""

import json
import re
import sys
from collections.abc import Container
from typing import TextIO

from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from clusterd.daemon.log_lines import LogLine, Plain, read_event

_BARE = re.compile(r"[\w.:/@%+,*\[\]-]+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def render_text(line: LogLine) -> str:
    """`23:59:59.123 info  message  event=… key=value`, and a traceback below it. Times are UTC."""
    named: dict[str, Plain] = {} if line.event is None else {"event": line.event}
    named |= line.fields
    if line.error is not None:
        named["error"] = line.error
    fields = " ".join(f"{_escape(key)}={_value(value)}" for key, value in named.items())
    first = f"{line.time[11:23]} {line.level:<5} {_escape(line.message)}{'  ' if fields else ''}{fields}"
    return "\n".join([first, *(f"    {_escape(text)}" for text in line.traceback)])


def _value(value: Plain) -> str:
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _escape(json.dumps(value, ensure_ascii=False))
    return _escape(json.dumps(value, ensure_ascii=False))


def _escape(text: str) -> str:
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape", "backslashreplace").decode(), text)


@implementer(ILogObserver)
class TextLogObserver:
    """Writes each event that is not of a level left out to `stream` with a single write. Never raises."""

    def __init__(self, stream: TextIO, left_out: Container[str] = ("debug",)) -> None:
        self._stream = stream
        self._left_out = left_out

    def __call__(self, event: LogEvent) -> None:
        line = read_event(event)
        if line.level in self._left_out:
            return
        text = render_text(line) + "\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return


def text_observer() -> TextLogObserver:
    """What twistd's `--logger` calls, before it redirects standard output into the log."""
    return TextLogObserver(sys.stdout)


def errors_observer() -> TextLogObserver:
    """For a command that says itself what it found: only what went wrong in the program, on standard error."""
    return TextLogObserver(sys.stderr, left_out=("debug", "info", "warn"))
