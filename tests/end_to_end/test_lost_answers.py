"""Clients whose connections are cut at any moment, in front of two regionds: one reservation for each intent."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from tests.conformance.test_conformance import drain, running, start

reactor: Any = global_reactor

CLIENTS, INTENTS = 16, 6
NET = "192.0.2.0/24"
LONGEST_ANSWER_SECONDS = 60.0


class OneRequest(Protocol):
    """Sends a request; `answered` fires with all that came before the connection was over."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answered: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.answered.callback(self._received)

    def cut(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


@dataclass
class Client:
    """One of them, with what it wanted and what it was told."""

    number: int
    ports: list[int]
    token: str
    told: dict[str, str] = field(default_factory=dict)
    cuts: int = 0

    async def run(self) -> None:
        chance = random.Random(self.number)
        for intent in range(INTENTS):
            name = f"client {self.number} intent {intent}"
            path, body = self._asked(name, intent)
            answer = None
            while answer is None:
                answer = await self._try(chance, path, body, f"key-{self.number}-{intent}")
            made = answer["results"][0]["reservations"][0] if "results" in answer else answer
            self.told[name] = made["id"]

    def _asked(self, name: str, intent: int) -> tuple[str, dict[str, Any]]:
        """A reservation alone, or as a member of a batch."""
        wanted = {"interface": NET, "purpose": name}
        if intent % 2:
            return "batch", {"members": [{"operation": "reserve", **wanted}]}
        return "reservations", wanted

    async def _try(self, chance: random.Random, path: str, body: Any, key: str) -> Any:
        """The answer, or None when the connection was cut before it came."""
        content = json.dumps(body).encode()
        head = (
            f"POST /api/v1/{path} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", chance.choice(self.ports))
        try:
            wire: OneRequest = await connectProtocol(endpoint, OneRequest(head.encode() + content))
        except ConnectError:
            return None
        patience = chance.choice([0.0, chance.uniform(0.0, 0.05), LONGEST_ANSWER_SECONDS])
        timer = reactor.callLater(patience, wire.cut)
        received = await wire.answered
        if timer.active():
            timer.cancel()
        status, _, rest = received.partition(b"\r\n")
        if b"\r\n\r\n" not in rest or not received.endswith(b"\n"):
            self.cuts += 1
            await deferLater(reactor, chance.uniform(0.0, 0.02))  # as a client would, and it lets others in between
            return None
        assert status.split()[1] in (b"200", b"201"), received
        return json.loads(rest.partition(b"\r\n\r\n")[2])


@pytest_twisted.ensureDeferred
async def test_one_intent_is_one_reservation_however_often_the_answer_is_lost(
    database: str, state_directory: Path
) -> None:
    other = state_directory / "other"
    other.mkdir(mode=0o711)
    config = other / "regiond.toml"
    config.write_text(
        f'state_directory = "{other}/state"\n[http]\nlisten = ["tcp:127.0.0.1:0"]\n[database]\ndsn = "{database}"\n'
    )
    async with running(database, state_directory) as (url, tokens):
        daemon, port = await deferToThread(start, config)
        log = deferToThread(drain, daemon)
        try:
            ports = [int(url.rpartition(":")[2]), port]
            clients = [Client(number, ports, str(tokens["user"])) for number in range(CLIENTS)]
            await gatherResults([Deferred.fromCoroutine(client.run()) for client in clients], consumeErrors=True)
            held = await listed(ports[0], str(tokens["user"]))
        finally:
            daemon.terminate()
            lines = await log
            daemon.wait()
    assert not [line for line in lines if "traceback" in line]
    assert sum(client.cuts for client in clients) > CLIENTS  # or nothing was shown
    told = {name: made for client in clients for name, made in client.told.items()}
    assert len(told) == CLIENTS * INTENTS
    assert sorted((each["purpose"], each["id"]) for each in held) == sorted(told.items())
    assert len({each["address"] for each in held}) == len(held)


async def listed(port: int, token: str) -> list[dict[str, Any]]:
    """All reservations of the account."""
    request = (
        "GET /api/v1/reservations?limit=1000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    wire: OneRequest = await connectProtocol(endpoint, OneRequest(request.encode()))
    found: list[dict[str, Any]] = json.loads((await wire.answered).partition(b"\r\n\r\n")[2])
    return found
