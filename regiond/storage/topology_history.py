"""What happened to clusters' interfaces: written with the change itself, read in pages, and not kept for ever."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from regiond.domain.topology_changes import Happened, InterfaceChange, RecordedChange
from regiond.storage.pool import Pool, Session

KEPT_DAYS: Final = 90
KEPT_PER_CLUSTER: Final = 10_000
MAX_PRUNED: Final = 20_000

_PRUNE_OLD: Final = """
DELETE FROM interface_change WHERE id IN (
    SELECT id FROM interface_change WHERE at < now() - make_interval(days => %s) ORDER BY at LIMIT %s)
"""
# A NIC that flaps for days does not fill the database: each cluster keeps its latest changes.
_PRUNE_MANY: Final = """
WITH newest_to_go AS MATERIALIZED (
    SELECT c.id AS cluster, (SELECT n.id FROM interface_change n
                             WHERE n.cluster = c.id ORDER BY n.id DESC OFFSET %s LIMIT 1) AS id
    FROM cluster c
)
DELETE FROM interface_change WHERE id IN (
    SELECT h.id FROM newest_to_go g JOIN interface_change h ON h.cluster = g.cluster AND h.id <= g.id
    WHERE g.id IS NOT NULL LIMIT %s)
"""


@dataclass(frozen=True, slots=True)
class ChangeFilter:
    """A conjunction of conditions; several values of one mean any of them. Empty means no condition."""

    happened: Sequence[Happened] = ()
    nics: Sequence[str] = ()
    cidrs: Sequence[str] = ()
    vrfs: Sequence[str] = ()
    interfaces: Sequence[int] = ()


async def write_changes(session: Session, cluster: int, changes: Sequence[InterfaceChange]) -> None:
    """Add them to the cluster's history."""
    if not changes:
        return
    rows = [
        {
            "interface": each.interface,
            "happened": each.happened.value,
            "nic": each.nic,
            "cidr": each.cidr,
            "vrf": each.vrf,
            "serving": each.serving,
            "before": dict(each.before),
            "after": dict(each.after),
        }
        for each in changes
    ]
    await session.run(
        """INSERT INTO interface_change (cluster, interface, happened, nic, cidr, vrf, serving, before, after)
           SELECT %s, q.* FROM jsonb_to_recordset(%s::jsonb) AS q(interface bigint, happened text, nic text, cidr cidr,
               vrf text, serving text, before jsonb, after jsonb)""",
        (cluster, json.dumps(rows)),
    )


class TopologyHistory:
    """The history of all clusters."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def changes(
        self, cluster: int, wanted: ChangeFilter, limit: int, after: int | None = None
    ) -> list[RecordedChange]:
        """The newest first; `after` is the last (and oldest) id of the page before."""
        conditions: dict[str, Any] = {
            "happened = ANY(%s)": [each.value for each in wanted.happened],
            "nic = ANY(%s)": list(wanted.nics),
            "cidr = ANY(%s::cidr[])": list(wanted.cidrs),
            "vrf = ANY(%s)": list(wanted.vrfs),
            "interface = ANY(%s)": list(wanted.interfaces),
        }
        used = {text: values for text, values in conditions.items() if values}
        if after is not None:
            used["id < %s"] = after
        where = " AND ".join(["cluster = %s", *used])
        rows = await self._pool.query(
            f"""SELECT id, at, happened, interface, nic, cidr::text, vrf, serving, before, after
                FROM interface_change WHERE {where} ORDER BY id DESC LIMIT %s""",  # noqa: S608 (constants only)
            (cluster, *used.values(), limit),
            retry=True,
        )
        return [RecordedChange(row[0], row[1], InterfaceChange(Happened(row[2]), *row[3:])) for row in rows]

    async def prune(self) -> None:
        """Forget what is too old, and of each cluster what is too much; some at a time."""
        await self._pool.execute(_PRUNE_OLD, (KEPT_DAYS, MAX_PRUNED), retry=True)
        await self._pool.execute(_PRUNE_MANY, (KEPT_PER_CLUSTER, MAX_PRUNED), retry=True)
