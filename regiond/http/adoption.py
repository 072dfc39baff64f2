"""What clusters' DHCP servers have of their own over HTTP, and the adoption of their static entries."""

from regiond.domain.first_contact import ForeignEntry
from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.adoption import Adopting, ForeignEntryPage
from regiond.http.bodies.base import NoQuery
from regiond.http.representations import adoption as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, page
from regiond.http.shapes import adoption as shapes
from regiond.http.use_cases import UseCases

CLUSTER = f"{BASE}/clusters/{{cluster}}"


def _id(foreign: ForeignEntry) -> str:
    return format_id(Prefix.FOREIGN_ENTRY, foreign.id)


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, show.dhcp_server(await use.adoptions.contact(call.context, call.path["cluster"])))


async def list_entries(use: UseCases, call: Call[None, ForeignEntryPage]) -> Answer:
    query = call.query
    rows = await use.adoptions.entries(
        call.context, call.path["cluster"], subnet=query.subnet, limit=query.limit + 1, after=query.after
    )
    return page(call, rows, show.foreign_entry, _id)


async def adopt(use: UseCases, call: Call[Adopting, NoQuery]) -> Answer:
    """200 also where some cannot be adopted: each has its own result."""
    results = await use.adoptions.adopt(
        call.context, call.path["cluster"], entries=call.body.entries, owner=call.body.owner
    )
    return Answer(200, [show.adoption_result(result) for result in results])


ROUTES = [
    Route(
        "GET",
        f"{CLUSTER}/dhcp-server",
        read,
        Access.ADMIN,
        "What a cluster's DHCP server has of its own",
        shows=shapes.DhcpServer,
    ),
    Route(
        "GET",
        f"{CLUSTER}/static-entries",
        list_entries,
        Access.ADMIN,
        "List the static entries of a cluster's DHCP server that are not ours",
        query=ForeignEntryPage,
        list_of=Prefix.FOREIGN_ENTRY,
        shows=shapes.ForeignEntry,
        refusals=SELECTING,
    ),
    Route(
        "POST",
        f"{CLUSTER}/adopt",
        adopt,
        Access.ADMIN,
        "Make devices of static entries",
        Adopting,
        shows=list[shapes.AdoptionResult],
    ),
]
