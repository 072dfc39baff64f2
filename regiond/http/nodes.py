"""Nodes and their extra addresses over HTTP."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import NodeView, ReservationView
from regiond.http.bodies.base import Claiming, Forcing, NoQuery, Page, Waiting
from regiond.http.bodies.nodes import NewNode, NewNodeAddress, NodeChange
from regiond.http.representations import nodes as show
from regiond.http.representations.reservations import reservation
from regiond.http.routing import (
    BASE,
    CLAIMING,
    Access,
    Answer,
    Call,
    Route,
    created,
    page,
    page_of_all,
    released,
    shown,
)
from regiond.http.shapes import nodes as shapes
from regiond.http.shapes.reservations import Releasing, Reservation
from regiond.http.use_cases import UseCases

PATH = f"{BASE}/nodes"
NODE = f"{PATH}/{{node}}"
ADDRESSES = f"{NODE}/addresses"
ADDRESS = f"{ADDRESSES}/{{reservation}}"


def _id(view: NodeView) -> str:
    return format_id(Prefix.NODE, view.id)


def _reservation_id(view: ReservationView) -> str:
    return format_id(Prefix.RESERVATION, view.reservation.id)


async def create(use: UseCases, call: Call[NewNode, NoQuery]) -> Answer:
    body = call.body
    view = await use.claims.create_node(
        call.context, hostname=body.hostname, macs=tuple(body.macs), owner=body.owner, comment=body.comment
    )
    return created(show.node(view), f"{PATH}/{_id(view)}")


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.claims.list_nodes(call.context, filters={}, limit=call.query.limit + 1, after=call.query.after)
    return page(call, rows, show.node, _id)


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.node(await use.claims.node(call.context, call.path["node"])))


async def change(use: UseCases, call: Call[NodeChange, Waiting]) -> Answer:
    changes = call.body.given
    if call.body.replaced_macs is not None:
        changes["replaced_macs"] = {each.old: each.new for each in call.body.replaced_macs}
    view = await use.edits.change_node(call.context, call.path["node"], changes=changes)
    return shown(show.node(view))


async def delete(use: UseCases, call: Call[None, Forcing]) -> Answer:
    still = await use.claims.delete_node(call.context, call.path["node"], force=call.query.force)
    return released(still, lambda: {"releasing": [reservation(view) for view in still]})


async def claim_address(use: UseCases, call: Call[NewNodeAddress, Claiming]) -> Answer:
    body = call.body
    view, new = await use.claims.claim_node_address(
        call.context,
        call.path["node"],
        interface=body.interface,
        mac=body.mac,
        alias=body.alias,
        client_id=body.client_id,
        duid=body.duid,
        address=body.address,
        hostname=body.hostname,
        force=call.query.force,
    )
    return created(reservation(view), f"{call.url()}/{_reservation_id(view)}", new)


async def list_addresses(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.claims.list_node_addresses(call.context, call.path["node"])
    return page_of_all(call, rows, reservation, _reservation_id)


async def read_address(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    view = await use.claims.node_address(call.context, call.path["node"], call.path["reservation"])
    return shown(reservation(view))


async def release_address(use: UseCases, call: Call[None, Forcing]) -> Answer:
    still = await use.claims.release_node_address(
        call.context, call.path["node"], call.path["reservation"], force=call.query.force
    )
    return released(still, lambda: reservation(still[0]))


ROUTES = [
    Route(
        "POST",
        PATH,
        create,
        Access.ADMIN,
        "Make a node",
        NewNode,
        statuses=(201,),
        shows=shapes.Node,
        refusals=("name-taken", "identifier-taken", "not-found"),
    ),
    Route("GET", PATH, read_list, Access.USER, "List nodes", query=Page, list_of=Prefix.NODE, shows=shapes.Node),
    Route("GET", NODE, read, Access.USER, "Read a node", shows=shapes.Node),
    Route(
        "PATCH",
        NODE,
        change,
        Access.ADMIN,
        "Change a node",
        NodeChange,
        Waiting,
        conditional=True,
        shows=shapes.Node,
        refusals=("name-taken", "identifier-taken"),
    ),
    Route(
        "DELETE",
        NODE,
        delete,
        Access.ADMIN,
        "Delete a node and release its extra addresses",
        query=Forcing,
        statuses=(204, 202),
        conditional=True,
        releasing=Releasing,
    ),
    Route(
        "POST",
        ADDRESSES,
        claim_address,
        Access.USER,
        "Claim an extra address for a node",
        NewNodeAddress,
        Claiming,
        (201, 200),
        shows=Reservation,
        refusals=(*CLAIMING, "node-full"),
    ),
    Route(
        "GET",
        ADDRESSES,
        list_addresses,
        Access.USER,
        "List a node's extra addresses",
        query=Page,
        list_of=Prefix.RESERVATION,
        shows=Reservation,
    ),
    Route("GET", ADDRESS, read_address, Access.USER, "Read one extra address", shows=Reservation),
    Route(
        "DELETE",
        ADDRESS,
        release_address,
        Access.USER,
        "Release an extra address",
        query=Forcing,
        statuses=(204, 202),
        conditional=True,
        releasing=Reservation,
    ),
]
