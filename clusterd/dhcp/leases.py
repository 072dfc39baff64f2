"""What is asked of a DHCP server's leases, and one page of the answer; pure.

A list of leases can be long and is never held: a page is chosen while the server's own list goes by, and only what can
be on the page becomes values.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeVar

from clusterd.protocol.addresses import BITS, Family, canonical_address, pack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, parse_network

MAX_PAGE = 500

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LeaseQuestion:
    """Leases on the network `cidr`, at most `limit`, above the address `after`; of these addresses and clients only.

    An empty filter lets everything through. Raises ValueError for what is no address or network.
    """

    cidr: str
    after: str | None = None
    limit: int = MAX_PAGE
    addresses: frozenset[str] = frozenset()
    clients: frozenset[Identifier] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cidr", parse_network(self.cidr))
        if self.after is not None:
            pack_address(self.after)
        object.__setattr__(self, "addresses", frozenset(map(canonical_address, self.addresses)))
        if not 1 <= self.limit <= MAX_PAGE:
            raise ValueError(f"a page has 1 to {MAX_PAGE} leases")

    @property
    def family(self) -> Family:
        return 6 if ":" in self.cidr else 4

    @property
    def bounds(self) -> tuple[bytes, bytes]:
        """The first and the last address that can be on the page, packed; the first may lie above the last."""
        address, _, length = self.cidr.partition("/")
        first = int.from_bytes(pack_address(address))
        bits = BITS[self.family]
        last = first + (1 << (bits - int(length))) - 1
        if self.after is not None and len(after := pack_address(self.after)) == bits // 8:
            first = max(first, min(int.from_bytes(after) + 1, last + 1))
        if first > last:
            return b"\xff", b""
        return first.to_bytes(bits // 8), last.to_bytes(bits // 8)

    @property
    def asked_for(self) -> list[str] | None:
        """The wanted addresses that can be on the page, in order; None where any can."""
        if not self.addresses:
            return None
        low, high = self.bounds
        packed = {pack_address(address): address for address in self.addresses}
        return [packed[key] for key in sorted(packed) if len(key) == len(high) and low <= key <= high]

    def lets_through(self, lease: ServerLease) -> bool:
        """Whether the client is one of those asked for."""
        return not self.clients or any(lease.is_of(client) for client in self.clients)


@dataclass(frozen=True, slots=True)
class LeasePage:
    """`more`: there are leases above the last of these."""

    leases: tuple[ServerLease, ...] = ()
    more: bool = False


def is_live(lease: ServerLease, now: float) -> bool:
    """Whether a lease has not run out."""
    return lease.expires is None or lease.expires > now


def choose(
    rows: Iterable[tuple[bytes, T]], read: Callable[[T], ServerLease | None], question: LeaseQuestion, now: float
) -> LeasePage:
    """The page among `rows`: packed addresses, each with what `read` makes a lease of (None: it is none).

    At most one row for an address, in any order. A row is read only while it can be on the page.
    """
    low, high = question.bounds
    size = len(high)
    wanted = None if not question.addresses else {pack_address(address) for address in question.addresses}
    # The lowest so far, one more than the page has; the highest of them is on top.
    lowest: list[tuple[int, ServerLease]] = []
    for packed, row in rows:
        if len(packed) != size or not low <= packed <= high or (wanted is not None and packed not in wanted):
            continue
        number = -int.from_bytes(packed)
        if len(lowest) > question.limit and number <= lowest[0][0]:
            continue
        lease = read(row)
        if lease is None or not is_live(lease, now) or not question.lets_through(lease):
            continue
        if len(lowest) > question.limit:
            heapq.heapreplace(lowest, (number, lease))
        else:
            heapq.heappush(lowest, (number, lease))
    found = [lease for _, lease in sorted(lowest, key=itemgetter(0), reverse=True)]
    return LeasePage(tuple(found[: question.limit]), len(found) > question.limit)
