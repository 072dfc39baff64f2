"""The words of the link as one version has them: to be recorded, compared, and spoken by a daemon that knows no others.

`python -m tests.upgrades.words NAME` records those of this tree under a name; see `test_words.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from twisted.protocols import amp

from clusterd.protocol import arguments, commands
from clusterd.protocol.arguments import Digest, Number, Rows, Text

RECORDS: Final = Path(__file__).parent / "words"
NUMBER: Final = 7
DIGEST: Final = 0xFEEDFACECAFEBEEF
TEXT: Final = "grüße"

_MAC, _CLIENT_ID = ["mac", "020000000001"], ["client-id", "01020000000001"]
# One row of each list, as it travels: values that every version has, with nothing in them that came later.
ROWS: Final[dict[str, list[Any]]] = {
    "HOST_MAPS": ["192.0.2.9", *_MAC, "node-9.example"],
    "IDENTIFIERS": _CLIENT_ID,
    "INTERFACES": ["eth0", "192.0.2.0/24", ["192.0.2.1"], ["192.0.2.254"], "02:00:00:00:00:02", "vlan", 12, False],
    "REJECTED_MAPS": [*_MAC, "the server's own words"],
    "HELD_SUBNETS": ["sn-0000000035", 5, 4, f"{DIGEST:016x}"],
    "SERVER_POOLS": ["192.0.2.100", "192.0.2.199", "/etc/dhcp/dhcpd.conf:7"],
    "SERVER_ENTRIES": ["192.0.2.7", [_CLIENT_ID, _MAC], "printer", "/etc/dhcp/dhcpd.conf:9"],
    "LEASES": ["192.0.2.120", [_MAC], "laptop", 1_700_000_000],
    "ADDRESSES": ["192.0.2.8"],
    "ADDRESSES_IN_USE": ["192.0.2.8", "02:00:00:00:00:03"],
    "TEXTS": ["request-1"],
}

Words = dict[str, Any]


def words_here() -> Words:
    """Every command with its arguments, answers and errors, and for each the box of one call, in hexadecimal."""
    return {command.__name__: _words_of(command) for command in sorted(_commands(), key=lambda one: one.__name__)}


def load(name: str) -> Words:
    """As they were recorded."""
    words: Words = json.loads((RECORDS / f"{name}.json").read_text())
    return words


def commands_here() -> dict[str, type[amp.Command]]:
    """By name."""
    return {command.__name__: command for command in _commands()}


def box(recorded: str) -> amp.AmpBox:
    """A recorded box."""
    boxes: list[amp.AmpBox] = amp.parseString(bytes.fromhex(recorded))
    return boxes[0] if boxes else amp.AmpBox()


def rows_name(argument: Rows[Any]) -> str:
    """Under what name `clusterd.protocol.arguments` has this list."""
    return next(name for name, value in vars(arguments).items() if value is argument)


def sample(argument: amp.Argument) -> Any:
    """The value that stands in every recorded box."""
    if isinstance(argument, Text):
        return TEXT
    if isinstance(argument, Number):
        return min(NUMBER, argument.maximum)
    if isinstance(argument, Digest):
        return DIGEST
    assert isinstance(argument, Rows)
    return (argument.from_row(ROWS[rows_name(argument)]),)


def _commands() -> set[type[amp.Command]]:
    return {*commands.ANSWERED_BY_REGIOND, *commands.ANSWERED_BY_CLUSTERD, *commands.ANSWERED_TO_ANYBODY}


def _words_of(command: type[amp.Command]) -> Words:
    asked = command.makeArguments({name.decode(): sample(one) for name, one in command.arguments}, amp.AMP())
    told = command.makeResponse({name.decode(): sample(one) for name, one in command.response}, amp.AMP())
    return {
        "arguments": {name.decode(): _sort(one) for name, one in command.arguments},
        "response": {name.decode(): _sort(one) for name, one in command.response},
        "errors": {error.__name__: code.decode() for error, code in command.errors.items()},
        "asked": asked.serialize().hex(),
        "told": told.serialize().hex(),
    }


def _sort(argument: amp.Argument) -> list[Any]:
    """What it is, how much of it there may be, and whether it may be left out."""
    if isinstance(argument, Text):
        return ["text", argument.max_length, bool(argument.optional)]
    if isinstance(argument, Number):
        return ["number", argument.maximum, bool(argument.optional)]
    if isinstance(argument, Digest):
        return ["digest", 64, bool(argument.optional)]
    assert isinstance(argument, Rows)
    return [rows_name(argument), argument.max_rows, bool(argument.optional)]


if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    (RECORDS / f"{sys.argv[1]}.json").write_text(json.dumps(words_here(), indent=1) + "\n")
