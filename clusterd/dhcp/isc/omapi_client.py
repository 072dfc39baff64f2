"""A connection to dhcpd's OMAPI port that is there when it is needed: connects again by itself, a window, deadlines."""

import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

from pypureomapi import OmapiMessage
from twisted.internet.defer import Deferred, DeferredLock, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.isc.hosts import PREFIX
from clusterd.dhcp.isc.key import KeyUnusable, OmapiKey
from clusterd.dhcp.isc.omapi import OmapiBroken, OmapiConnection, OmapiObject, OmapiRefused, open_message

WINDOW = 4  # dhcpd closes the connection when 32 or more requests are on their way
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")


class OmapiClient:
    """One connection at a time to one dhcpd, made when a call needs it; `close` ends it for good.

    `read_key` is called for every connection, so that a new key needs no restart. `connections` counts those that
    were made: what was known of the server before the last one may have been lost in a restart.
    """

    _log = Logger()

    def __init__(
        self, endpoint: IStreamClientEndpoint, where: str, read_key: Callable[[], OmapiKey], reactor: Any
    ) -> None:
        self.connections = 0
        self._endpoint = endpoint
        self._where = where
        self._read_key = read_key
        self._clock = reactor
        self._window = DeferredSemaphore(WINDOW)
        self._connecting = DeferredLock()
        self._connection: OmapiConnection | None = None
        self._trouble = ""
        self._failures = 0
        self._next_attempt = 0.0
        self._closed = False

    async def call(self, message: OmapiMessage) -> OmapiObject:
        """Ask dhcpd. Raises OmapiRefused for what it refuses, BackendError for everything else."""
        await self._window.acquire()
        try:
            return await self._call(message)
        finally:
            self._window.release()

    async def _call(self, message: OmapiMessage) -> OmapiObject:
        connection = self._connection or await self._connected()
        try:
            return await self._within(ANSWER_SECONDS, connection.call(message))
        except DeferredTimeout as error:
            connection.abandon()
            raise BackendError(f"dhcpd did not answer over OMAPI within {ANSWER_SECONDS:g} s") from error
        except OmapiBroken as error:
            raise BackendError(str(error)) from error
        except ConnectionClosed as error:
            raise BackendError("dhcpd closed its OMAPI connection: was it stopped or restarted?") from error

    async def close(self) -> None:
        """End the connection and connect no more."""
        self._closed = True
        await self._connecting.acquire()
        try:
            if self._connection is not None:
                lost = self._connection.lost
                self._connection.abandon()
                await lost
        finally:
            self._connecting.release()

    async def _connected(self) -> OmapiConnection:
        await self._connecting.acquire()
        try:
            if self._connection is None:
                self._connection = await self._connect()
            return self._connection
        finally:
            self._connecting.release()

    async def _connect(self) -> OmapiConnection:
        """One attempt; between a failed one and the next lies a pause, in which its words are repeated."""
        if self._closed:
            raise BackendError("clusterd is stopping")
        if self._clock.seconds() < self._next_attempt:
            raise BackendError(self._trouble)
        try:
            key = self._read_key()
            connection = await self._reach()
            await self._enter(connection, key)
        except Exception as error:
            self._trouble = self._why(error)
            pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 16))
            self._failures += 1
            self._next_attempt = self._clock.seconds() + pause
            raise BackendError(self._trouble) from error
        self._failures = 0
        self.connections += 1
        connection.lost.addCallback(lambda _: self._lost())
        self._log.info("connected to dhcpd at {where}", event="dhcpd.connected", where=self._where)
        return connection

    async def _reach(self) -> OmapiConnection:
        attempt: Deferred[IProtocol] = self._endpoint.connect(Factory.forProtocol(OmapiConnection))
        attempt.addTimeout(CONNECT_SECONDS, self._clock)
        return cast(OmapiConnection, await attempt)

    async def _enter(self, connection: OmapiConnection, key: OmapiKey) -> None:
        """Authenticate, and ask something: a wrong secret shows only then."""
        try:
            await self._within(CONNECT_SECONDS, connection.authenticate(key))
            with suppress(OmapiRefused):
                await self._within(CONNECT_SECONDS, connection.call(open_message(b"host", {b"name": PREFIX.encode()})))
        except BaseException:
            connection.abandon()
            raise

    def _within(self, seconds: float, work: Coroutine[Any, Any, T]) -> "Deferred[T]":
        return Deferred.fromCoroutine(work).addTimeout(seconds, self._clock)

    def _lost(self) -> None:
        self._connection = None
        if not self._closed:
            self._log.warn("dhcpd closed its OMAPI connection", event="dhcpd.disconnected", where=self._where)

    def _why(self, error: Exception) -> str:
        if isinstance(error, KeyUnusable):
            return f"the OMAPI key cannot be used: {error}"
        if isinstance(error, OmapiRefused):
            return f"dhcpd does not accept the OMAPI key ({error}): dhcpd.conf has to have it, named by omapi-key"
        if isinstance(error, OmapiBroken):
            return str(error)
        if isinstance(error, ConnectError):
            return (
                f"dhcpd cannot be reached over OMAPI at {self._where} ({os.strerror(error.osError or 0)}): "
                "is it running, and does its configuration say omapi-port?"
            )
        if isinstance(error, DeferredTimeout):
            return f"dhcpd did not answer at {self._where} within {CONNECT_SECONDS:g} s"
        return f"dhcpd closed the OMAPI connection at {self._where} before it was ready"
