"""The types of single values in bodies and queries: read once, normalised, with errors that tell what is expected."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import (
    Identifier,
    IdentifierKind,
    format_mac,
    parse_hex,
    parse_hostname,
    parse_mac,
    parse_name,
)
from regiond.domain.events import EVENT_ID_PATTERN, parse_event_id
from regiond.domain.selectors import MAX_SELECTOR_LENGTH

MAX_TEXT_LENGTH = 500
MAX_NAME_LENGTH = 100
MAX_ALIAS_LENGTH = 64
MAX_WAIT_SECONDS = 30.0
MAX_EXPIRES_IN_SECONDS = 10 * 366 * 86400
MAX_LIMIT = 2**31 - 1
MAX_PAGE = 1000
DEFAULT_PAGE = 100
NO_EVENT_ID = "not an event's id: expected one as it came, like 5d2e0000-17"

_SECONDS = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")
_DIGITS = re.compile(r"[0-9]{1,6}")


def _printable(text: str) -> str:
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise ValueError("control characters are not allowed")
    return text


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("one line of printable characters, without spaces around it")
    return text


def _octets(kind: IdentifierKind) -> Any:
    def read(text: str) -> str:
        return Identifier(kind, parse_hex(text)).text

    return AfterValidator(read)


def _seconds(value: Any) -> Any:
    if not isinstance(value, str) or not _SECONDS.fullmatch(value) or not 0 <= float(value) <= MAX_WAIT_SECONDS:
        raise ValueError(f"seconds from 0 to {MAX_WAIT_SECONDS:g}")
    return float(value)


def _number(value: Any) -> Any:
    if not isinstance(value, str) or not _DIGITS.fullmatch(value):
        raise ValueError("a whole number")
    return int(value)


def _whole(value: Any) -> Any:
    """`3.0` is an integer in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def seconds_from_now(least: int, most: int) -> WrapValidator:
    """A number of this range, whose mistakes tell the unit: a program easily writes minutes there, or a date."""

    def read(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
        try:
            return number(value)
        except ValidationError as error:
            raise ValueError(f"seconds from now: a whole number from {least} to {most}") from error

    return WrapValidator(read)


def _event_id(text: str) -> str:
    if parse_event_id(text) is None:
        raise ValueError(NO_EVENT_ID)
    return text


def _flag(value: Any) -> Any:
    if value not in ("true", "false"):
        raise ValueError("true or false")
    return value == "true"


def _time(value: Any) -> Any:
    """In UTC, since ISO 8601 knows offsets that PostgreSQL does not take."""
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):  # the last: in UTC it is before the year 1, or after 9999
        pass
    raise ValueError("a time with its offset from UTC, as 2026-01-31T12:00:00Z (in a URL a + is %2B)")


def _described(form: str, *examples: str, **more: Any) -> Any:
    """How the schema tells of a text that only its parser knows exactly."""
    return Field(json_schema_extra={"format": form, "examples": list(examples), **more})


Text = Annotated[
    str, StringConstraints(max_length=MAX_TEXT_LENGTH), AfterValidator(_printable), _described("hostmap-text")
]
Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_NAME_LENGTH),
    AfterValidator(_one_line),
    _described("hostmap-line", "laptop"),
]
Alias = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ALIAS_LENGTH),
    AfterValidator(_one_line),
    _described("hostmap-line", "eth0:1"),
]
SelectorText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_SELECTOR_LENGTH),
    _described("hostmap-selector", "192.0.2.0/24", "rack-a:eth1", "ci-4k2m9q8xvz", "cluster:rack-a,nic:eth1,family:6"),
]
AccountName = Annotated[str, AfterValidator(parse_name), _described("hostmap-name", "alice")]
Mac = Annotated[
    str, AfterValidator(lambda text: format_mac(parse_mac(text))), _described("hostmap-mac", "00:16:3e:00:00:01")
]
Hostname = Annotated[str, AfterValidator(parse_hostname), _described("hostmap-host-name", "web1", "web1.example.org")]
Address = Annotated[str, AfterValidator(canonical_address), _described("hostmap-address", "192.0.2.7", "2001:db8::7")]
ClientId = Annotated[str, _octets(IdentifierKind.CLIENT_ID), _described("hostmap-client-id", "01:00:16:3e:00:00:01")]
Duid = Annotated[str, _octets(IdentifierKind.DUID), _described("hostmap-duid", "00:03:00:01:00:16:3e:00:00:01")]
Whole = BeforeValidator(_whole)
ExpiresIn = Annotated[
    int,
    Field(ge=1, le=MAX_EXPIRES_IN_SECONDS, description="seconds from now", examples=[86400]),
    Whole,
    seconds_from_now(1, MAX_EXPIRES_IN_SECONDS),
]
ReservationLimit = Annotated[int, Field(ge=0, le=MAX_LIMIT), Whole]

# values of the query are text
Wait = Annotated[
    float,
    Field(ge=0, le=MAX_WAIT_SECONDS, description="how many seconds the answer may wait", examples=[2.5]),
    BeforeValidator(_seconds),
]
Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="at most so many"), BeforeValidator(_number)]
Time = Annotated[datetime, BeforeValidator(_time), Field(examples=["2026-01-31T12:00:00Z"])]
EventIdText = Annotated[
    str,
    AfterValidator(_event_id),
    Field(json_schema_extra={"pattern": f"^{EVENT_ID_PATTERN}$", "examples": ["5d2e0000-17"]}),
]
Line = Annotated[str, Field(json_schema_extra={"format": "hostmap-line"})]
Flag = Annotated[bool, BeforeValidator(_flag)]
