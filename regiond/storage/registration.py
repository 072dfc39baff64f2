"""A cluster's new connection, as the database notes it: who it is, which connection this is, whether there are two."""

from datetime import timedelta
from typing import Final

from twisted.logger import Logger

from regiond.domain.errors import ClusterRefused
from regiond.domain.identity import (
    ByCertificate,
    Identity,
    Introduction,
    Registered,
    former_instances,
    takes_turns,
)
from regiond.domain.ids import NewId, Prefix, format_id
from regiond.storage.pool import Session

_CLOCKS_DIFFER: Final = timedelta(minutes=10)  # between a regiond, which dates certificates, and the database

_log = Logger(namespace="region.clusters")


async def register(session: Session, new_id: NewId, identity: Identity, said: Introduction) -> Registered:
    """Note the connection. Raises ClusterRefused.

    On a plain link a new name becomes a cluster of the default VRF. A certificate that this region signed and does not
    know is one from after the backup that the database was restored from: it is taken over, and so is its cluster.
    """
    if isinstance(identity, ByCertificate):
        cluster = await _by_certificate(session, identity)
    else:
        cluster = await _by_name(session, new_id, identity.name)
    [(revoked, forgotten, current, former)] = await session.run(
        "SELECT revoked, forgotten, instance, former_instances FROM cluster WHERE id = %s FOR UPDATE", (cluster,)
    )
    if forgotten is not None:
        raise ClusterRefused("the cluster was forgotten")
    if revoked is not None:
        raise ClusterRefused("the cluster was revoked: it has to be enrolled again")
    turns = takes_turns(former, current, said.instance)
    rows = await session.run(
        """UPDATE cluster SET hostname = %s, backend = %s, software_version = %s, epoch = epoch + 1,
               connected_since = now(), last_heard = now(), instance = %s, former_instances = %s,
               turns_seen = CASE WHEN %s THEN now() ELSE turns_seen END
           WHERE id = %s RETURNING name, epoch, (SELECT history::text FROM region), unheard""",
        (
            *(said.hostname, said.backend, said.software_version, said.instance),
            *(former_instances(former, current, said.instance), turns, cluster),
        ),
    )
    name, epoch, history, unheard = rows[0]
    return Registered(cluster, epoch, name, turns, history=history, unheard=unheard)


async def _by_name(session: Session, new_id: NewId, name: str) -> int:
    """The cluster that says this name of itself, whatever an admin calls it; it is made when there is none."""
    renamed = await session.run("SELECT id FROM cluster WHERE said_name = %s", (name,))
    if renamed:
        return int(renamed[0][0])
    await session.run("INSERT INTO cluster (id, name) VALUES (%s, %s) ON CONFLICT (name) DO NOTHING", (new_id(), name))
    [(cluster, said)] = await session.run("SELECT id, said_name FROM cluster WHERE name = %s", (name,))
    if said is not None:
        raise ClusterRefused(f"{name} is what another cluster is called here, which says {said} of itself")
    return int(cluster)


async def _by_certificate(session: Session, shown: ByCertificate) -> int:
    known = await session.run("SELECT cluster, revoked FROM certificate WHERE serial = %s", (shown.serial,))
    if known:
        cluster, revoked = known[0]
        if cluster != shown.cluster or revoked is not None:
            raise ClusterRefused("its certificate was revoked")
        return shown.cluster
    found = await session.run("SELECT enrolled FROM cluster WHERE id = %s", (shown.cluster,))
    if found and found[0][0] is not None and shown.issued + _CLOCKS_DIFFER < found[0][0]:
        raise ClusterRefused("its certificate was replaced by another enrolment")
    if not found:
        made = await session.run(
            "INSERT INTO cluster (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING id",
            (shown.cluster, shown.name),
        )
        if not made:
            raise ClusterRefused(f"another cluster has the name {shown.name}")
    await session.run(
        "INSERT INTO certificate (serial, cluster, issued, expires) VALUES (%s, %s, %s, %s)",
        (shown.serial, shown.cluster, shown.issued, shown.expires),
    )
    _log.warn(
        "cluster {cluster} has a certificate of ours that the database does not know: it is from after the backup",
        event="certificate.adopted",
        cluster=shown.name,
        id=format_id(Prefix.CLUSTER, shown.cluster),
        serial=shown.serial,
    )
    return shown.cluster
