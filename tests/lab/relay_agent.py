"""A DHCP relay in a namespace, and a machine behind it: what a router does that has `ip helper-address`."""

import secrets
import select
import socket
import time
from types import TracebackType

from clusterd.protocol.values import parse_mac
from tests.lab.dhcp_messages import Answer, Kind, Message, Option, decode
from tests.lab.namespaces import Network, in_namespace

_RELAY_PORT = 67
_RESEND_SECONDS = 0.5


class RelayAgent:
    """At the clients' end of a network; `own` is its address on the machines' network. The server has a route to it."""

    def __init__(self, network: Network, own: str, server: str) -> None:
        self._own = own
        self._server = server
        self._socket = in_namespace(network.client, self._open)

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        opened.bind((self._own, _RELAY_PORT))
        return opened

    def __enter__(self) -> "RelayAgent":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def obtain(self, mac: str, seconds: float = 10.0) -> Answer | None:
        """Discover and request for a machine with this MAC address; what it is told at last, None for nothing."""
        offer = self._ask(Kind.DISCOVER, mac, {}, seconds)
        if offer is None or offer.kind is not Kind.OFFER:
            return offer
        options = {int(Option.REQUESTED_ADDRESS): socket.inet_aton(offer.address)}
        if offer.server_id is not None:
            options[Option.SERVER_ID] = socket.inet_aton(offer.server_id)
        return self._ask(Kind.REQUEST, mac, options, seconds)

    def _ask(self, kind: Kind, mac: str, options: dict[int, bytes], seconds: float) -> Answer | None:
        transaction = secrets.randbits(32)
        question = Message(kind, transaction, parse_mac(mac), relay_address=self._own, options=options).encode()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._socket.sendto(question, (self._server, _RELAY_PORT))
            while select.select([self._socket], [], [], _RESEND_SECONDS)[0]:
                try:
                    answer = decode(self._socket.recv(4096))
                except ValueError:
                    continue
                if answer.transaction == transaction and answer.is_reply:
                    return Answer.of(answer)
        return None
