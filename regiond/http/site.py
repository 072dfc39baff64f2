"""The HTTP API on sockets: twisted.web's parser, and nothing of its resources, forms and access log.

twisted.web's own `Request.requestReceived` parses the Content-Type of every POST for form fields, which costs as much
as two fifths of such a request; here a body is bytes. It is never kept beyond MAX_BODY_BYTES: what is longer is read
on, so that the client gets its 413 instead of a reset connection, and thrown away; beyond DRAIN_BYTES the connection
is closed.
"""

from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from regiond.http.application import MAX_BODY_BYTES, Application, Incoming

DRAIN_BYTES: Final = 16 * MAX_BODY_BYTES
TIMEOUT_SECONDS: Final = 60.0

_TOO_LARGE: Final = b"HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class ApiRequest(http.Request):
    """One request on one connection."""

    def __init__(self, site: "ApiSite", channel: Any, queued: Any = False) -> None:
        super().__init__(channel, queued)
        self.transport: Any = channel.transport
        self._site = site
        self._chunks: list[bytes] = []
        self._size = 0
        self._given_up = False

    def gotLength(self, length: int | None) -> None:
        """twisted.web would open a file for the body here."""

    def parseCookies(self) -> None:
        """There are none."""

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_BODY_BYTES:
            self._chunks.append(data)
            return
        self._chunks.clear()
        if self._size > DRAIN_BYTES and not self._given_up:
            self._given_up = True
            self.transport.write(_TOO_LARGE)
            self.channel.loseConnection()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._given_up:
            return
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.args = {}
        self._site.serve(self)

    def incoming(self) -> Incoming:
        """The request as the application reads it. Of a repeated header the first counts."""
        headers = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in self.requestHeaders.getAllRawHeaders()
        }
        return Incoming(
            method=self.method.decode("latin-1"),
            target=self.uri.decode("latin-1"),
            headers=headers,
            body=b"".join(self._chunks),
            local=self._site.local,
            too_large=self._size > MAX_BODY_BYTES,
        )

    @property
    def is_gone(self) -> bool:
        """Whether the client hung up."""
        return bool(self._disconnected)


class ApiSite(http.HTTPFactory):
    """Serves the application. `local` only for the UNIX socket that nobody but its owner can open.

    A client that sends nothing for `timeout` seconds, in a request or between two, is hung up on.
    """

    _log = Logger(namespace="region.http")

    def __init__(
        self, reactor: Any, application: Application, *, local: bool, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        super().__init__(timeout=timeout, reactor=reactor)
        self.local = local
        self._application = application
        self._in_flight = 0
        self._idle: list[Deferred[None]] = []

    def startFactory(self) -> None:
        """No access log, and no timer for its dates."""

    def stopFactory(self) -> None:
        """See startFactory."""

    def log(self, request: http.Request) -> None:
        """The application writes its own line."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = partial(ApiRequest, self)
        return channel

    @property
    def in_flight(self) -> int:
        """How many requests are being answered."""
        return self._in_flight

    async def finished(self) -> None:
        """Returns when no request is being answered."""
        if self._in_flight:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    def serve(self, request: ApiRequest) -> None:
        """Answer the request some time later."""
        self._in_flight += 1
        answering = Deferred.fromCoroutine(self._serve(request))
        answering.addErrback(self._broken, request)
        answering.addBoth(self._served)

    async def _serve(self, request: ApiRequest) -> None:
        outgoing = await self._application.answer(request.incoming())
        if request.is_gone:
            return
        request.setResponseCode(outgoing.status)
        for name, value in outgoing.headers:
            request.responseHeaders.addRawHeader(name, value)
        request.responseHeaders.addRawHeader("Date", http.datetimeToString())
        if outgoing.status not in http.NO_BODY_CODES:
            request.responseHeaders.addRawHeader("Content-Length", str(len(outgoing.body)))
        request.write(outgoing.body)
        request.finish()

    def _broken(self, failure: Failure, request: ApiRequest) -> None:
        self._log.failure("an answer could not be sent", failure, event="http.send-failed")
        request.transport.abortConnection()

    def _served(self, _: None) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)
