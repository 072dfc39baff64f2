"""What a DHCP server has leased to whom, as it crosses the wire."""

from dataclasses import dataclass

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import MAX_HOSTNAME_LENGTH, Identifier, IdentifierKind

MAX_LEASE_IDENTIFIERS = 4
MAX_EXPIRY = 253_402_300_799  # the last second of the year 9999, which every notation of time has

_LINK_LAYER_DUIDS = {b"\0\1\0\1": 8, b"\0\3\0\1": 4}  # DUID-LLT and DUID-LL of Ethernet: where the MAC address begins


@dataclass(frozen=True, slots=True)
class ServerLease:
    """One address that a DHCP server has given to a client: from a pool, or by a host map.

    `expires` is in seconds since 1970 (UTC), None for a lease without end. `hostname` is what the client calls itself:
    a stranger's text, kept only where it can be shown.
    """

    address: str
    identifiers: tuple[Identifier, ...] = ()
    hostname: str | None = None
    expires: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "address", canonical_address(self.address))
        object.__setattr__(self, "identifiers", tuple(sorted(set(self.identifiers))[:MAX_LEASE_IDENTIFIERS]))
        name = self.hostname
        if name is not None and not (0 < len(name) <= MAX_HOSTNAME_LENGTH and name.isprintable()):
            object.__setattr__(self, "hostname", None)
        if self.expires is not None and not 0 <= self.expires <= MAX_EXPIRY:
            object.__setattr__(self, "expires", None)

    def is_of(self, identifier: Identifier) -> bool:
        """Whether it is known that the client is the one with this identifier.

        An IPv6 lease tells the MAC address of its client only where the DUID was made from one.
        """
        if identifier in self.identifiers:
            return True
        return identifier.kind is IdentifierKind.MAC and any(
            one.kind is IdentifierKind.DUID and mac_of_duid(one.value) == identifier.value for one in self.identifiers
        )

    def value(self, kind: IdentifierKind) -> str | None:
        """The client's identifier of this kind, as it is shown."""
        return next((one.text for one in self.identifiers if one.kind is kind), None)


def mac_of_duid(duid: bytes) -> bytes | None:
    """The MAC address that a DUID was made from (RFC 8415, 11.2 and 11.4); None for other DUIDs."""
    begins = _LINK_LAYER_DUIDS.get(duid[:4])
    return None if begins is None or len(duid) != begins + 6 else duid[begins:]
