"""TCP connections from the test's own reactor to servers inside a laboratory network."""

import socket
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import getConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from tests.lab.namespaces import in_namespace


@implementer(IStreamClientEndpoint)
class EndpointInNamespace:
    """Connects from within a namespace to a port of its own loopback address."""

    def __init__(self, reactor: Any, namespace: str, port: int) -> None:
        self._reactor = reactor
        self._namespace = namespace
        self._port = port

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[IProtocol]":
        """See IStreamClientEndpoint; a loopback connection is there, or refused, at once."""
        try:
            connected = in_namespace(
                self._namespace, lambda: socket.create_connection(("127.0.0.1", self._port), timeout=5)
            )
        except OSError as error:
            return fail(getConnectError(error))
        made: list[IProtocol] = []

        class Remembering:
            """A factory whose protocol can be got at."""

            def doStart(self) -> None:
                protocolFactory.doStart()

            def doStop(self) -> None:
                protocolFactory.doStop()

            def buildProtocol(self, address: Any) -> IProtocol | None:
                protocol = protocolFactory.buildProtocol(address)
                if protocol is not None:
                    made.append(protocol)
                return protocol

        with connected:
            connected.setblocking(False)
            self._reactor.adoptStreamConnection(connected.fileno(), socket.AF_INET, Remembering())
        return succeed(made[0])
