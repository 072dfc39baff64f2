"""dnsmasq's lease file, and which of its leases stand in the way of host maps; pure.

A line is `expiry MAC address name client-id` (`*` for none); after a line `duid` with the server's own DUID come the
IPv6 leases: `expiry IAID address name DUID` (lease.c of 2.90; the IAID of a temporary address has a leading T).
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import HostMap, IdentifierKind, parse_hex, parse_mac

_LINK_LAYER_DUIDS = {b"\0\1\0\1": 8, b"\0\3\0\1": 4}  # DUID-LLT and DUID-LL of Ethernet: where the MAC address begins


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease. IPv4: `mac`, and `client` is option 61 if the client sent one. IPv6: `client` is the DUID."""

    address: str
    mac: bytes | None
    client: bytes | None
    association: int = 0

    @property
    def is_v6(self) -> bool:
        return ":" in self.address

    def is_of(self, host_map: HostMap) -> bool | None:
        """Whether the lease is one that this host map's client got; None where a lease does not tell."""
        if host_map.identifier.kind is not IdentifierKind.MAC:
            return host_map.identifier.value == self.client
        if not self.is_v6:
            return host_map.identifier.value == self.mac
        mac_at = _LINK_LAYER_DUIDS.get((self.client or b"")[:4])
        return None if mac_at is None else (self.client or b"")[mac_at:] == host_map.identifier.value


@dataclass(frozen=True, slots=True)
class Leases:
    """What the file says. `server_duid` is None before the first IPv6 client came."""

    leases: tuple[Lease, ...] = ()
    server_duid: bytes | None = None


def parse_leases(text: str) -> Leases:
    """Read a lease file. Lines of other kinds of networks, or that are being written, are passed over."""
    leases: list[Lease] = []
    server_duid: bytes | None = None
    for line in text.splitlines():
        words = line.split(" ")
        try:
            if len(words) == 2 and words[0] == "duid":
                server_duid = parse_hex(words[1])
            elif len(words) == 5:
                leases.append(read_lease(words))
        except ValueError:
            continue
    return Leases(tuple(leases), server_duid)


def read_lease(words: list[str]) -> Lease:
    """The five words of a line. Raises ValueError."""
    _, first, address, _, client = words
    address = canonical_address(address)
    identity = None if client == "*" else parse_hex(client)
    if ":" in address:
        return Lease(address, None, identity, int(first.removeprefix("T")))
    return Lease(address, parse_mac(first), identity)


def stale_leases(
    leases: Iterable[Lease],
    removed: Collection[HostMap],
    at: Callable[[str], Collection[HostMap]],
    only_static: Callable[[str], bool],
) -> list[Lease]:
    """The leases that clients have from host maps that are gone, and not from one that is there.

    `at` answers the host maps that an address has now. `only_static`: whether leases on an address come from host
    maps alone; then a lease on a mapped address that is not the owner's is a former owner's, also when its host map
    was removed by a process that did not live to end it. Anybody else's lease is left alone: its client uses it.
    """
    former: dict[str, list[HostMap]] = {}
    for host_map in removed:
        former.setdefault(host_map.address, []).append(host_map)
    return [
        lease for lease in leases if _is_stale(lease, former.get(lease.address, ()), at(lease.address), only_static)
    ]


def _is_stale(
    lease: Lease, former: Collection[HostMap], owners: Collection[HostMap], only_static: Callable[[str], bool]
) -> bool:
    by_owners = {lease.is_of(owner) for owner in owners}
    if True in by_owners:
        return False
    by_former = {lease.is_of(host_map) for host_map in former}
    if True in by_former:
        return True
    return None not in by_owners and (None in by_former or (bool(owners) and only_static(lease.address)))
