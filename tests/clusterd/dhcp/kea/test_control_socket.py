"""The control channel against servers that answer as Kea does, or as it should not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.control_socket import ControlSocket, KeaRefused, KeaUnreachable, Reply
from tests.clusterd.dhcp.kea.scripted import ScriptedServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kea4"


@pytest_twisted.async_yield_fixture
async def server(path: Path) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(path)
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
def control(path: Path) -> ControlSocket:
    return ControlSocket(path, 4, reactor, run_at_once, limit=100_000)


@pytest_twisted.ensureDeferred
async def test_one_command_per_connection(server: ScriptedServer, control: ControlSocket) -> None:
    server.answers["echo"] = lambda arguments: {"result": 0, "text": "done", "arguments": arguments}
    assert await control.ask("echo", {"a": [1, "ü"]}) == Reply(0, "done", {"a": [1, "ü"]})
    assert await control.order("echo") == Reply(0, "done", None)
    assert server.connections == 2


@pytest_twisted.ensureDeferred
async def test_a_reply_in_many_pieces(server: ScriptedServer, control: ControlSocket) -> None:
    server.answers["long"] = lambda _: {"result": 0, "arguments": ["x" * 1000] * 90}
    assert (await control.ask("long")).arguments == ["x" * 1000] * 90


@pytest_twisted.ensureDeferred
async def test_a_refusal_is_in_the_servers_words(server: ScriptedServer, control: ControlSocket) -> None:
    server.answers["config-reload"] = lambda _: {"result": 1, "text": "subnet configuration failed"}
    assert (await control.ask("config-reload")).result == 1
    with pytest.raises(KeaRefused, match=r"^kea-dhcp4 refuses config-reload: subnet configuration failed$"):
        await control.order("config-reload")
    with pytest.raises(KeaRefused, match="'nonsense' command not supported"):
        await control.order("nonsense")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "closed the connection without a reply"),
        (b"{", "what is no reply"),
        (b"[]", "what is no reply"),
        (b'{"text": "hello"}', "what is no reply"),
        (b"\xff\xfe", "what is no reply"),
        (b"[" * 5000, "what is no reply"),
        (b" " * 100_001, "longer than 100000 bytes"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_reply(server: ScriptedServer, control: ControlSocket, raw: bytes, words: str) -> None:
    server.raw = raw
    with pytest.raises(KeaUnreachable, match=words):
        await control.ask("status-get")


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs(server: ScriptedServer, control: ControlSocket) -> None:
    server.silent = True
    with pytest.raises(KeaUnreachable, match=r"asked status-get: no reply within 0\.2 s"):
        await control.ask("status-get", timeout=0.2)


@pytest_twisted.ensureDeferred
async def test_nobody_there(control: ControlSocket, path: Path) -> None:
    with pytest.raises(KeaUnreachable, match="there is no such socket: the server is not running"):
        await control.ask("status-get")
    scripted = ScriptedServer(path)
    await scripted.start()
    await scripted.stop(leave_the_socket=True)
    with pytest.raises(KeaUnreachable, match="nobody listens there: the server is not running"):
        await control.ask("status-get")
