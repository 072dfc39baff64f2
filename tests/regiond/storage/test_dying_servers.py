"""A server that ends while a connection to it is being made: refused in words, never a traceback."""

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import UNIXServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogEvent

from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.pool import LEAST_PATIENCE_SECONDS, Pool

reactor: Any = global_reactor


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">i", 4 + len(body)) + body


def parameters(values: Mapping[str, str]) -> bytes:
    return b"".join(message(b"S", f"{name}\0{value}\0".encode()) for name, value in values.items())


# the server's side of a start, PostgreSQL's protocol 3 (Frontend/Backend Protocol, 54.7)
WELCOME = message(b"R", struct.pack(">i", 0))
PARAMETERS = parameters({"server_version": "15.0", "client_encoding": "UTF8", "DateStyle": "ISO, MDY"})
KEY = message(b"K", struct.pack(">ii", 1, 2))
RECOVERING = message(b"E", b"SFATAL\0VFATAL\0C57P03\0Mthe database system is in recovery mode\0\0")
PAUSE_SECONDS = 0.02

LAST_WORDS = {
    "nothing": b"",
    "welcome": WELCOME,
    "parameters": WELCOME + PARAMETERS,
    "key": WELCOME + PARAMETERS + KEY,
}


class Dying(Protocol):
    """Says its last words to whoever begins, and is gone a moment later."""

    last_words = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self.last_words)
        reactor.callLater(PAUSE_SECONDS, self.transport.loseConnection)


async def refusal(directory: Path, last_words: bytes) -> str:
    """What connecting to such a server says."""

    class Server(Dying):
        pass

    Server.last_words = last_words
    port: Any = await UNIXServerEndpoint(reactor, str(directory / ".s.PGSQL.5432")).listen(Factory.forProtocol(Server))
    try:
        with pytest.raises(DatabaseUnavailable) as refused:
            await Connector(reactor, f"host={directory} user=u dbname=d").connect()
        await deferLater(reactor, 2 * PAUSE_SECONDS)
    finally:
        await maybeDeferred(port.stopListening)
    return str(refused.value)


@pytest.mark.parametrize("last_words", LAST_WORDS.values(), ids=LAST_WORDS)
@pytest_twisted.ensureDeferred
async def test_a_server_that_goes_away_is_a_closed_connection(
    tmp_path: Path, last_words: bytes, logged_failures: list[LogEvent]
) -> None:
    assert await refusal(tmp_path, last_words) == "server closed the connection unexpectedly"
    assert logged_failures == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_says_why_it_goes_is_quoted(tmp_path: Path, logged_failures: list[LogEvent]) -> None:
    assert "in recovery mode" in await refusal(tmp_path, WELCOME + PARAMETERS + RECOVERING)
    assert logged_failures == []


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_is_told_in_the_system_s_words_with_the_host(
    logged_failures: list[LogEvent],
) -> None:
    """The port is bound and does not listen, so that nobody else can have it meanwhile."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        with pytest.raises(DatabaseUnavailable) as refused:
            await Connector(reactor, f"host=127.0.0.1 port={port} user=u dbname=d").connect()
    assert str(refused.value) == f"127.0.0.1, port {port}: Connection refused"
    assert logged_failures == []


@pytest_twisted.ensureDeferred
async def test_an_outage_that_has_lasted_is_heard_of_almost_at_once(tmp_path: Path) -> None:
    pool = Pool(reactor, f"host={tmp_path} user=u dbname=d", size=1, patience=1.5)
    pool.start()
    try:
        waits = []
        for _ in range(2):
            began = reactor.seconds()
            with pytest.raises(DatabaseUnavailable):
                await pool.query("SELECT 1")
            waits.append(reactor.seconds() - began)
        assert waits[0] >= 1.4
        assert LEAST_PATIENCE_SECONDS - 0.05 <= waits[1] < 1.4
    finally:
        await pool.close()
