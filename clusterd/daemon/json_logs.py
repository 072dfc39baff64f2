"""Logs as one JSON object a line, for machines and `grep`:
`twistd --logger=clusterd.daemon.json_logs.json_observer …`.

    {"time":"2026-01-31T23:59:59.123Z","level":"info","event":"reservation.claim","message":"…",
     "namespace":"claims","address":"192.0.2.7","request_id":"…"}

After the five fixed keys come the event's own fields. A failure adds `error` (`Type: message`) and `traceback`
(a list of lines). Everything outside ASCII and every control character is escaped, so a line is a line and a
terminal that shows it is safe. Twisted's own JSON form starts records with 0x1e and cannot tell an address
from an unserialisable object.

A request id is an ordinary field, `request_id`, which every caller passes on itself. Debug events are left out here
as in the text form: Twisted's own observers (`--logger=twisted.logger.…`) have them.
"""

import json
import sys
from typing import TextIO

from pydantic_core import to_json
from twisted.logger import ILogObserver, LogEvent
from zope.interface import implementer

from clusterd.daemon.log_lines import Plain, is_debug, read_event

_ESCAPING = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def render_json(event: LogEvent) -> str:
    """The event as one JSON object, without a newline anywhere. Never raises."""
    line = read_event(event)
    content: dict[str, Plain] = {
        "time": line.time,
        "level": line.level,
        "event": line.event,
        "message": line.message,
        "namespace": line.namespace,
    }
    if line.error is not None:
        content |= {"error": line.error, "traceback": list(line.traceback)}
    content |= line.fields
    try:
        # A third of the time of the standard library's, which is needed where something has to be escaped.
        quick = to_json(content)
    except ValueError:  # a lone surrogate
        return _ESCAPING(content)
    return quick.decode() if quick.isascii() else _ESCAPING(content)


@implementer(ILogObserver)
class JsonLogObserver:
    """Writes each event from info upwards to `stream` with a single write, then flushes. Never raises: a full disk or
    a closed pipe under the log must not stop the daemon.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: LogEvent) -> None:
        if is_debug(event):
            return
        line = render_json(event) + "\n"
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return


def json_observer() -> JsonLogObserver:
    """What twistd's `--logger` calls, before it redirects standard output into the log."""
    return JsonLogObserver(sys.stdout)
