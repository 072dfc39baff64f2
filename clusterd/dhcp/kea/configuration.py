"""What a Kea server's configuration means for host maps: its subnets, and what it would ignore; pure.

The input is what `config-get` answers, or a configuration file that was read in full (`clusterd.dhcp.kea.config_file`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterd.protocol.addresses import BITS, Family, address_to_int
from clusterd.protocol.values import HostMap, IdentifierKind, parse_network

MAX_CLIENT_ID_BYTES = 128  # what Kea reads back of a host identifier (src/lib/dhcp/duid.h)
MAX_DUID_BYTES = 128

_UNIVERSAL = "Kea knows the MAC address of a DHCPv6 client only when it is universally administered, and {mac} is not"


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet of the server. `entries` are the reservations that the configuration has for it, ours and others'."""

    id: int
    cidr: str
    serves_reservations: bool
    out_of_pool: bool
    matches_client_id: bool
    pools: tuple[tuple[int, int], ...]
    entries: tuple[Mapping[str, Any], ...] = ()

    def pool_around(self, address: int) -> bool:
        """Whether this address may also be leased to anybody."""
        return any(low <= address <= high for low, high in self.pools)


@dataclass(frozen=True, slots=True)
class HostsDatabase:
    """A hosts database that the server names. `parameters` are libpq's; the password is among them."""

    kind: str
    parameters: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class Configuration:
    """One server's configuration."""

    family: Family
    subnets: tuple[Subnet, ...]
    identifiers: tuple[str, ...]
    unique_addresses: bool
    databases: tuple[HostsDatabase, ...]

    def __post_init__(self) -> None:
        by_length: dict[int, dict[int, Subnet]] = {}
        for subnet in self.subnets:
            network, _, length = subnet.cidr.partition("/")
            shift = BITS[self.family] - int(length)
            by_length.setdefault(shift, {})[address_to_int(network)[1] >> shift] = subnet
        object.__setattr__(self, "_by_shift", sorted(by_length.items()))  # the longest prefix first

    def subnet_of(self, address: str) -> Subnet | None:
        """The smallest subnet with this address in it."""
        _, value = address_to_int(address)
        by_shift: list[tuple[int, dict[int, Subnet]]] = self._by_shift  # type: ignore[attr-defined]
        for shift, subnets in by_shift:
            subnet = subnets.get(value >> shift)
            if subnet is not None:
                return subnet
        return None

    def place(self, host_map: HostMap) -> Subnet | str:
        """The subnet that a host map belongs into, or why the server would not serve it there."""
        subnet = self.subnet_of(host_map.address)
        if subnet is None:
            return f"kea-dhcp{self.family} has no subnet with {host_map.address} in its configuration"
        if not subnet.serves_reservations:
            return f"kea-dhcp{self.family} ignores reservations in {subnet.cidr}: reservations-in-subnet is false"
        if subnet.out_of_pool and subnet.pool_around(address_to_int(host_map.address)[1]):
            return (
                f"kea-dhcp{self.family} ignores a reservation of {host_map.address}: it lies in a pool of "
                f"{subnet.cidr}, and reservations-out-of-pool is true"
            )
        return subnet if (reason := self._unmatchable(host_map)) is None else reason

    def _unmatchable(self, host_map: HostMap) -> str | None:
        """Why the server would never recognise the client."""
        identifier = host_map.identifier
        name = _IDENTIFIERS[identifier.kind]
        if name not in self.identifiers:
            return f"kea-dhcp{self.family} does not look for a {name}: host-reservation-identifiers lacks it"
        if self.family == 6 and identifier.kind is IdentifierKind.MAC and identifier.value[0] & 2:
            return _UNIVERSAL.format(mac=identifier.text) + ": use the machine's DUID"
        limit = MAX_DUID_BYTES if identifier.kind is IdentifierKind.DUID else MAX_CLIENT_ID_BYTES
        if len(identifier.value) > limit:
            return f"Kea takes identifiers of at most {limit} octets, and this {name} has {len(identifier.value)}"
        return None

    def obstacles(self) -> list[str]:
        """What in the configuration keeps host maps from being served as they should be, one sentence each."""
        server = f"kea-dhcp{self.family}"
        found = []
        if not self.subnets:
            found.append(f"{server} has no subnets: add those of this site to its configuration.")
        deaf = [subnet.cidr for subnet in self.subnets if not subnet.serves_reservations]
        if deaf:
            found.append(f"{server} ignores reservations in {_some(deaf)}: set reservations-in-subnet to true.")
        narrow = [subnet.cidr for subnet in self.subnets if subnet.out_of_pool and subnet.pools]
        if narrow:
            found.append(
                f"{server} ignores reservations inside of the pools of {_some(narrow)}, because "
                "reservations-out-of-pool is true: keep the pools "
                "out of what hostmap allocates (a dynamic range), or set it to false."
            )
        fickle = [subnet.cidr for subnet in self.subnets if subnet.matches_client_id]
        if fickle and self.family == 4:
            found.append(
                f"{server} takes a machine whose client-id changes, as it does from PXE to the system, for two "
                f"machines, and leaves the second without an address, in {_some(fickle)}: set match-client-id to false."
            )
        wanted = ("client-id", "hw-address") if self.family == 4 else ("duid", "hw-address")
        missing = [name for name in wanted if name not in self.identifiers]
        if missing:
            found.append(
                f"{server} does not recognise clients by {' and '.join(missing)}: set host-reservation-identifiers "
                f"to {_json_list(wanted)}."
            )
        elif self.family == 4 and self.identifiers.index("client-id") > self.identifiers.index("hw-address"):
            found.append(
                f"{server} would give a NIC alias the address of its NIC, because it looks for the hw-address first: "
                f"set host-reservation-identifiers to {_json_list(wanted)}."
            )
        return found


_IDENTIFIERS = {IdentifierKind.MAC: "hw-address", IdentifierKind.CLIENT_ID: "client-id", IdentifierKind.DUID: "duid"}
_DEFAULT_IDENTIFIERS: dict[Family, tuple[str, ...]] = {
    4: ("hw-address", "duid", "circuit-id", "client-id"),
    6: ("hw-address", "duid"),
}


def parse_configuration(family: Family, document: Mapping[str, Any]) -> Configuration:
    """What stands below `Dhcp4` or `Dhcp6`. Raises ValueError for what cannot be such a configuration."""
    try:
        content = document[f"Dhcp{family}"]
        return Configuration(
            family,
            tuple(_subnets(family, content)),
            tuple(content.get("host-reservation-identifiers", _DEFAULT_IDENTIFIERS[family])),
            bool(content.get("ip-reservations-unique", True)),
            tuple(_databases(content)),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a configuration of kea-dhcp{family}: {error!r}") from error


def _subnets(family: Family, content: Mapping[str, Any]) -> Iterator[Subnet]:
    name = f"subnet{family}"
    for entry in content.get(name, ()):
        yield _subnet(entry, (content,), family)
    for network in content.get("shared-networks", ()):
        for entry in network.get(name, ()):
            yield _subnet(entry, (network, content), family)


def _subnet(entry: Mapping[str, Any], around: Sequence[Mapping[str, Any]], family: Family) -> Subnet:
    scopes = (entry, *around)
    mode = _inherited(scopes, "reservation-mode", None)  # the former name of the two flags
    return Subnet(
        id=int(entry.get("id", 0)),
        cidr=parse_network(entry["subnet"]),
        serves_reservations=bool(_inherited(scopes, "reservations-in-subnet", mode not in ("disabled", "global"))),
        out_of_pool=bool(_inherited(scopes, "reservations-out-of-pool", mode == "out-of-pool")),
        matches_client_id=bool(_inherited(scopes, "match-client-id", True)),
        pools=tuple(_pool(pool["pool"], family) for pool in entry.get("pools", ())),
        entries=tuple(entry.get("reservations", ())),
    )


def _inherited(scopes: Sequence[Mapping[str, Any]], name: str, default: Any) -> Any:
    return next((scope[name] for scope in scopes if name in scope), default)


def _pool(text: str, family: Family) -> tuple[int, int]:
    """`192.0.2.10 - 192.0.2.20` or a prefix, as first and last address."""
    low, dash, high = (part.strip() for part in text.partition("-"))
    if dash:
        return address_to_int(low)[1], address_to_int(high)[1]
    network, _, length = low.partition("/")
    first = address_to_int(network)[1]
    return first, first + (1 << (BITS[family] - int(length))) - 1


def _databases(content: Mapping[str, Any]) -> Iterator[HostsDatabase]:
    single = content.get("hosts-database")
    for entry in [*([single] if single else ()), *content.get("hosts-databases", ())]:
        names = {"name": "dbname", "host": "host", "port": "port", "user": "user", "password": "password"}
        parameters = {names[key]: str(value) for key, value in entry.items() if key in names and value not in ("", 0)}
        yield HostsDatabase(str(entry.get("type", "")), {"host": "localhost", **parameters})


def _json_list(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _some(cidrs: Sequence[str]) -> str:
    shown = ", ".join(cidrs[:3])
    return shown if len(cidrs) <= 3 else f"{shown} and {len(cidrs) - 3} more"
