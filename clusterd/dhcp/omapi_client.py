"""A connection to dhcpd's OMAPI port that is there when it is needed: connects again by itself, a window, deadlines."""

from collections.abc import Callable
from typing import Any, cast

from pypureomapi import OmapiMessage
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.isc_key import KeyUnusable, OmapiKey
from clusterd.dhcp.omapi import OmapiBroken, OmapiConnection, OmapiObject, OmapiRefused

WINDOW = 4  # dhcpd closes the connection when 32 or more requests are on their way
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 10.0


class OmapiClient:
    """One connection at a time to one dhcpd. The first call connects; `close` ends it for good.

    `read_key` is called for every connection, so that a new key needs no restart. `connections` counts those that
    were made: what was known of the server before the last one may have been lost in a restart.
    """

    _log = Logger()

    def __init__(
        self, endpoint: IStreamClientEndpoint, where: str, read_key: Callable[[], OmapiKey], reactor: Any
    ) -> None:
        self.connections = 0
        self._where = where
        self._read_key = read_key
        self._reactor = reactor
        self._window = DeferredSemaphore(WINDOW)
        self._trouble: str | None = None
        self._closed = False
        self._service = ClientService(
            endpoint,
            Factory.forProtocol(OmapiConnection),
            retryPolicy=backoffPolicy(initialDelay=0.2, maxDelay=LONGEST_PAUSE_SECONDS),
            clock=reactor,
            prepareConnection=lambda made: Deferred.fromCoroutine(self._prepare(cast(OmapiConnection, made))),
        )

    async def call(self, message: OmapiMessage) -> OmapiObject:
        """Ask dhcpd. Raises OmapiRefused for what it refuses, BackendError for everything else."""
        await self._window.acquire()
        try:
            connection = await self._connected()
            answer = Deferred.fromCoroutine(connection.call(message))
            answer.addTimeout(ANSWER_SECONDS, self._reactor)
            return await answer
        except DeferredTimeout as error:
            connection.abandon()
            raise BackendError(f"dhcpd did not answer over OMAPI within {ANSWER_SECONDS:g} s") from error
        except OmapiBroken as error:
            raise BackendError(str(error)) from error
        except (ConnectionClosed, CancelledError) as error:
            raise BackendError("dhcpd closed its OMAPI connection: was it stopped or restarted?") from error
        finally:
            self._window.release()

    async def close(self) -> None:
        """End the connection and connect no more."""
        self._closed = True
        if self._service.running:
            await self._service.stopService()

    async def _connected(self) -> OmapiConnection:
        if self._closed:
            raise BackendError("clusterd is stopping")
        if not self._service.running:
            self._service.startService()
        waiting = self._service.whenConnected(failAfterFailures=1)
        waiting.addTimeout(CONNECT_SECONDS, self._reactor)
        try:
            return cast(OmapiConnection, await waiting)
        except (DeferredTimeout, CancelledError) as error:
            raise BackendError(self._trouble or f"dhcpd does not answer at {self._where}") from error
        except ConnectError as error:
            self._trouble = (
                f"dhcpd cannot be reached over OMAPI at {self._where} ({error.osError or error}): "
                "is it running, and does its configuration say omapi-port?"
            )
            raise BackendError(self._trouble) from error
        except Exception as error:  # whatever ended a connection that was begun
            raise BackendError(self._trouble or str(error)) from error

    async def _prepare(self, connection: OmapiConnection) -> None:
        """Greet and authenticate; raises, and so counts as a failed attempt, when dhcpd does not let us in."""
        try:
            ready = Deferred.fromCoroutine(connection.authenticate(self._read_key()))
            ready.addTimeout(CONNECT_SECONDS, self._reactor)
            await ready
        except Exception as error:
            self._trouble = _why_not_let_in(error)
            connection.abandon()
            raise BackendError(self._trouble) from error
        self._trouble = None
        self.connections += 1
        connection.lost.addCallback(self._lost)
        self._log.info("connected to dhcpd at {where}", event="dhcpd.connected", where=self._where)

    def _lost(self, _: None) -> None:
        if not self._closed:
            self._log.warn("dhcpd closed its OMAPI connection", event="dhcpd.disconnected", where=self._where)


def _why_not_let_in(error: Exception) -> str:
    if isinstance(error, KeyUnusable):
        return f"the OMAPI key cannot be used: {error}"
    if isinstance(error, OmapiRefused):
        return f"dhcpd does not accept the OMAPI key ({error}): name it in dhcpd.conf, in a key statement and omapi-key"
    if isinstance(error, DeferredTimeout):
        return f"dhcpd did not greet over OMAPI within {CONNECT_SECONDS:g} s"
    if isinstance(error, OmapiBroken):
        return str(error)
    return "dhcpd closed the OMAPI connection before it was ready"
