"""twistd with a daemon that knows the words of one record and no others: `python -m tests.upgrades.older RECORD …`.

Whoever is at the other end of its link sees what a program of that version sends, answers and does not know. What it
does besides is as in this tree. Where it would use a command that is not in the record it finds that its peer does not
know it, which nobody but itself notices.
"""

import sys
from collections.abc import Callable
from typing import Any

from twisted.protocols import amp
from twisted.scripts.twistd import run

from clusterd.protocol import commands
from clusterd.protocol.arguments import Rows
from clusterd.protocol.connection import Link
from clusterd.protocol.errors import UnknownCommand
from tests.upgrades.words import Words, box, commands_here, load


def speak_only(words: Words) -> None:
    """In this process, from now on."""
    for command in commands_here().values():
        if command.__name__ in words:
            _keep(command, words[command.__name__])
    _ignore_unknown_arguments()
    unknown = {command for name, command in commands_here().items() if name not in words}
    _know_not(unknown)


def _keep(command: type[amp.Command], known: Words) -> None:
    for part, recorded in (("arguments", known["asked"]), ("response", known["told"])):
        kept = [(name, one) for name, one in getattr(command, part) if name.decode() in known[part]]
        setattr(command, part, kept)
        for name, one in kept:
            if isinstance(one, Rows):
                _keep_columns(one, len(_first_row(box(recorded)[name])))
    command.errors = {error: code for error, code in command.errors.items() if error.__name__ in known["errors"]}
    # What AMP has made of these when the class was made, and looks at.
    made: Any = command
    made.allErrors = dict(command.errors)
    made.reverseErrors = {code: error for error, code in command.errors.items()}


def _first_row(recorded: bytes) -> list[Any]:
    rows: Rows[list[Any]] = Rows(lambda row: row, lambda row: row, max_rows=1)
    return rows.fromString(recorded)[0]


def _keep_columns(rows: Rows[Any], count: int) -> None:
    to_row, from_row = rows.to_row, rows.from_row
    rows.to_row = lambda value: to_row(value)[:count]
    rows.from_row = lambda row: from_row(row[:count])


def _ignore_unknown_arguments() -> None:
    make = commands.Command.makeArguments.__func__  # type: ignore[attr-defined]

    def make_known(command: type[amp.Command], objects: dict[str, Any], protocol: Any) -> Any:
        known = {name.decode() for name, _ in command.arguments}
        return make(command, {name: value for name, value in objects.items() if name in known}, protocol)

    commands.Command.makeArguments = classmethod(make_known)  # type: ignore[method-assign,assignment]


def _know_not(unknown: set[type[amp.Command]]) -> None:
    names = {command.commandName for command in unknown}
    locate: Callable[..., Any] = amp.CommandLocator.locateResponder
    call: Callable[..., Any] = Link.call

    async def call_known(link: Link, command: type[amp.Command], **given: Any) -> Any:
        if command in unknown:
            raise UnknownCommand(f"{command.__name__} is of a later version")
        return await call(link, command, **given)

    amp.CommandLocator.locateResponder = (  # type: ignore[method-assign]
        lambda locator, name: None if name in names else locate(locator, name)
    )
    Link.call = call_known  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    speak_only(load(sys.argv.pop(1)))
    sys.argv[0] = "twistd"
    run()
