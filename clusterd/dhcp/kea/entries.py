"""Reservations in Kea's own JSON as the rows that changes are planned on; pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterd.dhcp.kea.reservations import host_map_of, is_ours
from clusterd.dhcp.kea.rows import TYPE_OF_KIND, Placed, Row, RowChanges
from clusterd.protocol.values import HostMap


def rows_of(entries: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Row]:
    """Rows for (subnet id, reservation) pairs, numbered from 1; what no host map can be is left out."""
    for number, (subnet_id, entry) in enumerate(entries, start=1):
        host_map = host_map_of(entry)
        if host_map is not None:
            identifier = host_map.identifier
            kind = TYPE_OF_KIND[identifier.kind]
            yield Row(number, subnet_id, kind, identifier.value, host_map.address, host_map.hostname, is_ours(entry))


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
