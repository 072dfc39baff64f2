"""Which clusters serve a subnet, as an admin decides it: a second one is let in, one goes, or is told no.

A cluster that goes stays a holder (`draining`) until it has confirmed that it forgot the subnet's host maps, so that no
address of it is freed before.
"""

from dataclasses import dataclass
from typing import Final

from regiond.domain import errors, versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.pairs import ClusterOnSubnet
from regiond.storage.changes import Change, lock_subnet, once, write_audit
from regiond.storage.pool import Pool, Session
from regiond.storage.reads import CONNECTED
from regiond.storage.topology import TOPOLOGY_LOCK

_ON_SUBNET: Final = f"""
SELECT c.id, c.name, {CONNECTED},
       ARRAY(SELECT i.nic FROM cluster_interface i
             WHERE i.cluster = c.id AND i.subnet = s.id AND i.present ORDER BY i.nic) AS nics,
       ARRAY(SELECT DISTINCT v.name FROM cluster_interface i JOIN subnet o ON o.id = i.subnet JOIN vrf v ON v.id = o.vrf
             WHERE i.cluster = c.id AND i.present AND i.cidr = s.cidr AND o.vrf <> s.vrf ORDER BY v.name),
       coalesce(d.role, (SELECT i.serving FROM cluster_interface i WHERE i.cluster = c.id AND i.subnet = s.id
                         ORDER BY i.present DESC, i.id LIMIT 1)), s.generation, coalesce(d.accepted_generation, 0),
       coalesce(d.applied_generation, 0), d.error, d.since
FROM subnet s CROSS JOIN cluster c LEFT JOIN delivery d ON d.subnet = s.id AND d.cluster = c.id
WHERE s.id = %s AND c.forgotten IS NULL
  AND (d.subnet IS NOT NULL
       OR EXISTS (SELECT FROM cluster_interface i WHERE i.cluster = c.id AND i.subnet = s.id AND i.present))
ORDER BY c.name
"""  # noqa: S608 (constants only)


class PairStore:
    """Raises NotFound for a subnet that is not there."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def clusters_on(self, subnet: int) -> list[ClusterOnSubnet]:
        """Every cluster that is on the subnet, or has or had its host maps, by name."""
        rows = await self._pool.query(_ON_SUBNET, (subnet,), retry=True)
        return [ClusterOnSubnet(row[0], row[1], row[2], tuple(row[3]), tuple(row[4]), *row[5:]) for row in rows]

    async def confirm(self, change: Change, subnet: int, cluster: int) -> bool:
        """The cluster serves the subnet from now on, beside whoever does already; False if it did.

        Raises NotOnSubnet when none of its NICs is on the subnet, or when it is revoked.
        """

        changed = False

        async def run(session: Session) -> int:
            nonlocal changed
            found = await _look(session, subnet, cluster)
            if found.role == "serving":
                return cluster
            changed = True
            await _serve(session, subnet, cluster, found)
            await _set_interfaces(session, subnet, cluster, "serving")
            await _audit(session, change, "subnet.confirm-pair", subnet, found.name)
            return cluster

        await once(self._pool, change, run, sets=True)
        return changed

    async def end(self, change: Change, subnet: int, cluster: int) -> bool:
        """The cluster does not serve the subnet any more; False if it did not.

        Raises LastServing when no other cluster serves it, NotOnSubnet when this one never did.
        """

        changed = False

        async def run(session: Session) -> int:
            nonlocal changed
            found = await _look(session, subnet, cluster)
            if found.role is None:
                raise errors.NotOnSubnet(f"cluster {found.name} does not serve this subnet")
            if found.role != "serving":
                return cluster
            changed = True
            await _drain(session, subnet, cluster, found, force=False)
            await _set_interfaces(session, subnet, cluster, "shared-subnet")
            await _audit(session, change, "subnet.unpair", subnet, found.name)
            return cluster

        await once(self._pool, change, run, sets=True)
        return changed

    async def set_serving(
        self, change: Change, interface: int, subnet: int, cluster: int, *, serve: bool, force: bool
    ) -> bool:
        """Whether the cluster serves the subnet that its interface is on; False if that is so already.

        Where an admin says no, no report changes that. Raises StaleVersion, NotOnSubnet, and LastServing unless forced.
        """
        changed = False

        async def run(session: Session) -> int:
            nonlocal changed
            found = await _look(session, subnet, cluster)
            rows = await session.run(
                "SELECT serving FROM cluster_interface WHERE id = %s AND subnet = %s", (interface, subnet)
            )
            if not rows:
                raise errors.NotFound(f"there is no cluster interface {format_id(Prefix.CLUSTER_INTERFACE, interface)}")
            [(former,)] = rows
            versions.require(change.if_match, versions.of_interface(interface, former == "serving"))
            wanted = "serving" if serve else "declined"
            if former == wanted:
                return interface
            changed = True
            if serve and found.role != "serving":
                await _serve(session, subnet, cluster, found)
            if not serve and found.role == "serving":
                await _drain(session, subnet, cluster, found, force=force)
            await _set_interfaces(session, subnet, cluster, wanted)
            object_id = format_id(Prefix.CLUSTER_INTERFACE, interface)
            before, after = {"serving": former}, {"serving": wanted}
            await write_audit(session, change, "cluster-interface.change", object_id, before, after)
            return interface

        await once(self._pool, change, run, sets=True)
        return changed


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of the cluster on the subnet, under both locks. `nics` counts those that are on it now."""

    name: str
    revoked: bool
    role: str | None
    nics: int


async def _look(session: Session, subnet: int, cluster: int) -> _Found:
    """Takes the locks: no topology report is applied at the same time, and no claim."""
    await session.run(TOPOLOGY_LOCK)
    await lock_subnet(session, subnet)
    if not await session.run("SELECT FROM subnet WHERE id = %s", (subnet,)):
        raise errors.NotFound(f"there is no subnet {format_id(Prefix.SUBNET, subnet)}")
    rows = await session.run(
        """SELECT c.name, c.revoked IS NOT NULL,
                  (SELECT d.role FROM delivery d WHERE d.subnet = %s AND d.cluster = c.id),
                  (SELECT count(*) FROM cluster_interface i WHERE i.subnet = %s AND i.cluster = c.id AND i.present)
           FROM cluster c WHERE c.id = %s AND c.forgotten IS NULL""",
        (subnet, subnet, cluster),
    )
    if not rows:
        raise errors.NotFound(f"there is no cluster {format_id(Prefix.CLUSTER, cluster)}")
    return _Found(*rows[0])


async def _serve(session: Session, subnet: int, cluster: int, found: _Found) -> None:
    """Raises NotOnSubnet."""
    if not found.nics:
        raise errors.NotOnSubnet(f"no NIC of cluster {found.name} is on this subnet now")
    if found.revoked:
        raise errors.NotOnSubnet(f"cluster {found.name} is revoked: enrol it first")
    await session.run(
        """INSERT INTO delivery (subnet, cluster, role) VALUES (%s, %s, 'serving')
           ON CONFLICT (subnet, cluster) DO UPDATE SET role = 'serving', since = now()""",
        (subnet, cluster),
    )


async def _drain(session: Session, subnet: int, cluster: int, found: _Found, *, force: bool) -> None:
    """Raises LastServing, unless forced."""
    others = await session.run(
        "SELECT FROM delivery WHERE subnet = %s AND cluster <> %s AND role = 'serving' LIMIT 1", (subnet, cluster)
    )
    if not others and not force:
        raise errors.LastServing(
            f"cluster {found.name} is the only one that serves this subnet: confirm another one first (regionctl "
            "subnets confirm-pair), or have nobody serve it (regionctl clusters serve --no --force)"
        )
    await session.run(
        "UPDATE delivery SET role = 'draining', since = now() WHERE subnet = %s AND cluster = %s", (subnet, cluster)
    )


async def _set_interfaces(session: Session, subnet: int, cluster: int, serving: str) -> None:
    """What its interfaces are said to do there; those that are absent now come back so."""
    await session.run(
        "UPDATE cluster_interface SET serving = %s WHERE subnet = %s AND cluster = %s", (serving, subnet, cluster)
    )


async def _audit(session: Session, change: Change, action: str, subnet: int, cluster: str) -> None:
    await write_audit(session, change, action, format_id(Prefix.SUBNET, subnet), None, {"cluster": cluster})
