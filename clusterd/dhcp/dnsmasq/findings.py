"""What dnsmasq's options say of pools and static entries; pure.

What they mean follows option.c of dnsmasq 2.90; options that say nothing of addresses are passed over.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from clusterd.dhcp.dnsmasq.options import Option, without_comment
from clusterd.dhcp.first_contact import MAX_REMARKS, ServerPicture, identifiers_of, safe_hostname
from clusterd.protocol.addresses import Family, address_to_int, int_to_address, pack_address
from clusterd.protocol.values import (
    Identifier,
    IdentifierKind,
    InterfaceReport,
    ServerEntry,
    ServerPool,
    parse_mac,
)

_PREFIXED = re.compile(r"(?:tag|set|net|interface):", re.IGNORECASE)
_LEASE_TIME = re.compile(r"[0-9]+[smhdw]?|infinite|deprecated", re.IGNORECASE)
_POOLLESS_MODES = frozenset({"static", "proxy", "ra-only", "ra-stateless"})
_HARDWARE_TYPE = re.compile(r"[0-9a-f]{1,2}-(?=[0-9a-f]{1,2}:)", re.IGNORECASE)
_HARDWARE = re.compile(r"(?:[0-9a-f]{1,2}-)?(?:[0-9a-f]{1,2}|\*)(?::(?:[0-9a-f]{1,2}|\*))+", re.IGNORECASE)
_LOW_64 = (1 << 64) - 1


@dataclass(slots=True)
class Findings:
    """What was found so far; `interfaces` are this host's, for what dnsmasq builds from their prefixes."""

    interfaces: Sequence[InterfaceReport] = ()
    pools: set[ServerPool] = field(default_factory=set)
    entries: set[ServerEntry] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    @property
    def picture(self) -> ServerPicture:
        return ServerPicture(frozenset(self.pools), frozenset(self.entries), tuple(self.remarks))

    def option(self, option: Option) -> None:
        """Take in one option that is no file's name."""
        try:
            if option.name == "dhcp-range":
                self.pools.update(self._range(option.value, option.source))
            elif option.name == "dhcp-host":
                self.host(option.value, option.source)
        except ValueError as error:
            self.remark(f"{option.source}: {option.name}={option.value[:100]} was not understood: {error}")

    def host(self, value: str, source: str) -> None:
        """What stands right of `dhcp-host=`, or a line of a hosts file. Raises ValueError."""
        pools, entries = _host(value, source, self.interfaces)
        self.pools.update(pools)
        self.entries.update(entries)

    def host_lines(self, text: str, source: str) -> None:
        """A file of `dhcp-hostsfile` or `dhcp-hostsdir`."""
        for number, raw in enumerate(text.splitlines(), start=1):
            line = without_comment(raw)
            if line:
                self.option(Option("dhcp-host", line, f"{source}:{number}"))

    def ethers(self, text: str, source: str) -> None:
        """`/etc/ethers`: a MAC address and an IPv4 address (or a name, which says nothing of an address)."""
        for number, raw in enumerate(text.splitlines(), start=1):
            words = without_comment(raw).split()
            if len(words) == 2 and _is_address(words[1]):
                self.option(Option("dhcp-host", ",".join(words), f"{source}:{number}"))

    def remark(self, text: str) -> None:
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(text)

    def _range(self, value: str, source: str) -> Iterator[ServerPool]:
        words = [word.strip() for word in value.split(",")]
        # Before the address there are tags, and, in files of old, a bare tag.
        while words and not _is_address(words[0]):
            if not words[0] or not (_PREFIXED.match(words[0]) or re.fullmatch(r"[\w-]+", words[0])):
                raise ValueError(f"{words[0][:64]!r} is no address")
            words.pop(0)
        if not words:
            raise ValueError("there is no address in it")
        low, rest = words[0], words[1:]
        family, _ = address_to_int(low)
        high = rest[0] if rest and _is_address(rest[0]) and address_to_int(rest[0])[0] == family else low
        nic = next((word.partition(":")[2] for word in rest if word.lower().startswith("constructor:")), None)
        modes = {word.lower() for word in rest}
        if modes & _POOLLESS_MODES or (family == 6 and high == low and modes & {"slaac", "ra-names"}):
            return
        if nic is None:
            yield ServerPool(low, high, source)
            return
        for first in _prefixes(self.interfaces, nic):
            ends = [int_to_address(6, first | address_to_int(end)[1] & _LOW_64) for end in (low, high)]
            yield ServerPool(ends[0], ends[1], source)


def _host(value: str, source: str, interfaces: Sequence[InterfaceReport]) -> tuple[list[ServerPool], list[ServerEntry]]:
    clients: list[tuple[bool, bytes]] = []
    addresses: list[str] = []
    blocks: list[ServerPool] = []
    hostname: str | None = None
    for word in map(str.strip, value.split(",")):
        lowered = word.lower()
        if not word or _PREFIXED.match(word) or lowered == "ignore":
            continue
        if lowered.startswith("id:"):
            if word[3:] != "*":
                clients.append((False, _client_octets(word[3:])))
        elif word.startswith("["):
            _ipv6(word, source, interfaces, addresses, blocks)
        elif _is_address(word):
            addresses.append(word)
        elif _HARDWARE.fullmatch(word):
            plain = _HARDWARE_TYPE.sub("", word)
            if "*" not in plain and plain.count(":") == 5:
                clients.append((True, parse_mac(plain)))
        elif not _LEASE_TIME.fullmatch(lowered):
            hostname = word
    return blocks, [ServerEntry(a, _identifiers(clients, a), safe_hostname(hostname), source) for a in addresses]


def _ipv6(
    word: str,
    source: str,
    interfaces: Sequence[InterfaceReport],
    addresses: list[str],
    blocks: list[ServerPool],
) -> None:
    """`[2001:db8::5]`, `[::5]` on every prefix of this host, `[2001:db8::40/125]` for a client with several."""
    address, slash, length = word.strip("[]").partition("/")
    number = int.from_bytes(pack_address(address))
    if len(pack_address(address)) != 16 or not word.endswith("]"):
        raise ValueError(f"{word[:64]!r} is no IPv6 address in brackets")
    firsts = _prefixes(interfaces, "*") if number <= _LOW_64 else [0]
    for first in firsts:
        if not slash:
            addresses.append(int_to_address(6, first | number))
            continue
        if not length.isdecimal() or not 64 <= int(length) <= 128:
            raise ValueError(f"{word[:64]!r}: expected a prefix length from 64 to 128")
        rest = (1 << 128 - int(length)) - 1
        low = (first | number) & ~rest
        blocks.append(ServerPool(int_to_address(6, low), int_to_address(6, low | rest), source))


def _prefixes(interfaces: Sequence[InterfaceReport], pattern: str) -> list[int]:
    """The IPv6 /64 networks of the NICs that a pattern of dnsmasq names (a `*` at its end), as integers."""
    cidrs = {report.cidr for report in interfaces if not report.relayed and fnmatchcase(report.nic, pattern)}
    return sorted(address_to_int(cidr.removesuffix("/64"))[1] for cidr in cidrs if cidr.endswith("/64"))


def _identifiers(clients: Iterable[tuple[bool, bytes]], address: str) -> tuple[Identifier, ...]:
    """As far as a host map can say them; the entry's address is taken whoever its client is."""
    family: Family = 6 if ":" in address else 4
    client = IdentifierKind.DUID if family == 6 else IdentifierKind.CLIENT_ID
    return identifiers_of((IdentifierKind.MAC if is_mac else client, octets) for is_mac, octets in clients)


def _client_octets(text: str) -> bytes:
    """dnsmasq takes an `id:` of hex octets with colons as octets, any other as the text itself."""
    octets = text.split(":")
    if len(octets) > 1 and all(re.fullmatch(r"[0-9a-fA-F]{1,2}", octet) for octet in octets):
        return bytes(int(octet, 16) for octet in octets)
    return text.encode("utf-8", "replace")


def _is_address(word: str) -> bool:
    try:
        pack_address(word)
    except ValueError:
        return False
    return True
