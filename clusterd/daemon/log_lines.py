"""What is worth writing down of a log event, as plain values: the common half of the JSON and the text form.

`read_event` takes whatever reaches a log observer (events of `twisted.logger.Logger`, of the older
`twisted.python.log`, objects whose `__str__` raises, lists that contain themselves) and never raises: a log
that fails is worse than a log line that says little.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

from twisted.logger import LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure

T = TypeVar("T")

MAX_DEPTH = 8
MAX_PLAIN_INT = 2**63

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

_LEVEL_NAMES = {id(level): level.name for level in LogLevel.iterconstants()}

# The keys of a line itself. A field of the event with such a name is written with an underscore after it.
RESERVED = frozenset({"time", "level", "event", "message", "namespace", "error", "traceback"})

# What `twisted.python.log` and its compatibility wrapper add to an event. They are no fields of the caller's;
# `isError` is there exactly when the others may be.
_LEGACY_MARK = "isError"
_LEGACY_KEYS = frozenset({"message", "time", "system", "isError", "format", "failure", "why", "logLevel"})

# What Twisted tells at level info of every factory that a connection attempt starts and stops, and of every AMP
# connection, where our own events say who it was.
_NOISE = frozenset(
    {
        "Starting factory {factory!r}",
        "Stopping factory {factory!r}",
        "{cls} connection established (HOST:{host} PEER:{peer})",
        "{cls} connection lost (HOST:{host} PEER:{peer})",
    }
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log event. `time` is RFC 3339 in UTC with milliseconds; `error` is `Type: message` of a failure."""

    time: str
    level: str
    event: str | None
    message: str
    namespace: str
    fields: dict[str, Plain]
    error: str | None = None
    traceback: tuple[str, ...] = ()


def read_event(event: LogEvent) -> LogLine:
    """The plain content of any event; see the module's text for what is plain."""
    failure = _failure(event)
    legacy = _LEGACY_MARK in event
    message = _message(event)
    if legacy and failure is not None:
        # The old form appends the traceback to the message; the line has it in a place of its own.
        message = message.partition("\n")[0]
    fields: dict[str, Plain] = {}
    for key, value in event.items():
        name = _name(key if type(key) is str else _text(key), legacy, failure is not None)
        if name is None:
            continue
        # The exact built-in scalars need no care: nearly every field is one, and a busy region writes many.
        kind = type(value)
        exact = kind is str or value is None or kind is bool
        number = (kind is int and -MAX_PLAIN_INT < value < MAX_PLAIN_INT) or (kind is float and math.isfinite(value))
        fields[name] = value if exact or number else plain(value)
    name_of_event, namespace = event.get("event"), event.get("log_namespace")
    return LogLine(
        time=rfc3339(event.get("log_time")),
        level=_level(event),
        event=name_of_event if name_of_event is None or type(name_of_event) is str else _text(name_of_event),
        message=message,
        namespace=namespace if type(namespace) is str else _text(namespace or ""),
        fields=fields,
        error=None if failure is None else _error(failure),
        traceback=() if failure is None else _traceback(failure),
    )


@lru_cache(1024)  # the names are those in the code
def _name(key: str, legacy: bool, failed: bool) -> str | None:
    """What a field is called in the line; None for what is no field."""
    if key.startswith("log_") or key == "event" or (legacy and key in _LEGACY_KEYS):
        return None
    return f"{key}_" if key in RESERVED and (key != "error" or failed) else key


def is_debug(event: LogEvent) -> bool:
    """Whether an event is of level debug, or no more worth than that."""
    form = event.get("log_format")
    return event.get("log_level") is LogLevel.debug or (type(form) is str and form in _NOISE)


def _message(event: LogEvent) -> str:
    form = event.get("log_format")
    # formatEvent's own parsing takes most of a line's time, and is needed only for its calls: "{name()}".
    if type(form) is str and "(" not in form and _LEGACY_MARK not in event:
        try:
            return form.format_map(event)
        except Exception:  # noqa: S110 (formatEvent says what it can)
            pass
    return _guarded(lambda: formatEvent(event), "<unprintable message>")


def plain(value: object) -> Plain:
    """The value in terms of JSON: lists, dicts with text keys and scalars stay, everything else becomes its text."""
    return _safe_plain(value, ())


def rfc3339(seconds: object) -> str:
    """POSIX seconds as `2026-01-31T23:59:59.123Z`; the present time for anything that is no such number."""
    try:
        moment = datetime.fromtimestamp(float(seconds), UTC)  # type: ignore[arg-type]
    except Exception:
        moment = datetime.fromtimestamp(time.time(), UTC)
    return f"{moment.isoformat(timespec='milliseconds')[:23]}Z"


def _plain(value: object, around: tuple[int, ...]) -> Plain:
    # The unbound methods give exact built-in values: a subclass may lie about itself when JSON asks it later.
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if abs(number) < MAX_PLAIN_INT else hex(number)
    if isinstance(value, float):
        return float.__float__(value) if math.isfinite(value) else float.__repr__(value)
    if isinstance(value, (list, tuple, dict)):
        if len(around) >= MAX_DEPTH or id(value) in around:
            return "..."
        inside = (*around, id(value))
        if isinstance(value, dict):
            return {_text(key): _safe_plain(item, inside) for key, item in dict.items(value)}
        return [_safe_plain(item, inside) for item in value]
    return _text(value)


def _safe_plain(value: object, around: tuple[int, ...]) -> Plain:
    if type(value) is str:
        return value
    unprintable: Plain = "<unprintable>"
    return _guarded(lambda: _plain(value, around), unprintable)


def _text(value: object) -> str:
    return _guarded(lambda: str.__str__(str(value)), "<unprintable>")


def _guarded(produce: Callable[[], T], instead: T) -> T:
    try:
        return produce()
    except Exception:
        return instead


def _failure(event: Mapping[str, Any]) -> Failure | None:
    for key in ("log_failure", "failure"):
        found = event.get(key)
        if type(found) is Failure:
            return found
    return None


def _error(failure: Failure) -> str:
    name = _guarded(lambda: failure.type.__qualname__ if failure.type else "Failure", "Failure")
    return f"{name}: {_guarded(failure.getErrorMessage, '<unprintable>')}"


def _traceback(failure: Failure) -> tuple[str, ...]:
    return tuple(_guarded(failure.getTraceback, "<unprintable traceback>").splitlines())


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    if is_debug(event):
        return "debug"
    return _LEVEL_NAMES.get(id(level)) or _text(_guarded(lambda: event["log_level"].name, "info"))
