"""A DHCPv4 client that plays a machine behind a relay, over ordinary UDP: the counterpart of `tests.lab.responder`.

It can be run by itself, to print the address that one machine obtains:

    python -m tests.lab.relay_client --port 10067 --relay 192.0.2.1 00:16:3e:00:00:01
"""

import argparse
import secrets
from socket import inet_aton
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import react

from clusterd.protocol.values import parse_mac
from tests.lab.dhcp_messages import Answer, Kind, Message, Option, decode

_ATTEMPTS = 3


class RelayClient(DatagramProtocol):
    """Asks one server. `relay_address` is the relay's address on the machines' network.

    Each question is sent up to three times, `patience` seconds apart, and is answered None when nothing came.
    """

    def __init__(self, reactor: Any, server_port: int, relay_address: str, patience: float = 0.3) -> None:
        self._reactor = reactor
        self._server = ("127.0.0.1", server_port)
        self._relay_address = relay_address
        self._patience = patience
        self._waiting: dict[int, Deferred[Answer]] = {}

    def start(self) -> None:
        """Open the socket, on a port of the system's choice."""
        self._reactor.listenUDP(0, self, interface="127.0.0.1")

    async def stop(self) -> None:
        """Close the socket."""
        stopping = None if self.transport is None else self.transport.stopListening()
        if stopping is not None:
            await stopping

    async def discover(self, mac: str, *, client_id: bytes | None = None) -> Answer | None:
        """Ask who would give this machine an address."""
        return await self._ask(Kind.DISCOVER, mac, {}, client_id)

    async def request(
        self, mac: str, address: str, server_id: str | None = None, *, client_id: bytes | None = None
    ) -> Answer | None:
        """Take an offer, or come back with the address of before."""
        options = {int(Option.REQUESTED_ADDRESS): inet_aton(address)}
        if server_id is not None:
            options[Option.SERVER_ID] = inet_aton(server_id)
        return await self._ask(Kind.REQUEST, mac, options, client_id)

    async def obtain(self, mac: str, *, client_id: bytes | None = None) -> Answer | None:
        """Discover and request: what a machine does that comes up."""
        offer = await self.discover(mac, client_id=client_id)
        if offer is None or offer.kind is not Kind.OFFER:
            return offer
        return await self.request(mac, offer.address, offer.server_id, client_id=client_id)

    async def _ask(self, kind: Kind, mac: str, options: dict[int, bytes], client_id: bytes | None) -> Answer | None:
        if client_id is not None:
            options = {**options, Option.CLIENT_ID: client_id}
        transaction = secrets.randbits(32)
        message = Message(kind, transaction, parse_mac(mac), relay_address=self._relay_address, options=options)
        for _ in range(_ATTEMPTS):
            assert self.transport is not None, "start() comes first"
            answer: Deferred[Answer] = Deferred()
            self._waiting[transaction] = answer
            answer.addTimeout(self._patience, self._reactor)
            self.transport.write(message.encode(), self._server)
            try:
                return await answer
            except DeferredTimeout:
                continue
            finally:
                self._waiting.pop(transaction, None)
        return None

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        try:
            message = decode(datagram)
        except ValueError:
            return
        waiting = self._waiting.pop(message.transaction, None)
        if waiting is not None and message.is_reply:
            waiting.callback(Answer.of(message))


async def _obtain_and_print(reactor: Any, server_port: int, relay_address: str, mac: str) -> None:
    client = RelayClient(reactor, server_port, relay_address)
    client.start()
    answer = await client.obtain(mac)
    await client.stop()
    if answer is not None and answer.kind is Kind.ACK:
        print(answer.address)


def main() -> None:
    """Print the address that a machine obtains; nothing when it obtains none."""
    parser = argparse.ArgumentParser(description="A machine behind a DHCP relay on the loopback interface.")
    parser.add_argument("--port", type=int, required=True, help="the server's")
    parser.add_argument("--relay", required=True, metavar="ADDRESS")
    parser.add_argument("mac")
    given = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(_obtain_and_print(reactor, given.port, given.relay, given.mac)))


if __name__ == "__main__":
    main()
