"""Host maps as lines of a dnsmasq hosts file (`dhcp-hostsfile`), rendered and parsed; pure.

A line is what stands right of `dhcp-host=` in dnsmasq(8):

    00:16:3e:00:00:01,192.0.2.10,web1                one MAC address
    00:16:3e:00:00:01,00:16:3e:00:00:02,192.0.2.11   several clients that may have one IPv4 address (bond, dock)
    id:01:00:16:3e:00:00:03,192.0.2.12               a DHCPv4 client-id (option 61), octets in hex
    id:00:03:00:01:00:16:3e:00:00:04,[2001:db8::10],web1    a DUID
    00:16:3e:00:00:01,[2001:db8::11]                 IPv6 by MAC address

dnsmasq passes over lines whose addresses are not of the network a request came from, so that one MAC address may
have a line per subnet and family. Three more of its rules shape this (option.c of 2.90):

* A second line with the same IPv4 address is skipped as a duplicate: all clients of an address share a line, and a
  line holds any number of MAC addresses but one client-id and one host name.
* `id:` followed by text without a colon is taken as text and `id:*` as "ignore the client-id": identifiers have two
  octets or more and are written with colons, so neither can arise.
* A bare word is a host name unless it reads as a lease time (`12h`, `infinite`), as `ignore` or as an address. A
  name may be fully qualified; its first label is what clients are given.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterd.protocol.addresses import Family, pack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, parse_hostname, parse_mac

OWNER_MARK = "# Host maps written by clusterd."
HEADER = (
    f"{OWNER_MARK} This file is rewritten whenever a host map changes.\n"
    "# Changes made here by hand are undone: claim and release addresses at the region instead.\n"
)
MAX_LINE_LENGTH = 1023  # dnsmasq reads lines into MAXDNAME (1025) octets: newline and terminator included

_LEASE_TIME = re.compile(r"[0-9]+[smhdw]?|infinite")
_TAG = re.compile(r"(tag|set|net):[^,]+")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_MULTI_CLIENT = "dnsmasq takes one client-id per IPv4 address, and {address} has another one already"
_MULTI_NAME = "dnsmasq takes one host name per address, and {address} has {held} already"
_TOO_LONG = "the line for {address} would exceed the {limit} characters that dnsmasq reads"

LineKey = tuple[int, bytes, bytes]


def unwritable_hostname(hostname: str) -> str | None:
    """Why dnsmasq would not read this word as a host name, or None when it does."""
    if _LEASE_TIME.fullmatch(hostname):
        return f"dnsmasq would read the host name {hostname!r} as a lease time"
    if hostname == "ignore":
        return "dnsmasq would read the host name 'ignore' as the order to ignore the client"
    try:
        pack_address(hostname)
    except ValueError:
        return None
    return f"dnsmasq would read the host name {hostname!r} as an address"


def line_key(host_map: HostMap) -> LineKey:
    """Which line a host map belongs to; keys sort by family and address, so that files differ as little as sets do."""
    packed = pack_address(host_map.address)
    if len(packed) == 4:
        return 4, packed, b""
    return 6, packed, host_map.identifier.kind.encode() + b":" + host_map.identifier.value


def render_line(host_maps: Sequence[HostMap]) -> str:
    """The line for host maps of one key, without newline."""
    first = host_maps[0]
    identifiers = sorted({host_map.identifier for host_map in host_maps}, key=_identifier_order)
    words = [_identifier_word(identifier) for identifier in identifiers]
    words.append(f"[{first.address}]" if first.family == 6 else first.address)
    if first.hostname is not None:
        words.append(first.hostname)
    return ",".join(words)


def _identifier_order(identifier: Identifier) -> tuple[bool, bytes]:
    return identifier.kind is not IdentifierKind.MAC, identifier.value


def _identifier_word(identifier: Identifier) -> str:
    return identifier.text if identifier.kind is IdentifierKind.MAC else f"id:{identifier.text}"


class HostLines:
    """The lines of one file, kept sorted and rendered, so that a change costs what it changes.

    `edits` counts the additions and removals that changed something.
    """

    def __init__(self, host_maps: Iterable[HostMap] = ()) -> None:
        self.edits = 0
        self._counts: dict[Family, int] = {4: 0, 6: 0}
        self._held: dict[LineKey, tuple[HostMap, ...]] = {}
        self._order: list[LineKey] = []
        self._texts: list[str] = []  # in that order
        for host_map in host_maps:
            self.add(host_map)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __contains__(self, host_map: HostMap) -> bool:
        return host_map in self._held.get(line_key(host_map), ())

    def count(self, family: Family) -> int:
        """How many host maps have an address of this family."""
        return self._counts[family]

    @property
    def host_maps(self) -> frozenset[HostMap]:
        """All host maps that have a place in a line."""
        return frozenset(host_map for held in self._held.values() for host_map in held)

    def at(self, address: str) -> list[HostMap]:
        """The host maps with this address."""
        packed = pack_address(address)
        first = (4 if len(packed) == 4 else 6), packed, b""
        found: list[HostMap] = []
        position = bisect_left(self._order, first)
        while position < len(self._order) and self._order[position][:2] == first[:2]:
            found.extend(self._held[self._order[position]])
            position += 1
        return found

    def is_new(self, host_map: HostMap) -> bool:
        """Whether it would get a line of its own, and change none that there is."""
        return line_key(host_map) not in self._held

    def lines_of_new(self, added: Iterable[HostMap]) -> list[str]:
        """The lines of those that would get one of their own; not of those that change a line or have no place."""
        fresh = HostLines()
        for host_map in added:
            if self.is_new(host_map):
                fresh.add(host_map)
        return fresh._texts

    def add(self, host_map: HostMap) -> str | None:
        """Give a host map its place; one that has it already keeps it.

        Answers why dnsmasq cannot hold it, in which case nothing changes, or None.
        """
        key = line_key(host_map)
        held = self._held.get(key, ())
        if host_map in held:
            return None
        reason = _conflict(held, host_map)
        if reason is not None:
            return reason
        line = render_line((*held, host_map))
        if len(line) > MAX_LINE_LENGTH:
            return _TOO_LONG.format(address=host_map.address, limit=MAX_LINE_LENGTH)
        place = bisect_left(self._order, key)
        if held:
            self._texts[place] = line
        else:
            self._order.insert(place, key)
            self._texts.insert(place, line)
        self._held[key] = (*held, host_map)
        self._counts[host_map.family] += 1
        self.edits += 1
        return None

    def remove(self, host_map: HostMap) -> None:
        """Take a host map out; one that is not there is gone already."""
        key = line_key(host_map)
        held = self._held.get(key, ())
        if host_map not in held:
            return
        self._counts[host_map.family] -= 1
        self.edits += 1
        place = bisect_left(self._order, key)
        left = tuple(other for other in held if other != host_map)
        if left:
            self._held[key] = left
            self._texts[place] = render_line(left)
        else:
            del self._held[key], self._order[place], self._texts[place]

    def render(self) -> str:
        """The whole file: the header, then the lines sorted by address."""
        return HEADER + "\n".join(self._texts) + ("\n" if self._texts else "")


def _conflict(held: Sequence[HostMap], host_map: HostMap) -> str | None:
    if host_map.hostname is not None:
        reason = unwritable_hostname(host_map.hostname)
        if reason is not None:
            return reason
    if held and held[0].hostname != host_map.hostname:
        return _MULTI_NAME.format(address=host_map.address, held=held[0].hostname or "none")
    if host_map.identifier.kind is IdentifierKind.CLIENT_ID and any(
        other.identifier.kind is IdentifierKind.CLIENT_ID for other in held
    ):
        return _MULTI_CLIENT.format(address=host_map.address)
    return None


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line of a hosts file that states no host map we know how to keep. Numbers start at 1."""

    number: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedLines:
    """What a hosts file says. `ours` tells that it carries the header, or nothing at all."""

    host_maps: frozenset[HostMap]
    unreadable: tuple[UnreadableLine, ...]
    ours: bool


def parse(text: str) -> ParsedLines:
    """Read a hosts file. Comments are skipped and lines that cannot be kept are reported; no content raises."""
    host_maps: set[HostMap] = set()
    unreadable: list[UnreadableLine] = []
    ours = not text.strip()
    for number, raw in enumerate(text.split("\n"), start=1):
        ours = ours or raw.startswith(OWNER_MARK)
        line = _COMMENT.sub("", raw).strip() if "#" in raw else raw.strip()
        if not line:
            continue
        try:
            host_maps.update(parse_line(line))
        except ValueError as error:
            unreadable.append(UnreadableLine(number, raw, str(error)))
    return ParsedLines(frozenset(host_maps), tuple(unreadable), ours)


def parse_line(line: str) -> list[HostMap]:
    """The host maps that one line states: each of its clients with each of its addresses.

    Lease times and tags say nothing about who gets which address and are passed over. Raises ValueError for a line
    that means something else than host maps, e.g. wildcards and `ignore`.
    """
    identifiers: list[tuple[bool, bytes]] = []
    addresses: list[str] = []
    hostname: str | None = None
    for word in map(str.strip, line.split(",")):
        lowered = word.lower()
        if lowered.startswith("id:"):
            identifiers.append((False, _client_octets(word[3:])))
        elif word.startswith("["):
            addresses.append(_bracketed_address(word))
        elif _TAG.fullmatch(word):
            continue
        elif ":" in word:
            identifiers.append((True, parse_mac(word)))
        elif _is_ipv4(word):
            addresses.append(word)
        elif lowered == "ignore":
            raise ValueError("the line tells dnsmasq to ignore a client")
        elif not _LEASE_TIME.fullmatch(lowered):
            hostname = parse_hostname(word)
    if not identifiers:
        raise ValueError("the line names no client by MAC address, client-id or DUID")
    if not addresses:
        raise ValueError("the line names no address")
    return [
        HostMap(Identifier(_kind(is_mac, address), value), address, hostname)
        for address in addresses
        for is_mac, value in identifiers
    ]


def _kind(is_mac: bool, address: str) -> IdentifierKind:
    if is_mac:
        return IdentifierKind.MAC
    return IdentifierKind.DUID if ":" in address else IdentifierKind.CLIENT_ID


def _client_octets(text: str) -> bytes:
    """dnsmasq takes an `id:` with a colon as hex octets, one without as the text itself."""
    if text == "*":
        raise ValueError("the line matches clients whatever their client-id")
    if ":" not in text:
        return text.encode()
    try:
        return bytes(int(octet, 16) for octet in text.split(":"))
    except ValueError as error:
        raise ValueError(f"not a client-id of hex octets: {text[:64]!r}") from error


def _bracketed_address(word: str) -> str:
    address = word[1:-1]
    if not word.endswith("]") or len(pack_address(address)) != 16:
        raise ValueError(f"not one IPv6 address in brackets: {word[:64]!r}")
    return address


def _is_ipv4(word: str) -> bool:
    try:
        return len(pack_address(word)) == 4
    except ValueError:
        return False
