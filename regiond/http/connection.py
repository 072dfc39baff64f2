"""One connection of a client: requests in, answers out in the same order, and bounds on everything that it may hold.

llhttp (the parser of Node.js, through httptools) reads HTTP/1.1; twisted.web's own reading costs more than a whole
claim besides. A body is never kept beyond MAX_BODY_BYTES: what is longer is read on, so that the client gets its 413
instead of a reset connection, and thrown away; beyond DRAIN_BYTES the connection is closed.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any, Final

import httptools
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString

from regiond.http.application import MAX_BODY_BYTES, Application, Incoming, Outgoing
from regiond.storage.errors import DatabaseUnavailable

DRAIN_BYTES: Final = 16 * MAX_BODY_BYTES
MAX_HEAD_BYTES: Final = 16_384
MAX_PIPELINED: Final = 16
MAX_LARGE_BODIES: Final = 8
PROGRESS_BYTES: Final = 16_384  # a body that comes slower than this in a timeout is not waited for

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_NO_BODY: Final = frozenset({204, 304})
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


class LargeBodies:
    """How many bodies of more than MAX_BODY_BYTES may be in memory at a time, of all connections of a site."""

    def __init__(self, most: int = MAX_LARGE_BODIES) -> None:
        self._left = most

    def take(self) -> bool:
        """Whether there is room for one more; then `give_back` has to follow."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def give_back(self) -> None:
        self._left += 1


class HttpConnection(Protocol):
    """See the module. `answered` and `arrived` tell the site how many requests are being answered.

    `deadline`, in seconds of the site's clock, is when the client is hung up on: a head that is not whole by then,
    a body that has not grown by PROGRESS_BYTES, answers that nobody reads, or no request at all. While a request is
    answered it is infinite, but for a client that does not read what it is sent in pieces.
    """

    _log = Logger(namespace="region.http")

    def __init__(
        self,
        application: Application,
        *,
        local: bool,
        now: Callable[[], float],
        timeout: float,
        opened: Callable[["HttpConnection"], None],
        closed: Callable[["HttpConnection"], None],
        arrived: Callable[[], None],
        answered: Callable[[], None],
        large: LargeBodies,
    ) -> None:
        self._application = application
        self._local = local
        self._now = now
        self._timeout = timeout
        self._opened = opened
        self._closed = closed
        self._arrived = arrived
        self._answered = answered
        self._large = large
        self._parser = httptools.HttpRequestParser(self)
        # a request, whether another may follow it, and whether the client knows chunks
        self._waiting: deque[tuple[Incoming, bool, bool]] = deque()
        self._answering = False
        self._gone = False
        self._paused = False
        self._directly = False  # nothing waits in the transport, and nothing lies between it and the socket
        self._clogged = False  # the client does not read what it asked for
        self._streaming: Deferred[None] | None = None  # a body that is sent piece by piece
        self._unclogged: Deferred[None] | None = None  # for the next piece
        self._finishing = False
        self._is_large = False  # the body that is arriving counts among the large ones
        self._no_room = False
        self._refusal: int | None = None  # the status of the last answer, when what came is no HTTP
        self._begin()
        self._wait_for_client()

    @property
    def kept_bytes(self) -> int:
        """How much of the body that is arriving is in memory."""
        return sum(map(len, self._body))

    @property
    def is_clogged(self) -> bool:
        """Whether the client does not read what it asked for."""
        return self._clogged

    @property
    def waiting(self) -> int:
        """How many requests wait for the one that is being answered."""
        return len(self._waiting)

    # ---- what the transport says ----

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._directly = isinstance(transport, Connection) and not transport.TLS
        transport.registerProducer(self, True)
        self._opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        for incoming, _, _ in self._waiting:
            self._give_room_back(incoming)
        if self._is_large:
            self._large.give_back()
        self._waiting.clear()
        if self._streaming is not None:
            self._streaming.cancel()
        self._closed(self)

    def dataReceived(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        head = self._headers
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing here is upgraded to: the request was answered as it is, and is the last one (RFC 9110, 7.8).
            if self._waiting:
                incoming, _, knows_chunks = self._waiting.pop()
                self._waiting.append((incoming, False, knows_chunks))
            self._refusal = 0
        except httptools.HttpParserError:
            self._refuse(400)
        else:
            if self._in_head and self._headers is head:
                self._unfinished += len(data)  # the parser keeps a header until it is whole
                if self._unfinished > MAX_HEAD_BYTES:
                    self._refuse(431)
        if not self._answering and not self._clogged:
            self._next()
        if len(self._waiting) > MAX_PIPELINED and not self._paused:
            self._paused = True
            self._producer.pauseProducing()

    def pauseProducing(self) -> None:
        """The client does not read: nothing more is answered until it does."""
        self._clogged = True
        self._wait_for_client()
        self._cut_if_slow()

    def resumeProducing(self) -> None:
        self._clogged = False
        self._wait_for_client()
        if (unclogged := self._unclogged) is not None:
            self._unclogged = None
            unclogged.callback(None)
        if not self._answering and not self._gone:
            self._next()

    def stopProducing(self) -> None:
        """The connection is over: see connectionLost."""

    # ---- what the site says ----

    def finish(self) -> None:
        """Answer what has come, and hang up. Pieces that are not read at once are not waited for any more."""
        self._finishing = True
        self._cut_if_slow()
        if not self._answering and not self._clogged:
            self._next()

    def _cut_if_slow(self) -> None:
        if self._finishing and self._clogged and self._streaming is not None:
            self.abort()

    def abort(self) -> None:
        """Hang up at once."""
        self._producer.abortConnection()

    # ---- what the parser says ----

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a repeated header the first counts."""
        self._head_bytes += len(name) + len(value)
        self._headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)
        self._limit = self._application.body_limit(
            self._parser.get_method().decode("latin-1"), self._target.decode("latin-1")
        )
        self._wait_for_client()
        if self._headers.get("expect", "").lower() == "100-continue" and not self._answering and not self._waiting:
            self._write(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        if self._size // PROGRESS_BYTES < (self._size + len(data)) // PROGRESS_BYTES:
            self._wait_for_client()
        self._size += len(data)
        if MAX_BODY_BYTES < self._size <= self._limit and not (self._is_large or self._no_room):
            self._is_large = self._large.take()
            self._no_room = not self._is_large
        if self._size <= self._limit and not self._no_room:
            self._body.append(data)
            return
        self._body.clear()
        if self._size > DRAIN_BYTES:
            self._refuse(413)

    def on_message_complete(self) -> None:
        if self._refusal is not None:
            return
        incoming = Incoming(
            method=self._parser.get_method().decode("latin-1"),
            target=self._target.decode("latin-1"),
            headers=self._headers,
            body=b"".join(self._body),
            local=self._local,
            too_large=self._size > self._limit,
            no_room=self._no_room,
        )
        if self._is_large and incoming.too_large:
            self._large.give_back()  # it became too large
        knows_chunks = self._parser.get_http_version() != "1.0"
        self._waiting.append((incoming, self._parser.should_keep_alive(), knows_chunks))
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._limit = MAX_BODY_BYTES
        self._is_large = self._no_room = False
        self._head_bytes: int = 0
        self._unfinished: int = 0
        self._in_head = True

    def _wait_for_client(self) -> None:
        if self._answering and not (self._streaming is not None and self._clogged):
            self.deadline = float("inf")
        else:
            self.deadline = self._now() + self._timeout

    # ---- answers ----

    def _refuse(self, status: int) -> None:
        """What comes now is thrown away; what came before is answered first."""
        if self._refusal is None:
            self._refusal = status
            self._body.clear()

    def _next(self) -> None:
        if self._waiting:
            incoming, another, knows_chunks = self._waiting.popleft()
            self._answering = True
            self._wait_for_client()
            self._arrived()
            answering = Deferred.fromCoroutine(self._answer(incoming, another, knows_chunks))
            answering.addErrback(self._broken)
            return
        if self._paused:
            self._paused = False
            self._producer.resumeProducing()
        if self._refusal is not None and not self._gone:
            if self._refusal:
                self._write(f"{_STATUS_LINES[self._refusal]}Connection: close\r\nContent-Length: 0\r\n\r\n".encode())
            self._hang_up()
        elif self._finishing and not self._gone:
            self._hang_up()

    async def _answer(self, incoming: Incoming, another: bool, knows_chunks: bool) -> None:
        try:
            outgoing = await self._application.answer(incoming)
            another = another and not (self._finishing and not self._waiting)
            has_body = incoming.method != "HEAD"
            if isinstance(outgoing.body, bytes):
                if not self._gone:
                    body = outgoing.body if has_body and outgoing.status not in _NO_BODY else b""
                    self._write(head(outgoing, close=not another) + body)
            else:
                another = another and knows_chunks
                whole = await self._stream(outgoing, outgoing.body, has_body, another, knows_chunks)
                another = another and whole and not (self._finishing and not self._waiting)
        finally:
            self._give_room_back(incoming)
            self._answering = False
            self._answered()
        if self._gone:
            return
        self._wait_for_client()
        if not another:
            self._refusal = 0
            self._hang_up()
        elif not self._clogged:
            self._next()

    async def _stream(
        self, outgoing: Outgoing, pieces: AsyncGenerator[bytes, None], has_body: bool, another: bool, chunked: bool
    ) -> bool:
        """Send a body that is made meanwhile; whether the client has all of it."""
        try:
            if not self._gone:
                self._write(head(outgoing, close=not another, chunked=chunked))
            if self._gone or not has_body:
                return not self._gone
            self._streaming = Deferred.fromCoroutine(self._send(pieces, chunked))
            await self._streaming
            if chunked:
                self._write(_LAST_CHUNK)
            return True
        except (CancelledError, DatabaseUnavailable) as error:
            if not self._gone:
                self._log.warn("an answer was cut off: {reason}", event="http.answer-cut", reason=str(error)[:500])
                self._producer.abortConnection()
            return False
        finally:
            self._streaming = None
            await pieces.aclose()

    async def _send(self, pieces: AsyncGenerator[bytes, None], chunked: bool) -> None:
        async for piece in pieces:
            if piece:  # an empty chunk would be the last one
                self._write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            while self._clogged:
                self._unclogged = Deferred()
                await self._unclogged

    def _give_room_back(self, incoming: Incoming) -> None:
        if len(incoming.body) > MAX_BODY_BYTES:
            self._large.give_back()

    def _hang_up(self) -> None:
        """When all is sent."""
        self._producer.unregisterProducer()
        self._producer.loseConnection()

    def _broken(self, failure: Failure) -> None:
        self._log.failure("an answer could not be sent", failure, event="http.send-failed")
        self._producer.abortConnection()

    @property
    def _producer(self) -> Any:
        """The transport with what zope's interfaces do not tell of it."""
        return self.transport

    def _write(self, data: bytes) -> None:
        """At once where the kernel takes it: otherwise the reactor would watch the socket for each answer, and write in
        its next turn. What it does not take the transport sends, and everything after it.
        """
        transport: Any = self.transport
        if self._directly:
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            self._directly = False
            if isinstance(sent, int) and sent > 0:  # else an error, which the transport meets again and tells
                data = data[sent:]
        transport.write(data)


def head(outgoing: Outgoing, *, close: bool, chunked: bool = False) -> bytes:
    """What goes before a body. A HEAD's tells the length of the body that it does not carry (RFC 9110, 9.3.2).

    A body in pieces comes in chunks, or, to a client of HTTP/1.0, until the connection is closed.
    """
    parts = [_STATUS_LINES[outgoing.status]]
    parts.extend(f"{name}: {value}\r\n" for name, value in outgoing.headers)
    if chunked:
        parts.append("Transfer-Encoding: chunked\r\n")
    elif isinstance(outgoing.body, bytes) and outgoing.status not in _NO_BODY:
        parts.append(f"Content-Length: {len(outgoing.body)}\r\n")
    parts.append(f"Date: {datetimeToString().decode()}\r\n")
    parts.append("Connection: close\r\n\r\n" if close else "\r\n")
    return "".join(parts).encode("latin-1")
