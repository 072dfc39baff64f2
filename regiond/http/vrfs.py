"""Routing domains over HTTP: VRFs, and subnets that admins make and remove."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.bodies.vrfs import NewSubnet, NewVrf, VrfChange
from regiond.http.representations.subnets import subnet as show_subnet
from regiond.http.representations.vrfs import vrf as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, created, page_of_all, shown
from regiond.http.shapes.subnets import Subnet
from regiond.http.shapes.vrfs import Vrf
from regiond.http.subnets import PATH as SUBNETS
from regiond.http.subnets import SUBNET
from regiond.http.use_cases import UseCases

VRFS = f"{BASE}/vrfs"
VRF = f"{VRFS}/{{vrf}}"


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    return page_of_all(call, await use.vrfs.vrfs(), show, lambda view: format_id(Prefix.VRF, view.id))


async def add(use: UseCases, call: Call[NewVrf, NoQuery]) -> Answer:
    made = await use.vrfs.add_vrf(call.context, name=call.body.name, comment=call.body.comment)
    return created(show(made), f"{VRFS}/{format_id(Prefix.VRF, made.id)}")


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show(await use.vrfs.vrf(call.path["vrf"])))


async def change(use: UseCases, call: Call[VrfChange, NoQuery]) -> Answer:
    return shown(show(await use.vrfs.change_vrf(call.context, call.path["vrf"], comment=call.body.comment)))


async def remove(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    await use.vrfs.remove_vrf(call.context, call.path["vrf"])
    return Answer(204)


async def add_subnet(use: UseCases, call: Call[NewSubnet, NoQuery]) -> Answer:
    """Host maps of claims on it are pending until a cluster reports the network. While the region recovers it recovers,
    too: claims on it are answered 503 until every cluster was heard.
    """
    body = call.body
    made = await use.vrfs.add_subnet(
        call.context, cidr=body.cidr, vrf=body.vrf, release_hold_seconds=body.release_hold_seconds
    )
    return created(show_subnet(made), f"{SUBNETS}/{format_id(Prefix.SUBNET, made.id)}")


async def remove_subnet(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """Only where nothing is reserved and no cluster is, and not while it recovers."""
    await use.vrfs.remove_subnet(call.context, call.path["subnet"])
    return Answer(204)


ROUTES = [
    Route("GET", VRFS, read_list, Access.USER, "List VRFs", query=Page, list_of=Prefix.VRF, shows=Vrf),
    Route(
        "POST",
        VRFS,
        add,
        Access.ADMIN,
        "Make a VRF",
        NewVrf,
        statuses=(201,),
        shows=Vrf,
        refusals=("name-taken", "not-found"),
    ),
    Route("GET", VRF, read, Access.USER, "Read a VRF, by id or name", shows=Vrf),
    Route("PATCH", VRF, change, Access.ADMIN, "Change a VRF's comment", VrfChange, conditional=True, shows=Vrf),
    Route(
        "DELETE",
        VRF,
        remove,
        Access.ADMIN,
        "Remove a VRF that nothing is in",
        statuses=(204,),
        conditional=True,
        refusals=("vrf-in-use",),
    ),
    Route(
        "POST",
        SUBNETS,
        add_subnet,
        Access.ADMIN,
        "Make a subnet that no cluster has reported",
        NewSubnet,
        statuses=(201,),
        shows=Subnet,
        refusals=("not-found", "subnet-overlap"),
    ),
    Route(
        "DELETE",
        SUBNET,
        remove_subnet,
        Access.ADMIN,
        "Remove a subnet that nobody uses",
        statuses=(204,),
        conditional=True,
        refusals=(*SELECTING, "subnet-in-use", "subnet-recovering"),
    ),
]
