"""What an admin changes of a cluster: its name, and the VRF of its networks. Together, or not at all."""

from collections.abc import Mapping
from typing import Any, Final

from psycopg2.errors import UniqueViolation

from regiond.domain import errors, versions
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, done_before, once, write_audit
from regiond.storage.pool import Pool, Session
from regiond.storage.topology import TOPOLOGY_LOCK
from regiond.storage.topology_log import tell_all
from regiond.storage.topology_rows import ABSENT_SECONDS, Company, Reconsidered, reconsider

_TAKEN: Final = """
SELECT EXISTS (SELECT FROM cluster WHERE id <> %s AND %s IN (name, said_name)),
       EXISTS (SELECT FROM enrolment WHERE name = %s AND expires_at > now())
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
) SELECT c.id, c.name FROM going g JOIN cluster c ON c.id = g.cluster ORDER BY c.id
"""


class ClusterEditStore:
    """The only SQL about such changes."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def change(
        self,
        change: Change,
        cluster: int,
        *,
        name: str | None = None,
        vrf: int | None = None,
        pairs: bool = False,
        force: bool = False,
    ) -> Reconsidered:
        """What is None stays.

        The VRF is that of the cluster's networks from now on, but for those whose NIC its configuration gives another
        one. A subnet that the cluster serves alone goes there with its reservations; see `domain.topology`. `pairs`:
        the clusters go, too, that serve subnets together with it, or with one of those, and the subnets with them all.
        Raises NotFound, NameTaken, StaleVersion, and SubnetsLeftBehind, unless forced, where one of them would stop
        serving another subnet.
        """
        reconsidered = Reconsidered()

        async def update(session: Session) -> int:
            nonlocal reconsidered
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run(
                """SELECT c.name, v.name, c.vrf FROM cluster c JOIN vrf v ON v.id = c.vrf
                   WHERE c.id = %s AND c.forgotten IS NULL FOR UPDATE OF c""",
                (cluster,),
            )
            if not rows:
                raise errors.NotFound(f"there is no cluster {format_id(Prefix.CLUSTER, cluster)}")
            [(former_name, former_vrf, vrf_id)] = rows
            versions.require(change.if_match, versions.of_cluster(cluster, former_name, former_vrf))
            before: dict[str, Any] = {}
            after: dict[str, Any] = {}
            if name is not None and name != former_name:
                await _rename(session, cluster, former_name, name)
                before["name"], after["name"] = former_name, name
            if vrf is not None and vrf != vrf_id:
                called = await _name_of(session, vrf)
                together = {row[0]: str(row[1]) for row in await session.run(_PAIRED, (cluster,))}
                going = list(together) if pairs else [cluster]
                others = [other for number, other in together.items() if number not in going]
                reconsidered = await self._move(session, going, vrf, called, others, force=force)
                before["vrf"], after["vrf"] = former_vrf, called
                for other in going:
                    if other != cluster:
                        await _audit(session, change, other, {"vrf": former_vrf}, {"vrf": called})
            await _audit(session, change, cluster, before, after)
            return cluster

        await once(self._pool, change, update, deadline=LONG_DEADLINE_SECONDS, sets=True)
        tell_all(reconsidered)
        return reconsidered

    async def done_before(self, change: Change) -> int | None:
        """As `changes.done_before`."""
        return await done_before(self._pool, change)

    async def _move(
        self, session: Session, going: list[int], vrf: int, called: str, others: list[str], *, force: bool
    ) -> Reconsidered:
        """What became of the networks of these clusters; `others` are those that could have gone along."""
        await session.run("UPDATE cluster SET vrf = %s WHERE id = ANY(%s)", (vrf, going))
        reconsidered = await reconsider(session, self._new_id, going, Company(frozenset(going)))
        left = await _served_elsewhere(session, going)
        if left and not force:
            along = (
                f"; pairs=true (--with-pairs) takes along what serves it, too: {', '.join(others)}" if others else ""
            )
            raise errors.SubnetsLeftBehind(
                f"{', '.join(left)} would lose a cluster that serves it, for another cluster is there too, or VRF "
                f"{called} has such a network already{along}; with force=true (--force) the reservations stay behind",
                subnets=left,
            )
        return reconsidered


async def _name_of(session: Session, vrf: int) -> str:
    names = await session.run("SELECT name FROM vrf WHERE id = %s", (vrf,))
    if not names:
        raise errors.NotFound(f"there is no VRF {format_id(Prefix.VRF, vrf)}")
    return str(names[0][0])


async def _rename(session: Session, cluster: int, former: str, name: str) -> None:
    """An enrolled cluster is who its certificate says. Any other says its name itself, and goes on saying it: it is
    recognised by the first that it had. A token with which it can enrol anew is for the new name. Raises NameTaken.
    """
    [(taken, offered)] = await session.run(_TAKEN, (cluster, name, name))
    if taken:
        raise errors.NameTaken(f"another cluster is called {name}, or says so of itself")
    if offered:
        raise errors.NameTaken(
            f"there is an enrolment token for a cluster {name}: withdraw it first (regionctl clusters enrol --withdraw)"
        )
    try:
        await session.run(
            """UPDATE cluster SET name = %s,
                   said_name = CASE WHEN enrolled IS NULL THEN nullif(coalesce(said_name, name), %s) END
               WHERE id = %s""",
            (name, name, cluster),
        )
        await session.run("DELETE FROM enrolment WHERE name = %s", (name,))  # one that has expired
        await session.run("UPDATE enrolment SET name = %s WHERE name = %s", (name, former))
    except UniqueViolation as error:  # one that registers at this moment, or a token that is made
        raise errors.NameTaken(f"another cluster is called {name} now, or is about to enrol as it") from error


async def _audit(
    session: Session, change: Change, cluster: int, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    if after:
        await write_audit(session, change, "cluster.change", format_id(Prefix.CLUSTER, cluster), before, after)


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
