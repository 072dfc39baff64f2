"""What an admin changes of clusters and cluster interfaces over HTTP."""

from regiond.http.bodies.cluster_edits import ClusterChange, LeavingBehind, ServingChange, Unserving
from regiond.http.networks import CLUSTER, INTERFACE
from regiond.http.representations import networks as show
from regiond.http.routing import Access, Answer, Call, Route, shown
from regiond.http.shapes import networks as shapes
from regiond.http.use_cases import UseCases


async def change_cluster(use: UseCases, call: Call[ClusterChange, LeavingBehind]) -> Answer:
    """Another name is good from then on in selectors, too. A cluster on a UNIX socket goes on saying the name in its
    own configuration, and is recognised by that. A subnet that only this cluster is on, or with `pairs` those that
    serve it together, goes to another VRF with it, reservations and host maps as they are.
    """
    body = call.body
    view = await use.cluster_edits.change_cluster(
        call.context,
        call.path["cluster"],
        name=body.name,
        vrf=body.vrf,
        pairs=call.query.pairs,
        force=call.query.force,
    )
    return shown(show.cluster(view))


async def change_interface(use: UseCases, call: Call[ServingChange, Unserving]) -> Answer:
    """Whether the cluster serves the subnet there, with all its NICs on it: where it does not, its DHCP server forgets
    the subnet's host maps, and until that is confirmed no address that it may still serve is freed. What an admin says
    stays, whatever the cluster's configuration says of new networks. Beside another cluster: only where both are on one
    wire (see `confirm-pair`).
    """
    view = await use.cluster_edits.change_interface(
        call.context, call.path["interface"], serve=call.body.serve, force=call.query.force
    )
    return shown(show.interface(view, call.caller))


ROUTES = [
    Route(
        "PATCH",
        CLUSTER,
        change_cluster,
        Access.ADMIN,
        "Rename a cluster, or give its networks another VRF",
        ClusterChange,
        LeavingBehind,
        conditional=True,
        shows=shapes.Cluster,
        refusals=("name-taken", "subnets-left-behind"),
    ),
    Route(
        "PATCH",
        INTERFACE,
        change_interface,
        Access.ADMIN,
        "Say whether a cluster serves a network",
        ServingChange,
        Unserving,
        conditional=True,
        shows=shapes.ClusterInterface,
        refusals=("cluster-not-on-subnet", "last-serving-cluster"),
    ),
]
