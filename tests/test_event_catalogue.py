"""clusterd/daemon/EVENTS.md and the code name the same events with the same fields at the same levels."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from clusterd.daemon.json_logs import render_json
from regiond.domain.topology_changes import Happened

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "clusterd" / "daemon" / "EVENTS.md"
LEVELS = {"debug", "info", "warn", "error", "critical"}
ROW = re.compile(r"\| `(?P<name>[^`]+)` \| (?P<level>[^|]+) \| (?P<fields>[^|]*) \| (?P<meaning>[^|]+) \|")


@dataclass(slots=True)
class Event:
    """What is said of one event: its levels (`bug` for a logged failure, `varies`) and its fields."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def sources() -> list[str]:
    return [
        str(path.relative_to(ROOT)) for package in ("clusterd", "regiond") for path in (ROOT / package).rglob("*.py")
    ]


def calls_with_events() -> Iterator[tuple[str, ast.Call, ast.expr]]:
    """Every logging call: the file, the call, and the expression given as `event`."""
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id == "LogLine"):
                for keyword in node.keywords:
                    if keyword.arg == "event":
                        yield path, node, keyword.value


def host_map_kinds() -> set[str]:
    """The keys of the table of messages in convergence_log.py."""
    for node in tree("clusterd/convergence/log.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_FORMATS":
            return set(ast.literal_eval(node.value))
    raise AssertionError("no _FORMATS")


def interface_changes() -> set[str]:
    """What can happen to an interface that is still there."""
    return {each.value for each in Happened} - {Happened.VANISHED}


def audited_actions() -> set[str]:
    """The actions that the planner audits: the strings in plan.py and editing.py that look like one."""
    constants = (
        node.value
        for path in ("regiond/domain/plan.py", "regiond/domain/editing.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant)
    )
    return {text for text in constants if isinstance(text, str) and re.fullmatch(r"[a-z]+\.[a-z-]+", text)}


def names_of(path: str, expression: ast.expr) -> set[str]:
    """The events that an expression can stand for. A new kind of expression has to be told here where its names are."""
    if isinstance(expression, ast.Constant):
        return {str(expression.value)}
    match path, ast.unparse(expression):
        case "clusterd/convergence/log.py", "f'host-map.{line.kind}'":
            return {f"host-map.{kind}" for kind in host_map_kinds()}
        case "regiond/storage/topology_log.py", "f'interface.{change.happened}'":
            return {f"interface.{change}" for change in interface_changes()}
        case "regiond/storage/writer.py", "row.action":
            return audited_actions()
    raise AssertionError(f"{path}: which events are event={ast.unparse(expression)}?")


def level_of(call: ast.Call) -> str:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name == "failure":
        return "bug"
    return name if name in LEVELS else "varies"


def in_code() -> dict[str, Event]:
    found: dict[str, Event] = defaultdict(Event)
    for path, call, expression in calls_with_events():
        for name in names_of(path, expression):
            found[name].levels.add(level_of(call))
            found[name].fields |= {word.arg for word in call.keywords if word.arg not in (None, "event", "failure")}
    return dict(found)


def in_catalogue() -> dict[str, Event]:
    rows = [ROW.fullmatch(line) for line in CATALOGUE.read_text().splitlines() if line.startswith("| `")]
    assert all(rows), "a row of the table cannot be read"
    names = [row["name"] for row in rows if row]
    assert len(names) == len(set(names)), "an event is described twice"
    return {
        row["name"]: Event(set(row["level"].strip().split(", ")), set(re.findall(r"`(\w+)`", row["fields"])))
        for row in rows
        if row
    }


def test_the_catalogue_has_every_event_and_no_other() -> None:
    code, catalogue = set(in_code()), set(in_catalogue())
    assert sorted(code - catalogue) == [], "not in the catalogue"
    assert sorted(catalogue - code) == [], "not in the code"


def test_fields_and_levels_are_as_the_catalogue_says() -> None:
    code, catalogue = in_code(), in_catalogue()
    differences = {
        name: (code[name], catalogue[name]) for name in code.keys() & catalogue.keys() if code[name] != catalogue[name]
    }
    assert differences == {}, "code, catalogue"


def test_every_logged_failure_and_line_has_an_event() -> None:
    """`self._log.info(...)` and `_log.warn(...)` without `event=` cannot be found by a stable name."""
    without = [
        f"{path}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS | {"failure"}
        and ast.unparse(node.func.value) in ("self._log", "_log")
        and all(keyword.arg != "event" for keyword in node.keywords)
    ]
    assert without == []


def test_the_grep_of_the_catalogue_finds_the_lines_of_an_address() -> None:
    (wanted,) = re.findall(r"`grep '(.+)'`", CATALOGUE.read_text())
    assert wanted in render_json({"log_format": "claimed {address}", "address": "192.0.2.7"})
