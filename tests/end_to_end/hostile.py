"""Peers that mean harm, inside a namespace: what they say, and from where."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from OpenSSL import SSL

from tests.lab.namespaces import in_namespace

ANSWER_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Stranger:
    """Connects to ports of a namespace's own loopback address."""

    namespace: str

    @contextmanager
    def connected(self, port: int) -> Iterator[tuple[socket.socket, str]]:
        """A connection, and this end as the other end's log names it."""
        made = in_namespace(
            self.namespace, lambda: socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
        )
        with made:
            host, number = made.getsockname()
            yield made, f"{host}:{number}"

    def says(self, port: int, said: bytes) -> str:
        """Sends this and waits until it is cut off; its own name."""
        with self.connected(port) as (plain, name):
            with suppress(ConnectionError):
                plain.sendall(said)
                while plain.recv(1 << 16):
                    pass
            return name

    def says_over_tls(self, port: int, context: SSL.Context, said: bytes) -> str:
        """The same after a handshake, as far as there is one."""
        with self.connected(port) as (plain, name):
            plain.setblocking(True)
            connection = SSL.Connection(context, plain)
            connection.set_connect_state()
            with suppress(SSL.Error, ConnectionError):
                connection.do_handshake()
                connection.sendall(said)
                while connection.recv(1 << 16):
                    pass
            return name


def hello(context: SSL.Context) -> bytes:
    """What a client says first."""
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    with suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 14)
