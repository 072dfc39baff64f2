"""What this regiond counts, for Prometheus."""

from typing import Final

from regiond.http.bodies.base import NoQuery
from regiond.http.routing import Access, Answer, Call, Raw, Route
from regiond.http.use_cases import UseCases

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


async def read(use: UseCases, call: Call[None, NoQuery]) -> Answer:
    """Prometheus' text format. It names no subnet, address or account; a read-only token of any account reads it."""
    return Answer(200, Raw(MEDIA_TYPE, await use.metrics.text()))


ROUTES = [
    Route("GET", "/metrics", read, Access.USER, "What this regiond counts, for Prometheus", shows=Raw(MEDIA_TYPE)),
]
