"""Addresses that somebody uses without a reservation over HTTP: seen by probes, until they expire or are cleared."""

from regiond.domain.ids import Prefix, format_id
from regiond.http.bodies.base import NoQuery, Page
from regiond.http.representations import in_use as show
from regiond.http.routing import SELECTING, Access, Answer, Call, Route, page_of_all
from regiond.http.shapes import in_use as shapes
from regiond.http.subnets import SUBNET
from regiond.http.use_cases import UseCases

PATH = f"{SUBNET}/in-use"


async def read_list(use: UseCases, call: Call[None, Page]) -> Answer:
    return page_of_all(
        call,
        await use.in_use.marks(call.path["subnet"]),
        lambda mark: show.address_in_use(mark, call.caller),
        lambda mark: format_id(Prefix.ADDRESS_IN_USE, mark.id),
    )


async def clear(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """It is over: the address may be handed out again. Who still uses it is found by the next probe."""
    await use.in_use.clear(call.context, call.path["subnet"], call.path["mark"])
    return Answer(204)


ROUTES = [
    Route(
        "GET",
        PATH,
        read_list,
        Access.USER,
        "List a subnet's addresses that somebody uses without a reservation",
        query=Page,
        list_of=Prefix.ADDRESS_IN_USE,
        shows=shapes.AddressInUse,
        refusals=SELECTING,
    ),
    Route(
        "DELETE",
        f"{PATH}/{{mark}}",
        clear,
        Access.ADMIN,
        "Clear the mark of an address that somebody used",
        statuses=(204,),
        refusals=SELECTING,
    ),
]
