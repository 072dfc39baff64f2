"""Groups over HTTP: addresses that were reserved together, given back with one request."""

from regiond.http.bodies.base import NoQuery
from regiond.http.representations import reservations as show
from regiond.http.routing import BASE, Access, Answer, Call, Route, shown
from regiond.http.shapes.reservations import Group
from regiond.http.use_cases import UseCases

GROUPS = f"{BASE}/groups"
GROUP = f"{GROUPS}/{{group}}"


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """Those of its addresses that were not given back one by one."""
    return shown(show.group(await use.claims.group(call.context, call.path["group"])))


async def release(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    await use.claims.release_group(call.context, call.path["group"])
    return Answer(204)


ROUTES = [
    Route("GET", GROUP, read, Access.USER, "Read addresses that were reserved together", shows=Group),
    Route(
        "DELETE",
        GROUP,
        release,
        Access.USER,
        "Release addresses that were reserved together",
        statuses=(204,),
        conditional=True,
    ),
]
