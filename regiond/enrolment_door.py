"""The listener at which clusters enrol: one command, server-authenticated TLS, open while a token is outstanding."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.protocol import commands, errors
from clusterd.protocol.connection import Link
from regiond.domain import errors as domain
from regiond.domain.ids import Prefix, format_id
from regiond.storage.certificates import Enrolled
from regiond.storage.errors import DatabaseUnavailable

CONNECTION_SECONDS: Final = 30.0
MAX_CONNECTIONS: Final = 64
MAX_REFUSALS: Final = 10
REFUSALS_FORGOTTEN_SECONDS: Final = 60.0
MAX_REMEMBERED_ADDRESSES: Final = 1000
MAX_BOX_BYTES: Final = 1 << 16  # a token and a signing request; here anybody may speak
MAX_COMMANDS_IN_FLIGHT: Final = 4


class Enrols(Protocol):
    """`enrolment.Enrolment`."""

    @property
    def endpoints(self) -> Any: ...

    async def enrol(self, token: str, request: str, peer: str) -> tuple[Enrolled, str]: ...


class RefusalLimit:
    """Who was refused MAX_REFUSALS times within a minute is not listened to until the minute is over.

    A token cannot be guessed (256 random bits): this keeps whoever tries from keeping the database busy.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._refused: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address → how often, until when

    def allows(self, address: str) -> bool:
        count, until = self._refused.get(address, (0, 0.0))
        return count < MAX_REFUSALS or self._clock.seconds() >= until

    def refused(self, address: str) -> None:
        now = self._clock.seconds()
        count, until = self._refused.pop(address, (0, 0.0))
        fresh = now >= until
        self._refused[address] = (1, now + REFUSALS_FORGOTTEN_SECONDS) if fresh else (count + 1, until)
        while len(self._refused) > MAX_REMEMBERED_ADDRESSES:
            self._refused.popitem(last=False)


class NewcomerResponders(amp.CommandLocator):
    """Answers one `Enrol`; not even a ping."""

    _log = Logger(namespace="region.clusters")

    def __init__(self, link: Link, host: str, region: str, enrols: Enrols, limit: RefusalLimit) -> None:
        self._link = link
        self._host = host
        self._region = region
        self._enrols = enrols
        self._limit = limit
        self._attempts = 0

    @commands.Enrol.responder
    async def enrol(self, token: str, request: str) -> dict[str, Any]:
        self._attempts += 1
        if self._attempts > 2:  # it has been told, and so has the log
            self._link.abort()
            raise errors.EnrolmentRefused("too many attempts")
        if self._attempts > 1 or not self._limit.allows(self._host):
            raise self._refuse("too many attempts: try again in a minute")
        try:
            enrolled, authority = await self._enrols.enrol(token, request, self._link.peer)
        except domain.EnrolmentRefused as refused:
            self._limit.refused(self._host)
            raise self._refuse(refused.detail) from None  # the arguments of the frames below are secrets
        except DatabaseUnavailable as error:
            raise self._refuse("the region's database does not answer now; the token may have been used up") from error
        return {
            "region": self._region,
            "cluster": format_id(Prefix.CLUSTER, enrolled.cluster),
            "name": enrolled.name,
            "certificate": enrolled.certificate.pem,
            "authority": authority,
            "endpoints": " ".join(self._enrols.endpoints),
        }

    def _refuse(self, reason: str) -> errors.EnrolmentRefused:
        self._log.warn("{peer} may not enrol: {reason}", event="enrolment.refused", peer=self._link.peer, reason=reason)
        return errors.EnrolmentRefused(reason)


class EnrolmentFactory(Factory):
    """Makes the region's end of each connection, which is cut after CONNECTION_SECONDS whatever it does."""

    noisy = False

    def __init__(self, clock: IReactorTime, region: str, enrols: Enrols) -> None:
        self._clock = clock
        self._region = region
        self._enrols = enrols
        self._limit = RefusalLimit(clock)
        self._links: set[Link] = set()

    def buildProtocol(self, addr: IAddress | None) -> Link | None:
        host = str(getattr(addr, "host", ""))
        if len(self._links) >= MAX_CONNECTIONS or not self._limit.allows(host):
            return None
        link = Link(self._clock, max_box_bytes=MAX_BOX_BYTES, max_commands=MAX_COMMANDS_IN_FLIGHT)
        link.answer_with(NewcomerResponders(link, host, self._region, self._enrols, self._limit))
        self._links.add(link)
        timer = self._clock.callLater(CONNECTION_SECONDS, link.abort)

        def over(_: object) -> None:
            self._links.discard(link)
            if timer.active():
                timer.cancel()

        link.lost.addCallback(over)
        return link

    def close(self) -> None:
        """Cut every connection."""
        for link in list(self._links):
            link.abort()


class EnrolmentDoor:
    """Opens the listener (`listen`) and closes it again: `is_wanted` says whether a token is outstanding."""

    _log = Logger(namespace="region.clusters")

    def __init__(
        self,
        listen: Callable[[], Awaitable[IListeningPort]],
        factory: EnrolmentFactory,
        is_wanted: Callable[[], Awaitable[bool]],
    ) -> None:
        self._listen = listen
        self._factory = factory
        self._is_wanted = is_wanted
        self._port: IListeningPort | None = None
        self._looking: Deferred[None] | None = None
        self._again = False
        self._closed = False

    def look(self) -> "Deferred[None]":
        """Open or close, whichever is right now. The Deferred fires when that is done; it does not fail."""
        self._again = True
        seen: Deferred[None] = Deferred()
        if self._looking is not None:
            self._looking.addCallback(lambda _: seen.callback(None))
            return seen
        self._looking = looking = Deferred.fromCoroutine(self._look()).addErrback(self._failed)
        looking.addCallback(self._looked)
        looking.addCallback(lambda _: seen.callback(None))
        return seen

    async def close(self) -> None:
        """Close it for good."""
        self._closed = True
        await self.look()
        self._factory.close()

    async def _look(self) -> None:
        while self._again:
            self._again = False
            wanted = not self._closed and await self._is_wanted()
            if wanted and self._port is None and not self._closed:
                self._port = await self._listen()
                self._log.info("clusters can enrol", event="enrolment.opened", address=_where(self._port))
            elif self._port is not None and (self._closed or not wanted):
                port, self._port = self._port, None
                await port.stopListening()  # type: ignore[misc]
                self._log.info("nobody can enrol any more", event="enrolment.closed")

    def _looked(self, _: object) -> None:
        self._looking = None

    def _failed(self, failure: Failure) -> None:
        if failure.check(DatabaseUnavailable):
            return  # the next sweep looks again
        if failure.check(CannotListenError):
            self._log.error("clusters cannot enrol: {reason}", event="enrolment.deaf", reason=str(failure.value))
            return
        self._log.failure("the enrolment listener failed", failure, event="enrolment.bug")


def _where(port: IListeningPort) -> str:
    host = port.getHost()
    return f"{getattr(host, 'host', '')}:{getattr(host, 'port', '')}"
