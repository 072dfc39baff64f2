"""Requests of a client on Twisted: each with its idempotency key, repeated while that is safe and may help."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from twisted.internet.task import deferLater

from regiond.client.answers import (
    MAX_PAGE,
    ClientError,
    Reply,
    back_off,
    can_be_repeated,
    read_reply,
    request_target,
)
from regiond.client.transport import Transport

PROBE_SECONDS: Final = 20.0  # the longest that the region asks the clusters, at a time

Query = Sequence[tuple[str, str]]


class Requests:
    """One region. `timeout` is for one attempt, `patience` for all of them, in seconds."""

    def __init__(
        self, reactor: Any, transport: Transport, token: str | None, *, timeout: float, patience: float
    ) -> None:
        self._reactor = reactor
        self._transport = transport
        self._token = token
        self._timeout = timeout
        self._patience = patience

    async def read(self, path: str) -> Any:
        return (await self.request("GET", path)).content

    async def make(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        wait: float | None = None,
        key: str | None = None,
        probe: bool | None = None,
        force: bool = False,
    ) -> Any:
        query = [] if wait is None else [("wait", f"{wait:.3f}")]
        query += [] if probe is None else [("probe", str(probe).lower())]
        query += [("force", "true")] if force else []
        longer = (wait or 0.0) + (PROBE_SECONDS if probe else 0.0)
        return (await self.request("POST", path, query, body=body, key=key, longer=longer)).content

    async def change(
        self, path: str, changes: Mapping[str, Any], *, wait: float | None, etag: str | None, key: str | None
    ) -> Any:
        query = [] if wait is None else [("wait", f"{wait:.3f}")]
        return (await self.request("PATCH", path, query, body=changes, etag=etag, key=key, longer=wait or 0.0)).content

    async def delete(self, path: str, *, force: bool = False, key: str | None = None) -> Any:
        return (await self.request("DELETE", path, [("force", "true")] if force else (), key=key)).content

    async def pages(self, path: str, query: Query) -> AsyncIterator[Any]:
        target: str | None = request_target(path, [*query, ("limit", str(MAX_PAGE))])
        while target is not None:
            reply = await self._repeated("GET", target, self._headers(None), None, self._timeout)
            for row in reply.content:
                yield row
            target = reply.next_page

    async def request(
        self,
        method: str,
        path: str,
        query: Query = (),
        *,
        body: Mapping[str, Any] | None = None,
        file: tuple[str, bytes] | None = None,
        etag: str | None = None,
        key: str | None = None,
        longer: float = 0.0,
    ) -> Reply:
        """`etag` is the version that is to be changed; `longer`, how much longer than usual the answer may take."""
        if body is not None:
            file = ("application/json", json.dumps(body).encode())
        headers = self._headers(None if file is None else file[0])
        if method != "GET":
            headers["Idempotency-Key"] = key or str(uuid4())
        if etag is not None:
            headers["If-Match"] = etag
        content = None if file is None else file[1]
        return await self._repeated(method, request_target(path, query), headers, content, self._timeout + longer)

    async def pieces(self, path: str, query: Query) -> AsyncIterator[bytes]:
        """A body of any size, as it comes. Unreachable when it breaks off."""
        target = request_target(path, query)
        head, pieces = await self._transport.stream(target, self._headers(None), self._timeout)
        if head.status >= 300:
            read_reply(str(self._transport), head.status, head.headers, head.body)
        async for piece in pieces:
            yield piece

    async def _repeated(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Reply:
        end = self._reactor.seconds() + self._patience
        attempt = 0
        while True:
            attempt += 1
            try:
                answered = await self._transport.request(method, target, headers, body, timeout)
                return read_reply(str(self._transport), answered.status, answered.headers, answered.body)
            except ClientError as error:
                pause = back_off(attempt, error)
                if not can_be_repeated(error) or self._reactor.seconds() + pause > end:
                    raise
            await deferLater(self._reactor, pause)

    def _headers(self, media_type: str | None) -> dict[str, str]:
        headers = {"Accept": "*/*", "User-Agent": "hostmap-client"}
        if media_type is not None:
            headers["Content-Type"] = media_type
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers
