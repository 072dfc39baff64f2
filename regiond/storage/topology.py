"""Clusters as they register, and their topology as they report it."""

from collections.abc import Sequence

from twisted.logger import Logger

from clusterd.protocol.values import InterfaceReport
from regiond.domain.errors import ClusterHoldsHostMaps
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.topology import TopologyPlan
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, once, rebuild_free_ranges, was_done, write_audit
from regiond.storage.connection import Row
from regiond.storage.giving_up import give_up
from regiond.storage.pool import Pool, Session
from regiond.storage.registration import register
from regiond.storage.topology_log import tell
from regiond.storage.topology_rows import ABSENT_SECONDS, Applied, apply_reports, lock_subnets

# One topology is applied at a time: two clusters that report the same new network must find each other's subnet.
TOPOLOGY_LOCK = "SELECT pg_advisory_xact_lock(2, 0)"

_STANDING = "(i.present OR i.last_changed > now() - make_interval(secs => %s))"

_ABSENT = f"""
SELECT d.subnet, d.cluster, s.cidr::text, c.name
FROM delivery d JOIN cluster c ON c.id = d.cluster JOIN subnet s ON s.id = d.subnet
WHERE d.role = 'serving' AND NOT EXISTS (
    SELECT FROM cluster_interface i WHERE i.cluster = d.cluster AND i.subnet = d.subnet AND {_STANDING})
"""  # noqa: S608 (constants only)

# Addresses that no interface has, where none has changed for a while: while a link flaps its routes are gone, and the
# gateway's address is often the lowest one, which the next claim would get.
_ABANDONED = f"""
FROM infrastructure_address a WHERE NOT EXISTS (
    SELECT FROM cluster_interface i WHERE i.cluster = a.cluster AND i.subnet = a.subnet AND (
        i.last_changed > now() - make_interval(secs => {ABSENT_SECONDS})
        OR i.present AND a.address = ANY(CASE a.kind WHEN 'gateway' THEN i.gateways ELSE i.addresses END)))
"""

_FORGOTTEN = "SELECT id FROM cluster WHERE id = %s AND forgotten IS NOT NULL"


class ClusterStore:
    """Cluster rows, cluster interfaces, and the subnets that they bring."""

    _log = Logger(namespace="region.topology")

    def __init__(self, pool: Pool, new_id: NewId) -> None:
        self._pool = pool
        self._new_id = new_id

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        """Note a cluster's new connection. Raises ClusterRefused."""
        return await self._pool.transaction(lambda session: register(session, self._new_id, identity, said), retry=True)

    async def disconnected(self, cluster: int, epoch: int) -> None:
        """The connection ended; nothing if a newer one took its place."""
        await self._pool.execute(
            "UPDATE cluster SET connected_since = NULL WHERE id = %s AND epoch = %s", (cluster, epoch), retry=True
        )

    async def drifted(self, cluster: int, subnet: int, count: int, epoch: int) -> None:
        """The cluster has put so many host maps right that somebody had changed in its DHCP server."""
        await self._pool.execute(
            """UPDATE delivery d SET drift_count = %s, drift_at = now() FROM cluster c
               WHERE d.cluster = %s AND d.subnet = %s AND c.id = d.cluster AND c.epoch <= %s""",
            (count, cluster, subnet, epoch),
            retry=True,
        )

    async def heard(self, clusters: Sequence[int]) -> dict[int, int]:
        """These clusters are connected here, now; the number of each one's newest connection, wherever that is."""
        rows = await self._pool.query(
            "UPDATE cluster SET last_heard = now() WHERE id = ANY(%s) RETURNING id, epoch", (clusters,), retry=True
        )
        return {row[0]: row[1] for row in rows}

    async def apply_topology(
        self, cluster: int, reports: Sequence[InterfaceReport], epoch: int | None = None
    ) -> TopologyPlan:
        """Make the stored picture of this cluster the reported one, in one transaction; logs one line per change.

        `epoch` is the number of the connection that the report came on: when the cluster has a later one nothing
        changes, because what it reports there must not be overwritten by what was true before.
        """

        async def apply(session: Session) -> Applied:
            await session.run(TOPOLOGY_LOCK)
            [(latest,)] = await session.run("SELECT epoch FROM cluster WHERE id = %s", (cluster,))
            if epoch is not None and epoch < latest:
                return Applied()
            applied = await apply_reports(session, self._new_id, cluster, reports)
            await session.run("UPDATE cluster SET topology_at = now() WHERE id = %s", (cluster,))
            return applied

        applied = await self._pool.transaction(apply, retry=True, deadline=LONG_DEADLINE_SECONDS)
        tell(applied)
        return applied.plan

    async def drain(self, cluster: int) -> None:
        """The cluster serves no subnet any more; it stays a holder of each until that is confirmed."""

        async def run(session: Session) -> None:
            await session.run(TOPOLOGY_LOCK)
            serving = "FROM delivery WHERE cluster = %s AND role = 'serving'"
            await lock_subnets(session, [row[0] for row in await session.run(f"SELECT subnet {serving}", (cluster,))])
            await session.run(
                "UPDATE delivery SET role = 'draining', since = now() WHERE cluster = %s AND role = 'serving'",
                (cluster,),
            )

        await self._pool.transaction(run, retry=True, deadline=LONG_DEADLINE_SECONDS)

    async def forget(self, change: Change, cluster: int, held: Sequence[str]) -> None:
        """Take a cluster out of everything that is shown or delivered to. Its row stays under another name: that it
        served subnets once is of interest where an address rests. `held` (CIDRs) is what it might still have
        served, for the audit. No recovery waits for it any more. Raises ClusterHoldsHostMaps.
        """

        async def run(session: Session) -> int:
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run("SELECT name FROM cluster WHERE id = %s FOR UPDATE", (cluster,))
            still = await session.run(
                "SELECT FROM delivery WHERE cluster = %s AND role <> 'former' LIMIT 1", (cluster,)
            )
            if still:
                raise ClusterHoldsHostMaps("the cluster began to serve a subnet meanwhile: try again", subnets=[])
            given_up = await give_up(session, [cluster])
            if any(one.cidr not in held for one in given_up):
                raise ClusterHoldsHostMaps("a recovery began meanwhile: try again", subnets=[])
            owned = await session.run(
                "SELECT DISTINCT subnet FROM infrastructure_address WHERE cluster = %s ORDER BY subnet", (cluster,)
            )
            subnets = [row[0] for row in owned]
            await lock_subnets(session, subnets)
            await session.run("DELETE FROM infrastructure_address WHERE cluster = %s", (cluster,))
            await session.run("DELETE FROM cluster_interface WHERE cluster = %s", (cluster,))
            await session.run(
                """UPDATE cluster SET forgotten = now(), connected_since = NULL, name = %s, said_name = NULL
                   WHERE id = %s""",
                (format_id(Prefix.CLUSTER, cluster), cluster),
            )
            for subnet in subnets:
                await rebuild_free_ranges(session, subnet)
            before = {"name": rows[0][0], "held": list(held), "dhcp_is_off": bool(held)}
            if given_up:
                before["not_heard_of"] = [one.cidr for one in given_up]
            await write_audit(session, change, "cluster.forget", format_id(Prefix.CLUSTER, cluster), before, None)
            return cluster

        await once(self._pool, change, run, _FORGOTTEN, (cluster,), deadline=LONG_DEADLINE_SECONDS)

    async def was_done(self, change: Change) -> bool:
        """As `changes.was_done`."""
        return await was_done(self._pool, change)

    async def drain_absent(self) -> None:
        """A cluster whose interface on a subnet has been absent for a while does not serve it any more.

        Until it has confirmed that it forgot the subnet's host maps it stays a holder; the addresses that it had there
        can be claimed.
        """

        async def drain(session: Session) -> list[Row]:
            await session.run(TOPOLOGY_LOCK)
            absent = await session.run(_ABSENT, (ABSENT_SECONDS,))
            abandoned = [row[0] for row in await session.run(f"SELECT DISTINCT subnet {_ABANDONED}")]
            await lock_subnets(session, {*abandoned, *(row[0] for row in absent)})
            for subnet, cluster, _, _ in absent:
                await session.run(
                    "UPDATE delivery SET role = 'draining', since = now() WHERE subnet = %s AND cluster = %s",
                    (subnet, cluster),
                )
            await session.run(f"DELETE {_ABANDONED}")
            for subnet in sorted(abandoned):
                await rebuild_free_ranges(session, subnet)
            return absent

        looked = await self._pool.query(
            f"SELECT EXISTS ({_ABSENT}) OR EXISTS (SELECT {_ABANDONED})", (ABSENT_SECONDS,), retry=True
        )
        drained: list[Row] = []
        if looked[0][0]:
            drained = await self._pool.transaction(drain, retry=True, deadline=LONG_DEADLINE_SECONDS)
        for subnet, _, cidr, name in drained:
            self._log.warn(
                "cluster {cluster} has no interface on {cidr} any more: it stops serving it",
                event="subnet.draining",
                cluster=name,
                cidr=cidr,
                subnet=format_id(Prefix.SUBNET, subnet),
            )
