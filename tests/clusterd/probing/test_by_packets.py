"""Which sockets are open and heard while somebody asks, in memory."""

import socket
from itertools import count
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from clusterd.probing.by_packets import PacketProbe
from clusterd.probing.wire import Wire

descriptors = count(1000)


class SilentSocket:
    """Takes what is sent, and hears nothing."""

    def __init__(self) -> None:
        self._descriptor = next(descriptors)

    def fileno(self) -> int:
        return self._descriptor

    def setsockopt(self, *_: object) -> None:
        """A filter."""

    def sendto(self, frame: bytes, _: object) -> int:
        return len(frame)

    def recv(self, _: int) -> bytes:
        raise BlockingIOError

    def recvfrom(self, _: int) -> tuple[bytes, Any]:
        raise BlockingIOError

    def close(self) -> None:
        self._descriptor = -1


def test_a_socket_that_took_the_place_of_a_lost_one_rests_when_nobody_asks() -> None:
    reactor = MemoryReactorClock()
    probe = PacketProbe(reactor, lambda _: cast(socket.socket, SilentSocket()))
    wire = Wire("eth0", bytes.fromhex("00163e000001"))
    answers: list[dict[str, str]] = []
    long = Deferred.fromCoroutine(probe.in_use(wire, ["192.0.2.7"], 9.0))
    (lost,) = reactor.getReaders()
    lost.connectionLost(Failure(ConnectionLost()))
    short = Deferred.fromCoroutine(probe.in_use(wire, ["192.0.2.8"], 3.0))
    for each in (long, short):
        each.addErrback(lambda failure: {"failed": str(failure.value)}).addCallback(answers.append)
    assert len(reactor.getReaders()) == 1
    for _ in range(12):
        reactor.advance(1.0)
    assert len(answers) == 2
    assert reactor.getReaders() == []
    probe.close()
