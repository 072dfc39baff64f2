"""AMP argument types of the protocol's values: bounded on both sides, compressed where they are long.

An AMP value has at most 65,535 bytes. Lists of values travel as JSON rows under zlib, so 500 host maps take a
few kilobytes; `pages_of` cuts a long list where either the row or the byte limit is met.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from twisted.protocols import amp

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.errors import MalformedArgument
from clusterd.protocol.leases import MAX_LEASE_IDENTIFIERS, ServerLease
from clusterd.protocol.values import (
    AddressInUse,
    HeldSubnet,
    HostMap,
    Identifier,
    IdentifierKind,
    InterfaceReport,
    NicKind,
    RejectedMap,
    ServerEntry,
    ServerPool,
    parse_hex,
)

MAX_VALUE_BYTES = 0xFFFF
MAX_PAGE_ROWS = 500
MAX_PAGE_JSON_BYTES = 1 << 20
MAX_PROBED_ADDRESSES = 256
MAX_REASON_LENGTH = 500
MAX_GENERATION = (1 << 63) - 1

_DIGEST = re.compile(r"[0-9a-f]{16}")

T = TypeVar("T")


class Text(amp.Argument):
    """Text of at most `max_length` characters, NUL not among them."""

    def __init__(self, max_length: int, optional: bool = False) -> None:
        super().__init__(optional)
        self.max_length = max_length

    def toString(self, inObject: str) -> bytes:
        if len(inObject) > self.max_length:
            raise MalformedArgument(f"text of {len(inObject)} characters, at most {self.max_length} are allowed")
        return inObject.encode()

    def fromString(self, inString: bytes) -> str:
        try:
            text = inString.decode()
        except UnicodeDecodeError as error:
            raise MalformedArgument("text is not UTF-8") from error
        if len(text) > self.max_length:
            raise MalformedArgument(f"text of {len(text)} characters, at most {self.max_length} are allowed")
        if "\0" in text:
            raise MalformedArgument("text with a NUL character, which no database takes")
        return text


class Number(amp.Argument):
    """A decimal integer from 0 to `maximum`."""

    def __init__(self, maximum: int = MAX_GENERATION, optional: bool = False) -> None:
        super().__init__(optional)
        self.maximum = maximum

    def toString(self, inObject: int) -> bytes:
        if not 0 <= inObject <= self.maximum:
            raise MalformedArgument(f"{inObject} is not between 0 and {self.maximum}")
        return b"%d" % inObject

    def fromString(self, inString: bytes) -> int:
        if not inString.isdigit() or len(inString) > 20 or int(inString) > self.maximum:
            raise MalformedArgument(f"not a number from 0 to {self.maximum}: {inString[:32]!r}")
        return int(inString)


class Digest(amp.Argument):
    """A 64-bit digest as sixteen hexadecimal digits."""

    def toString(self, inObject: int) -> bytes:
        if not 0 <= inObject < 1 << 64:
            raise MalformedArgument("a digest has 64 bits")
        return b"%016x" % inObject

    def fromString(self, inString: bytes) -> int:
        try:
            return _digest(inString.decode("ascii"))
        except ValueError as error:
            raise MalformedArgument("a digest has sixteen hexadecimal digits") from error


class Packed(bytes):
    """A page of rows as it travels, made ahead of the call: `Rows.packed` makes it, `Rows.toString` passes it on."""


class Rows(amp.Argument, Generic[T]):
    """A list of one sort of value: JSON rows under zlib.

    `to_row` gives a JSON list for a value; `from_row` is its inverse and raises ValueError, TypeError or
    KeyError for what it cannot read.
    """

    def __init__(
        self,
        to_row: Callable[[T], list[Any]],
        from_row: Callable[[list[Any]], T],
        max_rows: int = MAX_PAGE_ROWS,
        optional: bool = False,
    ) -> None:
        super().__init__(optional)
        self.to_row = to_row
        self.from_row = from_row
        self.max_rows = max_rows

    def toString(self, inObject: Sequence[T] | Packed) -> bytes:
        if isinstance(inObject, Packed):
            return inObject
        if len(inObject) > self.max_rows:
            raise MalformedArgument(f"{len(inObject)} rows, at most {self.max_rows} are allowed")
        rows = [self.to_row(value) for value in inObject]
        plain = json.dumps(rows, separators=(",", ":")).encode()
        if len(plain) > MAX_PAGE_JSON_BYTES:
            raise MalformedArgument(f"{len(plain)} bytes of JSON, at most {MAX_PAGE_JSON_BYTES} are allowed")
        encoded = zlib.compress(plain, 1)
        if len(encoded) > MAX_VALUE_BYTES:
            raise MalformedArgument(f"{len(encoded)} bytes, at most {MAX_VALUE_BYTES} are allowed")
        return encoded

    def fromString(self, inString: bytes) -> tuple[T, ...]:
        # Bounded before it is unpacked: a few bytes of zlib can announce gigabytes.
        unpacker = zlib.decompressobj()
        try:
            plain = unpacker.decompress(inString, MAX_PAGE_JSON_BYTES)
            if not unpacker.eof:
                raise MalformedArgument("the page is cut short or unpacks to more than is allowed")
            rows = json.loads(plain)
            if not isinstance(rows, list) or len(rows) > self.max_rows:
                raise MalformedArgument(f"not a list of at most {self.max_rows} rows")
            return tuple(self.from_row(row) for row in rows)
        except MalformedArgument:
            raise
        except (
            zlib.error,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            RecursionError,
        ) as error:
            raise MalformedArgument(f"unreadable rows: {str(error)[:200]}") from error

    def pages_of(self, values: Sequence[T]) -> Iterator[Sequence[T]]:
        """Cut `values` into pages that fit, in order; an empty sequence is one empty page."""
        for start in range(0, max(len(values), 1), self.max_rows):
            yield from self._halves(values[start : start + self.max_rows])

    def packed(self, values: Sequence[T]) -> Iterator[Packed]:
        """`pages_of`, each ready to be sent. Nothing for an empty sequence."""
        for start in range(0, len(values), self.max_rows):
            for page in self._halves(values[start : start + self.max_rows]):
                yield Packed(self.toString(page))

    def _halves(self, page: Sequence[T]) -> Iterator[Sequence[T]]:
        if len(page) > 1:
            try:
                self.toString(page)
            except MalformedArgument:
                middle = len(page) // 2
                yield from self._halves(page[:middle])
                yield from self._halves(page[middle:])
                return
        yield page


def _identifier_from(kind: str, value: str) -> Identifier:
    return Identifier(IdentifierKind(kind), parse_hex(value))


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_PAGE_ROWS:
        raise ValueError("expected a list of strings")
    return tuple(_string(item) for item in value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a string")
    value.encode()  # JSON can carry lone surrogates, which no log and no database takes; a ValueError
    if "\0" in value:
        raise ValueError("text with a NUL character, which no database takes")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_GENERATION:
        raise ValueError("expected a number that is not negative")
    return value


def _digest(value: Any) -> int:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("a digest has sixteen hexadecimal digits")
    return int(value, 16)


def _configured(rest: list[Any]) -> dict[str, Any]:
    """What a cluster's configuration says of an interface; an older cluster says nothing."""
    if not rest:
        return {}
    vrf, relayed, serve, *_ = rest
    return {"vrf": None if vrf is None else _string(vrf), "relayed": bool(relayed), "serve": bool(serve)}


HOST_MAPS: Rows[HostMap] = Rows(
    lambda m: [m.address, m.identifier.kind.value, m.identifier.value.hex(), m.hostname],
    lambda row: HostMap(_identifier_from(row[1], row[2]), _string(row[0]), None if row[3] is None else _string(row[3])),
)
IDENTIFIERS: Rows[Identifier] = Rows(
    lambda i: [i.kind.value, i.value.hex()], lambda row: _identifier_from(row[0], row[1])
)
INTERFACES: Rows[InterfaceReport] = Rows(
    lambda i: [
        *(i.nic, i.cidr, list(i.addresses), list(i.gateways), i.mac, i.kind.value, i.vlan, i.up),
        *(i.vrf, i.relayed, i.serve),  # an older region passes over these
    ],
    lambda row: InterfaceReport(
        nic=_string(row[0]),
        cidr=_string(row[1]),
        addresses=_strings(row[2]),
        gateways=_strings(row[3]),
        mac=None if row[4] is None else _string(row[4]),
        kind=NicKind(row[5]),
        vlan=None if row[6] is None else _count(row[6]),
        up=bool(row[7]),
        **_configured(row[8:]),
    ),
)
REJECTED_MAPS: Rows[RejectedMap] = Rows(
    lambda r: [r.identifier.kind.value, r.identifier.value.hex(), r.reason[:MAX_REASON_LENGTH]],
    lambda row: RejectedMap(_identifier_from(row[0], row[1]), _string(row[2])[:MAX_REASON_LENGTH]),
)
HELD_SUBNETS: Rows[HeldSubnet] = Rows(
    lambda h: [h.subnet, h.accepted_generation, h.applied_generation, f"{h.digest:016x}"],
    lambda row: HeldSubnet(_string(row[0]), _count(row[1]), _count(row[2]), _digest(row[3])),
    max_rows=1000,
)
SERVER_POOLS: Rows[ServerPool] = Rows(
    lambda p: [p.low, p.high, p.source], lambda row: ServerPool(_string(row[0]), _string(row[1]), _string(row[2]))
)
SERVER_ENTRIES: Rows[ServerEntry] = Rows(
    lambda e: [e.address, [[i.kind.value, i.value.hex()] for i in e.identifiers], e.hostname, e.source],
    lambda row: ServerEntry(
        address=_string(row[0]),
        identifiers=tuple(_identifier_from(kind, value) for kind, value in row[1]),
        hostname=None if row[2] is None else _string(row[2]),
        source=_string(row[3]),
    ),
)
LEASES: Rows[ServerLease] = Rows(
    lambda one: [one.address, [[i.kind.value, i.value.hex()] for i in one.identifiers], one.hostname, one.expires],
    lambda row: ServerLease(
        address=_string(row[0]),
        identifiers=tuple(_identifier_from(kind, value) for kind, value in row[1][:MAX_LEASE_IDENTIFIERS]),
        hostname=None if row[2] is None else _string(row[2]),
        expires=None if row[3] is None else _count(row[3]),
    ),
)
ADDRESSES: Rows[str] = Rows(
    lambda address: [address], lambda row: canonical_address(_string(row[0])), max_rows=MAX_PROBED_ADDRESSES
)
ADDRESSES_IN_USE: Rows[AddressInUse] = Rows(
    lambda used: [used.address, used.mac],
    lambda row: AddressInUse(_string(row[0]), _string(row[1])),
    max_rows=MAX_PROBED_ADDRESSES,
)
TEXTS: Rows[str] = Rows(lambda t: [t], lambda row: _string(row[0])[:MAX_REASON_LENGTH])
