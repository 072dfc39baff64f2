"""Pages of dhcpd's leases, from its leases files for IPv4 and IPv6; pure. See dhcpd.leases(5).

Both files are journals: the last record of an address counts. Only where that record stands is remembered meanwhile.
"""

import re
from calendar import timegm
from collections.abc import Iterable

from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address, unpack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind

# Hosts are passed over as records: one search for the next lease would go through all of them without a pause.
_RECORD_4 = re.compile(rb"^(lease|host) (\S+) \{\n((?:[ \t].*\n)*)\}\n", re.MULTILINE)
_RECORD_6 = re.compile(rb'^(ia-na|ia-ta|ia-pd) ("(?:[^"\\\n]|\\.)*"|\S+) \{\n((?:[ \t].*\n)*)\}\n', re.MULTILINE)
_ADDRESS_6 = re.compile(rb"^  iaaddr (\S+) \{\n((?:    .*\n)*)  \}\n", re.MULTILINE)
_IS_ACTIVE = re.compile(rb"^ +binding state active;", re.MULTILINE)
_ENDS = re.compile(rb"^ +ends (?:(never)|epoch (\d+)|\d (\d+)/(\d+)/(\d+) (\d+):(\d+):(\d+));", re.MULTILINE)
_MAC = re.compile(rb"^  hardware ethernet ([0-9a-f:]+);", re.MULTILINE)
_UID = re.compile(rb'^  uid ("(?:[^"\\\n]|\\.)*"|[0-9a-f:]+);', re.MULTILINE)
_HOSTNAME = re.compile(rb'^  client-hostname ("(?:[^"\\\n]|\\.)*");', re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")


def page_of_v4(content: bytes, question: LeaseQuestion, now: float) -> LeasePage:
    """The answer to a question. 100,000 leases take 0.2 s: not in the reactor's thread."""
    low, high = question.bounds
    bodies: dict[bytes, int] = {}  # where they start: plain numbers, which no garbage collection looks at
    for record in _RECORD_4.finditer(content):  # one by one: other threads get their turn
        if record[1] == b"lease" and (packed := _packed(record[2])) is not None and low <= packed <= high:
            bodies[packed] = record.start(3)

    def read(row: tuple[bytes, int]) -> ServerLease | None:
        packed, start = row
        return _lease(packed, content[start : content.index(b"\n}\n", start - 1) + 1])

    return choose(((packed, (packed, start)) for packed, start in bodies.items()), read, question, now)


def page_of_v6(content: bytes, question: LeaseQuestion, now: float) -> LeasePage:
    """As `page_of_v4`, of the other file. Delegated prefixes are no leases of addresses."""
    low, high = question.bounds
    bodies: dict[bytes, int] = {}
    for record in _RECORD_6.finditer(content):
        if record[1] != b"ia-pd":
            for found in _ADDRESS_6.finditer(content, *record.span(3)):
                if (packed := _packed(found[1])) is not None and low <= packed <= high:
                    bodies[packed] = found.start(2)

    def read(row: tuple[bytes, int]) -> ServerLease | None:
        packed, start = row
        record = content.rfind(b"\nia-", 0, start) + 1
        key = content[record + len("ia-na ") : start].partition(b" {\n")[0]
        return _lease_6(packed, key, content[start : content.index(b"\n  }\n", start - 1) + 1])

    return choose(((packed, (packed, start)) for packed, start in bodies.items()), read, question, now)


def unquoted(text: bytes) -> bytes:
    """What dhcpd writes of a client's bytes, as these bytes: a string with octal escapes, or hexadecimal octets.

    Raises ValueError.
    """
    if not text.startswith(b'"'):
        return bytes(int(octet, 16) for octet in text.split(b":"))
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 8)]) if len(found[1]) == 3 else found[1], text[1:-1])


def _packed(address: bytes) -> bytes | None:
    try:
        return pack_address(address.decode("ascii", "replace"))
    except ValueError:
        return None


def _lease(packed: bytes, body: bytes) -> ServerLease | None:
    try:
        identifiers = []
        if (mac := _MAC.search(body)) is not None:
            identifiers.append(Identifier.mac(mac[1].decode("ascii")))
        if (uid := _UID.search(body)) is not None:
            identifiers += identifiers_of(IdentifierKind.CLIENT_ID, unquoted(uid[1]))
        hostname = _HOSTNAME.search(body)
        name = None if hostname is None else unquoted(hostname[1]).decode("utf-8", "replace")
        return _active(packed, body, identifiers, name)
    except ValueError:
        return None


def _lease_6(packed: bytes, key: bytes, body: bytes) -> ServerLease | None:
    """`key` names the association: four octets of the client's, then its DUID."""
    try:
        duid = unquoted(key)[4:]
        return _active(packed, body, identifiers_of(IdentifierKind.DUID, duid), None)
    except ValueError:
        return None


def identifiers_of(kind: IdentifierKind, value: bytes) -> list[Identifier]:
    """The identifier of a client; none where its bytes cannot be one (a client-id of one octet)."""
    try:
        return [Identifier(kind, value)]
    except ValueError:
        return []


def _active(packed: bytes, body: bytes, identifiers: Iterable[Identifier], hostname: str | None) -> ServerLease | None:
    """The lease, if somebody has it and it says until when."""
    ends = _ENDS.search(body)
    if ends is None or _IS_ACTIVE.search(body) is None:
        return None
    expires = None
    if ends[2] is not None:
        expires = int(ends[2])
    elif ends[3] is not None:
        year, month, day, hour, minute, second = map(int, ends.groups()[2:])
        expires = timegm((year, month, day, hour, minute, second))
    return ServerLease(unpack_address(packed), tuple(identifiers), hostname, expires)
