"""Questions to clusters and their answers as they travel between two regionds: boxes of AMP, as on a link. Pure.

Both regionds may be of different versions, as both ends of a link may be, and the rules are the same: an optional
argument that one of them does not know is passed over.
"""

from collections.abc import Mapping
from typing import Any, Final

from twisted.protocols import amp

from clusterd.protocol import commands
from clusterd.protocol.connection import MAX_DESCRIPTION_LENGTH, CallTimedOut, LinkLost
from clusterd.protocol.errors import MALFORMED_ARGUMENT_CODE, MalformedArgument, ProtocolError, UnknownCommand
from regiond.cluster_rpc.asking import NotAsked
from regiond.domain.questions import Answer

RELAYED: Final[Mapping[str, type[amp.Command]]] = {
    command.commandName.decode(): command
    for command in (commands.ProbeAddresses, commands.ListLeases, commands.EndLease)
}
"""What one regiond asks on behalf of another: nothing that brings host maps, for those the one who has the connection
delivers by itself."""

FAILURES: Final = (ProtocolError, CallTimedOut, LinkLost, amp.RemoteAmpError)
"""What `Link.call` raises."""

_CODES: Final[Mapping[type[Exception], bytes]] = {
    CallTimedOut: b"CALL_TIMED_OUT",
    LinkLost: b"LINK_LOST",
    NotAsked: b"NOT_ASKED",
    UnknownCommand: b"UNKNOWN_COMMAND",
    MalformedArgument: MALFORMED_ARGUMENT_CODE,
}


def pack_arguments(command: type[amp.Command], arguments: Mapping[str, Any]) -> bytes:
    """Raises MalformedArgument for arguments that do not fit their types."""
    return _packed(command, command.makeArguments(dict(arguments), None))


def unpack_arguments(command: type[amp.Command], packed: bytes) -> dict[str, Any]:
    """Raises MalformedArgument."""
    found: dict[str, Any] = command.parseArguments(_unpacked(packed), None)
    return found


def pack_answer(command: type[amp.Command], answer: Mapping[str, Any]) -> Answer:
    """Raises MalformedArgument."""
    return Answer(_packed(command, command.makeResponse(dict(answer), None)))


def pack_failure(command: type[amp.Command], error: Exception) -> Answer:
    """Of one of FAILURES."""
    codes = {**_CODES, **command.errors}
    code = codes.get(type(error), getattr(error, "errorCode", amp.UNKNOWN_ERROR_CODE))
    text = getattr(error, "description", None) or str(error)
    return Answer(None, code.decode("ascii", "replace"), text[:MAX_DESCRIPTION_LENGTH])


def unpack_answer(command: type[amp.Command], answer: Answer) -> dict[str, Any]:
    """Raises the failure that it is, where it is one, and MalformedArgument."""
    if answer.box is not None:
        found: dict[str, Any] = command.parseResponse(_unpacked(answer.box), None)
        return found
    code = (answer.error_code or "").encode()
    errors = {code: error for error, code in {**_CODES, **command.errors}.items()}
    if (error := errors.get(code)) is not None:
        raise error(answer.error_text)
    raise amp.RemoteAmpError(code, answer.error_text, False)


def _packed(command: type[amp.Command], box: amp.AmpBox) -> bytes:
    try:
        return bytes(box.serialize())
    except amp.TooLong as error:
        raise MalformedArgument(f"an argument of {command.commandName.decode()} is too long") from error


def _unpacked(packed: bytes) -> amp.AmpBox:
    try:
        [box] = amp.parseString(packed)
    except (KeyError, ValueError, amp.AmpError) as error:
        raise MalformedArgument("this is not one box of AMP") from error
    assert isinstance(box, amp.AmpBox)
    return box
