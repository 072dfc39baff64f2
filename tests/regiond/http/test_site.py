"""The API at its sockets: large, slow, broken and vanished clients, and requests on one connection."""

import json
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from regiond.http.application import MAX_BODY_BYTES
from regiond.http.connection import DRAIN_BYTES, MAX_HEAD_BYTES, MAX_PIPELINED
from tests.fakes.use_cases import RESERVATION_VIEW
from tests.regiond.http.serving import Server, serving

reactor: Any = global_reactor

BODY = json.dumps({"interface": "rack-a:eth1"}).encode()
HEAD = b"POST /api/v1/reservations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\n"
TYPED = HEAD + b"Content-Type: application/json\r\n"


class Wire(Protocol):
    """A connection of raw bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.closed.callback(None)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def hang_up(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]


async def connected(server: Server) -> Wire:
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port or 0)
    wire: Wire = await connectProtocol(endpoint, Wire())
    return wire


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Returns when it is so; the bound is for what never comes true."""
    end = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < end, "the condition did not come true"
        await deferLater(reactor, 0.005)


@pytest_twisted.ensureDeferred
async def test_a_body_of_two_megabytes_is_refused_and_not_kept() -> None:
    async with serving() as server:
        body = json.dumps({"interface": "x" * 2_000_000}).encode()
        reply = await server.request("POST", "/api/v1/reservations", raw=body)
        assert (reply.status, reply.json["type"]) == (413, "body-too-large")
        assert reply.json["max_bytes"] == MAX_BODY_BYTES
        assert server.region.claims.calls == []


@pytest_twisted.ensureDeferred
async def test_a_body_may_have_exactly_the_limit() -> None:
    async with serving() as server:
        fitting = BODY + b" " * (MAX_BODY_BYTES - len(BODY))
        assert (await server.request("POST", "/api/v1/reservations", raw=fitting)).status == 201
        assert (await server.request("POST", "/api/v1/reservations", raw=fitting + b" ")).status == 413


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_endless_body_is_cut_off_and_never_held_in_memory(chunked: bool) -> None:
    async with serving() as server:
        wire = await connected(server)
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999999"
        wire.send(TYPED + length + b"\r\n\r\n")
        piece = b"x" * 1_000_000
        for _ in range(DRAIN_BYTES // len(piece) + 2):
            wire.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 413 ")
        assert server.region.claims.calls == []


@pytest_twisted.ensureDeferred
async def test_the_pieces_of_too_large_a_body_are_dropped() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(TYPED + b"Content-Length: %d\r\n\r\n%s" % (2 * MAX_BODY_BYTES, b"x" * (MAX_BODY_BYTES // 2)))
        await until(lambda: [each.kept_bytes for each in server.site.connections] == [MAX_BODY_BYTES // 2])
        wire.send(b"x" * (MAX_BODY_BYTES // 2 + 1))
        await until(lambda: [each.kept_bytes for each in server.site.connections] == [0])
        wire.send(b"x" * (MAX_BODY_BYTES - 1))
        await until(lambda: wire.received.startswith(b"HTTP/1.1 413 "))


@pytest_twisted.ensureDeferred
async def test_requests_on_one_connection_are_answered_in_order() -> None:
    async with serving() as server:
        gate: Deferred[None] = Deferred()

        async def reserve(**arguments: Any) -> Any:
            await gate
            return [RESERVATION_VIEW], True

        server.region.claims.answers["reserve"] = reserve
        wire = await connected(server)
        first = TYPED + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
        wire.send(first + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until(lambda: server.site.in_flight == 1)
        assert wire.received == b""
        gate.callback(None)
        await until(lambda: wire.closed.called)
        created, alive = wire.received.split(b"HTTP/1.1 ")[1:]
        assert created.startswith(b"201 ") and alive.startswith(b"200 ") and alive.endswith(b'{"status":"ok"}\n')


@pytest_twisted.ensureDeferred
async def test_chunks_are_a_body() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(TYPED + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        wire.send(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n")
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 201 ")


@pytest_twisted.ensureDeferred
async def test_a_client_that_hangs_up_does_not_stop_its_request_nor_break_anything(caught_logs: list[Any]) -> None:
    async with serving() as server:
        gate: Deferred[None] = Deferred()

        async def reserve(**arguments: Any) -> Any:
            await gate
            return [RESERVATION_VIEW], True

        server.region.claims.answers["reserve"] = reserve
        wire = await connected(server)
        wire.send(TYPED + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
        await until(lambda: server.site.in_flight == 1)
        finished = Deferred.fromCoroutine(server.site.finished())
        wire.hang_up()
        await wire.closed
        assert not finished.called
        gate.callback(None)
        await finished
        assert [event["status"] for event in caught_logs if event.get("event") == "http.request"] == [201]
        assert not [event for event in caught_logs if event.get("log_failure")]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HTTP/1.1\r\nHos", TYPED + b"Content-Length: 10\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_client_that_says_no_more_is_hung_up_on(sent: bytes) -> None:
    async with serving(timeout=0.2) as server:
        wire = await connected(server)
        wire.send(sent)
        await until(lambda: wire.closed.called)
        assert wire.received == b""


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        TYPED + b"Content-Length: -1\r\n\r\n",
        TYPED + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        TYPED + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_others_are_served(sent: bytes, caught_logs: list[Any]) -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(sent)
        await until(lambda: wire.closed.called)
        assert wire.received[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")
        assert (await server.request("GET", "/healthz")).status == 200
        assert server.region.claims.calls == []
        assert not [event for event in caught_logs if event.get("log_failure")]


@pytest_twisted.ensureDeferred
async def test_a_head_that_comes_in_drops_is_not_waited_for_for_ever() -> None:
    async with serving(timeout=0.3) as server:
        wire = await connected(server)
        wire.send(HEAD)
        for number in range(1000):
            if wire.closed.called:
                break
            wire.send(b"X-%d: y\r\n" % number)
            await deferLater(reactor, 0.02)
        assert wire.closed.called and wire.received == b""


@pytest_twisted.ensureDeferred
async def test_a_body_may_take_longer_than_the_timeout_while_it_grows() -> None:
    async with serving(timeout=1.0) as server:
        wire = await connected(server)
        wire.send(TYPED + b"Content-Length: %d\r\n\r\n%s" % (len(BODY) + 12 * 16_384, BODY))
        for _ in range(12):
            wire.send(b" " * 16_384)
            await deferLater(reactor, 0.1)
        await until(lambda: wire.received.startswith(b"HTTP/1.1 201 "))


@pytest_twisted.ensureDeferred
async def test_a_head_has_a_limit() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(HEAD + b"X-Long: " + b"x" * MAX_HEAD_BYTES)
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 431 ")


@pytest_twisted.ensureDeferred
async def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(TYPED + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        await until(lambda: wire.received == b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.send(BODY)
        await until(lambda: b"HTTP/1.1 201 " in wire.received)


@pytest_twisted.ensureDeferred
async def test_a_wish_for_another_protocol_is_not_granted() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0")
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 200 ") and wire.received.count(b"HTTP/1.1 ") == 1


@pytest_twisted.ensureDeferred
async def test_the_old_protocol_gets_one_answer_and_the_end() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 200 ")


@pytest_twisted.ensureDeferred
async def test_a_head_request_is_told_the_length_and_sent_nothing() -> None:
    async with serving() as server:
        wire = await connected(server)
        wire.send(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until(lambda: wire.closed.called)
        assert wire.received.startswith(b"HTTP/1.1 200 ") and wire.received.endswith(b"\r\n\r\n")
        assert b"\r\nContent-Length: 16\r\n" in wire.received


@pytest_twisted.ensureDeferred
async def test_a_thousand_requests_sent_at_once_are_answered_and_few_are_held() -> None:
    async with serving() as server:
        wire = await connected(server)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 2000 + b"\r\n\r\n"
        wire.send(request * 1000)
        most = 0

        def all_answered() -> bool:
            nonlocal most
            most = max(most, *(each.waiting for each in server.site.connections))
            return wire.received.count(b"HTTP/1.1 200 ") == 1000

        await until(all_answered)
        assert most <= MAX_PIPELINED + 65_536 // len(request)


@pytest_twisted.ensureDeferred
async def test_a_form_is_not_parsed() -> None:
    async with serving() as server:
        form = b"interface=rack-a%3Aeth1"
        reply = await server.request(
            "POST",
            "/api/v1/reservations",
            raw=form,
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert (reply.status, reply.json["type"]) == (415, "unsupported-media-type")


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_not_answered_further_and_hung_up_on() -> None:
    async with serving(timeout=0.5) as server:
        wire = await connected(server)
        transport: Any = wire.transport
        transport.pauseProducing()
        wire.send(b"GET /api/v1/docs HTTP/1.1\r\nHost: x\r\n\r\n" * 400)  # 50 MB of answers
        await until(lambda: not server.site.connections)
        answered = server.site.answered
        assert 0 < answered < 200
        transport.resumeProducing()
        await until(lambda: wire.closed.called)


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_slowly_gets_everything() -> None:
    async with serving() as server:
        wire = await connected(server)
        transport: Any = wire.transport
        transport.pauseProducing()
        wire.send(b"GET /api/v1/docs HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        await until(lambda: any(each.is_clogged for each in server.site.connections))
        transport.resumeProducing()
        await until(lambda: wire.received.endswith(b"</html>") and wire.received.count(b"HTTP/1.1 200 ") == 40)


@pytest_twisted.ensureDeferred
async def test_the_most_silent_clients_make_room_for_others() -> None:
    async with serving(most=20) as server:
        first = [await connected(server) for _ in range(20)]
        await until(lambda: len(server.site.connections) == 20)
        first[0].send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: first[0].received.endswith(b"}\n"))
        assert (await server.request("GET", "/healthz")).status == 200
        await until(lambda: first[1].closed.called)
        assert not first[0].closed.called
        assert sum(wire.closed.called for wire in first) == 1


@pytest_twisted.ensureDeferred
async def test_a_site_that_closes_answers_what_has_come_and_hangs_up_on_the_idle() -> None:
    async with serving() as server:
        gate: Deferred[None] = Deferred()

        async def reserve(**arguments: Any) -> Any:
            await gate
            return [RESERVATION_VIEW], True

        server.region.claims.answers["reserve"] = reserve
        idle, busy, kept = [await connected(server) for _ in range(3)]
        kept.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: kept.received.endswith(b"}\n"))
        busy.send((TYPED + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)) * 2)
        await until(lambda: server.site.in_flight == 1)
        server.site.close()
        await until(lambda: idle.closed.called and kept.closed.called)
        assert not busy.closed.called
        gate.callback(None)
        await until(lambda: busy.closed.called)
        assert busy.received.count(b"HTTP/1.1 201 ") == 2
        assert busy.received.count(b"Connection: close") == 1


@pytest_twisted.ensureDeferred
async def test_a_token_has_a_rate_and_the_others_have_theirs() -> None:
    async with serving(per_second=2) as server:
        statuses = [(await server.request("GET", "/api/v1/nodes")).status for _ in range(6)]
        assert statuses[:4] == [200] * 4
        reply = await server.request("GET", "/api/v1/nodes")
        while reply.status == 200:  # slower than the rate: a busy machine
            reply = await server.request("GET", "/api/v1/nodes")
        assert (reply.status, reply.json["type"], reply.headers["retry-after"]) == (429, "too-many-requests", "1")
        assert (await server.request("GET", "/api/v1/nodes", token="alice")).status == 200
        assert (await server.request("GET", "/healthz")).status == 200
