"""Routes as values: method, path, who may, what it takes, what it answers. Nothing is reachable without such a row."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar
from urllib.parse import quote, unquote_to_bytes, urlencode

from regiond.domain.ids import Prefix
from regiond.http.bodies.base import Body, NoQuery, Page, Query
from regiond.http.use_cases import UseCases
from regiond.use_cases.requests import Caller, RequestContext

BASE = "/api/v1"

B = TypeVar("B")
Q = TypeVar("Q", bound=Query)
T = TypeVar("T")


class Access(Enum):
    """Who may use a route: anybody without a token, any account, or admins only."""

    ANYBODY = "anybody"
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Upload:
    """A body that is a file: one of these media types, at most `max_bytes`. `examples` are by media type."""

    media_types: tuple[str, ...]
    max_bytes: int
    examples: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The file, and which of the media types it is."""

    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """A body that is no JSON. As what a route shows, `content` is empty."""

    media_type: str
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A body that is sent piece by piece, as fast as the client reads. As what a route shows, `pieces` is None.

    The status is told before the first piece is made, so whatever can be refused is refused before that: what is raised
    later cuts the connection, and the client knows that it does not have all. The pieces are closed in any case.
    """

    media_type: str
    pieces: AsyncGenerator[bytes, None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and what can be JSON, a Raw or a Streamed; None is no body at all."""

    status: int
    content: Any = None
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Call(Generic[B, Q]):
    """One request, understood: its path's parameters, its query and its body. Header names are lower case."""

    context: RequestContext
    path: Mapping[str, str]
    query: Q
    raw_query: Sequence[tuple[str, str]]
    body: B
    now: datetime
    route: "Route"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def caller(self) -> Caller:
        return self.context.caller

    def url(self) -> str:
        """The path of this request without its query."""
        return self.route.url(self.path)


SELECTING = ("bad-selector", "no-such-cluster-interface", "ambiguous-selector")
"""What a selector can be refused with."""

CLAIMING = (
    *SELECTING,
    "not-found",
    "address-taken",
    "identifier-taken",
    "address-outside-subnet",
    "address-not-usable",
    "address-in-dynamic-range",
    "address-in-reserved-range",
    "address-of-infrastructure",
    "address-of-static-entry",
    "leased-to-another",
    "subnet-exhausted",
    "wrong-address-family",
    "address-in-use",
    "not-probed",
    "subnet-not-ready",
    "subnet-recovering",
)
"""What a claim can be refused with."""

HandlerOf = Callable[[UseCases, Call[Any, Any]], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is a template such as `/api/v1/devices/{device}`; `statuses` are those of success.

    `list_of` says what a list's pages are cut by: the ids of its entries. `conditional`: it honours If-Match.
    `shows` is the type of what it answers (of a list: of an entry), `releasing` that of a 202; `streams` are the media
    types of other forms that can be asked for. `refusals` are the problem types that do not follow from the rest: see
    regiond/http/openapi.py. `upload` is what it takes instead of a `body`. `headers` are those of its own that it
    reads, `pieces` the types of the data of server-sent events, by the events' names.
    """

    method: str
    path: str
    handler: HandlerOf
    access: Access
    summary: str
    body: type[Body] | None = None
    query: type[Query] = NoQuery
    statuses: tuple[int, ...] = (200,)
    list_of: Prefix | None = None
    conditional: bool = False
    shows: Any = None
    releasing: Any = None
    streams: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    upload: Upload | None = None
    headers: tuple[str, ...] = ()
    pieces: Mapping[str, Any] = field(default_factory=dict)

    def url(self, parameters: Mapping[str, str]) -> str:
        """The path with its parameters filled in."""
        return "/".join(
            quote(parameters[segment[1:-1]], safe="") if segment.startswith("{") else segment
            for segment in self.path.split("/")
        )


@dataclass(slots=True)
class _Place:
    """One point in the tree of paths."""

    below: dict[str, "_Place"] = field(default_factory=dict)
    parameter: "tuple[str, _Place] | None" = None
    routes: dict[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a path: a route by method, and the path's parameters."""

    routes: Mapping[str, Route]
    parameters: Mapping[str, str]

    @property
    def allowed(self) -> str:
        """The value of an Allow header."""
        methods = set(self.routes) | {"OPTIONS"} | ({"HEAD"} if "GET" in self.routes else set())
        return ", ".join(sorted(methods))


class Router:
    """Finds routes by path. Raises ValueError when two routes are the same or contradict each other."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Place()
        self._fixed: dict[str, Found] = {}
        for route in routes:
            self._add(route)
            if "{" not in route.path:
                self._fixed.setdefault(route.path, Found({}, {}))
        for path in self._fixed:
            found = self._walk(path)
            assert found is not None
            self._fixed[path] = found

    def _add(self, route: Route) -> None:
        place = self._root
        for segment in route.path.split("/")[1:]:
            if not segment.startswith("{"):
                place = place.below.setdefault(segment, _Place())
                continue
            name = segment[1:-1]
            if place.parameter is None:
                place.parameter = (name, _Place())
            if place.parameter[0] != name:
                raise ValueError(f"{route.path}: this parameter is called {place.parameter[0]} elsewhere")
            place = place.parameter[1]
        if route.method in place.routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        place.routes[route.method] = route

    def find(self, path: str) -> Found | None:
        """What stands at a path as it came, percent-encoded. None where nothing does."""
        return self._fixed.get(path) or self._walk(path)

    def _walk(self, path: str) -> Found | None:
        if not path.startswith("/"):
            return None
        place = self._root
        parameters: dict[str, str] = {}
        for segment in path.split("/")[1:]:
            below = place.below.get(segment)
            if below is not None:
                place = below
                continue
            value = _decoded(segment)
            if place.parameter is None or not value:
                return None
            name, place = place.parameter
            parameters[name] = value
        return Found(place.routes, parameters) if place.routes else None


def _decoded(segment: str) -> str | None:
    """A percent-encoded segment as printable text, or None."""
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


# ---- answers that several nouns share ----


def created(content: Any, location: str | None, new: bool = True) -> Answer:
    """201 with where it is; 200 for what was there already, exactly so."""
    headers = [] if location is None else [("Location", location)]
    return Answer(201 if new else 200, content, headers + _tag(content))


def shown(content: Any) -> Answer:
    """One thing, with its version."""
    return Answer(200, content, _tag(content))


def _tag(content: Any) -> list[tuple[str, str]]:
    return [("ETag", content["etag"])] if "etag" in content else []


def released(still_releasing: Sequence[Any], content: Callable[[], Any]) -> Answer:
    """204 when everything is free, else 202 with what is not."""
    return Answer(202, content()) if still_releasing else Answer(204)


def page(call: Call[Any, Any], rows: Sequence[T], show: Callable[[T], Any], id_of: Callable[[T], str]) -> Answer:
    """One page of a list of which one row more than the limit was asked for: that one tells of a next page."""
    query: Page = call.query
    shown = rows[: query.limit]
    headers = next_page(call, id_of(shown[-1]) if len(rows) > query.limit else None)
    return Answer(200, [show(row) for row in shown], headers)


def next_page(call: Call[Any, Any], after: str | None) -> Sequence[tuple[str, str]]:
    """The header that tells of a page that begins after this; none where there is no such page."""
    if after is None:
        return ()
    others = [(name, value) for name, value in call.raw_query if name != "after"]
    following = urlencode([*others, ("after", after)])
    return [("Link", f'<{call.url()}?{following}>; rel="next"')]


def page_of_all(call: Call[Any, Any], rows: Sequence[T], show: Callable[[T], Any], id_of: Callable[[T], str]) -> Answer:
    """As `page`, of a list that was read as a whole."""
    query: Page = call.query
    after = query.after
    ordered = sorted(rows, key=id_of)
    return page(call, [row for row in ordered if after is None or id_of(row) > after], show, id_of)
