"""Answers that are sent piece by piece: as fast as the client reads, whole or cut off, and nothing left behind."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from regiond.http.bodies.base import NoQuery
from regiond.http.routes import ROUTES
from regiond.http.routing import Access, Answer, Call, Route, Streamed
from regiond.http.use_cases import UseCases
from regiond.storage.errors import DatabaseUnavailable
from tests.regiond.http.serving import Server, serving
from tests.regiond.http.test_site import connected, until

reactor: Any = global_reactor

PIECE = b"x" * 10_000
ASK = b"GET /pieces HTTP/1.1\r\nHost: x\r\n\r\n"
ASK_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Pieces:
    """What is streamed at /pieces, how far it got, and whether it was closed."""

    def __init__(self, make: Callable[["Pieces"], AsyncGenerator[bytes, None]]) -> None:
        self.made = 0
        self.closed = 0
        self._make = make

    async def stream(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._make(self):
                self.made += 1
                yield piece
        finally:
            self.closed += 1


async def several(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    for piece in (b"one,", b"", b"two,", b"three"):
        await deferLater(reactor, 0)
        yield piece


async def endless(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    while True:
        await deferLater(reactor, 0)
        yield PIECE


async def silent(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    yield b"one"
    await Deferred()


@asynccontextmanager
async def streaming(
    make: Callable[[Pieces], AsyncGenerator[bytes, None]], timeout: float = 60.0
) -> AsyncIterator[tuple[Server, Pieces]]:
    pieces = Pieces(make)

    async def answer(use: UseCases, call: Call[None, NoQuery]) -> Answer:
        return Answer(200, Streamed("text/csv", pieces.stream()))

    route = Route("GET", "/pieces", answer, Access.ANYBODY, "Pieces", shows=Streamed("text/csv"))
    async with serving(routes=[*ROUTES, route], timeout=timeout) as server:
        yield server, pieces


def body_of(chunked: bytes) -> bytes:
    """The body in an answer that came in chunks; it has to be whole."""
    head, _, rest = chunked.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head and b"Content-Length" not in head
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
        if not length:
            return body


@pytest_twisted.ensureDeferred
async def test_pieces_come_in_chunks_and_the_connection_goes_on() -> None:
    async with streaming(several) as (server, pieces):
        wire = await connected(server)
        wire.send(ASK + ASK_HEALTH)
        await until(lambda: wire.closed.called)
        streamed, _, health = wire.received.partition(b"HTTP/1.1 200 OK\r\n")[2].partition(b"HTTP/1.1 ")
        assert body_of(streamed) == b"one,two,three"
        assert b"Content-Type: text/csv\r\n" in streamed
        assert health.startswith(b"200 ")
        assert pieces.closed == 1


@pytest_twisted.ensureDeferred
async def test_a_client_of_http_1_0_gets_the_pieces_until_the_end() -> None:
    async with streaming(several) as (server, _):
        wire = await connected(server)
        wire.send(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        await until(lambda: wire.closed.called)
        head, _, body = wire.received.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head and b"Connection: close" in head
        assert body == b"one,two,three"


@pytest_twisted.ensureDeferred
async def test_a_head_makes_no_pieces() -> None:
    async with streaming(endless) as (server, pieces):
        wire = await connected(server)
        wire.send(ASK.replace(b"GET", b"HEAD") + ASK_HEALTH)
        await until(lambda: wire.closed.called)
        assert [part[:4] for part in wire.received.split(b"HTTP/1.1 ")[1:]] == [b"200 ", b"200 "]
        assert pieces.made == 0


@pytest_twisted.ensureDeferred
async def test_no_more_pieces_are_made_than_are_read_and_who_never_reads_is_hung_up_on() -> None:
    async with streaming(endless, timeout=0.5) as (server, pieces):
        wire = await connected(server)
        transport: Any = wire.transport
        transport.pauseProducing()
        wire.send(ASK)
        await until(lambda: not server.site.connections)
        await until(lambda: pieces.closed == 1)
        assert len(PIECE) * pieces.made < 32_000_000  # what the kernel keeps for the two ends
        transport.resumeProducing()
        await until(lambda: wire.closed.called)


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_again_gets_more_pieces() -> None:
    async with streaming(endless) as (server, pieces):
        wire = await connected(server)
        transport: Any = wire.transport
        transport.pauseProducing()
        wire.send(ASK)
        await until(lambda: any(each.is_clogged for each in server.site.connections))
        made = pieces.made
        transport.resumeProducing()
        await until(lambda: pieces.made > made + 100)
        wire.hang_up()
        await until(lambda: pieces.closed == 1)


@pytest_twisted.ensureDeferred
async def test_who_hangs_up_while_nothing_comes_stops_the_pieces(caught_logs: list[Any]) -> None:
    async with streaming(silent) as (server, pieces):
        wire = await connected(server)
        wire.send(ASK)
        await until(lambda: wire.received.endswith(b"one\r\n"))
        wire.hang_up()
        await until(lambda: pieces.closed == 1)
        await until(lambda: server.site.in_flight == 0)
    assert not [event for event in caught_logs if event.get("event") in ("http.answer-cut", "http.send-failed")]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("error", "logged"),
    [(DatabaseUnavailable("away"), "http.answer-cut"), (ValueError("a bug"), "http.send-failed")],
)
async def test_pieces_that_cannot_be_made_cut_the_connection(
    error: Exception, logged: str, caught_logs: list[Any]
) -> None:
    gate: Deferred[None] = Deferred()

    async def broken(pieces: Pieces) -> AsyncGenerator[bytes, None]:
        yield b"one"
        await gate
        raise error

    async with streaming(broken) as (server, pieces):
        wire = await connected(server)
        wire.send(ASK)
        await until(lambda: wire.received.endswith(b"one\r\n"))
        gate.callback(None)
        await until(lambda: wire.closed.called)
        assert wire.received.endswith(b"one\r\n")  # without the last chunk: it is known that something is missing
        assert pieces.closed == 1
    assert [event["event"] for event in caught_logs if event.get("event") == logged] == [logged]


@pytest_twisted.ensureDeferred
async def test_a_site_that_closes_sends_the_rest() -> None:
    gate: Deferred[None] = Deferred()

    async def gated(pieces: Pieces) -> AsyncGenerator[bytes, None]:
        yield b"one"
        await gate
        yield b"two"

    async with streaming(gated) as (server, _):
        wire = await connected(server)
        wire.send(ASK)
        await until(lambda: wire.received.endswith(b"one\r\n"))
        server.site.close()
        gate.callback(None)
        await until(lambda: wire.closed.called)
        assert body_of(wire.received) == b"onetwo"


@pytest_twisted.ensureDeferred
async def test_a_site_that_closes_does_not_wait_for_who_does_not_read() -> None:
    async with streaming(endless) as (server, pieces):
        wire = await connected(server)
        wire.send(ASK)
        await until(lambda: pieces.made > 3)
        assert wire.transport is not None
        wire.transport.pauseProducing()  # type: ignore[attr-defined]
        await until(lambda: any(each.is_clogged for each in server.site.connections))
        server.site.close()
        await server.site.finished()
        assert pieces.closed == 1
        wire.hang_up()
