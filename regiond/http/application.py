"""One request from bytes to bytes: find the route, know the caller, read what it takes, answer, log one line."""

import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from math import ceil
from typing import Any, Final, Protocol

from pydantic_core import to_json
from twisted.logger import Logger, LogLevel

from regiond.domain.errors import DomainError
from regiond.domain.ids import parse_id
from regiond.http.bodies.base import Forcing, Page, Probing, Query, Waiting
from regiond.http.openapi import refusals
from regiond.http.problems import MEDIA_TYPE, Problem, invalid, of_database, of_domain_error
from regiond.http.rate import RateLimit
from regiond.http.reading import (
    acceptable_request_id,
    read_body,
    read_idempotency_key,
    read_if_match,
    read_upload,
    understand_query,
)
from regiond.http.routes import ROUTES
from regiond.http.routing import BASE, Access, Answer, Call, Found, Raw, Route, Router, Streamed, Uploaded
from regiond.http.use_cases import UseCases
from regiond.metrics.measurements import Measurements
from regiond.storage.errors import DatabaseUnavailable
from regiond.use_cases.requests import Caller, RequestContext

MAX_BODY_BYTES: Final = 1_000_000
MAX_LOGGED_PATH: Final = 200
_NOBODY: Final = Caller(account=-1, name="nobody", is_admin=False, read_only=True)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Clock(Protocol):
    """Monotonic seconds; a reactor is one."""

    def seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came. Header names are lower case; `target` is path and query, percent-encoded.

    `local`: it came over the region's own UNIX socket, which only its owner can open. `too_large`: the body had more
    than the limit and is not here; `no_room`: it is not here since too many large ones are.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    local: bool
    too_large: bool = False
    no_room: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent back. A HEAD's body is there and not sent; one in pieces has to be closed."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes | AsyncGenerator[bytes, None]


@dataclass(slots=True)
class _Exchange:
    """What becomes known of a request while it is served."""

    incoming: Incoming
    path: str
    request_id: str
    caller: Caller | None = None
    route: Route | None = None


class Application:
    """The HTTP API without a socket."""

    _log = Logger(namespace="region.http")

    def __init__(
        self,
        clock: Clock,
        use_cases: UseCases,
        *,
        routes: Iterable[Route] = ROUTES,
        rate: RateLimit | None = None,
        measured: Measurements | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_request_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._clock = clock
        self._use_cases = use_cases
        known = list(routes)
        self._router = Router(known)
        self._uploads = {(each.method, each.path): each.upload.max_bytes for each in known if each.upload is not None}
        self._rate = rate
        self._measured = measured or Measurements()
        self._now = now
        self._new_request_id = new_request_id

    def body_limit(self, method: str, target: str) -> int:
        """How many bytes the body of this request may have."""
        return self._uploads.get((method, target.partition("?")[0]), MAX_BODY_BYTES)

    async def answer(self, incoming: Incoming) -> Outgoing:
        """Never raises: what is unexpected becomes a 500 with a reference that is also in the log."""
        started = self._clock.seconds()
        given = acceptable_request_id(incoming.headers.get("x-request-id"))
        path = incoming.target.partition("?")[0]
        exchange = _Exchange(incoming, path, given or self._new_request_id())
        try:
            outgoing = _encoded(await self._answer(exchange), exchange.request_id)
            self._need_documented(exchange, outgoing.status, None)
        except Problem as problem:
            outgoing = self._refusal(exchange, problem)
        except DomainError as error:
            outgoing = self._refusal(exchange, of_domain_error(error, exchange.caller or _NOBODY))
        except DatabaseUnavailable as error:
            self._log.warn(
                "no answer from the database: {reason}",
                event="http.database-unavailable",
                reason=str(error),
                outcome_unknown=error.outcome_unknown,
                request_id=exchange.request_id,
            )
            outgoing = self._refusal(exchange, of_database(error))
        except Exception:
            outgoing = self._refusal(exchange, self._internal_error(exchange))
        self._log_request(exchange, outgoing.status, self._clock.seconds() - started)
        return outgoing

    async def _answer(self, exchange: _Exchange) -> Answer:
        incoming = exchange.incoming
        found = self._router.find(exchange.path)
        if found is None:
            raise Problem("not-found", f"there is nothing at {exchange.path[:MAX_LOGGED_PATH]}: see {BASE}/docs")
        if incoming.method == "OPTIONS":
            return Answer(204, headers=[("Allow", found.allowed)])
        route = exchange.route = _route(found, incoming.method)
        if route.access is not Access.ANYBODY:
            exchange.caller = await self._caller(incoming)
            if self._rate is not None:
                self._check_rate(self._rate, incoming)
            _check_access(route, exchange.caller, incoming.method)
        query, pairs = understand_query(route.query, incoming.target.partition("?")[2])
        if isinstance(query, Forcing) and query.force and not (exchange.caller and exchange.caller.is_admin):
            raise Problem("not-permitted", "force needs an account with the role admin")
        _check_after(route, query)
        body = _body(route, incoming)
        context = self._context(exchange, query, body)
        call: Call[Any, Any] = Call(context, found.parameters, query, pairs, body, self._now(), route, incoming.headers)
        return await route.handler(self._use_cases, call)

    async def _caller(self, incoming: Incoming) -> Caller:
        authorization = incoming.headers.get("authorization")
        accounts = self._use_cases.accounts
        if authorization is None and incoming.local:
            return await accounts.local_caller()
        caller = None if authorization is None else await accounts.authenticate(authorization.encode("latin-1"))
        if caller is None:
            if authorization is None or not authorization.lower().startswith("bearer "):
                detail, challenge = "send a token: Authorization: Bearer hm_…", "Bearer"
            else:
                detail, challenge = "the token is not valid (any more)", 'Bearer error="invalid_token"'
            raise Problem("unauthenticated", detail, [("WWW-Authenticate", challenge)])
        return caller

    def _check_rate(self, rate: RateLimit, incoming: Incoming) -> None:
        """By token, which is not kept; the region's own socket is not limited."""
        authorization = incoming.headers.get("authorization")
        if authorization is None:
            return
        seconds = rate.wait(hash(authorization), self._clock.seconds())
        if seconds:
            retry = ("Retry-After", str(ceil(seconds)))
            raise Problem("too-many-requests", f"this token may go on in {seconds:.2f} s", [retry])

    def _context(self, exchange: _Exchange, query: Query, body: Any) -> RequestContext:
        incoming = exchange.incoming
        key = read_idempotency_key(incoming.headers.get("idempotency-key"))
        fingerprint = ""
        if key is not None:
            told = [incoming.method.encode(), exchange.path.encode(), incoming.body]
            if intent := query.intent:
                told.append(intent.encode())
            if isinstance(body, Uploaded):
                told.append(body.media_type.encode())
            fingerprint = sha256(b"\0".join(told)).hexdigest()
        if_match = read_if_match(incoming.headers.get("if-match"))
        wait = query.wait if isinstance(query, Waiting) else None
        probe = query.probe if isinstance(query, Probing) else None
        return RequestContext(exchange.caller or _NOBODY, exchange.request_id, fingerprint, key, wait, if_match, probe)

    def _refusal(self, exchange: _Exchange, problem: Problem) -> Outgoing:
        self._need_documented(exchange, problem.status, problem.slug)
        return _encoded_problem(problem, exchange.request_id)

    def _need_documented(self, exchange: _Exchange, status: int, slug: str | None) -> None:
        """An answer that the documentation does not name is a bug, though not one that keeps it from being sent."""
        route = exchange.route
        if route is None or (status in route.statuses if slug is None else slug in refusals(route)):
            return
        self._log.error(
            "{method} {route} answered {status} {type}, which its documentation does not name",
            event="http.undocumented",
            method=route.method,
            route=route.path,
            status=status,
            type=slug,
            request_id=exchange.request_id,
        )

    def _internal_error(self, exchange: _Exchange) -> Problem:
        reference = secrets.token_hex(6)
        self._log.failure(
            "a request failed: {method} {path}",
            event="http.internal-error",
            method=exchange.incoming.method,
            path=exchange.path[:MAX_LOGGED_PATH],
            reference=reference,
            request_id=exchange.request_id,
        )
        return Problem(
            "internal-error", f"this is a bug; its traceback is in the log under {reference}", reference=reference
        )

    def _log_request(self, exchange: _Exchange, status: int, seconds: float) -> None:
        route = exchange.route
        if route is None:  # no word of the client's own becomes a label
            self._measured.answered("other", "none", status, seconds)
        else:
            self._measured.answered(route.method, route.path, status, seconds)
        self._log.emit(
            LogLevel.info if exchange.path.startswith("/api/") else LogLevel.debug,
            "{method} {path} {status}",
            event="http.request",
            method=exchange.incoming.method,
            path=exchange.path[:MAX_LOGGED_PATH],
            status=status,
            duration_ms=round(seconds * 1000, 2),
            request_id=exchange.request_id,
            account=exchange.caller.name if exchange.caller else None,
        )


def _route(found: Found, method: str) -> Route:
    route = found.routes.get("GET" if method == "HEAD" else method)
    if route is None:
        raise Problem("method-not-allowed", f"allowed here: {found.allowed}", [("Allow", found.allowed)])
    return route


def _check_access(route: Route, caller: Caller, method: str) -> None:
    if route.access is Access.ADMIN and not caller.is_admin:
        raise Problem("not-permitted", f"{caller.name} does not have the role admin")
    if caller.read_only and method not in _SAFE_METHODS:
        raise Problem("read-only-token", "use a token that was not made read-only")


def _check_after(route: Route, query: Query) -> None:
    after = query.after if isinstance(query, Page) else None
    if after is not None and (route.list_of is None or parse_id(route.list_of, after) is None):
        raise invalid("?after", f"not an id of this list: {after[:64]!r}")


def _body(route: Route, incoming: Incoming) -> Any:
    if incoming.too_large:
        most = MAX_BODY_BYTES if route.upload is None else route.upload.max_bytes
        raise Problem("body-too-large", f"a body has at most {most} bytes here", max_bytes=most)
    if incoming.no_room:
        raise Problem("too-many-imports", "other large files are being sent: try again", [("Retry-After", "5")])
    if "if-match" in incoming.headers and not route.conditional and incoming.method not in _SAFE_METHODS:
        # ignoring it would do what the caller explicitly does not want
        raise invalid("If-Match", "conditional requests are not supported here")
    if route.body is not None:
        return read_body(route.body, incoming.headers.get("content-type"), incoming.body)
    if route.upload is not None:
        return read_upload(route.upload, incoming.headers.get("content-type"), incoming.body)
    if incoming.body:
        raise invalid("", f"{route.method} takes no body here")
    return None


def _encoded(answer: Answer, request_id: str) -> Outgoing:
    headers = [*answer.headers, ("X-Request-ID", request_id), ("Cache-Control", "no-store")]
    if answer.content is None:
        return Outgoing(answer.status, tuple(headers), b"")
    if isinstance(answer.content, Raw):
        headers.append(("Content-Type", answer.content.media_type))
        return Outgoing(answer.status, tuple(headers), answer.content.content)
    if isinstance(answer.content, Streamed):
        assert answer.content.pieces is not None
        headers.append(("Content-Type", answer.content.media_type))
        return Outgoing(answer.status, tuple(headers), answer.content.pieces)
    headers.append(("Content-Type", "application/json"))
    return Outgoing(answer.status, tuple(headers), _json(answer.content))


def _encoded_problem(problem: Problem, request_id: str) -> Outgoing:
    answer = _encoded(Answer(problem.status, problem.content(request_id), problem.headers), request_id)
    headers = (*(header for header in answer.headers if header[0] != "Content-Type"), ("Content-Type", MEDIA_TYPE))
    return replace(answer, headers=headers)


def _json(content: Any) -> bytes:
    return to_json(content) + b"\n"
