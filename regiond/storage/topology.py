"""Clusters as they register, and their topology as they report it."""

from collections.abc import Iterable, Sequence

from twisted.logger import Logger

from clusterd.protocol.values import InterfaceReport, NicKind
from regiond.domain.errors import ClusterHoldsHostMaps
from regiond.domain.identity import Identity, Introduction, Registered
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.domain.topology import KnownInterface, KnownSubnet, TopologyPlan, plan_topology
from regiond.storage.changes import LONG_DEADLINE_SECONDS, Change, rebuild_free_ranges, write_audit
from regiond.storage.connection import Row
from regiond.storage.pool import Pool, Session
from regiond.storage.registration import register

ABSENT_SECONDS = 60.0

# One topology is applied at a time: two clusters that report the same new network must find each other's subnet.
TOPOLOGY_LOCK = "SELECT pg_advisory_xact_lock(2, 0)"


_STANDING = "(i.present OR i.last_changed > now() - make_interval(secs => %s))"

_ABSENT = f"""
SELECT d.subnet, d.cluster, s.cidr::text, c.name
FROM delivery d JOIN cluster c ON c.id = d.cluster JOIN subnet s ON s.id = d.subnet
WHERE d.role = 'serving' AND NOT EXISTS (
    SELECT FROM cluster_interface i WHERE i.cluster = d.cluster AND i.subnet = d.subnet AND {_STANDING})
"""  # noqa: S608 (constants only)

# Addresses that no interface has, neither now nor until a moment ago.
_ABANDONED = f"""
FROM infrastructure_address a WHERE NOT EXISTS (
    SELECT FROM cluster_interface i WHERE i.cluster = a.cluster AND i.subnet = a.subnet AND {_STANDING}
    AND a.address = ANY(CASE a.kind WHEN 'gateway' THEN i.gateways ELSE i.addresses END))
"""


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

        async def apply(session: Session) -> TopologyPlan:
            await session.run(TOPOLOGY_LOCK)
            [(vrf, latest)] = await session.run("SELECT vrf, epoch FROM cluster WHERE id = %s", (cluster,))
            if epoch is not None and epoch < latest:
                return TopologyPlan({}, (), (), (), {})
            interfaces = await _known_interfaces(session, cluster)
            subnets = await _known_subnets(session, cluster, vrf, [report.cidr for report in reports])
            planned = plan_topology(reports, interfaces, subnets, self._new_id)
            await _write(session, cluster, vrf, planned)
            return planned

        planned = await self._pool.transaction(apply, retry=True, deadline=LONG_DEADLINE_SECONDS)
        self._tell(cluster, planned)
        return planned

    async def drain(self, cluster: int) -> None:
        """The cluster serves no subnet any more; it stays a holder of each until that is confirmed."""

        async def run(session: Session) -> None:
            await session.run(TOPOLOGY_LOCK)
            serving = "FROM delivery WHERE cluster = %s AND role = 'serving'"
            await _lock(session, [row[0] for row in await session.run(f"SELECT subnet {serving}", (cluster,))])
            await session.run(
                "UPDATE delivery SET role = 'draining', since = now() WHERE cluster = %s AND role = 'serving'",
                (cluster,),
            )

        await self._pool.transaction(run, retry=True, deadline=LONG_DEADLINE_SECONDS)

    async def forget(self, change: Change, cluster: int, held: Sequence[str]) -> None:
        """Take a cluster out of everything that is shown or delivered to. Its row stays under another name: that it
        served subnets once is of interest where an address rests. `held` (CIDRs) is what it might still have
        served, for the audit. Raises ClusterHoldsHostMaps.
        """

        async def run(session: Session) -> None:
            await session.run(TOPOLOGY_LOCK)
            rows = await session.run("SELECT name FROM cluster WHERE id = %s FOR UPDATE", (cluster,))
            still = await session.run(
                "SELECT FROM delivery WHERE cluster = %s AND role <> 'former' LIMIT 1", (cluster,)
            )
            if still:
                raise ClusterHoldsHostMaps("the cluster began to serve a subnet meanwhile: try again", subnets=[])
            owned = await session.run(
                "SELECT DISTINCT subnet FROM infrastructure_address WHERE cluster = %s ORDER BY subnet", (cluster,)
            )
            subnets = [row[0] for row in owned]
            await _lock(session, subnets)
            await session.run("DELETE FROM infrastructure_address WHERE cluster = %s", (cluster,))
            await session.run("DELETE FROM cluster_interface WHERE cluster = %s", (cluster,))
            await session.run(
                "UPDATE cluster SET forgotten = now(), connected_since = NULL, name = %s WHERE id = %s",
                (format_id(Prefix.CLUSTER, cluster), cluster),
            )
            for subnet in subnets:
                await rebuild_free_ranges(session, subnet)
            before = {"name": rows[0][0], "held": list(held), "dhcp_is_off": bool(held)}
            await write_audit(session, change, "cluster.forget", format_id(Prefix.CLUSTER, cluster), before, None)

        await self._pool.transaction(run, retry=True, deadline=LONG_DEADLINE_SECONDS)

    async def drain_absent(self) -> None:
        """A cluster whose interface on a subnet has been absent for a while does not serve it any more.

        Until it has confirmed that it forgot the subnet's host maps it stays a holder; the addresses that it had there
        can be claimed.
        """

        async def drain(session: Session) -> list[Row]:
            await session.run(TOPOLOGY_LOCK)
            absent = await session.run(_ABSENT, (ABSENT_SECONDS,))
            abandoned = [row[0] for row in await session.run(f"SELECT DISTINCT subnet {_ABANDONED}", (ABSENT_SECONDS,))]
            await _lock(session, {*abandoned, *(row[0] for row in absent)})
            for subnet, cluster, _, _ in absent:
                await session.run(
                    "UPDATE delivery SET role = 'draining', since = now() WHERE subnet = %s AND cluster = %s",
                    (subnet, cluster),
                )
            await session.run(f"DELETE {_ABANDONED}", (ABSENT_SECONDS,))
            for subnet in sorted(abandoned):
                await rebuild_free_ranges(session, subnet)
            return absent

        looked = await self._pool.query(
            f"SELECT EXISTS ({_ABSENT}) OR EXISTS (SELECT {_ABANDONED})", (ABSENT_SECONDS,) * 2, retry=True
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

    def _tell(self, cluster: int, planned: TopologyPlan) -> None:
        name = format_id(Prefix.CLUSTER, cluster)
        for subnet, net in planned.new_subnets.items():
            self._log.info(
                "new subnet {cidr} from cluster {cluster}",
                event="subnet.created",
                cidr=net.cidr,
                subnet=format_id(Prefix.SUBNET, subnet),
                cluster=name,
            )
        for row in planned.interfaces:
            if row.change is not None:
                self._log.info(
                    "cluster interface {nic} on {cidr} {change}: {serving}",
                    event=f"interface.{row.change}",
                    change=row.change,
                    cluster=name,
                    interface=format_id(Prefix.CLUSTER_INTERFACE, row.id),
                    nic=row.report.nic,
                    cidr=row.report.cidr,
                    serving=row.serving,
                    up=row.report.up,
                )
        for gone in planned.vanished:
            self._log.info(
                "cluster interface {nic} on {cidr} vanished",
                event="interface.vanished",
                cluster=name,
                interface=format_id(Prefix.CLUSTER_INTERFACE, gone.id),
                nic=gone.report.nic,
                cidr=gone.report.cidr,
            )


async def _known_interfaces(session: Session, cluster: int) -> list[KnownInterface]:
    rows = await session.run(
        """SELECT id, nic, cidr::text, ARRAY(SELECT host(a) FROM unnest(addresses) a),
                  ARRAY(SELECT host(g) FROM unnest(gateways) g), mac, kind, vlan, up, subnet, present, serving,
                  present OR last_changed > now() - make_interval(secs => %s)
           FROM cluster_interface WHERE cluster = %s""",
        (ABSENT_SECONDS, cluster),
    )
    return [
        KnownInterface(
            id_,
            InterfaceReport(nic, cidr, tuple(addresses), tuple(gateways), mac, NicKind(kind), vlan, up),
            subnet,
            present,
            serving,
            recent,
        )
        for id_, nic, cidr, addresses, gateways, mac, kind, vlan, up, subnet, present, serving, recent in rows
    ]


async def _known_subnets(session: Session, cluster: int, vrf: int, cidrs: list[str]) -> list[KnownSubnet]:
    rows = await session.run(
        """SELECT s.id, s.cidr::text,
                  EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id AND d.cluster <> %s AND d.role <> 'former')
                  OR EXISTS (SELECT FROM cluster_interface i
                             WHERE i.subnet = s.id AND i.cluster <> %s AND i.present)
           FROM subnet s WHERE s.vrf = %s AND s.cidr && ANY(%s::inet[]) ORDER BY s.id""",
        (cluster, cluster, vrf, cidrs),
    )
    return [KnownSubnet(*row) for row in rows]


async def _write(session: Session, cluster: int, vrf: int, planned: TopologyPlan) -> None:
    """Only subnets of which something changes are locked: claims on the others do not wait for a report."""
    rows = await session.run("SELECT subnet FROM delivery WHERE cluster = %s AND role = 'serving'", (cluster,))
    serve = sorted(set(planned.serve) - {row[0] for row in rows})
    infrastructure = await _changed_infrastructure(session, cluster, planned)
    await _lock(session, {*infrastructure, *serve} - set(planned.new_subnets))
    for subnet, net in planned.new_subnets.items():
        await session.run(
            # while the region recovers, a cluster may have served what it reports for the first time
            """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, recovering_since, fork_generation, fork_at)
               SELECT %s, %s, %s, %s, %s, CASE WHEN recovering_since IS NOT NULL THEN now() END, 0, now()
               FROM region""",
            (subnet, vrf, net.cidr, net.text(net.first_usable), net.text(net.last_usable)),
        )
    for row in planned.interfaces:
        if row.change is not None:
            r = row.report
            await session.run(
                """INSERT INTO cluster_interface (id, cluster, nic, cidr, subnet, addresses, gateways, mac, kind, vlan,
                       up, serving) VALUES (%s, %s, %s, %s, %s, %s::inet[], %s::inet[], %s, %s, %s, %s, %s)
                   ON CONFLICT (cluster, nic, cidr) DO UPDATE SET subnet = excluded.subnet,
                       addresses = excluded.addresses, gateways = excluded.gateways, mac = excluded.mac,
                       kind = excluded.kind, vlan = excluded.vlan, up = excluded.up, serving = excluded.serving,
                       present = true, last_changed = now()""",
                (
                    *(row.id, cluster, r.nic, r.cidr, row.subnet, list(r.addresses), list(r.gateways)),
                    *(r.mac, r.kind.value, r.vlan, r.up, row.serving),
                ),
            )
    if planned.vanished:
        await session.run(
            "UPDATE cluster_interface SET present = false, last_changed = now() WHERE id = ANY(%s)",
            ([gone.id for gone in planned.vanished],),
        )
    if serve:
        await session.run(
            """INSERT INTO delivery (subnet, cluster, role) SELECT unnest(%s::bigint[]), %s, 'serving'
               ON CONFLICT (subnet, cluster) DO UPDATE SET role = 'serving', since = now()""",
            (serve, cluster),
        )
    for subnet, (wanted, _) in infrastructure.items():
        await session.run("DELETE FROM infrastructure_address WHERE subnet = %s AND cluster = %s", (subnet, cluster))
        await session.run(
            """INSERT INTO infrastructure_address (subnet, cluster, address, kind)
               SELECT %s, %s, unnest(%s::inet[]), unnest(%s::text[])""",
            (subnet, cluster, [address for address, _ in wanted], [kind for _, kind in wanted]),
        )
    for subnet in planned.new_subnets:
        await rebuild_free_ranges(session, subnet)
    for subnet, (_, addresses) in infrastructure.items():
        for address in sorted(addresses if subnet not in planned.new_subnets else ()):
            await rebuild_free_ranges(session, subnet, address, address)


async def _changed_infrastructure(
    session: Session, cluster: int, planned: TopologyPlan
) -> dict[int, tuple[frozenset[tuple[str, str]], set[str]]]:
    """Per subnet where it changes: the addresses with their kinds as they will be, and the addresses that differ."""
    stored: dict[int, set[tuple[str, str]]] = {}
    for subnet, address, kind in await session.run(
        "SELECT subnet, host(address), kind FROM infrastructure_address WHERE cluster = %s", (cluster,)
    ):
        stored.setdefault(subnet, set()).add((address, kind))
    changed = {subnet: stored.get(subnet, set()) ^ wanted for subnet, wanted in planned.infrastructure.items()}
    return {
        subnet: (planned.infrastructure[subnet], {address for address, _ in differing})
        for subnet, differing in changed.items()
        if differing
    }


async def _lock(session: Session, subnets: Iterable[int]) -> None:
    """In the order in which everybody locks them."""
    if ordered := sorted(subnets):
        await session.run("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", (ordered,))
