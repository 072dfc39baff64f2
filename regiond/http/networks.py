"""Clusters and cluster interfaces over HTTP: what the region knows of the sites."""

from regiond.domain.ids import Prefix, format_id
from regiond.http import representations
from regiond.http.bodies import InterfacePage, NoQuery, Page
from regiond.http.routing import BASE, Access, Answer, Call, Route, page_of_all
from regiond.http.use_cases import UseCases


async def list_clusters(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.inventory.clusters()
    return page_of_all(call, rows, representations.cluster, lambda view: format_id(Prefix.CLUSTER, view.id))


async def read_cluster(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, representations.cluster(await use.inventory.cluster(call.path["cluster"])))


async def list_interfaces(use: UseCases, call: Call[None, InterfacePage]) -> Answer:
    return page_of_all(
        call,
        await use.inventory.interfaces(call.query.selector),
        lambda view: representations.interface(view, call.caller),
        lambda view: format_id(Prefix.CLUSTER_INTERFACE, view.id),
    )


async def read_interface(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    view = await use.inventory.interface(call.path["interface"])
    return Answer(200, representations.interface(view, call.caller))


ROUTES = [
    Route("GET", f"{BASE}/clusters", list_clusters, Access.USER, "List clusters", query=Page, list_of=Prefix.CLUSTER),
    Route("GET", f"{BASE}/clusters/{{cluster}}", read_cluster, Access.USER, "Read a cluster, by id or name"),
    Route(
        "GET",
        f"{BASE}/cluster-interfaces",
        list_interfaces,
        Access.USER,
        "List cluster interfaces, or those that a selector names",
        query=InterfacePage,
        list_of=Prefix.CLUSTER_INTERFACE,
    ),
    Route("GET", f"{BASE}/cluster-interfaces/{{interface}}", read_interface, Access.USER, "Read a cluster interface"),
]
