"""What watches the daemon asks: is it alive, can it serve."""

from regiond.http.bodies.base import NoQuery
from regiond.http.problems import Problem
from regiond.http.representations import health as representations
from regiond.http.routing import Access, Answer, Call, Route
from regiond.http.shapes import health as shapes
from regiond.http.use_cases import UseCases


async def alive(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, {"status": "ok"})


async def ready(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    readiness = await use.health.readiness()
    if readiness.shortcomings:
        raise Problem(
            "not-ready",
            "; ".join(readiness.shortcomings),
            [("Retry-After", "1")],
            shortcomings=list(readiness.shortcomings),
            database=representations.database(readiness.database),
            replication=representations.replication(readiness.replication),
        )
    return Answer(200, representations.ready(readiness))


ROUTES = [
    Route("GET", "/healthz", alive, Access.ANYBODY, "Whether the daemon is alive", shows=shapes.Health),
    Route(
        "GET",
        "/readyz",
        ready,
        Access.ANYBODY,
        "Whether the daemon can serve requests, and how its database is",
        shows=shapes.Readiness,
        refusals=("not-ready",),
    ),
]
