"""Renews this cluster's certificate over the link when half its life is over. The next connection uses the new one."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.errors import ProtocolError
from clusterd.region_link.identity import IdentityFile, IdentityUnusable, new_key, signing_request, with_certificate

LOOK_SECONDS: Final = 3600.0

Renew = Callable[[str], Awaitable[tuple[str, str]]]
"""From a signing request to the region's answer: the certificate and the authority's. Raises as `Link.call` does."""


def wall_clock() -> datetime:
    return datetime.now(UTC)


class CertificateRenewal:
    """Looks after each registration and every hour."""

    _log = Logger()

    def __init__(self, clock: Any, file: IdentityFile, renew: Renew, now: Callable[[], datetime] = wall_clock) -> None:
        self._file = file
        self._renew = renew
        self._now = now
        self._loop = LoopingCall(self.look)
        self._loop.clock = clock
        self._looking = False

    def start(self) -> None:
        self._loop.start(LOOK_SECONDS, now=False)

    def stop(self) -> None:
        if self._loop.running:
            self._loop.stop()

    def look(self) -> "Deferred[None]":
        """Renew it if it is time. The Deferred does not fail."""
        return Deferred.fromCoroutine(self._look()).addErrback(self._failed)

    async def _look(self) -> None:
        if self._looking:
            return
        self._looking = True
        try:
            identity = self._file.load()
            if not identity.is_due(self._now()):
                return
            key = new_key()
            certificate, authority = await self._renew(signing_request(key))
            endpoints = self._file.load().endpoints  # the region may have said others meanwhile
            renewed = with_certificate(key, certificate, authority, identity.name, endpoints)
            if (renewed.region, renewed.cluster) != (identity.region, identity.cluster):
                raise IdentityUnusable("the new certificate is another cluster's")
            self._file.save(renewed)
            self._log.info(
                "this cluster's certificate was renewed",
                event="certificate.renewed-here",
                expires=renewed.credentials.certificate.not_valid_after_utc.isoformat(timespec="seconds"),
            )
        except (IdentityUnusable, ProtocolError, LinkLost, CallTimedOut, amp.RemoteAmpError, OSError) as error:
            self._log.warn(
                "this cluster's certificate could not be renewed, which is tried again: {reason}",
                event="certificate.not-renewed",
                reason=str(error)[:500],
            )
        finally:
            self._looking = False

    def _failed(self, failure: Failure) -> None:
        self._log.failure("renewing the certificate failed here", failure, event="certificate.renewal-bug")
