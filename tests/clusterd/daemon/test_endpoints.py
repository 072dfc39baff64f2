"""Link addresses: what is understood, what is refused, and that the endpoints connect."""

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from clusterd.daemon.config_file import ConfigError, Strict, validate
from clusterd.daemon.endpoints import (
    LinkAddress,
    LinkAddressSetting,
    LocalAddress,
    LocalAddressSetting,
    LoopbackAddress,
    TlsAddress,
    UnixAddress,
    parse_link_address,
    parse_local_address,
)

LISTENER = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


class Greeter(Protocol):
    """Says hello and closes."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Listener(Protocol):
    """`heard` fires with everything the peer said, once it has closed."""

    def __init__(self) -> None:
        self.heard: Deferred[bytes] = Deferred()
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.heard.callback(self._received)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/hostmap/region.sock", UnixAddress("/run/hostmap/region.sock")),
        ("tcp:127.0.0.1:5250", TlsAddress("127.0.0.1", 5250)),
        ("tcp:192.0.2.1:5250", TlsAddress("192.0.2.1", 5250)),
        ("tcp:[2001:DB8::1]:5250", TlsAddress("2001:db8::1", 5250)),
        ("tcp:[::]:5250", TlsAddress("::", 5250)),
        (" tcp:localhost:5250 ", TlsAddress("127.0.0.1", 5250)),
        ("tcp:Region.example:0", TlsAddress("region.example", 0)),
        ("tcp:region1:5250", TlsAddress("region1", 5250)),
        ("tcp:region.rack-12:5250", TlsAddress("region.rack-12", 5250)),
    ],
)
def test_link_addresses_that_are_understood(text: str, address: LinkAddress) -> None:
    assert parse_link_address(text) == address
    assert parse_link_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/hostmap/api.sock", UnixAddress("/run/hostmap/api.sock")),
        ("tcp:127.0.0.1:5240", LoopbackAddress("127.0.0.1", 5240)),
        ("tcp:127.3.2.1:5240", LoopbackAddress("127.3.2.1", 5240)),
        ("tcp:[::1]:5240", LoopbackAddress("::1", 5240)),
        (" tcp:localhost:5240 ", LoopbackAddress("127.0.0.1", 5240)),
        ("tcp:127.0.0.1:0", LoopbackAddress("127.0.0.1", 0)),
    ],
)
def test_local_addresses_that_are_understood(text: str, address: LocalAddress) -> None:
    assert parse_local_address(text) == address
    assert parse_local_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["tcp:192.0.2.1:5240", "tcp:0.0.0.0:5240", "tcp:[::]:5240", "tcp:[2001:db8::1]:5240", "tcp:region.example:5240",
     "tcp:[fe80::1]:5240"],
)  # fmt: skip
def test_a_local_address_is_of_this_host(text: str) -> None:
    with pytest.raises(ValueError, match="is not the loopback interface"):
        parse_local_address(text)


@pytest.mark.parametrize(
    "text",
    ["", "tcp", "tcp:", "tcp:127.0.0.1", "tcp::5250", "tcp:::1:5250", "tcp:127.0.0.1:65536", "tcp:127.0.0.1:x",
     "tcp:127.0.0.1:-1", "tcp:127.0.0.1:", "unix:", "unix:relative", "unix:/" + "a" * 107, "udp:127.0.0.1:1",
     "127.0.0.1:5250", "unix:/a\0b", "tcp:127.0.0.1:٣", "tcp:[::1%lo]:5250", "tcp:*:5250", "tcp:a b:1", "tcp:a_b:1",
     "tcp:127.1:5250", "tcp:2130706433:1", "tcp:region.7:1", "tcp:0x7f.0x1:1", "tcp:127.0.0.1:000000999999",
     "tcp:[region.example]:1", "tcp:-a:1", "tcp:" + "a." * 130 + "a:1"],
)  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a link address|UNIX socket|expected tcp|not a TCP port|not an IP"):
        parse_link_address(text)
    with pytest.raises(ValueError, match=r"not an address|UNIX socket|expected tcp|not a TCP port|not an IP"):
        parse_local_address(text)


@given(st.text() | st.text().map(lambda text: f"tcp:{text}:1") | st.text().map(lambda text: f"unix:/{text}"))
def test_any_text_gives_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_link_address(text)
    except ValueError:
        return
    assert parse_link_address(str(address)) == address


def test_as_a_setting() -> None:
    class Settings(Strict):
        link: LinkAddressSetting = UnixAddress("/default")
        listen: LocalAddressSetting = UnixAddress("/default")

    assert validate({"listen": "tcp:[::1]:1"}, Settings, "here").listen == LoopbackAddress("::1", 1)
    assert validate({"link": "tcp:[::1]:1"}, Settings, "here").link == TlsAddress("::1", 1)
    assert validate({}, Settings, "here").listen == UnixAddress("/default")
    for wrong in ("tcp:192.0.2.1:1", 5):
        with pytest.raises(ConfigError, match=r"^here: listen: "):
            validate({"listen": wrong}, Settings, "here")
    with pytest.raises(ConfigError, match=r"^here: link: "):
        validate({"link": 5}, Settings, "here")


def test_nobody_connects_to_port_0() -> None:
    with pytest.raises(ValueError, match="port 0"):
        LoopbackAddress("127.0.0.1", 0).client_endpoint(reactor)


def start_listener(path: Path) -> "subprocess.Popen[bytes]":
    """Another process that listens at `path` until its standard input ends."""
    return subprocess.Popen([sys.executable, "-c", LISTENER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def listen(address: LocalAddress) -> IListeningPort:
    port: IListeningPort = await address.server_endpoint(reactor).listen(Factory.forProtocol(Greeter))  # type: ignore[arg-type]
    return port


async def said_at(address: LocalAddress) -> bytes:
    protocol = await address.client_endpoint(reactor).connect(Factory.forProtocol(Listener))  # type: ignore[arg-type]
    assert isinstance(protocol, Listener)
    return await protocol.heard


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest_twisted.ensureDeferred
async def test_a_loopback_port_connects(host: str) -> None:
    port = await listen(LoopbackAddress(host, 0))
    try:
        bound = cast(IPv4Address | IPv6Address, port.getHost())
        assert bound.host == host
        assert await said_at(LoopbackAddress(host, bound.port)) == b"hello"
    finally:
        await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_is_private_and_connects(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    address = UnixAddress(str(path))
    umask = os.umask(0)
    try:
        port = await listen(address)
    finally:
        os.umask(umask)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await said_at(address) == b"hello"
        with pytest.raises(CannotListenError, match="already in use"):
            await listen(address)
        assert await said_at(address) == b"hello"
    finally:
        await maybeDeferred(port.stopListening)
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    with start_listener(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        with pytest.raises(CannotListenError, match="already in use"):
            await listen(UnixAddress(str(path)))
        process.send_signal(signal.SIGKILL)
    assert path.is_socket()
    port = await listen(UnixAddress(str(path)))
    assert await said_at(UnixAddress(str(path))) == b"hello"
    await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_listens_in_the_same_directory_is_waited_for(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(other, fcntl.LOCK_EX)
    listening = Deferred.fromCoroutine(listen(UnixAddress(str(tmp_path / "link.sock"))))
    assert not listening.called
    os.close(other)
    await maybeDeferred((await listening).stopListening)


@pytest_twisted.ensureDeferred
async def test_a_full_queue_means_somebody_lives_there(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        with pytest.raises(CannotListenError, match="already in use"):
            await listen(UnixAddress(str(path)))


@pytest_twisted.ensureDeferred
async def test_a_file_of_another_kind_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    path.write_text("precious")
    with pytest.raises(CannotListenError, match="another kind"):
        await listen(UnixAddress(str(path)))
    assert path.read_text() == "precious"
    with pytest.raises(CannotListenError):
        await listen(UnixAddress(str(tmp_path / "absent" / "link.sock")))
