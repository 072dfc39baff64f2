"""Requests to the region: over its UNIX socket, where the operating system says who asks, or to a URL with a token."""

import http.client
import json
import os
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from regiond.client.answers import MAX_PAGE, Reply, Unreachable, read_reply, request_target

DEFAULT_SOCKET: Final = "/var/lib/hostmap/region/api.sock"  # regiond.config, which this program need not load
DEFAULT_TIMEOUT_SECONDS: Final = 20.0
MAX_ANSWER_BYTES: Final = 64 << 20
PIECE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Target:
    """Where the region is: a socket's path or a URL. `token` goes along when there is one.

    `ca_file`: whose certificates an https URL may have, instead of those that the operating system knows.
    """

    socket: str | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    ca_file: str | None = None

    def __str__(self) -> str:
        return self.url if self.url is not None else f"unix:{self.socket}"


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
        return self._request("GET", request_target(path, query), wait=wait)

    def get_all(self, path: str, query: Sequence[tuple[str, str]] = (), most: int | None = None) -> list[Any]:
        """A whole list, or its first entries, page after page."""
        limit = MAX_PAGE if most is None else min(most, MAX_PAGE)
        target: str | None = request_target(path, [*query, ("limit", str(limit))])
        rows: list[Any] = []
        while target is not None and (most is None or len(rows) < most):
            reply = self._request("GET", target)
            rows += reply.content
            target = reply.next_page
        return rows[:most]

    def stream(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Iterator[bytes]:
        """A body of any size, in pieces. What breaks off raises Unreachable in the middle."""
        with self._answered("GET", request_target(path, query)) as response:
            if response.status >= 300:
                self._read(response, response.read(MAX_ANSWER_BYTES + 1))
            while piece := response.read1(PIECE_BYTES):
                yield piece

    def post(
        self, path: str, body: dict[str, Any] | None, query: Sequence[tuple[str, str]] = (), wait: float = 0.0
    ) -> Reply:
        """`wait`: how much longer than usual the answer may take."""
        return self._request("POST", request_target(path, query), body, wait)

    def upload(
        self, path: str, media_type: str, content: bytes, query: Sequence[tuple[str, str]] = (), wait: float = 0.0
    ) -> Reply:
        """A file."""
        return self._request("POST", request_target(path, query), wait=wait, file=(media_type, content))

    def patch(self, path: str, body: dict[str, Any], query: Sequence[tuple[str, str]] = ()) -> Reply:
        return self._request("PATCH", request_target(path, query), body)

    def delete(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Reply:
        return self._request("DELETE", request_target(path, query))

    def _request(
        self,
        method: str,
        target: str,
        body: dict[str, Any] | None = None,
        wait: float = 0.0,
        file: tuple[str, bytes] | None = None,
    ) -> Reply:
        if body is not None:
            file = ("application/json", json.dumps(body).encode())
        with self._answered(method, target, wait, file) as response:
            content = response.read(MAX_ANSWER_BYTES + 1)
            if response.length and len(content) <= MAX_ANSWER_BYTES:
                raise http.client.IncompleteRead(content, response.length)
            return self._read(response, content)

    @contextmanager
    def _answered(
        self, method: str, target: str, wait: float = 0.0, file: tuple[str, bytes] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        headers = {"Accept": "*/*", "User-Agent": "regionctl"}
        if file is not None:
            headers["Content-Type"] = file[0]
        if method in ("POST", "DELETE"):
            headers["Idempotency-Key"] = str(uuid4())
        if self._target.token is not None:
            headers["Authorization"] = f"Bearer {self._target.token}"
        connection = self._connection(self._target.timeout + wait)
        try:
            connection.connect()
        except OSError as error:
            raise Unreachable(f"{self._target} cannot be reached: {_reason(error)}{_hint(error)}") from error
        try:
            connection.request(method, target, None if file is None else file[1], headers)
            with connection.getresponse() as response:
                yield response
        except (OSError, http.client.HTTPException) as error:
            done = "" if method == "GET" else "; it may have been carried out"
            raise Unreachable(f"no answer from {self._target}: {_reason(error)}{done}") from error
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._target.url is None:
            return _UnixConnection(self._target.socket or DEFAULT_SOCKET, timeout)
        parts = urlsplit(self._target.url)
        assert parts.hostname is not None, "checked by parse_url"
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self._target.ca_file)
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)

    def _read(self, response: http.client.HTTPResponse, content: bytes) -> Reply:
        if len(content) > MAX_ANSWER_BYTES:
            raise Unreachable(f"{self._target} answered with more than {MAX_ANSWER_BYTES} bytes")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return read_reply(str(self._target), response.status, headers, content)


def read_token_file(path: str) -> tuple[str, bool]:
    """The token that is a file's only line, and whether everybody on this host may read that. Raises ValueError."""
    try:
        with Path(path).open(encoding="latin-1") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except OSError as error:
        raise ValueError(f"the token file {path} cannot be read: {_reason(error)}") from error
    return check_token(text, path), stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def check_token(text: str, where: str) -> str:
    """The text without the space around it. Raises ValueError, which does not repeat the text."""
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError(f"{where} does not hold a token and nothing else")
    return token


def _hint(error: OSError) -> str:
    """What to look at when nobody listens there, or when this user may not open the socket."""
    if isinstance(error, PermissionError):
        return " (only its owner may open the socket; others use --url and a token)"
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return " (does regiond run, and is it there? --socket or --url says where it is)"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.IncompleteRead):
        return "it broke off"
    return str(error) or type(error).__name__
