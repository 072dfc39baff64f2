"""Kea's configuration: JSON with comments and includes, and what it says of pools and reservations; pure.

Pools are `pools` of subnets and shared networks; `pd-pools` delegate prefixes, which nobody claims. Reservations stand
in subnets, in shared networks' subnets, and globally; and, elsewhere than in the configuration, in hosts databases and
in the server's memory.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterd.dhcp.first_contact import MAX_REMARKS, ServerPicture, identifiers_of, safe_hostname
from clusterd.dhcp.kea.rows import KIND_OF_TYPE, Row
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import IdentifierKind, ServerEntry, ServerPool, parse_hex, parse_mac

MAX_INCLUDES = 100

_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|//[^\n]*|#[^\n]*|<\?\s*include\s*"([^"\n]+)"\s*\?>|,(?=\s*[\]}])', re.DOTALL
)
_KINDS = {"hw-address": IdentifierKind.MAC, "client-id": IdentifierKind.CLIENT_ID, "duid": IdentifierKind.DUID}


def plain_json(text: str, include: Callable[[str], str], depth: int = 0) -> str:
    """The text without comments and trailing commas, and with its includes put in.

    `include` gives the text of the file of that name. Raises ValueError for includes without an end.
    """
    if depth > MAX_INCLUDES:
        raise ValueError(f"more than {MAX_INCLUDES} includes within each other")

    def replacement(found: re.Match[str]) -> str:
        token = found[0]
        if token.startswith('"'):
            return token
        if found[1] is not None:
            return plain_json(include(found[1]), include, depth + 1)
        return " "

    without = _TOKEN.sub(replacement, text)
    # A comment may stand between a comma and the bracket after it.
    return _TOKEN.sub(replacement, without) if depth == 0 else without


def parse(text: str, include: Callable[[str], str]) -> Mapping[str, Any]:
    """The configuration as a JSON object. Raises ValueError."""
    content = json.loads(plain_json(text, include))
    if not isinstance(content, dict):
        raise ValueError("the configuration is no JSON object")
    return content


@dataclass(slots=True)
class Findings:
    """What a configuration says. `is_ours` tells of a reservation, a JSON object, whether clusterd made it."""

    is_ours: Callable[[Mapping[str, Any]], bool] = lambda reservation: False
    pools: set[ServerPool] = field(default_factory=set)
    entries: set[ServerEntry] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    @property
    def picture(self) -> ServerPicture:
        return ServerPicture(frozenset(self.pools), frozenset(self.entries), tuple(self.remarks))

    def take(self, configuration: Mapping[str, Any], source: str) -> None:
        """A whole configuration: the object with `Dhcp4` or `Dhcp6` in it."""
        for name, subnets in (("Dhcp4", "subnet4"), ("Dhcp6", "subnet6")):
            server = configuration.get(name)
            if not isinstance(server, Mapping):
                continue
            self._reservations(server, f"{source}: global reservations")
            for subnet in _subnets(server, subnets):
                where = f"{source}: subnet {subnet.get('subnet', '?')}"
                self._pools(subnet, where)
                self._reservations(subnet, where)

    def _pools(self, subnet: Mapping[str, Any], where: str) -> None:
        for pool in _objects(subnet.get("pools")):
            text = str(pool.get("pool", ""))
            try:
                self.pools.add(ServerPool(*_ends(text), where))
            except ValueError as error:
                self._remark(f"{where}: the pool {text[:80]!r} was not understood: {error}")

    def reservations(self, reservations: Iterable[Mapping[str, Any]], where: str) -> None:
        """Reservations as the server lists them itself; those that the configuration has, too, are known already."""
        known = {(entry.address, entry.identifiers) for entry in self.entries}
        for entry in self._entries(reservations, where):
            if (entry.address, entry.identifiers) not in known:
                self.entries.add(entry)

    def rows(self, rows: Iterable[Row], where: str) -> None:
        """Rows of a hosts table; ours are not among them."""
        for row in rows:
            if row.address is not None:
                kind = KIND_OF_TYPE.get(row.type)
                clients = [(kind, row.value)] if kind in _kinds_of(row.address) else []
                self.entries.add(
                    ServerEntry(row.address, identifiers_of(clients), safe_hostname(row.hostname or None), where)
                )

    def _reservations(self, holder: Mapping[str, Any], where: str) -> None:
        self.entries.update(self._entries(_objects(holder.get("reservations")), where))

    def _entries(self, reservations: Iterable[Mapping[str, Any]], where: str) -> Iterator[ServerEntry]:
        for reservation in reservations:
            if self.is_ours(reservation):
                continue
            addresses = [reservation.get("ip-address"), *_list(reservation.get("ip-addresses"))]
            for address in filter(None, addresses):
                try:
                    yield _entry(reservation, str(address).removesuffix("/128"), where)
                except ValueError as error:
                    self._remark(f"{where}: the reservation of {str(address)[:64]} was not understood: {error}")

    def _remark(self, text: str) -> None:
        if len(self.remarks) < MAX_REMARKS:
            self.remarks.append(text)


def _subnets(server: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    yield from _objects(server.get(name))
    for shared in _objects(server.get("shared-networks")):
        yield from _objects(shared.get(name))


def _ends(text: str) -> tuple[str, str]:
    """`low - high` or `network/length`."""
    low, hyphen, high = text.partition("-")
    if hyphen:
        return low.strip(), high.strip()
    network = ipaddress.ip_network(text.strip(), strict=False)
    return str(network[0]), str(network[-1])


def _entry(reservation: Mapping[str, Any], address: str, where: str) -> ServerEntry:
    possible = _kinds_of(address)
    clients = [
        (kind, _octets(kind, str(reservation[name])))
        for name, kind in _KINDS.items()
        if kind in possible and reservation.get(name)
    ]
    hostname = reservation.get("hostname")
    return ServerEntry(
        address, identifiers_of(clients), safe_hostname(hostname) if isinstance(hostname, str) else None, where
    )


def _kinds_of(address: str) -> tuple[IdentifierKind, ...]:
    """The identifiers that a host map with this address can have. Raises ValueError."""
    other = IdentifierKind.CLIENT_ID if len(pack_address(address)) == 4 else IdentifierKind.DUID
    return IdentifierKind.MAC, other


def _octets(kind: IdentifierKind, text: str) -> bytes:
    """As Kea reads an identifier: `'text'` in single quotes, or hexadecimal octets, with `0x` or separators or none."""
    plain = text.strip()
    if kind is IdentifierKind.MAC:
        return parse_mac(plain)
    if plain.startswith("'"):
        return plain.strip("'").encode("utf-8", "replace")
    return parse_hex(plain.removeprefix("0x").removeprefix("0X"))


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    return [item for item in _list(value) if isinstance(item, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
