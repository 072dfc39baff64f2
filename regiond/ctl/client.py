"""Requests to the region: over its UNIX socket, where the operating system says who asks, or to a URL with a token."""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

DEFAULT_SOCKET: Final = "/var/lib/hostmap/region/api.sock"  # regiond.config, which this program need not load
DEFAULT_TIMEOUT_SECONDS: Final = 20.0
MAX_ANSWER_BYTES: Final = 64 << 20
BASE: Final = "/api/v1"
MAX_PAGE: Final = 1000
MAX_TOLD: Final = 10

_HOST = re.compile(r"[A-Za-z0-9._:-]+")


class Refused(Exception):
    """The region said no, with a problem that tells why."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(_told(status, problem))
        self.status = status
        self.problem = problem


class Unreachable(Exception):
    """There was no answer, or none that is the region's."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the region is: a socket's path or a URL. `token` goes along when there is one."""

    socket: str | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    def __str__(self) -> str:
        return self.url if self.url is not None else f"unix:{self.socket}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer. `content` is None where there is no body."""

    status: int
    content: Any
    next_page: str | None = None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Client:
    """One connection for each request. Every method raises Refused and Unreachable."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def get(self, path: str, query: Sequence[tuple[str, str]] = (), wait: float = 0.0) -> Reply:
        """`path` is below the API's base; `wait`: how much longer than usual the answer may take."""
        return self._request("GET", BASE + path + _query(query), wait=wait)

    def get_all(self, path: str, query: Sequence[tuple[str, str]] = (), most: int | None = None) -> list[Any]:
        """A whole list, or its first entries, page after page."""
        limit = MAX_PAGE if most is None else min(most, MAX_PAGE)
        target: str | None = BASE + path + _query([*query, ("limit", str(limit))])
        rows: list[Any] = []
        while target is not None and (most is None or len(rows) < most):
            reply = self._request("GET", target)
            rows += reply.content
            target = reply.next_page
        return rows[:most]

    def post(
        self, path: str, body: dict[str, Any] | None, query: Sequence[tuple[str, str]] = (), wait: float = 0.0
    ) -> Reply:
        """`wait`: how much longer than usual the answer may take."""
        return self._request("POST", BASE + path + _query(query), body, wait)

    def patch(self, path: str, body: dict[str, Any], query: Sequence[tuple[str, str]] = ()) -> Reply:
        return self._request("PATCH", BASE + path + _query(query), body)

    def delete(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Reply:
        return self._request("DELETE", BASE + path + _query(query))

    def _request(self, method: str, target: str, body: dict[str, Any] | None = None, wait: float = 0.0) -> Reply:
        headers = {"Accept": "application/json", "User-Agent": "regionctl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if method in ("POST", "DELETE"):
            headers["Idempotency-Key"] = str(uuid4())
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token}"
        connection = self._connection(self._target.timeout + wait)
        try:
            connection.connect()
        except OSError as error:
            raise Unreachable(f"{self._target} cannot be reached: {_reason(error)}") from error
        try:
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            content = response.read(MAX_ANSWER_BYTES + 1)
            if response.length and len(content) <= MAX_ANSWER_BYTES:
                raise http.client.IncompleteRead(content, response.length)
        except (OSError, http.client.HTTPException) as error:
            done = "" if method == "GET" else "; it may have been carried out"
            raise Unreachable(f"no answer from {self._target}: {_reason(error)}{done}") from error
        finally:
            connection.close()
        return self._read(response, content)

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._target.url is None:
            return _UnixConnection(self._target.socket or DEFAULT_SOCKET, timeout)
        parts = urlsplit(self._target.url)
        assert parts.hostname is not None, "checked by parse_url"
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def _read(self, response: http.client.HTTPResponse, content: bytes) -> Reply:
        if len(content) > MAX_ANSWER_BYTES:
            raise Unreachable(f"{self._target} answered with more than {MAX_ANSWER_BYTES} bytes")
        try:
            value = json.loads(content) if content else None
        except ValueError as error:
            raise Unreachable(f"{self._target} answered with something that is not JSON: is it a region?") from error
        if response.status >= 300:
            problem = value if isinstance(value, dict) else {}
            raise Refused(response.status, problem)
        return Reply(response.status, value, _next_page(response.headers.get("Link")))


def segment(text: str) -> str:
    """A name or id as one segment of a path, whatever is in it."""
    return quote(text, safe="")


def parse_url(text: str) -> str:
    """The URL of a region, e.g. `https://region.example:5240`. Raises ValueError."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(parts.hostname or ""):
        raise ValueError(f"not a URL of a region: {text[:100]!r} (expected http://HOST:PORT or https://HOST:PORT)")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError(f"{text[:100]!r} has more than a scheme, a host and a port")
    _ = parts.port  # raises ValueError for what is not a port
    return f"{parts.scheme}://{parts.netloc}"


def read_token_file(path: str) -> str:
    """The token that is a file's only line. Raises ValueError and OSError."""
    return check_token(Path(path).read_text(encoding="latin-1"), path)


def check_token(text: str, where: str) -> str:
    """The text without the space around it. Raises ValueError, which does not repeat the text."""
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError(f"{where} does not hold a token and nothing else")
    return token


def _query(pairs: Sequence[tuple[str, str]]) -> str:
    return f"?{urlencode(pairs)}" if pairs else ""


def _next_page(link: str | None) -> str | None:
    if link is None or not link.startswith("<") or 'rel="next"' not in link:
        return None
    return link[1:].partition(">")[0]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.IncompleteRead):
        return "it broke off"
    return str(error) or type(error).__name__


def _told(status: int, problem: dict[str, Any]) -> str:
    """A problem in one line."""
    slug = problem.get("type", f"status {status}")
    mistakes = problem.get("errors")
    detail = str(problem.get("detail", problem.get("title", "")))
    if isinstance(mistakes, list) and len(mistakes) > 1:
        detail = "; ".join(f"{each.get('pointer')}: {each.get('detail')}" for each in mistakes)
    candidates = problem.get("candidates")
    if isinstance(candidates, list) and candidates:
        detail += "; candidates: " + ", ".join(_candidate(each) for each in candidates)
    leases = problem.get("leases")
    if isinstance(leases, list) and leases:
        detail += "; leased to: " + ", ".join(_leased(each) for each in leases[:MAX_TOLD])
    reservations = problem.get("reservations")
    if isinstance(reservations, list) and reservations:
        more = "" if problem.get("count", 0) <= MAX_TOLD else ", …"
        detail += "; reserved: " + ", ".join(_reserved(each) for each in reservations[:MAX_TOLD]) + more
    return f"{slug}: {detail}"


def _leased(each: dict[str, Any]) -> str:
    client = each.get("mac") or each.get("client_id") or each.get("duid") or "somebody"
    return f"{client} until {each.get('expires_at') or 'it is ended'}"


def _reserved(each: dict[str, Any]) -> str:
    return f"{each.get('address')} ({each.get('id')} of {each.get('owner')})"


def _candidate(each: dict[str, Any]) -> str:
    place = f"{each.get('cluster')}:{each.get('nic')} " if each.get("cluster") else ""
    return f"{each.get('id')} ({place}{each.get('cidr')} in {each.get('vrf')})"
