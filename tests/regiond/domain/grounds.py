"""Networks to plan on, small enough that a Python set holds every claimable address of each."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from clusterd.protocol.values import Identifier, IdentifierKind

EDGE = 16  # of a large network, so many addresses at either end are looked at


@dataclass(frozen=True)
class Ground:
    """A network, what lies in its way, and the addresses that a test names (a few of them outside)."""

    cidr: str
    ranges: tuple[tuple[str, str, str], ...] = ()  # kind, low, high
    infrastructure: tuple[tuple[str, str], ...] = ()  # kind, address

    @property
    def family(self) -> int:
        return ip_network(self.cidr).version

    def obstacle(self, address: int) -> str | None:
        """The kind of what lies at this address."""
        for kind, text in self.infrastructure:
            if int(ip_address(text)) == address:
                return kind
        for kind, low, high in self.ranges:
            if int(ip_address(low)) <= address <= int(ip_address(high)):
                return kind
        return None

    def never(self) -> set[int]:
        """Network and broadcast address, or the subnet-router anycast address."""
        net = ip_network(self.cidr)
        if net.max_prefixlen - net.prefixlen <= 1:
            return set()
        first, last = int(net.network_address), int(net.broadcast_address)
        return {first, last} if net.version == 4 else {first}

    def claimable(self) -> set[int]:
        return {a for a in self._looked_at() if a not in self.never() and self.obstacle(a) is None}

    def __contains__(self, address: int) -> bool:
        net = ip_network(self.cidr)
        return int(net.network_address) <= address <= int(net.broadcast_address)

    def named(self) -> list[str]:
        net = ip_network(self.cidr)
        around = {int(net.network_address) - 1, int(net.broadcast_address) + 1, *self._looked_at()}
        return [self.text(address) for address in sorted(around) if 0 <= address < 1 << net.max_prefixlen]

    def text(self, address: int) -> str:
        kind = IPv4Network if self.family == 4 else IPv6Network
        return str(kind((address, 32 if self.family == 4 else 128)).network_address)

    def _looked_at(self) -> Iterable[int]:
        net = ip_network(self.cidr)
        first, last = int(net.network_address), int(net.broadcast_address)
        if last - first < 2 * EDGE:
            return range(first, last + 1)
        middle = range(first + EDGE, last - EDGE + 1)
        assert any(
            int(ip_address(low)) <= middle[0] and middle[-1] <= int(ip_address(high)) for _, low, high in self.ranges
        ), "the middle of a large network is kept back by a range"
        return [*range(first, first + EDGE), *range(last - EDGE + 1, last + 1)]


V4_GROUNDS = (
    Ground("192.0.2.8/29", infrastructure=(("controller", "192.0.2.9"),)),
    Ground("192.0.2.0/29"),
    Ground(
        "198.51.100.16/28",
        (("dynamic", "198.51.100.20", "198.51.100.22"), ("reserved", "198.51.100.27", "198.51.100.27")),
        (("gateway", "198.51.100.30"), ("controller", "198.51.100.17")),
    ),
    Ground("203.0.113.4/31", infrastructure=(("controller", "203.0.113.4"),)),
    Ground("203.0.113.7/32"),
)
V6_GROUNDS = (
    Ground("2001:db8::/64", (("dynamic", "2001:db8::5", "2001:db8::ffff:ffff:ffff:fffc"),)),
    Ground(
        "ffff:ffff:ffff:ffff::/64",
        (("reserved", "ffff:ffff:ffff:ffff::3", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8"),),
        (("gateway", "ffff:ffff:ffff:ffff::1"), ("controller", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe")),
    ),
    Ground("2001:db8:1::8/125", infrastructure=(("gateway", "2001:db8:1::a"),)),
    Ground("2001:db8:2::2/127"),
    Ground("2001:db8:3::1/128"),
)

MACS = tuple(Identifier.mac(f"00:16:3e:00:00:0{n}") for n in range(1, 4))
CLIENT_ID = Identifier(IdentifierKind.CLIENT_ID, b"\x00a machine")
DUID = Identifier(IdentifierKind.DUID, b"\x00\x03\x00\x01\x00\x16\x3e\x00\x00\x01")
IDENTIFIERS = (*MACS, CLIENT_ID, DUID)
