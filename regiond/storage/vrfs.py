"""VRFs. Which one a cluster has is changed in `cluster_edits`.

What a cluster reported last is looked at anew where a VRF comes: a network that was in
conflict may have its place now. That is done in the same transaction, under the topology's lock.
"""

from typing import Final

from regiond.domain import errors, versions
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.vrfs import DEFAULT_VRF, VrfView
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, once, was_done, write_audit
from regiond.storage.pool import Pool, Session
from regiond.storage.topology import TOPOLOGY_LOCK
from regiond.storage.topology_log import tell_all
from regiond.storage.topology_rows import Reconsidered, reconsider

_VRFS: Final = """
SELECT v.id, v.name, v.comment, v.created, (SELECT count(*) FROM subnet s WHERE s.vrf = v.id),
       (SELECT count(*) FROM cluster c WHERE c.vrf = v.id AND c.forgotten IS NULL)
FROM vrf v
"""


class VrfStore:
    """Raises NotFound for a VRF or cluster that is not there."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def vrfs(self) -> list[VrfView]:
        """All of them, by name."""
        rows = await self._pool.query(f"{_VRFS} ORDER BY v.name", retry=True)
        return [VrfView(*row) for row in rows]

    async def was_done(self, change: Change) -> bool:
        """As `changes.was_done`."""
        return await was_done(self._pool, change)

    async def add(self, change: Change, name: str, comment: str | None) -> tuple[int, Reconsidered]:
        """The id of a new VRF. Networks that waited for it are in it at once. Raises NameTaken."""
        vrf = self._new_id()
        reconsidered = Reconsidered()

        async def insert(session: Session) -> int:
            nonlocal reconsidered
            await session.run(TOPOLOGY_LOCK)
            made = await session.run(
                "INSERT INTO vrf (id, name, comment) VALUES (%s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING id",
                (vrf, name, comment),
            )
            if not made:
                raise errors.NameTaken(f"there is a VRF {name} already")
            after = {"name": name, "comment": comment}
            await write_audit(session, change, "vrf.create", format_id(Prefix.VRF, vrf), None, after)
            waiting = await session.run(
                "SELECT DISTINCT cluster FROM cluster_interface WHERE present AND vrf = %s ORDER BY cluster", (name,)
            )
            reconsidered = await reconsider(session, self._new_id, [row[0] for row in waiting])
            return vrf

        made = await once(
            self._pool, change, insert, "SELECT id FROM vrf WHERE id = %s", (vrf,), deadline=LONG_DEADLINE_SECONDS
        )
        tell_all(reconsidered)
        return made, reconsidered

    async def change(self, change: Change, vrf: int, comment: str | None) -> None:
        """Set the comment. Raises StaleVersion."""

        async def update(session: Session) -> int:
            rows = await session.run("SELECT name, comment FROM vrf WHERE id = %s FOR UPDATE", (vrf,))
            if not rows:
                raise _gone(vrf)
            versions.require(change.if_match, versions.of_vrf(vrf, rows[0][1]))
            if rows[0][1] == comment:
                return vrf
            await session.run("UPDATE vrf SET comment = %s WHERE id = %s", (comment, vrf))
            before, after = {"comment": rows[0][1]}, {"comment": comment}
            await write_audit(session, change, "vrf.change", format_id(Prefix.VRF, vrf), before, after)
            return vrf

        await once(self._pool, change, update, sets=True)

    async def remove(self, change: Change, vrf: int) -> None:
        """Raises VrfInUse while subnets are in it or clusters have it as their own, StaleVersion."""

        async def delete(session: Session) -> int:
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run(f"{_VRFS} WHERE v.id = %s FOR UPDATE OF v", (vrf,))
            if not rows:
                raise _gone(vrf)
            found = VrfView(*rows[0])
            versions.require(change.if_match, versions.of_vrf(vrf, found.comment))
            if vrf == DEFAULT_VRF:
                raise errors.VrfInUse(
                    "the default VRF is always there", subnet_count=found.subnets, cluster_count=found.clusters
                )
            # a cluster that was forgotten has no networks any more, and its row stays
            await session.run(
                "UPDATE cluster SET vrf = %s WHERE vrf = %s AND forgotten IS NOT NULL", (DEFAULT_VRF, vrf)
            )
            if found.subnets or found.clusters:
                raise errors.VrfInUse(
                    f"VRF {found.name} is in use (subnets in it: {found.subnets}, clusters whose own it is: "
                    f"{found.clusters}): regionctl subnets remove, regionctl clusters set --vrf",
                    subnet_count=found.subnets,
                    cluster_count=found.clusters,
                )
            await session.run("DELETE FROM vrf WHERE id = %s", (vrf,))
            before = {"name": found.name, "comment": found.comment}
            await write_audit(session, change, "vrf.remove", format_id(Prefix.VRF, vrf), before, None)
            return vrf

        await once(self._pool, change, delete)


def _gone(vrf: int) -> errors.NotFound:
    return errors.NotFound(f"there is no VRF {format_id(Prefix.VRF, vrf)}")
