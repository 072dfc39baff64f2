"""What watches the daemon asks: is it alive, can it serve."""

from regiond.http.bodies.base import NoQuery
from regiond.http.problems import Problem
from regiond.http.routing import Access, Answer, Call, Route
from regiond.http.shapes import health as shapes
from regiond.http.use_cases import UseCases


async def alive(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    return Answer(200, {"status": "ok"})


async def ready(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    shortcomings = list(await use.health.shortcomings())
    if shortcomings:
        raise Problem("not-ready", "; ".join(shortcomings), [("Retry-After", "1")], shortcomings=shortcomings)
    return Answer(200, {"status": "ready"})


ROUTES = [
    Route("GET", "/healthz", alive, Access.ANYBODY, "Whether the daemon is alive", shows=shapes.Health),
    Route(
        "GET",
        "/readyz",
        ready,
        Access.ANYBODY,
        "Whether the daemon can serve requests",
        shows=shapes.Health,
        refusals=("not-ready",),
    ),
]
