"""Unmanaged devices over HTTP."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import DeviceView
from regiond.http.bodies.base import Claiming, Forcing, NoQuery, Page, Waiting
from regiond.http.bodies.devices import DeviceChange, NewDevice
from regiond.http.representations import devices as show
from regiond.http.representations.reservations import reservation
from regiond.http.routing import BASE, CLAIMING, Access, Answer, Call, Route, created, next_page, released, shown
from regiond.http.shapes import devices as shapes
from regiond.http.shapes.reservations import Releasing
from regiond.http.use_cases import UseCases

PATH = f"{BASE}/devices"


def _id(view: DeviceView) -> str:
    return format_id(Prefix.DEVICE, view.id)


async def create(use: UseCases, call: Call[NewDevice, Claiming]) -> Answer:
    body = call.body
    view, new = await use.claims.create_device(
        call.context,
        interface=body.interface,
        macs=body.all_macs,
        duid=body.duid,
        address=body.address,
        hostname=body.hostname,
        owner=body.owner,
        comment=body.comment,
        force=call.query.force,
    )
    return created(show.device(view), f"{PATH}/{_id(view)}", new)


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    """A page has fewer than `limit` devices where they have more than 1,000 addresses together."""
    query = call.query
    rows, more = await use.claims.list_devices(call.context, filters={}, limit=query.limit, after=query.after)
    return Answer(200, [show.device(row) for row in rows], next_page(call, _id(rows[-1]) if more else None))


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.device(await use.claims.device(call.context, call.path["device"])))


async def change(use: UseCases, call: Call[DeviceChange, Waiting]) -> Answer:
    view = await use.edits.change_device(call.context, call.path["device"], changes=call.body.given)
    return shown(show.device(view))


async def delete(use: UseCases, call: Call[None, Forcing]) -> Answer:
    still = await use.claims.delete_device(call.context, call.path["device"], force=call.query.force)
    return released(still, lambda: {"releasing": [reservation(view) for view in still]})


ROUTES = [
    Route(
        "POST",
        PATH,
        create,
        Access.ADMIN,
        "Claim an address for a new device",
        NewDevice,
        Claiming,
        (201, 200),
        shows=shapes.Device,
        refusals=CLAIMING,
    ),
    Route("GET", PATH, read_list, Access.USER, "List devices", query=Page, list_of=Prefix.DEVICE, shows=shapes.Device),
    Route("GET", f"{PATH}/{{device}}", read, Access.USER, "Read a device", shows=shapes.Device),
    Route(
        "PATCH",
        f"{PATH}/{{device}}",
        change,
        Access.ADMIN,
        "Change a device",
        DeviceChange,
        Waiting,
        conditional=True,
        shows=shapes.Device,
        refusals=("identifier-taken",),
    ),
    Route(
        "DELETE",
        f"{PATH}/{{device}}",
        delete,
        Access.ADMIN,
        "Delete a device and release everything it has",
        query=Forcing,
        statuses=(204, 202),
        conditional=True,
        releasing=Releasing,
    ),
]
