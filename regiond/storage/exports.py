"""Reservations for a file: lean rows, page after page in order of id."""

from collections.abc import Sequence
from typing import Any, Final

from regiond.domain.ids import Prefix, format_id
from regiond.domain.lines import Line
from regiond.domain.reservations import Kind, Status
from regiond.storage.pool import Pool
from regiond.storage.reservation_filter import ReservationFilter

_LINES: Final = """
SELECT r.id, host(r.address), s.cidr::text, v.name, r.kind, r.macs, r.client_id, r.duid, r.alias, r.hostname, a.name,
       r.device, n.hostname, r.node, r."group", r.purpose, r.comment, r.expires_at, r.status, r.created
FROM reservation r JOIN subnet s ON s.id = r.subnet JOIN vrf v ON v.id = s.vrf JOIN account a ON a.id = r.owner
     LEFT JOIN node n ON n.id = r.node
"""


class ExportReads:
    """Each page is one statement on a connection that is given back at once: whoever reads slowly holds nothing."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, wanted: ReservationFilter, limit: int, after: int | None) -> list[tuple[int, Line]]:
        """At most `limit` reservations with an id above `after`, in order of id, as (id, line)."""
        where, arguments = wanted.where(after)
        rows = await self._pool.query(f"{_LINES} WHERE {where} ORDER BY r.id LIMIT %s", (*arguments, limit), retry=True)
        return [(row[0], _line(row)) for row in rows]


def _line(row: Sequence[Any]) -> Line:
    (number, address, cidr, vrf, kind, macs, client_id, duid, alias, hostname, owner) = row[:11]
    (device, node_name, node, group, purpose, comment, expires_at, status, created) = row[11:]
    return Line(
        address=address,
        subnet=cidr,
        vrf=vrf,
        kind=Kind(kind),
        macs=tuple(macs),
        client_id=client_id,
        duid=duid,
        alias=alias,
        hostname=hostname,
        owner=owner,
        device=None if device is None else format_id(Prefix.DEVICE, device),
        node=None if node is None else (node_name or format_id(Prefix.NODE, node)),
        group=None if group is None else format_id(Prefix.GROUP, group),
        purpose=purpose,
        comment=comment,
        expires_at=expires_at,
        status=Status(status),
        created=created,
        id=format_id(Prefix.RESERVATION, number),
    )
