"""The values that cross the wire: frozen, validated and normalised when they are made.

A value that exists is well-formed: code behind these constructors does not check again.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from netaddr import AddrFormatError, IPNetwork

from clusterd.protocol.addresses import Family, canonical_address, pack_address, unpack_address

MAX_HOSTNAME_LENGTH = 253
MAX_LABEL_LENGTH = 63
MAX_IDENTIFIER_BYTES = 255  # the length octet of DHCP option 61 (RFC 2132, 9.14)
MAX_DUID_BYTES = 130  # RFC 8415, 11.1: a type of 2 and at most 128 octets
MAX_NIC_NAME_LENGTH = 64
MAX_NAME_LENGTH = 63

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_NIC_NAME = re.compile(r"[^\s/:,\x00-\x20\x7f]+")
_MAC_SEPARATORS = re.compile(r"[:.\-]")
_MAC_FORMS = re.compile(
    r"[0-9a-f]{12}|[0-9a-f]{1,2}(:[0-9a-f]{1,2}){5}|[0-9a-f]{1,2}(-[0-9a-f]{1,2}){5}"
    r"|[0-9a-f]{4}(\.[0-9a-f]{4}){2}|[0-9a-f]{6}-[0-9a-f]{6}"
)
_HEX = re.compile(r"([0-9a-f]{2})+")


def parse_mac(text: str) -> bytes:
    """The six bytes of a MAC address in any customary spelling, whatever the case.

    Raises ValueError for other text and for addresses that no single machine can have: multicast (the lowest
    bit of the first octet, IEEE 802) and all zeros.
    """
    lowered = text.strip().lower()
    if not _MAC_FORMS.fullmatch(lowered):
        raise ValueError(f"not a MAC address: {text[:64]!r} (expected six octets such as 00:16:3e:12:34:56)")
    octets = _MAC_SEPARATORS.split(lowered)
    packed = bytes.fromhex("".join(octet.zfill(2) for octet in octets) if len(octets) == 6 else "".join(octets))
    _check_mac(packed)
    return packed


def _check_mac(packed: bytes) -> None:
    if len(packed) != 6:
        raise ValueError(f"a MAC address has six octets, not {len(packed)}")
    if packed[0] & 1:
        raise ValueError(f"{format_mac(packed)} is a multicast MAC address: no machine can have it as its own")
    if not any(packed):
        raise ValueError("00:00:00:00:00:00 is not the address of a machine")


def format_mac(packed: bytes) -> str:
    """Lower case with colons, the one spelling that is stored and shown."""
    return packed.hex(":")


def parse_hex(text: str) -> bytes:
    """Bytes written as hex, with or without colons or hyphens between the octets. Raises ValueError."""
    plain = text.strip().lower().replace(":", "").replace("-", "")
    if not _HEX.fullmatch(plain):
        raise ValueError(f"not hexadecimal octets: {text[:64]!r}")
    return bytes.fromhex(plain)


def parse_hostname(text: str) -> str:
    """A host name of DNS-safe labels, lower case (RFC 1123, 2.1). Raises ValueError."""
    name = text.strip().lower().removesuffix(".")
    if not name or len(name) > MAX_HOSTNAME_LENGTH:
        raise ValueError(f"a host name has 1 to {MAX_HOSTNAME_LENGTH} characters")
    for label in name.split("."):
        if len(label) > MAX_LABEL_LENGTH or not _LABEL.fullmatch(label):
            raise ValueError(
                f"not a host name label: {label[:70]!r} (letters, digits and inner hyphens, at most {MAX_LABEL_LENGTH})"
            )
    return name


def parse_name(text: str) -> str:
    """The name of a cluster, VRF or account: lower case letters, digits, `.`, `_` and `-`. Raises ValueError."""
    name = text.strip().lower()
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise ValueError(
            f"not a name: {text[:70]!r} (1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' and '-', "
            "a letter or digit first and last)"
        )
    return name


def parse_network(text: str) -> str:
    """A network in canonical CIDR form, e.g. `192.0.2.0/24`. Host bits set is an error. Raises ValueError."""
    address, slash, length = text.strip().partition("/")
    if not slash or not length.isdecimal():
        raise ValueError(f"not a network in CIDR form: {text[:64]!r}")
    packed = pack_address(address)
    try:
        network = IPNetwork(f"{unpack_address(packed)}/{int(length)}")
    except (AddrFormatError, ValueError) as error:
        raise ValueError(f"not a network in CIDR form: {text[:64]!r}") from error
    if network.ip != network.network:
        raise ValueError(f"{text[:64]} has host bits set; the network is {network.cidr}")
    return str(network.cidr)


class IdentifierKind(StrEnum):
    """What a DHCP server matches a client by."""

    MAC = "mac"
    CLIENT_ID = "client-id"  # DHCPv4 option 61 (RFC 2132, 9.14)
    DUID = "duid"  # DHCPv6 client identifier (RFC 8415, 11)


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """How a DHCP server recognises a client: bytes of one kind, never text of the client's choosing."""

    kind: IdentifierKind
    value: bytes

    def __post_init__(self) -> None:
        if self.kind is IdentifierKind.MAC:
            _check_mac(self.value)
        elif self.kind is IdentifierKind.DUID:
            if not 3 <= len(self.value) <= MAX_DUID_BYTES:
                raise ValueError(f"a DUID has 3 to {MAX_DUID_BYTES} octets (RFC 8415, 11.1)")
        elif not 2 <= len(self.value) <= MAX_IDENTIFIER_BYTES:
            raise ValueError(f"a client-id has 2 to {MAX_IDENTIFIER_BYTES} octets (RFC 2132, 9.14)")

    @classmethod
    def mac(cls, text: str) -> "Identifier":
        """From any spelling of a MAC address. Raises ValueError."""
        return cls(IdentifierKind.MAC, parse_mac(text))

    @property
    def text(self) -> str:
        """The value as it is stored and shown: colons between octets."""
        return self.value.hex(":")

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"


@dataclass(frozen=True, slots=True)
class HostMap:
    """One static entry of a DHCP server: the client with this identifier gets this address.

    Within a subnet there is at most one host map per identifier; one address may have several.
    """

    identifier: Identifier
    address: str
    hostname: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", canonical_address(self.address))
        if self.hostname is not None:
            object.__setattr__(self, "hostname", parse_hostname(self.hostname))
        if self.identifier.kind is IdentifierKind.CLIENT_ID and self.family == 6:
            raise ValueError("a client-id identifies a DHCPv4 client; DHCPv6 has the DUID (RFC 8415, 11)")
        if self.identifier.kind is IdentifierKind.DUID and self.family == 4:
            raise ValueError("a DUID identifies a DHCPv6 client; use a MAC address or a client-id")

    @property
    def family(self) -> Family:
        return 6 if ":" in self.address else 4

    def __lt__(self, other: "HostMap") -> bool:
        # By hand: None and a host name do not compare, and a sort of whole sets must never fail.
        if not isinstance(other, HostMap):
            return NotImplemented
        mine = (self.identifier, self.address, self.hostname or "")
        return mine < (other.identifier, other.address, other.hostname or "")


def is_nic_name(text: str) -> bool:
    """Whether a NIC of this name can be spoken of; the kernel allows a few more (a comma, bytes that are no text)."""
    return len(text) <= MAX_NIC_NAME_LENGTH and _NIC_NAME.fullmatch(text) is not None


class NicKind(StrEnum):
    """What sort of link a NIC is, as the kernel tells."""

    PHYSICAL = "physical"
    VLAN = "vlan"
    BOND = "bond"
    BRIDGE = "bridge"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class InterfaceReport:
    """One cluster interface as clusterd sees it: a NIC of the controller on one subnet.

    `cidr` is the network; `addresses` are the controller's own addresses on it; `gateways` are next hops of
    the controller's routes that lie on it. None of these is ever allocated. What the controller's configuration says:
    `vrf` is the network's VRF, None for the cluster's own; a `relayed` network is not on the NIC itself, its clients
    are relayed to it; without `serve` an admin has to say so before the network is served.
    """

    nic: str
    cidr: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    mac: str | None = None
    kind: NicKind = NicKind.PHYSICAL
    vlan: int | None = None
    up: bool = True
    vrf: str | None = None
    relayed: bool = False
    serve: bool = True

    def __post_init__(self) -> None:
        if not is_nic_name(self.nic):
            raise ValueError(f"not a NIC name: {self.nic[:70]!r}")
        if self.vlan is not None and not 1 <= self.vlan <= 4094:
            raise ValueError(f"not a VLAN id: {self.vlan} (1 to 4094, IEEE 802.1Q)")
        object.__setattr__(self, "cidr", parse_network(self.cidr))
        object.__setattr__(self, "addresses", tuple(sorted(map(canonical_address, self.addresses))))
        object.__setattr__(self, "gateways", tuple(sorted(map(canonical_address, self.gateways))))
        if self.mac is not None:
            object.__setattr__(self, "mac", format_mac(parse_mac(self.mac)))
        if self.vrf is not None:
            object.__setattr__(self, "vrf", parse_name(self.vrf))

    def __lt__(self, other: "InterfaceReport") -> bool:
        if not isinstance(other, InterfaceReport):
            return NotImplemented
        return self._order() < other._order()

    def _order(self) -> tuple[object, ...]:
        # What may be None is compared as text or as a number: a sort of reports never fails.
        return (
            self.nic,
            self.cidr,
            self.addresses,
            self.gateways,
            self.mac or "",
            self.kind.value,
            self.vlan or 0,
            self.up,
            self.vrf or "",
            self.relayed,
            self.serve,
        )


@dataclass(frozen=True, slots=True, order=True)
class RejectedMap:
    """A host map that the DHCP server would not take, with the server's own words."""

    identifier: Identifier
    reason: str


@dataclass(frozen=True, slots=True)
class HeldSubnet:
    """What a cluster has of one subnet when it registers."""

    subnet: str
    accepted_generation: int
    applied_generation: int
    digest: int


MAX_SOURCE_LENGTH = 200
MAX_ENTRY_IDENTIFIERS = 64


@dataclass(frozen=True, slots=True)
class ServerPool:
    """Addresses that a DHCP server leases on its own, both ends included; `source` says where it is written."""

    low: str
    high: str
    source: str = ""

    def __post_init__(self) -> None:
        low, high = pack_address(self.low), pack_address(self.high)
        if len(low) != len(high):
            raise ValueError(f"a pool is of one address family, not from {self.low} to {self.high}")
        if high < low:
            raise ValueError(f"a pool's last address, {self.high}, is below its first, {self.low}")
        object.__setattr__(self, "low", unpack_address(low))
        object.__setattr__(self, "high", unpack_address(high))
        object.__setattr__(self, "source", self.source[:MAX_SOURCE_LENGTH])


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A static entry of a DHCP server that is not ours: these clients get this address.

    Without `identifiers` it matches by what a host map does not know (a host name, a relay's port): the address is
    taken all the same. A host name that is not DNS-safe is left out.
    """

    address: str
    identifiers: tuple[Identifier, ...] = ()
    hostname: str | None = None
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", canonical_address(self.address))
        object.__setattr__(self, "identifiers", tuple(sorted(set(self.identifiers))[:MAX_ENTRY_IDENTIFIERS]))
        object.__setattr__(self, "source", self.source[:MAX_SOURCE_LENGTH])
        if self.hostname is not None:
            object.__setattr__(self, "hostname", parse_hostname(self.hostname))


@dataclass(frozen=True, slots=True)
class AddressInUse:
    """Somebody on the wire uses this address, and says to have this MAC address: any six octets."""

    address: str
    mac: str

    def __post_init__(self) -> None:
        octets = parse_hex(self.mac)
        if len(octets) != 6:
            raise ValueError(f"a MAC address has six octets, not {len(octets)}")
        object.__setattr__(self, "address", canonical_address(self.address))
        object.__setattr__(self, "mac", format_mac(octets))
