"""A topology report against the rows that are stored: read what the planner has to know, write what it decides.

Everything here runs in a transaction that holds the topology's lock: see regiond/storage/topology.py.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from clusterd.protocol.values import InterfaceReport, NicKind
from regiond.domain.ids import NewId
from regiond.domain.topology import (
    NOTHING,
    KnownInterface,
    KnownSubnet,
    PlannedInterface,
    TopologyPlan,
    Vrfs,
    plan_topology,
)
from regiond.domain.topology_changes import InterfaceChange, changes_of
from regiond.storage.changes import LONG_DEADLINE_SECONDS
from regiond.storage.pool import Session
from regiond.storage.settling import RECOVERS
from regiond.storage.topology_history import write_changes

ABSENT_SECONDS: Final = 60.0

_INTERFACES: Final = """
SELECT i.id, i.subnet, i.present, i.serving, i.present OR i.last_changed > now() - make_interval(secs => %s),
       i.conflict, ARRAY(SELECT host(a) FROM unnest(i.addresses) a),
       ARRAY(SELECT host(g) FROM unnest(i.gateways) g), i.kind,
       i.nic, i.cidr::text, i.mac, i.vlan, i.up, i.vrf, i.relayed, i.auto
FROM cluster_interface i WHERE i.cluster = %s
"""

# Whether a cluster of a company goes where the subnet goes: it serves it, and its configuration does not keep it there.
_GOES_ALONG: Final = """
(%(alias)s.cluster = ANY(%%(company)s)
 AND EXISTS (SELECT FROM delivery w WHERE w.subnet = s.id AND w.cluster = %(alias)s.cluster AND w.role = 'serving')
 AND NOT EXISTS (SELECT FROM cluster_interface k WHERE k.subnet = s.id AND k.cluster = %(alias)s.cluster AND k.present
                 AND k.vrf IS NOT NULL))
"""

_SUBNETS: Final = f"""
SELECT s.id, s.cidr::text,
       EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id AND d.cluster <> %(cluster)s AND d.role <> 'former'
               AND NOT {_GOES_ALONG % {"alias": "d"}})
       OR EXISTS (SELECT FROM cluster_interface i WHERE i.subnet = s.id AND i.cluster <> %(cluster)s
                  AND (i.present OR i.serving = 'serving') AND NOT {_GOES_ALONG % {"alias": "i"}}),
       s.vrf, EXISTS (SELECT FROM delivery d WHERE d.subnet = s.id AND d.cluster = %(cluster)s AND d.role = 'serving')
FROM subnet s
WHERE s.vrf = ANY(%(vrfs)s) AND s.cidr && ANY(%(cidrs)s::inet[])
   OR s.id IN (SELECT i.subnet FROM cluster_interface i WHERE i.cluster = %(cluster)s)
ORDER BY s.id
"""  # noqa: S608 (constants only)

_WRITE_INTERFACES: Final = """
INSERT INTO cluster_interface (id, cluster, nic, cidr, subnet, addresses, gateways, mac, kind, vlan, up, serving, vrf,
    relayed, auto, conflict)
SELECT q.id, %s, q.nic, q.cidr, q.subnet, ARRAY(SELECT jsonb_array_elements_text(q.addresses)::inet),
       ARRAY(SELECT jsonb_array_elements_text(q.gateways)::inet), q.mac, q.kind, q.vlan, q.up, q.serving, q.vrf,
       q.relayed, q.auto, q.conflict
FROM jsonb_to_recordset(%s::jsonb) AS q(id bigint, nic text, cidr cidr, subnet bigint, addresses jsonb, gateways jsonb,
    mac text, kind text, vlan integer, up boolean, serving text, vrf text, relayed boolean, auto boolean, conflict text)
ON CONFLICT (id) DO UPDATE SET nic = excluded.nic, subnet = excluded.subnet, addresses = excluded.addresses,
    gateways = excluded.gateways, mac = excluded.mac, kind = excluded.kind, vlan = excluded.vlan, up = excluded.up,
    serving = excluded.serving, vrf = excluded.vrf, relayed = excluded.relayed, auto = excluded.auto,
    conflict = excluded.conflict, present = true, last_changed = now()
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a report, or the same report under other circumstances, has changed. `vrfs` are the names of all VRFs.

    `cluster` is the name of the one whose report it is.
    """

    plan: TopologyPlan = NOTHING
    changes: Sequence[InterfaceChange] = ()
    vrfs: Mapping[int, str] = field(default_factory=dict)
    cluster: str = ""


@dataclass(slots=True)
class Company:
    """Clusters that get another VRF in one transaction; a subnet that they serve together is in nobody's way.

    `moved` has the VRFs in which subnets were that went there with one of them already: the others follow.
    """

    clusters: frozenset[int] = frozenset()
    moved: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reconsidered:
    """Whose topology was looked at anew, and what that changed."""

    clusters: Sequence[tuple[int, Applied]] = ()


async def reconsider(
    session: Session, new_id: NewId, clusters: Iterable[int], company: Company | None = None
) -> Reconsidered:
    """Look anew at what these clusters reported last: subnets or VRFs are others than they were then."""
    return Reconsidered([(each, await apply_reports(session, new_id, each, None, company)) for each in clusters])


async def apply_reports(
    session: Session,
    new_id: NewId,
    cluster: int,
    reports: Sequence[InterfaceReport] | None,
    company: Company | None = None,
) -> Applied:
    """Make the stored picture of a cluster the reported one; None: the one that was reported last, looked at anew."""
    company = company or Company()
    interfaces = await _known_interfaces(session, cluster)
    if reports is None:
        reports = sorted(row.report for row in interfaces if row.present)
    name, vrfs = await _circumstances(session, cluster)
    near = [*reports, *(row.report for row in interfaces if row.recent)]
    wanted = {vrf for report in near if (vrf := vrfs.id_of(report)) is not None}
    subnets = await _known_subnets(session, cluster, wanted, [report.cidr for report in near], company)
    names = {number: name for name, number in vrfs.ids.items()}
    planned = plan_topology(reports, interfaces, subnets, new_id, vrfs)
    changes = changes_of(planned, {row.id: names[row.vrf] for row in subnets})
    moved = {subnet: vrf for subnet, vrf in planned.moved_subnets.items() if subnet not in company.moved}
    planned = replace(planned, moved_subnets=moved)
    company.moved |= {row.id: row.vrf for row in subnets if row.id in moved}
    await _write(session, cluster, planned)
    await write_changes(session, cluster, changes)
    return Applied(planned, changes, names, name)


async def lock_subnets(session: Session, subnets: Iterable[int]) -> None:
    """In the order in which everybody locks them."""
    if ordered := sorted(subnets):
        await session.run("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", (ordered,))


async def rebuild_all(session: Session, subnets: Collection[int]) -> None:
    """The free ranges of whole subnets, which the transaction has made or locked."""
    if subnets:
        await session.run(f"SET LOCAL statement_timeout = '{LONG_DEADLINE_SECONDS:.0f}s'")
        await session.run("SELECT count(rebuild_free_ranges(key)) FROM unnest(%s::bigint[]) AS key", (sorted(subnets),))


async def _circumstances(session: Session, cluster: int) -> tuple[str, Vrfs]:
    """The cluster's name, and the VRFs as they are for it."""
    rows = await session.run(
        "SELECT v.name, v.id, v.id = c.vrf, c.name FROM vrf v CROSS JOIN cluster c WHERE c.id = %s", (cluster,)
    )
    ((own, called),) = [(name, called) for name, _, is_own, called in rows if is_own]
    return called, Vrfs(own, {name: number for name, number, _, _ in rows})


async def _known_interfaces(session: Session, cluster: int) -> list[KnownInterface]:
    rows = await session.run(_INTERFACES, (ABSENT_SECONDS, cluster))
    return [_known_interface(*row) for row in rows]


def _known_interface(
    id_: int,
    subnet: int | None,
    present: bool,
    serving: str,
    recent: bool,
    conflict: str | None,
    addresses: Sequence[str],
    gateways: Sequence[str],
    kind: str,
    *reported: Any,
) -> KnownInterface:
    nic, cidr, mac, vlan, up, vrf, relayed, auto = reported
    report = InterfaceReport(
        nic, cidr, tuple(addresses), tuple(gateways), mac, NicKind(kind), vlan, up, vrf, relayed, auto
    )
    return KnownInterface(id_, report, subnet, present, serving, recent, conflict)


async def _known_subnets(
    session: Session, cluster: int, vrfs: Iterable[int], cidrs: list[str], company: Company
) -> list[KnownSubnet]:
    wanted = {"cluster": cluster, "vrfs": sorted(vrfs), "cidrs": cidrs, "company": sorted(company.clusters)}
    rows = [KnownSubnet(*row) for row in await session.run(_SUBNETS, wanted)]
    return [replace(row, vrf=company.moved.get(row.id, row.vrf)) for row in rows]


async def _write(session: Session, cluster: int, planned: TopologyPlan) -> None:
    """Only subnets of which something changes are locked: claims on the others do not wait for a report."""
    rows = await session.run("SELECT subnet FROM delivery WHERE cluster = %s AND role = 'serving'", (cluster,))
    serve = sorted(set(planned.serve) - {row[0] for row in rows})
    infrastructure = await _missing_infrastructure(session, cluster, planned)
    await lock_subnets(session, {*infrastructure, *serve, *planned.moved_subnets} - set(planned.new_subnets))
    for subnet, vrf in planned.moved_subnets.items():
        await session.run("UPDATE subnet SET vrf = %s WHERE id = %s", (vrf, subnet))
    await _write_new_subnets(session, planned)
    await _write_interfaces(session, cluster, planned)
    if serve:
        await session.run(
            """INSERT INTO delivery (subnet, cluster, role) SELECT unnest(%s::bigint[]), %s, 'serving'
               ON CONFLICT (subnet, cluster) DO UPDATE SET role = 'serving', since = now()""",
            (serve, cluster),
        )
    await _write_infrastructure(session, cluster, infrastructure)
    await rebuild_all(session, planned.new_subnets)
    parts = [
        (subnet, address)
        for subnet, addresses in sorted(infrastructure.items())
        for address, _ in sorted(addresses if subnet not in planned.new_subnets else ())
    ]
    if parts:
        await session.run(f"SET LOCAL statement_timeout = '{LONG_DEADLINE_SECONDS:.0f}s'")
        await session.run(
            """SELECT count(rebuild_free_ranges(part.subnet, part.address, part.address))
               FROM unnest(%s::bigint[], %s::inet[]) AS part(subnet, address)""",
            ([subnet for subnet, _ in parts], [address for _, address in parts]),
        )


async def _write_new_subnets(session: Session, planned: TopologyPlan) -> None:
    if not planned.new_subnets:
        return
    made = [(subnet, new.vrf, new.network) for subnet, new in planned.new_subnets.items()]
    await session.run(
        f"""INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, recovering_since, fork_generation, fork_at)
            SELECT q.id, q.vrf, q.cidr, q.first, q.last, {RECOVERS.format(cidr="q.cidr")}, 0, now()
            FROM unnest(%s::bigint[], %s::bigint[], %s::cidr[], %s::inet[], %s::inet[])
                AS q(id, vrf, cidr, first, last)""",  # noqa: S608 (constants only)
        (
            [subnet for subnet, _, _ in made],
            [vrf for _, vrf, _ in made],
            [net.cidr for _, _, net in made],
            [net.text(net.first_usable) for _, _, net in made],
            [net.text(net.last_usable) for _, _, net in made],
        ),
    )


async def _write_interfaces(session: Session, cluster: int, planned: TopologyPlan) -> None:
    if planned.replaced:
        await session.run("DELETE FROM cluster_interface WHERE id = ANY(%s)", (list(planned.replaced),))
    changed = [_as_json(row) for row in planned.interfaces if row.change is not None]
    if changed:
        await session.run(_WRITE_INTERFACES, (cluster, json.dumps(changed)))
    if planned.vanished:
        await session.run(
            "UPDATE cluster_interface SET present = false, last_changed = now() WHERE id = ANY(%s)",
            ([gone.id for gone in planned.vanished],),
        )


def _as_json(row: PlannedInterface) -> dict[str, Any]:
    r = row.report
    return {
        "id": row.id,
        "nic": r.nic,
        "cidr": r.cidr,
        "subnet": row.subnet,
        "addresses": list(r.addresses),
        "gateways": list(r.gateways),
        "mac": r.mac,
        "kind": r.kind.value,
        "vlan": r.vlan,
        "up": r.up,
        "serving": row.serving,
        "vrf": r.vrf,
        "relayed": r.relayed,
        "auto": r.serve,
        "conflict": row.conflict,
    }


async def _write_infrastructure(
    session: Session, cluster: int, missing: Mapping[int, frozenset[tuple[str, str]]]
) -> None:
    rows = [(subnet, address, kind) for subnet, addresses in missing.items() for address, kind in sorted(addresses)]
    if rows:
        await session.run(
            """INSERT INTO infrastructure_address (subnet, cluster, address, kind)
               SELECT q.subnet, %s, q.address, q.kind
               FROM unnest(%s::bigint[], %s::inet[], %s::text[]) AS q(subnet, address, kind)""",
            (cluster, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]),
        )


async def _missing_infrastructure(
    session: Session, cluster: int, planned: TopologyPlan
) -> dict[int, frozenset[tuple[str, str]]]:
    """Per subnet where there are any, the addresses with their kinds that nobody may claim from now on.

    Those that may be claimed again are let go when that is certain: see `ClusterStore.drain_absent`.
    """
    stored = {
        (subnet, address, kind)
        for subnet, address, kind in await session.run(
            "SELECT subnet, host(address), kind FROM infrastructure_address WHERE cluster = %s", (cluster,)
        )
    }
    missing = {
        subnet: frozenset((address, kind) for address, kind in wanted if (subnet, address, kind) not in stored)
        for subnet, wanted in planned.infrastructure.items()
    }
    return {subnet: addresses for subnet, addresses in missing.items() if addresses}
