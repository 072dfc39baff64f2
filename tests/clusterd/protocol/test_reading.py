"""A peer that writes and does not read, over real mutual TLS: how much is kept for it, and that nothing is lost."""

from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols import amp

from clusterd.daemon.endpoints import TlsAddress
from clusterd.daemon.handshakes import Admission
from clusterd.daemon.mutual_tls import TlsConnections, cluster_context, region_context
from clusterd.protocol.connection import Link
from tests.certificates import REGION, authority, cluster_credentials, region_credentials
from tests.clusterd.log_events import logged
from tests.clusterd.protocol.test_connection import EchoResponders
from tests.waiting import until

reactor: Any = global_reactor

TEXT = b"x" * 50_000
MANY = 400  # 20 MB of answers, which no kernel's buffers hold
MOST_COMMANDS = 4
MOST_KEPT_BYTES = 1 << 20


class Glutton(Protocol):
    """Asks everything at once, and takes no answer until `read_on`."""

    def __init__(self) -> None:
        self.answered = 0
        self._parser = amp.BinaryBoxProtocol(self)

    def connectionMade(self) -> None:
        self._parser.makeConnection(self.transport)
        transport: Any = self.transport
        transport.pauseProducing()
        for number in range(MANY):
            transport.write(amp.AmpBox({amp.COMMAND: b"Echo", amp.ASK: b"%x" % number, b"text": TEXT}).serialize())

    def read_on(self) -> None:
        transport: Any = self.transport
        transport.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        self._parser.dataReceived(data)

    # what the parser of boxes tells

    def startReceivingBoxes(self, sender: object) -> None:
        """Nothing is to be sent."""

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        assert (box[amp.ANSWER], box[b"text"]) == (b"%x" % self.answered, TEXT)
        self.answered += 1

    def stopReceivingBoxes(self, reason: object) -> None:
        """Nothing waits for one."""


class CountingEcho(EchoResponders):
    def __init__(self) -> None:
        super().__init__()
        self.located = 0

    def locateResponder(self, name: bytes) -> Any:
        self.located += 1
        return super().locateResponder(name)


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read_is_read_no_further_until_it_does() -> None:
    ours = authority()
    listening = region_context(region_credentials(ours), REGION)
    connecting = cluster_context(cluster_credentials(ours), REGION)
    responders = CountingEcho()
    link = Link(reactor, responders, max_commands=MOST_COMMANDS)
    endpoint = TlsAddress("127.0.0.1", 0).server_endpoint(
        reactor, TlsConnections(lambda: listening), Admission(reactor)
    )
    port: Any = await endpoint.listen(Factory.forProtocol(lambda: link))
    address = TlsAddress("127.0.0.1", port.getHost().port)
    with logged() as events:
        glutton: Any = await address.client_endpoint(reactor, TlsConnections(lambda: connecting)).connect(
            Factory.forProtocol(Glutton)
        )
        try:
            await until(lambda: [event["event"] for event in events] == ["link.crowded"])
            assert responders.located < MANY and glutton.answered == 0
            assert kept(link) < MOST_KEPT_BYTES
            glutton.read_on()
            await until(lambda: glutton.answered == MANY)
            assert link.connected_now and responders.located == MANY
        finally:
            lost: Any = link.lost
            link.abort()
            await lost
            await maybeDeferred(port.stopListening)


def kept(link: Link) -> int:
    """Bytes that wait in this process to be sent: in clear, and encrypted for the socket."""
    tls: Any = link.transport
    tcp = tls.transport
    return sum(map(len, tls._appSendBuffer)) + len(tcp.dataBuffer) + sum(map(len, tcp._tempDataBuffer))
