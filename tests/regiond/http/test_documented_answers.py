"""Every answer that the documentation names is produced, at every route: each status, and each type of problem.

That no other is ever produced is looked after in every test: see `documented_answers` in tests/database.py.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.task import Clock

from regiond.domain.importing import ImportState
from regiond.http.application import Application, Incoming, Outgoing
from regiond.http.openapi import refusals
from regiond.http.problems import PROBLEMS
from regiond.http.rate import RateLimit
from regiond.http.routes import ROUTES
from regiond.http.routing import Access, Answer, Call, Route
from regiond.http.use_cases import UseCases
from regiond.storage.errors import DatabaseUnavailable
from tests.clusterd.links import Outcome
from tests.fakes.use_cases import IMPORT_VIEW, NOW, RELEASING_VIEW, FakeRegion, Scripted
from tests.regiond.http import promises
from tests.regiond.http.test_access import TABLE, url
from tests.regiond.http.test_mistakes import REFUSALS

RAISED = {error.slug: error for error, _ in REFUSALS}
WITHOUT_USE_CASES = {"/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/docs"}  # where a bug has to be put in
NAMED = [(route, slug) for route in ROUTES for slug in refusals(route)]


class Asking:
    """One route of an API whose use cases do what a test wants."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.region = FakeRegion()
        self._clock = Clock()
        self.rate = RateLimit(1.0)
        self.serve(*ROUTES)
        body, _ = TABLE[route.method, route.path]
        self.content = "text/csv" if isinstance(body, bytes) else "application/json"
        self.body = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

    def serve(self, *routes: Route) -> None:
        """Have these routes, and no other."""
        self.application = Application(
            self._clock, self.region.use_cases, routes=routes, rate=self.rate, now=lambda: NOW
        )

    def raises(self, error: Exception) -> None:
        """Whatever is asked of the region comes to this."""
        for part in vars(self.region).values():
            if isinstance(part, Scripted):
                part.answers = dict.fromkeys(part.answers, error)

    def ask(self, query: str = "", *, token: str | None = "admin", too_large: bool = False) -> Outgoing:
        headers = {"content-type": self.content} if self.body else {}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        target = url(self.route.path) + query
        incoming = Incoming(self.route.method, target, headers, self.body, local=False, too_large=too_large)
        outgoing: Outgoing = Outcome(self.application.answer(incoming)).value
        if isinstance(outgoing.body, bytes):
            got = {name.lower(): value for name, value in outgoing.headers}
            promises.check(self.route.method, target, outgoing.status, got, outgoing.body)
        else:
            Outcome(outgoing.body.aclose())
        return outgoing


def provoked(asking: Asking, slug: str) -> Outgoing:
    """The answer to a request that is wrong, or comes at the wrong time, in just this way."""
    match slug:
        case "invalid-request":
            return asking.ask("?nonsense=1")
        case "body-too-large":
            return asking.ask(too_large=True)
        case "unauthenticated":
            return asking.ask(token="wrong")
        case "read-only-token":
            return asking.ask(token="admin-reads")
        case "not-permitted" if asking.route.access is Access.ADMIN:
            return asking.ask(token="alice")
        case "too-many-requests":
            for _ in range(10):
                asking.ask()
            return asking.ask()
        case "malformed-json":
            asking.body = b"{"
            return asking.ask()
        case "unsupported-media-type":
            asking.content = "text/plain"
            return asking.ask()
        case "not-ready":
            asking.region.health.reasons = ["the database does not answer"]
            return asking.ask()
        case "internal-error" if asking.route.path in WITHOUT_USE_CASES:

            async def fails(use: UseCases, call: Call[Any, Any]) -> Answer:
                raise ValueError("a bug")

            asking.serve(replace(asking.route, handler=fails))
        case "internal-error":
            asking.raises(ValueError("a bug"))
        case "database-unavailable":
            asking.raises(DatabaseUnavailable("away"))
        case _:
            asking.raises(RAISED[slug])
    return asking.ask()


@pytest.mark.parametrize(
    ("route", "slug"),
    NAMED,
    ids=lambda part: part if isinstance(part, str) else f"{part.method}-{part.path}",
)
def test_each_problem_at_each_route(route: Route, slug: str) -> None:
    outgoing = provoked(Asking(route), slug)
    assert isinstance(outgoing.body, bytes)
    problem = json.loads(outgoing.body)
    assert (outgoing.status, problem["type"]) == (PROBLEMS[slug][0], slug), problem


@pytest.mark.parametrize(
    ("route", "status"),
    [(route, status) for route in ROUTES for status in route.statuses],
    ids=lambda part: str(part) if isinstance(part, int) else f"{part.method}-{part.path}",
)
def test_each_status_of_success_at_each_route(route: Route, status: int) -> None:
    asking = Asking(route)
    if status != route.statuses[0]:
        for part in (asking.region.claims, asking.region.imports):
            part.answers = {name: _otherwise(answer) for name, answer in part.answers.items()}
    assert asking.ask().status == status


def _otherwise(answer: Any) -> Any:
    """The other way in which something comes out well: it was there already, or is not over yet."""
    if isinstance(answer, tuple) and answer[1:] == (True,):
        return (answer[0], False)
    if answer is IMPORT_VIEW:
        return replace(answer, state=ImportState.APPLYING)
    return [RELEASING_VIEW] if answer == [] else answer
