"""Clusters and cluster interfaces over HTTP: what the region knows of the sites."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.bodies.networks import Forgetting, InterfacePage, NewEnrolmentBody
from regiond.http.representations import networks as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, created, page_of_all, shown
from regiond.http.shapes import networks as shapes
from regiond.http.use_cases import UseCases

CLUSTER = f"{BASE}/clusters/{{cluster}}"
INTERFACE = f"{BASE}/cluster-interfaces/{{interface}}"


async def list_clusters(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.inventory.clusters()
    return page_of_all(call, rows, show.cluster, lambda view: format_id(Prefix.CLUSTER, view.id))


async def read_cluster(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.cluster(await use.inventory.cluster(call.path["cluster"])))


async def offer_enrolment(use: UseCases, call: Call[NewEnrolmentBody, NoQuery]) -> Answer:
    """It takes the place of the one that the name may have. The only answer with the token itself; the one to a
    repeated key has null in its place, and is 404 when the token was used, withdrawn or replaced meanwhile.
    """
    offer = await use.enrolment.offer(call.context, call.path["cluster"], seconds=call.body.expires_in)
    return created(show.enrolment(offer), None)


async def withdraw_enrolment(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    await use.enrolment.withdraw(call.context, call.path["cluster"])
    return Answer(204)


async def revoke_cluster(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.cluster(await use.enrolment.revoke(call.context, call.path["cluster"])))


async def forget_cluster(use: UseCases, call: Call[None, Forgetting]) -> Answer:
    await use.enrolment.forget(call.context, call.path["cluster"], dhcp_is_off=call.query.dhcp_is_off)
    return Answer(204)


async def list_interfaces(use: UseCases, call: Call[None, InterfacePage]) -> Answer:
    return page_of_all(
        call,
        await use.inventory.interfaces(call.query.selector),
        lambda view: show.interface(view, call.caller),
        lambda view: format_id(Prefix.CLUSTER_INTERFACE, view.id),
    )


async def read_interface(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    view = await use.inventory.interface(call.path["interface"])
    return shown(show.interface(view, call.caller))


ROUTES = [
    Route(
        "GET",
        f"{BASE}/clusters",
        list_clusters,
        Access.USER,
        "List clusters",
        query=Page,
        list_of=Prefix.CLUSTER,
        shows=shapes.Cluster,
    ),
    Route("GET", CLUSTER, read_cluster, Access.USER, "Read a cluster, by id or name", shows=shapes.Cluster),
    Route(
        "DELETE",
        CLUSTER,
        forget_cluster,
        Access.ADMIN,
        "Forget a cluster for good",
        query=Forgetting,
        statuses=(204,),
        conditional=True,
        refusals=("cluster-holds-host-maps",),
    ),
    Route(
        "POST",
        f"{CLUSTER}/enrolment",
        offer_enrolment,
        Access.ADMIN,
        "Make a one-time token with which a cluster of this name can enrol",
        NewEnrolmentBody,
        statuses=(201,),
        shows=shapes.Enrolment,
        refusals=("no-cluster-listener",),
    ),
    Route(
        "DELETE",
        f"{CLUSTER}/enrolment",
        withdraw_enrolment,
        Access.ADMIN,
        "Make the cluster's enrolment token worthless",
        statuses=(204,),
    ),
    Route(
        "POST", f"{CLUSTER}/revoke", revoke_cluster, Access.ADMIN, "Refuse a cluster from now on", shows=shapes.Cluster
    ),
    Route(
        "GET",
        f"{BASE}/cluster-interfaces",
        list_interfaces,
        Access.USER,
        "List cluster interfaces, or those that a selector names",
        query=InterfacePage,
        list_of=Prefix.CLUSTER_INTERFACE,
        shows=shapes.ClusterInterface,
        refusals=SELECTING,
    ),
    Route(
        "GET",
        INTERFACE,
        read_interface,
        Access.USER,
        "Read a cluster interface",
        shows=shapes.ClusterInterface,
    ),
]
