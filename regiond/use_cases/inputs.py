"""The texts of a request as values, or InvalidRequest with the place of what cannot be read."""

from collections.abc import Mapping, Sequence

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import Identifier, IdentifierKind, parse_hex, parse_hostname
from regiond.domain import errors
from regiond.domain.ids import Prefix, parse_id


def mac(pointer: str, text: str) -> Identifier:
    """A MAC address in any spelling. Raises InvalidRequest, as all of these do; `pointer` says where it stood."""
    try:
        return Identifier.mac(text)
    except ValueError as error:
        raise errors.InvalidRequest(pointer, str(error)) from error


def identifier(pointer: str, kind: IdentifierKind, text: str) -> Identifier:
    """A client-id or DUID written as hexadecimal octets."""
    try:
        return Identifier(kind, parse_hex(text))
    except ValueError as error:
        raise errors.InvalidRequest(pointer, str(error)) from error


def hostname(text: str | None) -> str | None:
    """A host name of DNS-safe labels, or none."""
    try:
        return None if text is None else parse_hostname(text)
    except ValueError as error:
        raise errors.InvalidRequest("/hostname", str(error)) from error


def address(text: str | None) -> str | None:
    """An IP address in its canonical spelling, or none."""
    try:
        return None if text is None else canonical_address(text)
    except ValueError as error:
        raise errors.InvalidRequest("/address", str(error)) from error


def address_in(pointer: str, text: str) -> str:
    """As `address`, from elsewhere than a body."""
    try:
        return canonical_address(text)
    except ValueError as error:
        raise errors.InvalidRequest(pointer, str(error)) from error


def known_id(prefix: Prefix, text: str) -> int:
    """The number of an id that has to be there. Raises NotFound for what is no id: nothing can have it."""
    number = parse_id(prefix, text)
    if number is None:
        raise errors.NotFound(f"nothing has the id {text[:64]}")
    return number


def optional_id(prefix: Prefix, text: str | None, name: str) -> int | None:
    """The number of the id at which a list goes on, or none."""
    if text is None:
        return None
    number = parse_id(prefix, text)
    if number is None:
        raise errors.InvalidRequest(f"?{name}", f"not an id: {text[:64]}")
    return number


def no_filters(filters: Mapping[str, Sequence[str]]) -> None:
    """Refuse any filter."""
    for name in filters:
        raise errors.InvalidRequest(f"?{name}", f"there is no filter {name} here")
