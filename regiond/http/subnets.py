"""Subnets over HTTP: their ranges, how full they are, whether what is stored of them is sound."""

from regiond.domain.ids import Prefix, format_id
from regiond.domain.ranges import AddressRange
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.bodies.subnets import Available, ForcingRange, NewRange, RangeChange, SubnetChange
from regiond.http.representations import subnets as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, created, page_of_all, shown
from regiond.http.shapes import subnets as shapes
from regiond.http.shapes.values import Address
from regiond.http.use_cases import UseCases

PATH = f"{BASE}/subnets"
SUBNET = f"{PATH}/{{subnet}}"
RANGES = f"{SUBNET}/ranges"
RANGE = f"{RANGES}/{{range}}"
RANGING = (*SELECTING, "address-outside-subnet", "range-overlap", "range-over-reservations")


def _range_id(held: AddressRange) -> str:
    return format_id(Prefix.ADDRESS_RANGE, held.id)


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.inventory.subnets()
    return page_of_all(call, rows, show.subnet, lambda view: format_id(Prefix.SUBNET, view.id))


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.subnet(await use.inventory.subnet(call.path["subnet"])))


async def change(use: UseCases, call: Call[SubnetChange, NoQuery]) -> Answer:
    view = await use.subnets.change_subnet(call.context, call.path["subnet"], **call.body.given)
    return shown(show.subnet(view))


async def read_utilisation(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, show.utilisation(await use.subnets.utilisation(call.path["subnet"])))


async def read_available(use: UseCases, call: Call[None, Available]) -> Answer:
    return Answer(200, list(await use.subnets.available(call.path["subnet"], call.query.limit)))


async def list_ranges(use: UseCases, call: Call[None, Page]) -> Answer:
    rows = await use.subnets.list_ranges(call.path["subnet"])
    return page_of_all(call, rows, show.address_range, _range_id)


async def add_range(use: UseCases, call: Call[NewRange, ForcingRange]) -> Answer:
    body = call.body
    made = await use.subnets.add_range(
        call.context,
        call.path["subnet"],
        kind=body.kind.value,
        low=body.low,
        high=body.high,
        comment=body.comment,
        force=call.query.force,
    )
    return created(show.address_range(made), f"{call.url()}/{_range_id(made)}")


async def read_range(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return shown(show.address_range(await use.subnets.range(call.path["subnet"], call.path["range"])))


async def change_range(use: UseCases, call: Call[RangeChange, ForcingRange]) -> Answer:
    changed = await use.subnets.change_range(
        call.context, call.path["subnet"], call.path["range"], changes=call.body.given, force=call.query.force
    )
    return shown(show.address_range(changed))


async def remove_range(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    await use.subnets.remove_range(call.context, call.path["subnet"], call.path["range"])
    return Answer(204)


async def check(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, show.check_report(await use.subnets.check(call.context, call.path["subnet"])))


async def repair(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """What a check finds after the repair."""
    return Answer(200, show.check_report(await use.subnets.repair(call.context, call.path["subnet"])))


ROUTES = [
    Route("GET", PATH, read_list, Access.USER, "List subnets", query=Page, list_of=Prefix.SUBNET, shows=shapes.Subnet),
    Route(
        "GET", SUBNET, read, Access.USER, "Read a subnet, by id or selector", shows=shapes.Subnet, refusals=SELECTING
    ),
    Route(
        "PATCH",
        SUBNET,
        change,
        Access.ADMIN,
        "Set how long a subnet's released addresses rest",
        SubnetChange,
        conditional=True,
        shows=shapes.Subnet,
        refusals=SELECTING,
    ),
    Route(
        "GET",
        f"{SUBNET}/utilisation",
        read_utilisation,
        Access.USER,
        "How a subnet's addresses are used",
        shows=shapes.Utilisation,
        refusals=SELECTING,
    ),
    Route(
        "GET",
        f"{SUBNET}/available",
        read_available,
        Access.USER,
        "The lowest free addresses",
        query=Available,
        shows=list[Address],
        refusals=SELECTING,
    ),
    Route(
        "GET",
        RANGES,
        list_ranges,
        Access.USER,
        "List ranges",
        query=Page,
        list_of=Prefix.ADDRESS_RANGE,
        shows=shapes.Range,
        refusals=SELECTING,
    ),
    Route(
        "POST",
        RANGES,
        add_range,
        Access.ADMIN,
        "Add a range",
        NewRange,
        ForcingRange,
        (201,),
        shows=shapes.Range,
        refusals=RANGING,
    ),
    Route("GET", RANGE, read_range, Access.USER, "Read a range", shows=shapes.Range, refusals=SELECTING),
    Route(
        "PATCH",
        RANGE,
        change_range,
        Access.ADMIN,
        "Change a range",
        RangeChange,
        ForcingRange,
        conditional=True,
        shows=shapes.Range,
        refusals=(*RANGING, "range-reported"),
    ),
    Route(
        "DELETE",
        RANGE,
        remove_range,
        Access.ADMIN,
        "Remove a range",
        statuses=(204,),
        conditional=True,
        refusals=(*SELECTING, "range-reported"),
    ),
    Route(
        "GET",
        f"{SUBNET}/check",
        check,
        Access.ADMIN,
        "Check what is stored of a subnet",
        shows=shapes.CheckReport,
        refusals=SELECTING,
    ),
    Route(
        "POST",
        f"{SUBNET}/repair",
        repair,
        Access.ADMIN,
        "Rebuild a subnet's index of free addresses",
        shows=shapes.CheckReport,
        refusals=SELECTING,
    ),
]
