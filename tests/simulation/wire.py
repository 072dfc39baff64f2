"""Connections whose bytes arrive in pieces, late, or not at all, and whose ends hear of it at different times."""

from random import Random
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.steps import Process, Steps


@implementer(ITransport)
class End:
    """One end of a wire: the transport of one protocol."""

    def __init__(self, wire: "Wire", name: str, protocol: Any, process: Process) -> None:
        self.wire = wire
        self.name = name
        self.protocol = protocol
        self.process = process
        self.connected = True  # the protocol has not been told of an end
        self.closing = False
        self.on_the_way = bytearray()  # from this end, not there yet
        self.peer: End

    def write(self, data: bytes) -> None:
        if self.connected and not self.closing and not self.wire.broken:
            idle = not self.on_the_way
            self.on_the_way += data
            if idle:
                self.wire.add_delivery(self)

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.abortConnection()

    def abortConnection(self) -> None:
        if not self.closing:
            self.closing = True
            self.wire.tell_of_end(self, ConnectionDone())
            self.wire.tell_of_end(self.peer, ConnectionLost())

    def pauseProducing(self) -> None:
        """What is sent waits on its way. (No story has so many commands in flight.)"""
        self.wire.freeze(self.peer)

    def resumeProducing(self) -> None:
        self.wire.thaw(self.peer)

    def getPeer(self) -> UNIXAddress:
        return UNIXAddress(f"/{self.peer.name}")

    def getHost(self) -> UNIXAddress:
        return UNIXAddress(f"/{self.name}")


class Wire:
    """A connection between two protocols of two processes. `queue` names its steps."""

    def __init__(
        self, steps: Steps, random: Random, queue: str, client: tuple[Any, Process], server: tuple[Any, Process]
    ) -> None:
        self._steps = steps
        self._random = random
        self.queue = queue
        self.broken = False  # nothing that is sent from now on arrives
        self.client = End(self, "client", *client)
        self.server = End(self, "server", *server)
        self.client.peer, self.server.peer = self.server, self.client
        for end in (self.server, self.client):
            end.protocol.makeConnection(end)

    def add_delivery(self, sender: End) -> None:
        self._steps.add(f"{self.queue} from {sender.name}", lambda: self._deliver(sender))

    def freeze(self, sender: End) -> None:
        self._steps.freeze(f"{self.queue} from {sender.name}")

    def thaw(self, sender: End) -> None:
        self._steps.thaw(f"{self.queue} from {sender.name}")

    def _deliver(self, sender: End) -> None:
        size = len(sender.on_the_way)
        if self._random.random() < 0.3:
            size = self._random.randint(1, max(size, 1))
        self._arrive(sender, size)
        if sender.on_the_way:
            self.add_delivery(sender)

    def _arrive(self, sender: End, size: int) -> None:
        piece = bytes(sender.on_the_way[:size])
        del sender.on_the_way[:size]
        receiver = sender.peer
        if piece and receiver.connected and not receiver.closing and receiver.process.alive:
            receiver.protocol.dataReceived(piece)

    def tell_of_end(self, end: End, reason: Exception) -> None:
        """The protocol hears that its connection is over, after what has still to arrive."""

        def tell() -> None:
            if end.connected and end.process.alive:
                end.connected = False
                end.protocol.connectionLost(Failure(reason))

        self._steps.add(f"{self.queue} from {end.peer.name}", tell)

    def cut(self, of_client: int, of_server: int, *, client_hears: bool, server_hears: bool) -> None:
        """So many bytes of what is on its way from each end still arrive. An end that hears nothing has to find out."""
        self.broken = True
        for sender, size in ((self.client, of_client), (self.server, of_server)):
            self._arrive(sender, size)
            sender.on_the_way.clear()
        for end, hears in ((self.client, client_hears), (self.server, server_hears)):
            if hears:
                self.tell_of_end(end, ConnectionLost())

    def process_ended(self, process: Process) -> None:
        """The kernel closes what a process had open; what it sent is sent."""
        for end in (self.client, self.server):
            if end.process is process and end.peer.process is not process and not end.closing:
                end.closing = True
                self.tell_of_end(end.peer, ConnectionLost())
