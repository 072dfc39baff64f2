"""Reservations in Kea's own JSON as the rows that changes are planned on; pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterd.dhcp.kea.reservations import IDENTIFIER_NAMES, host_map_of, is_ours
from clusterd.dhcp.kea.rows import TYPE_OF_KIND, Placed, Row, RowChanges
from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import HostMap, parse_hex

_OTHER_NAMES = {"circuit-id": 2, "flex-id": 4}  # identifiers that no host map has; as numbers: host_identifier_type


def rows_of(entries: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
    """Rows for (subnet id, reservation) pairs, one per address; reservations are numbered from 1."""
    for number, (subnet_id, entry) in enumerate(entries, start=1):
        host_map = host_map_of(entry)
        if host_map is not None:
            identifier, hostname = host_map.identifier, host_map.hostname
            kind = TYPE_OF_KIND[identifier.kind]
            yield Row(number, subnet_id, kind, identifier.value, host_map.address, hostname, is_ours(entry))
        else:
            yield from _foreign_rows(number, subnet_id, entry)


def _foreign_rows(number: int, subnet_id: int, entry: Mapping[str, Any]) -> Iterator[Row]:
    """What is no host map, and still has its address."""
    names = {IDENTIFIER_NAMES[kind]: kind_number for kind, kind_number in TYPE_OF_KIND.items()} | _OTHER_NAMES
    name = next((name for name in names if name in entry), None)
    if name is None:
        return
    value = str(entry[name])
    for address in (entry.get("ip-address"), *entry.get("ip-addresses", ())):
        try:
            canonical = canonical_address(str(address).removesuffix("/128"))
        except ValueError:
            continue
        try:
            octets = parse_hex(value.removeprefix("0x"))
        except ValueError:
            octets = value.strip("'").encode()
        yield Row(number, subnet_id, names[name], octets, canonical, None, ours=False)


def after(existing: Iterable[Row], changes: RowChanges) -> dict[int, set[HostMap]]:
    """The host maps of ours per subnet id once the changes are made."""
    result: dict[int, set[HostMap]] = {}
    for row in existing:
        host_map = row.host_map()
        if row.ours and host_map is not None and row.host_id not in changes.deletes:
            result.setdefault(row.subnet_id, set()).add(host_map)
    for host_map, subnet_id in changes.inserts:
        result.setdefault(subnet_id, set()).add(host_map)
    return result


def without(changes: RowChanges, refused: Iterable[Placed]) -> RowChanges:
    """The same changes without some of the insertions."""
    dropped = set(refused)
    return RowChanges(changes.deletes, [one for one in changes.inserts if one not in dropped], changes.rejections)
