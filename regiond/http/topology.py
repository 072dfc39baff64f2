"""What a cluster sees, over HTTP: its interfaces, and what happened to them."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery
from regiond.http.bodies.topology import TopologyChangePage
from regiond.http.networks import CLUSTER
from regiond.http.representations import topology as show
from regiond.http.routing import Access, Answer, Call, Route, page
from regiond.http.shapes import topology as shapes
from regiond.http.use_cases import UseCases

TOPOLOGY = f"{CLUSTER}/topology"


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, show.topology(await use.topologies.topology(call.path["cluster"]), call.caller))


async def read_changes(use: UseCases, call: Call[None, TopologyChangePage]) -> Answer:
    """The newest first: a page goes on with what is older. Changes are kept for 90 days, 10,000 of each cluster."""
    query = call.query
    rows = await use.topologies.changes(
        call.path["cluster"], filters=query.filters, limit=query.limit + 1, after=query.after
    )
    return page(
        call,
        rows,
        lambda change: show.interface_change(change, call.caller),
        lambda change: format_id(Prefix.INTERFACE_CHANGE, change.id),
    )


ROUTES = [
    Route("GET", TOPOLOGY, read, Access.USER, "Read a cluster's interfaces", shows=shapes.Topology),
    Route(
        "GET",
        f"{TOPOLOGY}/changes",
        read_changes,
        Access.USER,
        "What happened to a cluster's interfaces, the newest first",
        query=TopologyChangePage,
        list_of=Prefix.INTERFACE_CHANGE,
        shows=shapes.InterfaceChange,
    ),
]
