"""Networks as integers: which addresses of a subnet may ever be claimed."""

from dataclasses import dataclass
from functools import lru_cache

from clusterd.protocol.addresses import BITS, Family, address_to_int, int_to_address
from clusterd.protocol.values import parse_network


@dataclass(frozen=True, slots=True)
class Network:
    """A network; `first` and `last` bound it, `first_usable` and `last_usable` what may be claimed of it.

    Never claimable: IPv4's network and broadcast address (RFC 1122, 3.2.1.3) except on /31 (RFC 3021) and /32;
    IPv6's subnet-router anycast address, the lowest one (RFC 4291, 2.6.1), except on /127 (RFC 6164) and /128.
    """

    cidr: str
    family: Family
    first: int
    last: int
    first_usable: int
    last_usable: int

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last

    def is_usable(self, address: int) -> bool:
        return self.first_usable <= address <= self.last_usable

    def text(self, address: int) -> str:
        """The canonical text of an address of this family."""
        return int_to_address(self.family, address)


@lru_cache(maxsize=4096)
def network(cidr: str) -> Network:
    """From canonical or plain CIDR text. Raises ValueError."""
    canonical = parse_network(cidr)
    address, _, length = canonical.partition("/")
    family, first = address_to_int(address)
    host_bits = BITS[family] - int(length)
    last = first | (1 << host_bits) - 1
    first_usable, last_usable = first, last
    if host_bits > 1:
        first_usable += 1
        if family == 4:
            last_usable -= 1
    return Network(canonical, family, first, last, first_usable, last_usable)
