"""Leases of the clusters' DHCP servers over HTTP."""

from regiond.http.bodies.leases import LeasePage
from regiond.http.representations import leases as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, next_page
from regiond.http.shapes import leases as shapes
from regiond.http.use_cases import UseCases


async def read_list(use: UseCases, call: Call[None, LeasePage]) -> Answer:
    """The clusters that serve the subnet are asked now. One that cannot be asked is told of in `clusters`."""
    query = call.query
    listing = await use.leases.on_subnet(
        call.context,
        call.path["subnet"],
        addresses=query.address,
        macs=query.mac,
        limit=query.limit,
        after=query.after,
    )
    return Answer(200, show.listing(listing), next_page(call, listing.following))


ROUTES = [
    Route(
        "GET",
        f"{BASE}/subnets/{{subnet}}/leases",
        read_list,
        Access.ADMIN,
        "List the leases that DHCP servers have on a subnet now",
        query=LeasePage,
        shows=shapes.Leases,
        refusals=SELECTING,
    ),
]
