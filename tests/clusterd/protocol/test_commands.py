"""One walk over every command: AMP ignores a misspelt attribute, and nobody would notice for years."""

import inspect
from collections.abc import Callable
from functools import cache
from hashlib import shake_256
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.arguments import (
    ADDRESSES,
    ADDRESSES_IN_USE,
    HELD_SUBNETS,
    HOST_MAPS,
    IDENTIFIERS,
    INTERFACES,
    LEASES,
    MAX_GENERATION,
    MAX_PAGE_ROWS,
    MAX_REASON_LENGTH,
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
from clusterd.protocol.connection import Link
from clusterd.protocol.leases import MAX_EXPIRY, MAX_LEASE_IDENTIFIERS, ServerLease
from clusterd.protocol.values import (
    MAX_ENTRY_IDENTIFIERS,
    MAX_HOSTNAME_LENGTH,
    MAX_IDENTIFIER_BYTES,
    MAX_NIC_NAME_LENGTH,
    AddressInUse,
    HeldSubnet,
    HostMap,
    Identifier,
    IdentifierKind,
    InterfaceReport,
    RejectedMap,
    ServerEntry,
    ServerPool,
    format_mac,
)
from clusterd.region_link.responders import RegionResponders
from regiond.cluster_rpc.reports import ClusterResponders
from regiond.enrolment_door import MAX_BOX_BYTES as ENROLMENT_BOX_BYTES
from regiond.enrolment_door import NewcomerResponders
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
    id(LEASES): st.lists(values.server_leases, max_size=3).map(tuple),
    id(ADDRESSES): st.lists(values.v4_addresses | values.v6_addresses, max_size=3).map(tuple),
    id(ADDRESSES_IN_USE): st.lists(values.addresses_in_use, max_size=3).map(tuple),
    id(TEXTS): st.lists(values.text, max_size=3).map(tuple),
}


# What has ever been answered under a code. Codes are added here and never taken away.
CODES_OF_OLD = {
    b"DIGEST_MISMATCH",
    b"ENROLMENT_REFUSED",
    b"GENERATION_MISMATCH",
    b"HISTORY_MISMATCH",
    b"INCOMPATIBLE_VERSION",
    b"NOT_REGISTERED",
    b"NOT_STORED",
    b"NOT_SUPPORTED",
    b"REGISTRATION_REFUSED",
    b"SERVER_REFUSED",
    b"SNAPSHOT_OLDER",
    b"UNKNOWN_TRANSFER",
}


def _noise(number: int, size: int) -> bytes:
    """Bytes that no compression makes shorter."""
    return shake_256(b"%d" % number).digest(size)


def _longest_identifier(number: int) -> Identifier:
    return Identifier(IdentifierKind.CLIENT_ID, _noise(number, MAX_IDENTIFIER_BYTES))


def _longest_words(number: int) -> str:
    return _noise(number, MAX_REASON_LENGTH // 2).hex()


LONGEST_ROWS: dict[int, Callable[[int], Any]] = {
    id(HOST_MAPS): lambda n: HostMap(
        _longest_identifier(n), f"10.0.{n >> 8}.{n & 255}", ".".join([_noise(n, 31).hex()] * 4)
    ),
    id(IDENTIFIERS): _longest_identifier,
    id(INTERFACES): lambda n: InterfaceReport(
        _noise(n, MAX_NIC_NAME_LENGTH // 2).hex(), "2001:db8::/32", (f"2001:db8::{n:x}",) * MAX_PAGE_ROWS
    ),
    id(REJECTED_MAPS): lambda n: RejectedMap(_longest_identifier(n), _longest_words(n)),
    id(HELD_SUBNETS): lambda n: HeldSubnet(_noise(n, 32).hex(), MAX_GENERATION, MAX_GENERATION, (1 << 64) - 1),
    id(SERVER_POOLS): lambda n: ServerPool("2001:db8::1", f"2001:db8::{n + 1:x}", _longest_words(n)),
    id(SERVER_ENTRIES): lambda n: ServerEntry(
        f"10.0.{n >> 8}.{n & 255}",
        tuple(_longest_identifier(n * 1000 + one) for one in range(MAX_ENTRY_IDENTIFIERS)),
        None,
        _longest_words(n),
    ),
    id(LEASES): lambda n: ServerLease(
        f"10.0.{n >> 8}.{n & 255}",
        tuple(_longest_identifier(n * 1000 + one) for one in range(MAX_LEASE_IDENTIFIERS)),
        ".".join([_noise(n, 31).hex()] * 4)[:MAX_HOSTNAME_LENGTH],
        MAX_EXPIRY,
    ),
    id(ADDRESSES): lambda n: f"2001:db8::{n + 1:x}",
    id(ADDRESSES_IN_USE): lambda n: AddressInUse(f"2001:db8::{n:x}", format_mac(b"\2" + _noise(n, 5))),
    id(TEXTS): _longest_words,
}


def test_the_walk_sees_every_command() -> None:
    assert set(EVERY_COMMAND) == {
        *commands.ANSWERED_BY_REGIOND,
        *commands.ANSWERED_BY_CLUSTERD,
        *commands.ANSWERED_TO_ANYBODY,
    }
    names = [command.commandName for command in EVERY_COMMAND]
    assert len(set(names)) == len(names)


def unknown_attributes(command: type[amp.Command]) -> set[str]:
    return {name for name in vars(command) if not name.startswith("__")} - KNOWN_ATTRIBUTES - ADDED_BY_AMP


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_only_attributes_that_amp_knows(command: type[amp.Command]) -> None:
    assert unknown_attributes(command) == set()


def test_a_misspelt_attribute_is_seen() -> None:
    class Misspelt(commands.Command):
        """AMP would answer it with nothing, without a word."""

        reponse: ClassVar = [(b"accepted_generation", Number())]

    assert unknown_attributes(Misspelt) == {"reponse"}


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


def test_codes_of_errors_never_change() -> None:
    codes = {code: error.__name__ for command in EVERY_COMMAND for error, code in command.errors.items()}
    assert len(set(codes.values())) == len(codes), "one error, one code, whatever the command"
    missing = CODES_OF_OLD - codes.keys()
    assert not missing, f"peers that run already answer {missing}"


@cache
def largest_page(rows: Rows[Any]) -> tuple[Any, ...]:
    """The page that takes most bytes of as many of the longest rows as there may be."""
    longest = LONGEST_ROWS[id(rows)]
    pages = [tuple(page) for page in rows.pages_of([longest(number) for number in range(rows.max_rows)])]
    return max(pages, key=lambda page: len(rows.toString(page)))


def largest(argument: amp.Argument) -> Any:
    if isinstance(argument, Rows):
        return largest_page(argument)
    if isinstance(argument, Text):
        return "\N{MUSICAL SYMBOL G CLEF}" * argument.max_length
    if isinstance(argument, Number):
        return argument.maximum
    return (1 << 64) - 1


def over_the_wire(box: amp.AmpBox) -> amp.AmpBox:
    """The box as a Link takes it, with what a call adds. Nothing arrives of one that is too large."""
    arrived: list[amp.AmpBox] = []
    link: Any = Link(Clock())
    link.makeConnection(StringTransport())
    link.ampBoxReceived = arrived.append
    link.dataReceived(amp.AmpBox({**box, amp.COMMAND: b"x" * 32, amp.ASK: b"f" * 16}).serialize())
    (found,) = arrived
    return found


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_the_largest_call_and_answer_arrive_whole(command: type[amp.Command]) -> None:
    link = amp.AMP()
    asked = {name.decode(): largest(argument) for name, argument in command.arguments}
    told = {name.decode(): largest(argument) for name, argument in command.response}
    boxes = [command.makeArguments(asked, link), command.makeResponse(told, link)]
    assert all(len(value) <= MAX_VALUE_BYTES for box in boxes for value in box.values())
    assert command.parseArguments(over_the_wire(boxes[0]), link) == asked
    assert command.parseResponse(over_the_wire(boxes[1]), link) == told


def test_the_largest_call_of_a_newcomer_fits_through_its_door() -> None:
    largest_call = commands.Enrol.makeArguments(
        {name.decode(): largest(argument) for name, argument in commands.Enrol.arguments}, amp.AMP()
    )
    assert sum(map(len, largest_call.values())) + 100 <= ENROLMENT_BOX_BYTES


@pytest.mark.parametrize(
    ("responders", "answered"),
    [
        (ClusterResponders, commands.ANSWERED_BY_REGIOND),
        (RegionResponders, commands.ANSWERED_BY_CLUSTERD),
        (NewcomerResponders, commands.ANSWERED_TO_ANYBODY),
    ],
)
def test_every_command_has_a_responder_that_takes_its_arguments(
    responders: type[amp.CommandLocator], answered: tuple[type[amp.Command], ...]
) -> None:
    dispatched = {name: command for owner in responders.__mro__ for name, command in _dispatched(owner)}
    assert {command.commandName for command in answered} == set(dispatched)
    for command in answered:
        parameters = dict(inspect.signature(dispatched[command.commandName]).parameters)
        parameters.pop("self")
        assert set(parameters) == {name.decode() for name, _ in command.arguments}
        for name, argument in command.arguments:
            has_default = parameters[name.decode()].default is not inspect.Parameter.empty
            assert has_default == bool(argument.optional), f"{command.__name__}.{name.decode()}"


def _dispatched(owner: type) -> list[tuple[bytes, Any]]:
    table = vars(owner).get("_commandDispatch", {})
    return [(name, responder) for name, (_, responder) in table.items()]


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
        assert command.parseArguments(over_the_wire(box), link) == arguments
        assert command.parseResponse(over_the_wire(command.makeResponse(response, link)), link) == response

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
