"""VRFs, and which one is whose.

What a cluster reported last is looked at anew where a VRF comes, or the cluster gets another one: a network that was in
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
from regiond.storage.topology_rows import ABSENT_SECONDS, Company, Reconsidered, reconsider

_VRFS: Final = """
SELECT v.id, v.name, v.comment, v.created, (SELECT count(*) FROM subnet s WHERE s.vrf = v.id),
       (SELECT count(*) FROM cluster c WHERE c.vrf = v.id AND c.forgotten IS NULL)
FROM vrf v
"""

# Clusters that serve subnets together with one, or with one of those, all in the VRF that is theirs.
_PAIRED: Final = """
WITH RECURSIVE going (cluster) AS (
    SELECT %s::bigint
    UNION
    SELECT o.cluster FROM going g JOIN cluster c ON c.id = g.cluster
    JOIN delivery d ON d.cluster = c.id AND d.role = 'serving'
    JOIN subnet s ON s.id = d.subnet AND s.vrf = c.vrf
    JOIN delivery o ON o.subnet = s.id AND o.cluster <> c.id AND o.role = 'serving'
    JOIN cluster p ON p.id = o.cluster AND p.vrf = c.vrf AND p.forgotten IS NULL
) SELECT cluster FROM going ORDER BY cluster
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

    async def set_cluster_vrf(
        self, change: Change, cluster: int, vrf: int, *, pairs: bool, force: bool
    ) -> Reconsidered:
        """The VRF of the cluster's networks from now on, but for those whose NIC its configuration gives another one.

        A subnet that the cluster serves alone goes there with its reservations; see `domain.topology`. `pairs`: the
        clusters go, too, that serve subnets together with it, or with one of those, and the subnets with them all.
        Raises SubnetsLeftBehind, unless forced, where one of them would stop serving another one; StaleVersion.
        """

        reconsidered = Reconsidered()

        async def update(session: Session) -> int:
            nonlocal reconsidered
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run(
                """SELECT c.vrf, v.name FROM cluster c JOIN vrf v ON v.id = c.vrf
                   WHERE c.id = %s AND c.forgotten IS NULL""",
                (cluster,),
            )
            if not rows:
                raise errors.NotFound(f"there is no cluster {format_id(Prefix.CLUSTER, cluster)}")
            versions.require(change.if_match, versions.of_cluster(cluster, rows[0][1]))
            names = await session.run("SELECT name FROM vrf WHERE id = %s", (vrf,))
            if not names:
                raise _gone(vrf)
            if rows[0][0] == vrf:
                return cluster
            going = [row[0] for row in await session.run(_PAIRED, (cluster,))] if pairs else [cluster]
            await session.run("UPDATE cluster SET vrf = %s WHERE id = ANY(%s)", (vrf, going))
            reconsidered = await reconsider(session, self._new_id, going, Company(frozenset(going)))
            left = await _served_elsewhere(session, going)
            if left and not force:
                with_them = "" if pairs else " (pairs=true takes those along that serve it with this one)"
                raise errors.SubnetsLeftBehind(
                    f"{', '.join(left)} would lose a cluster that serves it: another cluster is there too{with_them}, "
                    f"or VRF {names[0][0]} has such a network already; the reservations would stay where they are "
                    "(force=true)",
                    subnets=left,
                )
            before, after = {"vrf": rows[0][1]}, {"vrf": names[0][0]}
            for each in going:
                await write_audit(session, change, "cluster.change", format_id(Prefix.CLUSTER, each), before, after)
            return cluster

        await once(self._pool, change, update, deadline=LONG_DEADLINE_SECONDS, sets=True)
        tell_all(reconsidered)
        return reconsidered


async def _served_elsewhere(session: Session, clusters: list[int]) -> list[str]:
    """The subnets that the clusters serve and that are not in their VRF, though the NIC is, as of this transaction."""
    rows = await session.run(
        """SELECT DISTINCT s.cidr, s.cidr::text
           FROM delivery d JOIN subnet s ON s.id = d.subnet JOIN cluster c ON c.id = d.cluster
           WHERE d.cluster = ANY(%s) AND d.role = 'serving' AND s.vrf <> c.vrf
             AND EXISTS (SELECT FROM cluster_interface i
                         WHERE i.cluster = c.id AND i.cidr = s.cidr AND i.vrf IS NULL
                           AND (i.present OR i.last_changed > now() - make_interval(secs => %s)))
             AND NOT EXISTS (SELECT FROM cluster_interface i
                             WHERE i.cluster = c.id AND i.subnet = s.id AND i.vrf IS NOT NULL AND i.present)
           ORDER BY s.cidr""",
        (clusters, ABSENT_SECONDS),
    )
    return [row[1] for row in rows]


def _gone(vrf: int) -> errors.NotFound:
    return errors.NotFound(f"there is no VRF {format_id(Prefix.VRF, vrf)}")
