"""Where daemons listen and connect.

A link address, between region and cluster, is `unix:/path` or `tcp:HOST:PORT`. Plain AMP carries no proof of who
speaks, so it is spoken only where the operating system gives one: on a UNIX socket that only its owner can open. TCP is
always mutual TLS, on the loopback interface too: every user of a host can connect there.

A local address, of the HTTP API, is `unix:/path` or a TCP port of the loopback interface. `parse_link_address` and
`parse_local_address` are the places that decide this.
"""

import fcntl
import os
import re
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    TCP6ClientEndpoint,
    TCP6ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTCP,
    IReactorUNIX,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.task import deferLater
from zope.interface import implementer

from clusterd.daemon.handshakes import Admission, TlsClientEndpoint, TlsServerEndpoint
from clusterd.daemon.mutual_tls import TlsConnections

SOCKET_MODE = 0o600
MAX_SOCKET_PATH_BYTES = 107  # sun_path is 108 bytes with its final zero, unix(7)
MAX_HOST_NAME = 253
CONNECT_TIMEOUT_SECONDS = 10.0
LOCK_ATTEMPTS = 250
LOCK_PAUSE_SECONDS = 0.02

# A last label that resolvers read as part of an IPv4 address, as in 127.1 and 0x7f.1: see inet_aton(3).
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_HOST_NAME = re.compile(r"(?i:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.(?i:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?))*")


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A UNIX socket, named by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    def client_endpoint(self, reactor: IReactorUNIX) -> IStreamClientEndpoint:
        return UNIXClientEndpoint(reactor, self.path, timeout=CONNECT_TIMEOUT_SECONDS)

    def server_endpoint(self, reactor: IReactorUNIX) -> IStreamServerEndpoint:
        return PrivateSocketEndpoint(reactor, self.path)


@dataclass(frozen=True, slots=True)
class LoopbackAddress:
    """A TCP port of the loopback interface. Port 0 is any free port, for listening only."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    def client_endpoint(self, reactor: IReactorTCP) -> IStreamClientEndpoint:
        """Raises ValueError for port 0."""
        if self.port == 0:
            raise ValueError(f"{self}: nobody can connect to port 0")
        endpoint = TCP6ClientEndpoint if ":" in self.host else TCP4ClientEndpoint
        return endpoint(reactor, self.host, self.port, timeout=CONNECT_TIMEOUT_SECONDS)

    def server_endpoint(self, reactor: IReactorTCP) -> IStreamServerEndpoint:
        endpoint = TCP6ServerEndpoint if ":" in self.host else TCP4ServerEndpoint
        return endpoint(reactor, self.port, interface=self.host)


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """A TCP port on which TLS is spoken. `host` is an IP address or a name; a listener's is an IP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    def client_endpoint(self, reactor: Any, connections: TlsConnections) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=CONNECT_TIMEOUT_SECONDS)
        return TlsClientEndpoint(reactor, endpoint, connections)

    def server_endpoint(self, reactor: Any, connections: TlsConnections, admission: Admission) -> IStreamServerEndpoint:
        endpoint = TCP6ServerEndpoint if ":" in self.host else TCP4ServerEndpoint
        return TlsServerEndpoint(reactor, endpoint(reactor, self.port, interface=self.host), connections, admission)


LinkAddress = UnixAddress | TlsAddress
LocalAddress = UnixAddress | LoopbackAddress


def parse_link_address(text: str) -> LinkAddress:
    """`unix:/run/hostmap/region.sock`, `tcp:192.0.2.1:5250`, `tcp:[2001:db8::1]:5250` or `tcp:region.example:5250`.

    Raises ValueError for other text.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "unix" and colon:
        return _unix_address(rest)
    if kind == "tcp" and colon:
        return TlsAddress(*_host_and_port(rest))
    raise ValueError(f"not a link address: {text[:128]!r} (expected unix:/path or tcp:HOST:PORT)")


def parse_local_address(text: str) -> LocalAddress:
    """`unix:/run/hostmap/api.sock`, `tcp:127.0.0.1:5240`, `tcp:[::1]:5240` or `tcp:localhost:5240`.

    Raises ValueError for other text and for an address that other hosts can reach.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind == "unix" and colon:
        return _unix_address(rest)
    if kind == "tcp" and colon:
        return _loopback_address(rest)
    raise ValueError(f"not an address: {text[:128]!r} (expected unix:/path or tcp:HOST:PORT)")


def _link_address(value: Any) -> LinkAddress:
    if isinstance(value, UnixAddress | TlsAddress):
        return value
    if not isinstance(value, str):
        raise ValueError("a link address is text: unix:/path or tcp:HOST:PORT")
    return parse_link_address(value)


def _local_address(value: Any) -> LocalAddress:
    if isinstance(value, UnixAddress | LoopbackAddress):
        return value
    if not isinstance(value, str):
        raise ValueError("an address is text: unix:/path or tcp:HOST:PORT")
    return parse_local_address(value)


LinkAddressSetting = Annotated[LinkAddress, PlainValidator(_link_address)]
LocalAddressSetting = Annotated[LocalAddress, PlainValidator(_local_address)]
"""Addresses as fields of a configuration model."""


def _unix_address(path: str) -> UnixAddress:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"the path of a UNIX socket is absolute: unix:{path[:128]!r} is not")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"the path of a UNIX socket has at most {MAX_SOCKET_PATH_BYTES} bytes: {path[:128]!r}… has more"
        )
    return UnixAddress(path)


def _host_and_port(rest: str) -> tuple[str, int]:
    """The host, an IP address in its usual form or a name in lower case, and the port."""
    host, colon, digits = rest.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"expected tcp:HOST:PORT, an IPv6 address in brackets: got tcp:{rest[:128]!r}")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5 and int(digits) <= 65535):
        raise ValueError(f"not a TCP port: {digits[:32]!r} (0 to 65535)")
    if host == "localhost":
        host = "127.0.0.1"  # not looked up: what the name means must not depend on a resolver
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        address = None
    if address is not None and bracketed == (address.version == 6) and "%" not in host:
        return str(address), int(digits)
    number = _NUMBER.fullmatch(host.rpartition(".")[2])
    if bracketed or number or not _HOST_NAME.fullmatch(host) or len(host) > MAX_HOST_NAME:
        raise ValueError(f"not an IP address and not a host name: {host[:128]!r}")
    return host.lower(), int(digits)


def is_ip_address(host: str) -> bool:
    """Whether this is no name, so that one can listen on it."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _loopback_address(rest: str) -> LoopbackAddress:
    host, port = _host_and_port(rest)
    if not is_ip_address(host) or not ip_address(host).is_loopback:
        raise ValueError(
            f"{host[:128]} is not the loopback interface: put a TLS proxy in front for other hosts, and use "
            "unix:/path, tcp:127.0.0.1:PORT or tcp:[::1]:PORT here"
        )
    return LoopbackAddress(host, port)


@implementer(IStreamServerEndpoint)
class PrivateSocketEndpoint:
    """Listens on a UNIX socket with mode 0600. `listen` fails with CannotListenError when a living process has it;
    what a dead one left behind is removed.
    """

    def __init__(self, reactor: IReactorUNIX, path: str) -> None:
        self._reactor: Any = reactor
        self._path = path
        self._endpoint = UNIXServerEndpoint(reactor, path, mode=SOCKET_MODE)

    def listen(self, protocolFactory: IProtocolFactory) -> "Deferred[IListeningPort]":
        return Deferred.fromCoroutine(self._listen(protocolFactory))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        # Looking, removing and binding under a lock: of two daemons that start at once and find the same remains,
        # the slower one must not remove the socket that the faster one just made. The lock is the directory's, so
        # daemons with other sockets in it hold it too, each for an instant.
        try:
            directory = os.open(Path(self._path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                await self._lock(directory)
                _remove_stale_socket(self._path)
                port: IListeningPort = await self._endpoint.listen(factory)
            finally:
                os.close(directory)
        except OSError as error:
            raise CannotListenError(None, self._path, error) from error
        return port

    async def _lock(self, directory: int) -> None:
        for _ in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await deferLater(self._reactor, LOCK_PAUSE_SECONDS)
            else:
                return
        raise OSError("another process keeps the directory locked")


def _remove_stale_socket(path: str) -> None:
    """Raises OSError when something is there that is not the socket of a dead process."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError("there is a file of another kind; it is not touched")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its queue of connections is full, so somebody listens
    raise OSError("already in use by another process")
