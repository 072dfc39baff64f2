"""The clusters on a subnet over HTTP: who serves it, and the admin's word that two are on the same wire."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.representations import pairs as show
from regiond.http.routing import SELECTING, Access, Answer, Call, Route, page_of_all
from regiond.http.shapes import pairs as shapes
from regiond.http.subnets import SUBNET
from regiond.http.use_cases import UseCases

CLUSTERS = f"{SUBNET}/clusters"
CLUSTER = f"{CLUSTERS}/{{cluster}}"


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.pairs.clusters_on(call.path["subnet"])
    return page_of_all(call, rows, show.cluster_on_subnet, lambda found: format_id(Prefix.CLUSTER, found.cluster))


async def confirm(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """Two clusters on one wire, an HA pair, both get the host maps; a reservation is applied when both have them.

    Until then the second one is `shared-subnet`: unrelated sites may use the same network.
    """
    found = await use.pairs.confirm(call.context, call.path["subnet"], call.path["cluster"])
    return Answer(200, show.cluster_on_subnet(found))


async def end(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """It forgets the subnet's host maps. Until it has confirmed that, no address that it may serve is freed."""
    found = await use.pairs.end(call.context, call.path["subnet"], call.path["cluster"])
    return Answer(200, show.cluster_on_subnet(found))


ROUTES = [
    Route(
        "GET",
        CLUSTERS,
        read_list,
        Access.USER,
        "List the clusters on a subnet",
        query=Page,
        list_of=Prefix.CLUSTER,
        shows=shapes.ClusterOnSubnet,
        refusals=SELECTING,
    ),
    Route(
        "POST",
        f"{CLUSTER}/confirm-pair",
        confirm,
        Access.ADMIN,
        "Say that a cluster is on the same wire as those that serve the subnet: it serves it, too",
        shows=shapes.ClusterOnSubnet,
        refusals=(*SELECTING, "cluster-not-on-subnet"),
    ),
    Route(
        "POST",
        f"{CLUSTER}/unpair",
        end,
        Access.ADMIN,
        "End that a cluster serves the subnet beside others",
        shows=shapes.ClusterOnSubnet,
        refusals=(*SELECTING, "cluster-not-on-subnet", "last-serving-cluster"),
    ),
]
