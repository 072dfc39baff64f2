"""Recovery over HTTP: what was heard of the clusters, what became of it."""

from regiond.http.bodies.base import NoQuery
from regiond.http.bodies.recovery import RecoveryBegin, RecoveryEnd
from regiond.http.representations import recovery as show
from regiond.http.routing import BASE, Access, Answer, Call, Route
from regiond.http.shapes import recovery as shapes
from regiond.http.use_cases import UseCases

PATH = f"{BASE}/recovery"


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, show.recovery(await use.recovery.recovery(call.context)))


async def begin(use: UseCases, call: Call[RecoveryBegin, NoQuery]) -> Answer:
    view = await use.recovery.begin(call.context, reason=call.body.reason)
    return Answer(200, show.recovery(view))


async def end(use: UseCases, call: Call[RecoveryEnd, NoQuery]) -> Answer:
    view = await use.recovery.end(call.context, force=call.body.force, without=call.body.without)
    return Answer(200, show.recovery(view))


ROUTES = [
    Route(
        "GET",
        PATH,
        read,
        Access.ADMIN,
        "The recovery that goes on, or what became of the latest",
        shows=shapes.Recovery,
    ),
    Route(
        "POST",
        f"{PATH}/begin",
        begin,
        Access.ADMIN,
        "Hear every cluster before anything is claimed",
        RecoveryBegin,
        shows=shapes.Recovery,
        refusals=("already-recovering",),
    ),
    Route(
        "POST",
        f"{PATH}/end",
        end,
        Access.ADMIN,
        "Wait for no more clusters",
        RecoveryEnd,
        shows=shapes.Recovery,
        refusals=("not-recovering", "clusters-not-heard"),
    ),
]
