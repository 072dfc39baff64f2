"""The HTTP API on a loopback port or a UNIX socket, and requests to it."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import treq
from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import TCP4ServerEndpoint, UNIXClientEndpoint, UNIXServerEndpoint
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from regiond.config import MAX_CONNECTIONS
from regiond.http.application import Application
from regiond.http.rate import RateLimit
from regiond.http.routes import ROUTES
from regiond.http.routing import Route
from regiond.http.site import ApiSite
from regiond.use_cases.accounts import Accounts
from tests.fakes.use_cases import NOW, FakeRegion
from tests.regiond.http import promises

reactor: Any = global_reactor


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@implementer(IAgentEndpointFactory)
class _Socket:
    def __init__(self, path: str) -> None:
        self._path = path

    def endpointForURI(self, uri: Any) -> UNIXClientEndpoint:
        return UNIXClientEndpoint(reactor, self._path)


class Server:
    """A site that listens, in front of a fake region."""

    def __init__(self, region: FakeRegion, site: ApiSite, port: int | None, path: str | None) -> None:
        self.region = region
        self.site = site
        self.port = port
        pool = HTTPConnectionPool(reactor, persistent=False)
        if path is None:
            self._agent = Agent(reactor, pool=pool)
        else:
            self._agent = Agent.usingEndpointFactory(reactor, _Socket(path), pool=pool)

    async def request(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        token: str | None = "admin",
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        promised: bool = True,
    ) -> Reply:
        """Send `content` as JSON, or `raw` as it is. `promised`: the answer has to be one that is documented."""
        sent: dict[bytes | str, bytes | str] = dict((headers or {}).items())
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        body = raw
        if content is not None:
            body = json.dumps(content).encode()
        if body is not None and "Content-Type" not in sent:
            sent["Content-Type"] = "application/json"
        url = f"http://127.0.0.1:{self.port or 1}{path}"
        response = await treq.request(method, url, data=body, headers=sent, agent=self._agent)
        received = {
            name.decode().lower(): b", ".join(values).decode() for name, values in response.headers.getAllRawHeaders()
        }
        reply = Reply(response.code, received, await response.content())
        if promised:
            promises.check(method, path, reply.status, reply.headers, reply.body)
        return reply


@asynccontextmanager
async def serving(
    *,
    path: str | None = None,
    timeout: float = 60.0,
    most: int = MAX_CONNECTIONS,
    per_second: float | None = None,
    accounts: Accounts | None = None,
    routes: Iterable[Route] = ROUTES,
) -> AsyncIterator[Server]:
    """A server on a free loopback port, or on a UNIX socket whose users are trusted. All use cases are scripted but
    `accounts`, when they are given.
    """
    region = FakeRegion()
    use_cases = region.use_cases if accounts is None else replace(region.use_cases, accounts=accounts)
    rate = None if per_second is None else RateLimit(per_second)
    application = Application(reactor, use_cases, routes=routes, rate=rate, now=lambda: NOW)
    site = ApiSite(reactor, application, local=path is not None, timeout=timeout, most=most)
    endpoint = (
        TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1") if path is None else UNIXServerEndpoint(reactor, path)
    )
    port = await endpoint.listen(site)
    try:
        yield Server(region, site, None if path is not None else port.getHost().port, path)
    finally:
        await site.finished()
        await port.stopListening()
