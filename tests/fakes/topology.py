"""What `storage.topology.ClusterStore` does to the tables, in memory: the same plan, the same rows.

`tests/regiond/storage/test_topology_on_postgres.py` keeps this fake true.
"""

from collections.abc import Sequence
from datetime import timedelta

from clusterd.protocol.values import InterfaceReport
from regiond.domain.identity import Registered
from regiond.domain.ids import NewId
from regiond.domain.networks import network
from regiond.domain.topology import NOTHING, KnownInterface, KnownSubnet, TopologyPlan, Vrfs, plan_topology
from regiond.domain.topology_changes import changes_of
from regiond.storage.topology_rows import ABSENT_SECONDS
from tests.fakes.tables import Row, Tables


def register(tables: Tables, name: str, new_id: NewId) -> Registered:
    """Note a cluster's new connection; a name that is not known yet becomes a cluster."""
    known = [cluster for cluster, of in tables.clusters.items() if of == name]
    cluster = known[0] if known else new_id()
    tables.clusters[cluster] = name
    tables.epochs[cluster] = tables.epochs.get(cluster, 0) + 1
    return Registered(cluster, tables.epochs[cluster], name, history="history-1")


def apply_topology(
    tables: Tables,
    cluster: int,
    reports: Sequence[InterfaceReport] | None,
    new_id: NewId,
    hold: int = 600,
    epoch: int | None = None,
) -> TopologyPlan:
    """Make the picture of this cluster the reported one; None: the last one, looked at anew.

    `hold` is the release hold of new subnets.
    """
    if epoch is not None and epoch < tables.epochs[cluster]:
        return NOTHING
    if reports is None:
        own = (row for row in tables.interfaces.values() if row["cluster"] == cluster)
        reports = sorted(row["report"] for row in own if row["present"])
    vrfs = Vrfs(tables.vrf_of.get(cluster, "default"), tables.vrfs)
    planned = plan_topology(
        reports, _known_interfaces(tables, cluster), _known_subnets(tables, cluster, reports), new_id, vrfs
    )
    names = {number: name for name, number in tables.vrfs.items()}
    before = {subnet: names[row["vrf_id"]] for subnet, row in tables.subnets.items()}
    tables.changes += [(cluster, change) for change in changes_of(planned, before)]
    for subnet, vrf in planned.moved_subnets.items():
        tables.subnets[subnet]["vrf_id"] = vrf
    for subnet, new in planned.new_subnets.items():
        tables.add_subnet(subnet, new.network.cidr, hold, new.vrf)
        known = any(row["cidr"] == new.network.cidr and not row["settled"] for row in tables.evidence.values())
        made = tables.subnets[subnet]
        made.update(recovering=tables.recovering or known, made_since=True)
        made.update(fork_generation=0, fork_at=tables.now.isoformat())
    for replaced in planned.replaced:
        del tables.interfaces[replaced]
    for row in planned.interfaces:
        if row.change is not None:
            tables.interfaces[row.id] = {
                "id": row.id,
                "cluster": cluster,
                "subnet": row.subnet,
                "report": row.report,
                "serving": row.serving,
                "conflict": row.conflict,
                "present": True,
                "last_changed": tables.now,
            }
    for gone in planned.vanished:
        tables.interfaces[gone.id].update(present=False, last_changed=tables.now)
    for subnet in planned.serve:
        if (subnet, cluster) not in tables.deliveries:
            tables.add_delivery(subnet, cluster, "serving")
        elif tables.deliveries[subnet, cluster]["role"] != "serving":
            tables.deliveries[subnet, cluster].update(role="serving", since=tables.now.isoformat())
    for subnet, wanted in planned.infrastructure.items():
        for address, kind in sorted(wanted):
            row_ = {"subnet": subnet, "cluster": cluster, "kind": kind, "address": address}
            if row_ not in tables.infrastructure:
                tables.infrastructure.append(row_)
    for subnet in {*planned.infrastructure, *planned.new_subnets}:
        tables.rebuild_free_ranges(subnet)
    return planned


def drain_absent(tables: Tables) -> None:
    """A cluster whose interface on a subnet has been absent for a while does not serve it any more."""
    for (subnet, cluster), row in tables.deliveries.items():
        if row["role"] == "serving" and not _standing(tables, subnet, cluster):
            row.update(role="draining", since=tables.now.isoformat())
    abandoned = [row for row in tables.infrastructure if not _is_somebodys(tables, row)]
    tables.infrastructure = [row for row in tables.infrastructure if row not in abandoned]
    for subnet in {row["subnet"] for row in abandoned}:
        tables.rebuild_free_ranges(subnet)


def _known_interfaces(tables: Tables, cluster: int) -> list[KnownInterface]:
    return [
        KnownInterface(
            *(row["id"], row["report"], row["subnet"], row["present"], row["serving"]),
            recent=_stands(tables, row),
            conflict=row["conflict"],
        )
        for row in tables.interfaces.values()
        if row["cluster"] == cluster
    ]


def _known_subnets(tables: Tables, cluster: int, reports: Sequence[InterfaceReport]) -> list[KnownSubnet]:
    own = [row for row in tables.interfaces.values() if row["cluster"] == cluster]
    wanted = [network(report.cidr) for report in reports]
    wanted += [network(row["report"].cidr) for row in own if _stands(tables, row)]
    of_cluster = {row["subnet"] for row in own}
    known = []
    for subnet, row in sorted(tables.subnets.items()):
        net = network(row["cidr"])
        near = any(net.family == w.family and net.first <= w.last and w.first <= net.last for w in wanted)
        if near or subnet in of_cluster:
            held = any(
                s == subnet and c != cluster and d["role"] != "former" for (s, c), d in tables.deliveries.items()
            )
            seen = any(
                i["subnet"] == subnet and i["cluster"] != cluster and (i["present"] or i["serving"] == "serving")
                for i in tables.interfaces.values()
            )
            serves = tables.deliveries.get((subnet, cluster), {}).get("role") == "serving"
            known.append(KnownSubnet(subnet, row["cidr"], held or seen, row["vrf_id"], serves))
    return known


def _stands(tables: Tables, interface: Row) -> bool:
    return bool(interface["present"] or interface["last_changed"] > tables.now - timedelta(seconds=ABSENT_SECONDS))


def _standing(tables: Tables, subnet: int, cluster: int) -> list[Row]:
    return [
        row
        for row in tables.interfaces.values()
        if row["cluster"] == cluster and row["subnet"] == subnet and _stands(tables, row)
    ]


def _is_somebodys(tables: Tables, row: Row) -> bool:
    """Or was until a moment ago: while an interface changes, what it had is not let go."""
    there = [i for i in tables.interfaces.values() if (i["cluster"], i["subnet"]) == (row["cluster"], row["subnet"])]
    return any(
        i["last_changed"] > tables.now - timedelta(seconds=ABSENT_SECONDS)
        or (
            i["present"]
            and row["address"] in (i["report"].gateways if row["kind"] == "gateway" else i["report"].addresses)
        )
        for i in there
    )
