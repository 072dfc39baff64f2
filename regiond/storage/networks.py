"""Subnets as admins make and remove them; most come by the clusters' topology reports."""

from typing import Final

import psycopg2
from psycopg2 import errorcodes

from regiond.domain import errors, versions
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.networks import network
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, lock_subnet, once, rebuild_free_ranges, write_audit
from regiond.storage.pool import Pool, Session
from regiond.storage.settling import MAY_HAVE, RECOVERS
from regiond.storage.topology import TOPOLOGY_LOCK
from regiond.storage.topology_log import tell_all
from regiond.storage.topology_rows import Reconsidered, reconsider

# Whether something is there or could come back: then a subnet is not removed.
_IN_USE: Final = f"""
SELECT s.cidr::text, s.vrf, s.release_hold_seconds, s.claimable_anyway, s.probe, claimant_names(s),
       (SELECT count(*) FROM reservation r WHERE r.subnet = s.id),
       ARRAY(SELECT DISTINCT c.name FROM cluster c WHERE
             EXISTS (SELECT FROM cluster_interface i WHERE i.subnet = s.id AND i.cluster = c.id AND i.present)
             OR EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id AND d.cluster = c.id AND d.role <> 'former')
             ORDER BY c.name),
       s.recovering_since IS NOT NULL,
       ARRAY(SELECT c.name FROM cluster c WHERE c.unheard AND {MAY_HAVE} ORDER BY c.name)
FROM subnet s WHERE s.id = %s
"""  # noqa: S608 (constants only)


class NetworkStore:
    """Raises NotFound for what is not there."""

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def add(self, change: Change, cidr: str, vrf: int, release_hold_seconds: int | None) -> int:
        """The id of a new subnet of the VRF, which no cluster serves yet. Raises SubnetOverlap.

        While the region recovers it recovers, too: any cluster that was not heard may serve it from the lost past.
        """
        subnet, net = self._new_id(), network(cidr)

        async def insert(session: Session) -> int:
            await session.run(TOPOLOGY_LOCK)
            near = await session.run(
                "SELECT id, cidr::text FROM subnet WHERE vrf = %s AND cidr && %s::inet ORDER BY cidr LIMIT 1",
                (vrf, cidr),
            )
            if near:
                name = format_id(Prefix.SUBNET, near[0][0])
                raise errors.SubnetOverlap(f"{cidr} overlaps the subnet {near[0][1]} ({name}) of this VRF", subnet=name)
            made = await session.run(
                f"""INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, release_hold_seconds,
                                        recovering_since, fork_generation, fork_at)
                    SELECT q.id, v.id, q.cidr, q.first, q.last, q.hold, {RECOVERS.format(cidr="q.cidr")}, 0, now()
                    FROM vrf v, (VALUES (%s::bigint, %s::cidr, %s::inet, %s::inet, coalesce(%s, 600)))
                        AS q(id, cidr, first, last, hold)
                    WHERE v.id = %s RETURNING id""",  # noqa: S608 (constants only)
                (subnet, cidr, net.text(net.first_usable), net.text(net.last_usable), release_hold_seconds, vrf),
            )
            if not made:
                raise errors.NotFound(f"there is no VRF {format_id(Prefix.VRF, vrf)}")
            await rebuild_free_ranges(session, subnet)
            after = {"cidr": cidr, "vrf": format_id(Prefix.VRF, vrf)}
            await write_audit(session, change, "subnet.create", format_id(Prefix.SUBNET, subnet), None, after)
            return subnet

        return await once(self._pool, change, insert, "SELECT id FROM subnet WHERE id = %s", (subnet,))

    async def remove(self, change: Change, subnet: int) -> Reconsidered:
        """A network that was in conflict with it has its place from then on.

        Raises SubnetInUse while there are reservations, or clusters on it or that have not forgotten it; StaleVersion;
        SubnetRecovering: what clusters handed up of it would be gone with it.
        """
        reconsidered = Reconsidered()

        async def delete(session: Session) -> int:
            nonlocal reconsidered
            await session.run(TOPOLOGY_LOCK)
            await lock_subnet(session, subnet)
            rows = await session.run(_IN_USE, (subnet,))
            if not rows:
                raise errors.NotFound(f"there is no subnet {format_id(Prefix.SUBNET, subnet)}")
            cidr, vrf, hold, anyway, probe, claimants, reservations, clusters, recovering, waited_for = rows[0]
            versions.require(change.if_match, versions.of_subnet(subnet, hold, anyway, probe, claimants))
            if recovering:
                raise errors.SubnetRecovering(
                    f"what its clusters serve of {cidr} is not known yet: regionctl recover shows who was not heard",
                    clusters=waited_for,
                )
            if reservations or clusters:
                raise errors.SubnetInUse(_in_use(cidr, reservations, clusters), count=reservations, clusters=clusters)
            await session.run("DELETE FROM cluster_interface WHERE subnet = %s", (subnet,))
            await session.run("DELETE FROM subnet WHERE id = %s", (subnet,))
            before = {"cidr": cidr, "vrf": format_id(Prefix.VRF, vrf)}
            await write_audit(session, change, "subnet.remove", format_id(Prefix.SUBNET, subnet), before, None)
            waiting = await session.run(
                """SELECT DISTINCT cluster FROM cluster_interface
                   WHERE present AND subnet IS NULL AND cidr && %s::inet ORDER BY cluster""",
                (cidr,),
            )
            reconsidered = await reconsider(session, self._new_id, [row[0] for row in waiting])
            return subnet

        try:
            await once(self._pool, change, delete, deadline=LONG_DEADLINE_SECONDS)
        except psycopg2.Error as error:
            if error.pgcode != errorcodes.FOREIGN_KEY_VIOLATION:
                raise
            raise errors.SubnetInUse("an address was claimed meanwhile: look again", count=1, clusters=[]) from error
        tell_all(reconsidered)
        return reconsidered


def _in_use(cidr: str, reservations: int, clusters: list[str]) -> str:
    obstacles = []
    if reservations:
        obstacles.append(
            f"{reservations} addresses are reserved or not free yet (regionctl reservations list --subnet)"
        )
    if clusters:
        obstacles.append(f"it is a network of {', '.join(clusters)}, which would report it again")
    return f"{cidr} cannot be removed: {' and '.join(obstacles)}"
