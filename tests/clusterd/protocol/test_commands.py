"""One walk over every command: AMP ignores a misspelt attribute, and nobody would notice for years."""

import inspect
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.arguments import (
    HELD_SUBNETS,
    HOST_MAPS,
    IDENTIFIERS,
    INTERFACES,
    MAX_VALUE_BYTES,
    REJECTED_MAPS,
    SERVER_ENTRIES,
    SERVER_POOLS,
    TEXTS,
    Digest,
    Number,
    Rows,
    Text,
)
from tests.clusterd import strategies as values

EVERY_COMMAND = sorted(
    {
        found
        for _, found in inspect.getmembers(commands, inspect.isclass)
        if issubclass(found, amp.Command) and found not in (commands.Command, amp.Command)
    },
    key=lambda command: command.__name__,
)
KNOWN_ATTRIBUTES = {"arguments", "response", "errors"}
ADDED_BY_AMP = {"commandName", "allErrors", "reverseErrors", "fatalErrors"}
# What AMP's own parts of a box take from its value: nothing, so each argument may have all of it.
ROW_VALUES: dict[int, st.SearchStrategy[Any]] = {
    id(HOST_MAPS): st.lists(values.host_maps, max_size=3).map(tuple),
    id(IDENTIFIERS): st.lists(values.identifiers, max_size=3).map(tuple),
    id(INTERFACES): st.lists(values.interfaces, max_size=3).map(tuple),
    id(REJECTED_MAPS): st.lists(values.rejected_maps, max_size=3).map(tuple),
    id(HELD_SUBNETS): st.lists(values.held_subnets, max_size=3).map(tuple),
    id(SERVER_POOLS): st.lists(values.server_pools, max_size=3).map(tuple),
    id(SERVER_ENTRIES): st.lists(values.server_entries, max_size=3).map(tuple),
    id(TEXTS): st.lists(values.text, max_size=3).map(tuple),
}


def test_the_walk_sees_every_command() -> None:
    assert set(EVERY_COMMAND) == {
        *commands.ANSWERED_BY_REGIOND,
        *commands.ANSWERED_BY_CLUSTERD,
        *commands.ANSWERED_TO_ANYBODY,
    }
    names = [command.commandName for command in EVERY_COMMAND]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_only_attributes_that_amp_knows(command: type[amp.Command]) -> None:
    own = {name for name in vars(command) if not name.startswith("__")}
    assert own <= KNOWN_ATTRIBUTES | ADDED_BY_AMP


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_it_says_what_it_is_for(command: type[amp.Command]) -> None:
    assert command.__doc__ and len(command.__doc__.split()) >= 5


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_its_errors_are_declared_with_codes(command: type[amp.Command]) -> None:
    codes = list(command.errors.values())
    assert len(set(codes)) == len(codes)
    for error, code in command.errors.items():
        assert issubclass(error, errors.ProtocolError)
        assert code == "".join(f"_{c}" if c.isupper() else c for c in error.__name__).lstrip("_").upper().encode()
    assert not command.fatalErrors


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_argument_is_bounded(command: type[amp.Command]) -> None:
    for name, argument in [*command.arguments, *command.response]:
        assert 1 <= len(name) <= 255
        assert isinstance(argument, Text | Number | Digest | Rows)
        if isinstance(argument, Text):
            assert 4 * argument.max_length <= MAX_VALUE_BYTES  # UTF-8 has at most four bytes a character
        if isinstance(argument, Rows):
            assert id(argument) in ROW_VALUES and argument.max_rows <= 1000


def values_of(argument: amp.Argument) -> st.SearchStrategy[Any]:
    if isinstance(argument, Text):
        return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=min(argument.max_length, 40))
    if isinstance(argument, Number):
        return st.integers(0, argument.maximum)
    if isinstance(argument, Digest):
        return values.digests
    return ROW_VALUES[id(argument)]


def boxes(parts: list[tuple[bytes, amp.Argument]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            name.decode(): st.none() | values_of(argument) if argument.optional else values_of(argument)
            for name, argument in parts
        }
    )


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_call_and_its_answer_survive_the_wire(command: type[amp.Command]) -> None:
    @settings(max_examples=30)
    @given(boxes(command.arguments), boxes(command.response))
    def survive(arguments: dict[str, Any], response: dict[str, Any]) -> None:
        link = amp.AMP()
        box = command.makeArguments(arguments, link)
        assert len(box.serialize()) < 16 * MAX_VALUE_BYTES
        assert command.parseArguments(box, link) == arguments
        assert command.parseResponse(command.makeResponse(response, link), link) == response

    survive()


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_an_argument_that_this_side_does_not_know_is_ignored(command: type[amp.Command]) -> None:
    box = amp.AmpBox({b"from_the_future": b"1"})
    required = [name for name, argument in command.arguments if not argument.optional]
    if required:
        with pytest.raises(errors.MalformedArgument, match="missing"):
            command.parseArguments(box, amp.AMP())
    else:
        assert not any(command.parseArguments(box, amp.AMP()).values())
