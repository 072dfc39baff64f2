"""Whatever reaches the log becomes one line."""

import io
import json
import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, Logger, LogLevel, globalLogPublisher
from twisted.logger._legacy import publishToNewObserver
from twisted.protocols.amp import AMP
from twisted.python import log as old_log
from twisted.python.failure import Failure

from clusterd.daemon.json_logs import JsonLogObserver, json_observer, render_json
from clusterd.daemon.log_lines import RESERVED, read_event, rfc3339
from clusterd.daemon.text_logs import TextLogObserver, render_text, text_observer


class Writes:
    """A text stream that keeps each write."""

    encoding = "ascii"

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None: ...


class BrokenText:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenClass:
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no class")

    def __str__(self) -> str:
        return "still has text"


class NotText:
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class LyingDict(dict[Any, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items")


class LyingStr(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnhashableText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def logged(level: LogLevel, format_: str, **fields: Any) -> dict[str, Any]:
    """The JSON line that a Logger's event becomes."""
    stream = Writes()
    Logger(namespace="claims", observer=JsonLogObserver(stream)).emit(level, format_, **fields)  # type: ignore[arg-type]
    (line,) = stream.written
    assert line.endswith("\n") and "\n" not in line[:-1]
    assert line.isascii()
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def old_event(*message: object, **fields: Any) -> dict[str, Any]:
    """An event as `twisted.python.log` publishes it to new observers."""
    event = {"message": message, "time": 0.0, "isError": 0, "system": "-", **fields}
    published: list[dict[str, Any]] = []
    publishToNewObserver(cast(ILogObserver, published.append), event, old_log.textFromEventDict)
    return published[0]


def test_a_line_has_the_fixed_keys_and_the_fields_with_their_types() -> None:
    line = logged(
        LogLevel.info,
        "claimed {address}",
        event="reservation.claimed",
        address="192.0.2.7",
        generation=3,
        seconds=0.25,
        repeated=False,
        hostname=None,
        names=("a", "b"),
        by={"account": "ops", 5: [1]},
    )
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "reservation.claimed",
        "message": "claimed 192.0.2.7",
        "namespace": "claims",
        "address": "192.0.2.7",
        "generation": 3,
        "seconds": 0.25,
        "repeated": False,
        "hostname": None,
        "names": ["a", "b"],
        "by": {"account": "ops", "5": [1]},
    }


def test_newlines_control_characters_and_lone_surrogates_are_escaped() -> None:
    line = logged(LogLevel.warn, "server said {words}", words="one\ntwo\r\x1b[2J\u2028 \udc80 é")
    assert line["words"] == "one\ntwo\r\x1b[2J\u2028 \udc80 é"
    assert line["level"] == "warn"


def test_a_failure_gives_an_error_and_a_traceback_of_lines() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        line = logged(LogLevel.critical, "a bug", log_failure=Failure())
    assert line["error"] == "ValueError: broken\nin two lines"
    assert line["message"] == "a bug"
    assert line["traceback"][-2:] == ["builtins.ValueError: broken", "in two lines"]
    assert any("test_a_failure_gives" in text for text in line["traceback"])


def test_a_warning_may_carry_an_error_text_of_its_own() -> None:
    assert logged(LogLevel.warn, "refused: {error}", error="no such subnet")["error"] == "no such subnet"


@pytest.mark.parametrize("name", sorted(RESERVED - {"event", "error"}))
def test_reserved_names_are_not_overwritten(name: str) -> None:
    event = {"log_level": LogLevel.info, "log_format": "text", "event": "a.b", name: "forged"}
    line = json.loads(render_json(event))
    assert line[name + "_"] == "forged"
    assert line.get(name) != "forged"


def test_an_error_field_beside_a_failure_keeps_both() -> None:
    line = logged(LogLevel.critical, "text", log_failure=Failure(ValueError("real")), error="field")
    assert (line["error"], line["error_"]) == ("ValueError: real", "field")


def test_unplain_values_become_their_text() -> None:
    line = logged(LogLevel.info, "text", a=math.inf, b=2**70, c=b"x", d=BrokenText(), e=BrokenClass(), f=NotText())
    assert (line["a"], line["b"], line["c"]) == ("inf", hex(2**70), "b'x'")
    assert (line["d"], line["f"]) == ("<unprintable>", "<unprintable>")
    assert line["e"] in ("still has text", "<unprintable>")


def test_values_inside_broken_containers_do_not_take_the_others_with_them() -> None:
    line = logged(LogLevel.info, "text", list_=[1, BrokenText(), "two"], dict_=LyingDict(a=1), str_=LyingStr("plain"))
    assert line["list_"] == [1, "<unprintable>", "two"]
    assert line["dict_"] == {"a": 1}
    assert line["str_"] == "plain"


def test_containers_that_hold_themselves_end() -> None:
    around: list[Any] = [1]
    around.append(around)
    assert logged(LogLevel.info, "text", around=around)["around"] == [1, "..."]
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert "..." in json.dumps(logged(LogLevel.info, "text", deep=deep))


def test_old_style_events_look_like_the_others() -> None:
    line = json.loads(render_json(old_event("Server", "Shut Down.", system="-")))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": None, "message": "Server Shut Down.", "namespace": "log_legacy"}


def test_old_style_failures_have_their_traceback_in_one_place() -> None:
    event = old_event(failure=Failure(ValueError("broken")), why="while reading", isError=1)
    line = json.loads(render_json(event))
    assert line["message"] == "while reading"
    assert line["error"] == "ValueError: broken"
    assert line["level"] == "critical"
    assert "failure" not in line and "why" not in line


def test_what_twisted_tells_of_every_connection_is_left_out() -> None:
    for observer in (TextLogObserver, JsonLogObserver):
        stream = io.StringIO()
        log = Logger(observer=observer(stream))
        log.info("Starting factory {factory!r}", factory=object())
        log.info("told")
        assert stream.getvalue().count("\n") == 1 and "told" in stream.getvalue()


def test_an_amp_connection_is_one_of_them() -> None:
    """The words are Twisted's: another release may choose others."""
    stream = io.StringIO()
    observer = JsonLogObserver(stream)
    globalLogPublisher.addObserver(observer)
    try:
        connection = AMP()
        connection.makeConnection(StringTransport())
        connection.connectionLost(Failure(ConnectionDone()))
    finally:
        globalLogPublisher.removeObserver(observer)
    assert stream.getvalue() == ""


def test_times() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1769903999.1239) == "2026-01-31T23:59:59.123Z"
    for strange in (None, math.nan, math.inf, 10**400, "soon", BrokenText()):
        assert rfc3339(strange)[:2] == "20"


odd_objects = st.one_of(
    st.builds(BrokenText),
    st.builds(BrokenClass),
    st.builds(NotText),
    st.builds(UnhashableText),
    st.builds(lambda: Failure(UnhashableText())),
    st.just(lambda: None),
    st.sampled_from([LogLevel.info, Ellipsis, int, type]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
    st.text(alphabet=st.characters(categories=["Cs", "Cc", "Zl", "Zp"])),
    st.builds(LyingStr, st.text()),
)
values = st.recursive(
    odd_objects,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner),
    max_leaves=20,
)
keys = st.text() | st.sampled_from(
    [
        "event", "log_format", "log_level", "log_time", "log_failure", "log_namespace", "failure", "isError", "why",
        "message", "time", "format", "log_source", "level", "error", "traceback", "log_text", "log_flattened",
    ]
)  # fmt: skip


@given(st.dictionaries(keys, values))
def test_no_event_at_all_breaks_the_log(event: dict[str, Any]) -> None:
    rendered = render_json(event)
    assert rendered.isascii() and "\n" not in rendered
    line = json.loads(rendered, parse_constant=pytest.fail)
    assert {"time", "level", "event", "message", "namespace"} <= set(line)
    assert all(isinstance(line[key], str) for key in ("time", "level", "message", "namespace"))
    first, *traceback = render_text(read_event(event)).split("\n")
    assert first.isprintable() or all(
        character.isspace() or character.isprintable() or character > "\x9f" for character in first
    )
    assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in first + "".join(traceback))
    assert all(text.startswith("    ") for text in traceback)


@pytest.mark.parametrize("observer", [JsonLogObserver, TextLogObserver])
def test_one_write_per_event_and_a_broken_stream_is_survived(
    observer: type[JsonLogObserver] | type[TextLogObserver],
) -> None:
    stream = Writes()
    Logger(observer=observer(stream)).info("first {x}", x="a\nb")  # type: ignore[arg-type]
    assert len(stream.written) == 1

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for broken in (Full(), closed):
        observer(broken)({"log_format": "text", "log_level": LogLevel.info})


def test_both_factories_give_what_twistd_asks_for() -> None:
    for factory in (json_observer, text_observer):
        assert ILogObserver.providedBy(factory())


def test_the_text_form_is_one_readable_line() -> None:
    stream = io.StringIO()
    event = {
        "log_time": 1769903999.1239,
        "log_level": LogLevel.info,
        "log_format": "claimed {address} for {who}",
        "log_namespace": "claims",
        "event": "reservation.claimed",
        "address": "2001:db8::7",
        "who": "Ann \x1b[31m",
        "ids": [1, "x"],
    }
    TextLogObserver(stream)(event)
    assert stream.getvalue() == (
        "23:59:59.123 info  claimed 2001:db8::7 for Ann \\x1b[31m"
        '  event=reservation.claimed address=2001:db8::7 who="Ann \\u001b[31m" ids=[1, "x"]\n'
    )


def test_the_text_form_of_a_failure_has_its_traceback_below() -> None:
    stream = io.StringIO()
    Logger(observer=TextLogObserver(stream)).failure("a bug", Failure(ValueError("broken")), subnet="192.0.2.0/24")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith('critical a bug  subnet=192.0.2.0/24 error="ValueError: broken"')
    assert rest and all(line.startswith("    ") for line in rest)


def test_text_goes_to_a_terminal_that_knows_only_ascii() -> None:
    stream = Writes()
    Logger(observer=TextLogObserver(stream)).info("grüße")  # type: ignore[arg-type]
    assert "gr\\xfc\\xdfe" in stream.written[0]
