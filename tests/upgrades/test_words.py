"""What one version said, every later one understands; what it does not know may only be added.

The records are what programs of those versions said, byte for byte, made by their own code (`words.py`): with the
link's first enrolment, with recoveries, and with leases and probing. A record never changes; the next one is made with
a release.
"""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.protocols import amp

from clusterd.protocol import arguments
from clusterd.protocol.arguments import Rows
from tests.clusterd.protocol.test_commands import EVERY_COMMAND
from tests.upgrades import words
from tests.upgrades.words import RECORDS, Words, box, commands_here, load, sample, words_here

NAMES = ("enrolment", "recovery", "probing")
HERE = words_here()
EVERY_LIST = sorted(name for name, value in vars(arguments).items() if isinstance(value, Rows))


def test_every_record_is_looked_at() -> None:
    assert {path.stem for path in RECORDS.iterdir()} == set(NAMES)
    assert set(HERE) == {command.__name__ for command in EVERY_COMMAND}
    assert set(words.ROWS) == set(EVERY_LIST)


def complaints(then: Words, now: Words) -> list[str]:
    """What in `now` those who speak as `then` would stumble over."""
    found = [f"{name} is gone" for name in then if name not in now]
    for name in then.keys() & now.keys():
        for part in ("arguments", "response"):
            before, after = then[name][part], now[name][part]
            changed = [key for key in before if before[key] != after.get(key)]
            found += [f"{name}: {key} of the {part} is gone or another" for key in changed]
            found += [
                f"{name}: {key} of the {part} is new and has to be there"
                for key in after
                if key not in before and not after[key][2]
            ]
        codes = now[name]["errors"]
        found += [
            f"{name}: {error} is gone or has another code"
            for error, code in then[name]["errors"].items()
            if codes.get(error) != code
        ]
    return sorted(found)


@pytest.mark.parametrize("name", NAMES)
def test_words_are_only_added(name: str) -> None:
    assert complaints(load(name), HERE) == []


def test_whatever_else_happens_to_them_is_seen() -> None:
    then: Words = {
        "Gone": {"arguments": {}, "response": {}, "errors": {}},
        "Call": {
            "arguments": {"kept": ["text", 9, False], "longer": ["text", 9, False], "dropped": ["text", 9, True]},
            "response": {"count": ["number", 9, False]},
            "errors": {"NotStored": "NOT_STORED", "Refused": "REFUSED"},
        },
    }
    now: Words = {
        "New": {"arguments": {"any": ["text", 9, False]}, "response": {}, "errors": {}},
        "Call": {
            "arguments": {"kept": ["text", 9, False], "longer": ["text", 10, False], "must": ["text", 9, False]},
            "response": {"count": ["number", 9, False], "may": ["text", 9, True]},
            "errors": {"NotStored": "NOT_SAVED"},
        },
    }
    assert complaints(then, now) == [
        "Call: NotStored is gone or has another code",
        "Call: Refused is gone or has another code",
        "Call: dropped of the arguments is gone or another",
        "Call: longer of the arguments is gone or another",
        "Call: must of the arguments is new and has to be there",
        "Gone is gone",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_what_an_older_peer_said_means_what_it_meant(name: str) -> None:
    link = amp.AMP()
    for command_name, said in load(name).items():
        command = commands_here()[command_name]
        asked = command.parseArguments(box(said["asked"]), link)
        told = command.parseResponse(box(said["told"]), link)
        for found, part in ((asked, "arguments"), (told, "response")):
            parts = {key.decode(): argument for key, argument in getattr(command, part)}
            assert found == {key: sample(one) if key in said[part] else None for key, one in parts.items()}


later_values = st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@pytest.mark.parametrize("name", EVERY_LIST)
def test_columns_that_this_side_does_not_know_are_passed_over(name: str) -> None:
    rows: Rows[Any] = getattr(arguments, name)
    value = rows.from_row(words.ROWS[name])
    whole = rows.to_row(value)
    assert whole[: len(words.ROWS[name])] == words.ROWS[name], "an older peer reads each column where it always was"

    @given(st.lists(later_values, max_size=3))
    def passed_over(later: list[Any]) -> None:
        assert rows.fromString(zlib.compress(json.dumps([[*whole, *later]]).encode())) == (value,)

    passed_over()
