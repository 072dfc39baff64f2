"""IPv4 host maps as host objects of dhcpd: their names, statements and addresses, and the steps of a change; pure.

dhcpd has at most one host object per MAC address or client-id that was made over OMAPI; its host maps in several
subnets are addresses of that object, of which dhcpd picks the one that fits. Names are only `[a-z0-9-]`: dhcpd checks
no syntax, and a name with a space corrupts its leases file.

    hostmap-00-16-3e-00-00-01                 by MAC address, no host names
    hostmap-id-ff0a2c3b0a-5e884898            by client-id; the last part stands for the host names

dhcpd neither changes an object's statements nor shows them over OMAPI. The part of the name that stands for the host
names makes objects with other host names other objects, and lets a look-up by name tell whether they are as they
should be.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s

from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

PREFIX = "hostmap-"
ETHERNET = b"\0\0\0\1"


@dataclass(frozen=True)
class HostObject:
    """All IPv4 host maps of one client, one address each, in the order of the addresses. Never empty."""

    host_maps: tuple[HostMap, ...]

    @classmethod
    def of(cls, host_maps: Iterable[HostMap]) -> "HostObject | None":
        """The object for the host maps of one identifier; None for none."""
        ordered = tuple(sorted(host_maps, key=lambda host_map: pack_address(host_map.address)))
        return cls(ordered) if ordered else None

    @property
    def identifier(self) -> Identifier:
        return self.host_maps[0].identifier

    @cached_property
    def name(self) -> str:
        """What dhcpd calls it."""
        statements = self.statements
        names = f"-{blake2s(statements.encode('ascii'), digest_size=4).hexdigest()}" if statements else ""
        return f"{PREFIX}{_client_part(self.identifier)}{names}"

    @cached_property
    def statements(self) -> str:
        """What dhcpd does for the client beside the address: it tells the host name."""
        names = {host_map.hostname for host_map in self.host_maps}
        if names == {None}:
            return ""
        if len(names) == 1:
            return f'option host-name "{self.host_maps[0].hostname}";'
        return "if " + " elsif ".join(
            f'leased-address = {_colons(host_map.address)} {{ option host-name "{host_map.hostname}"; }}'
            for host_map in self.host_maps
            if host_map.hostname is not None
        )

    @property
    def packed_addresses(self) -> bytes:
        """The addresses, one after the other."""
        return b"".join(pack_address(host_map.address) for host_map in self.host_maps)

    def values(self) -> dict[bytes, bytes]:
        """What the object is made from, by OMAPI's names."""
        values = {b"name": self.name.encode("ascii"), b"ip-address": self.packed_addresses}
        values |= client_values(self.identifier)
        if self.statements:
            values[b"statements"] = self.statements.encode("ascii")
        return values


def client_values(identifier: Identifier) -> dict[bytes, bytes]:
    """How OMAPI looks up the object of a client."""
    if identifier.kind is IdentifierKind.MAC:
        return {b"hardware-address": identifier.value, b"hardware-type": ETHERNET}
    return {b"dhcp-client-identifier": identifier.value}


def is_ours(name: bytes) -> bool:
    """Whether an object of this name was made by clusterd."""
    return name.startswith(PREFIX.encode("ascii"))


def by_client(host_maps: Iterable[HostMap]) -> dict[Identifier, HostObject]:
    """The objects for these IPv4 host maps."""
    groups: dict[Identifier, list[HostMap]] = {}
    for host_map in host_maps:
        groups.setdefault(host_map.identifier, []).append(host_map)
    return {identifier: HostObject(_in_order(group)) for identifier, group in groups.items()}


@dataclass(frozen=True, slots=True)
class ClientChange:
    """What becomes of one client's object: what is removed first, then what is added.

    `forgotten`: a host map is to go that was not known to be there, so dhcpd has to be asked.
    """

    identifier: Identifier
    before: HostObject | None
    between: HostObject | None
    after: HostObject | None
    refused: tuple[HostMap, ...] = ()
    forgotten: bool = False


def plan(
    known: Mapping[Identifier, HostObject], removed: Iterable[HostMap], added: Iterable[HostMap]
) -> list[ClientChange]:
    """The changes, client by client, always in the same order; clients for which nothing changes are left out.

    A client gets one host name per address: a host map with another one for an address it keeps is refused.
    """
    leaving: dict[Identifier, set[HostMap]] = {}
    coming: dict[Identifier, set[HostMap]] = {}
    for host_map in removed:
        leaving.setdefault(host_map.identifier, set()).add(host_map)
    for host_map in added:
        coming.setdefault(host_map.identifier, set()).add(host_map)
    changes = []
    for identifier in sorted(leaving.keys() | coming.keys()):
        before = known.get(identifier)
        had = set(before.host_maps) if before is not None else set()
        gone = leaving.get(identifier, set())
        kept = had - gone
        fitting, refused = _one_per_address(kept, coming.get(identifier, set()))
        forgotten = bool(gone - had)
        if forgotten or kept != had or fitting != kept:
            between = before if kept == had else HostObject.of(kept)
            after = between if fitting == kept else HostObject.of(fitting)
            changes.append(ClientChange(identifier, before, between, after, refused, forgotten))
        elif refused:
            changes.append(ClientChange(identifier, before, before, before, refused))
    return changes


def _one_per_address(kept: set[HostMap], coming: set[HostMap]) -> tuple[set[HostMap], tuple[HostMap, ...]]:
    taken = {host_map.address: host_map for host_map in kept}
    refused = [host_map for host_map in sorted(coming) if taken.setdefault(host_map.address, host_map) != host_map]
    return set(taken.values()), tuple(refused)


def _in_order(host_maps: list[HostMap]) -> tuple[HostMap, ...]:
    if len(host_maps) > 1:
        host_maps.sort(key=lambda host_map: pack_address(host_map.address))
    return tuple(host_maps)


def _client_part(identifier: Identifier) -> str:
    if identifier.kind is IdentifierKind.MAC:
        return identifier.value.hex("-")
    return f"id-{identifier.value.hex()}"


def _colons(address: str) -> str:
    return pack_address(address).hex(":")
