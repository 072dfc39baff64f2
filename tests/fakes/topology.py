"""What `storage.topology.ClusterStore` does to the tables, in memory: the same plan, the same rows.

`tests/regiond/storage/test_topology_on_postgres.py` keeps this fake true.
"""

from collections.abc import Sequence
from datetime import timedelta

from clusterd.protocol.values import InterfaceReport
from regiond.domain.identity import Registered
from regiond.domain.ids import NewId
from regiond.domain.networks import network
from regiond.domain.topology import KnownInterface, KnownSubnet, TopologyPlan, plan_topology
from regiond.storage.topology import ABSENT_SECONDS
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
    reports: Sequence[InterfaceReport],
    new_id: NewId,
    hold: int = 600,
    epoch: int | None = None,
) -> TopologyPlan:
    """Make the picture of this cluster the reported one. `hold` is the release hold of new subnets."""
    if epoch is not None and epoch < tables.epochs[cluster]:
        return TopologyPlan({}, (), (), (), {})
    planned = plan_topology(
        reports, _known_interfaces(tables, cluster), _known_subnets(tables, cluster, reports), new_id
    )
    for subnet, net in planned.new_subnets.items():
        tables.add_subnet(subnet, net.cidr, hold)
    for row in planned.interfaces:
        if row.change is not None:
            tables.interfaces[row.id] = {
                "id": row.id,
                "cluster": cluster,
                "subnet": row.subnet,
                "report": row.report,
                "serving": row.serving,
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
        tables.infrastructure = [r for r in tables.infrastructure if (r["subnet"], r["cluster"]) != (subnet, cluster)]
        for address, kind in sorted(wanted):
            row_ = {"subnet": subnet, "cluster": cluster, "kind": kind, "address": address}
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
        KnownInterface(row["id"], row["report"], row["subnet"], row["present"], row["serving"], _stands(tables, row))
        for row in tables.interfaces.values()
        if row["cluster"] == cluster
    ]


def _known_subnets(tables: Tables, cluster: int, reports: Sequence[InterfaceReport]) -> list[KnownSubnet]:
    wanted = [network(report.cidr) for report in reports]
    known = []
    for subnet, row in sorted(tables.subnets.items()):
        net = network(row["cidr"])
        if any(net.family == w.family and net.first <= w.last and w.first <= net.last for w in wanted):
            held = any(
                s == subnet and c != cluster and d["role"] != "former" for (s, c), d in tables.deliveries.items()
            )
            seen = any(
                i["subnet"] == subnet and i["cluster"] != cluster and i["present"] for i in tables.interfaces.values()
            )
            known.append(KnownSubnet(subnet, row["cidr"], held or seen))
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
    return any(
        row["address"] in (i["report"].gateways if row["kind"] == "gateway" else i["report"].addresses)
        for i in _standing(tables, row["subnet"], row["cluster"])
    )
