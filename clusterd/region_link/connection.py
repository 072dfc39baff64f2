"""The one connection to the region: connect, register, report, answer; and again when it is lost.

Not twisted's ClientService: its `prepareConnection` neither closes the connection that it refused nor bears one that
is lost while it is prepared (`NoTransition`, Twisted 26.10), and both are everyday events here.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger, LogLevel
from twisted.protocols.amp import RemoteAmpError

from clusterd.convergence.acceptance import Origin
from clusterd.dhcp.first_contact import ServerPicture
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.states import HostMapState
from clusterd.protocol import commands
from clusterd.protocol.arguments import HELD_SUBNETS, INTERFACES, SERVER_ENTRIES, SERVER_POOLS
from clusterd.protocol.connection import CallTimedOut, Link, LinkLost
from clusterd.protocol.errors import ProtocolError, UnknownCommand
from clusterd.protocol.values import InterfaceReport
from clusterd.region_link.lease_answers import LeaseAnswers
from clusterd.region_link.responders import Probe, RegionResponders
from clusterd.topology.reporter import NotReported

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 10.0
LASTING_SECONDS = 10.0  # a registration that did not hold so long counts as an attempt that failed


@dataclass(frozen=True, slots=True)
class Region:
    """One place where the region can be reached; `name` is for the logs."""

    name: str
    endpoint: IStreamClientEndpoint


@dataclass(frozen=True, slots=True)
class Introduction:
    """What the cluster says of itself when it registers."""

    cluster: str
    hostname: str
    software_version: str
    backend: str
    instance: str = ""  # another one after each start of clusterd


class RegionConnection(Service):
    """Holds one connection, trying the regions in turn; `registered` is called after each registration, and `probe`
    answers whether addresses are in use. `endpoints_told` hears where the region says that it is.

    `jitter` answers numbers from 0 to 1.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        regions: Sequence[Region],
        introduction: Introduction,
        accepted: AcceptedHostMaps,
        leases: LeaseAnswers,
        registered: Callable[[], None],
        jitter: Callable[[], float],
        probe: Probe,
        endpoints_told: Callable[[str], None] = lambda endpoints: None,
    ) -> None:
        self._clock = clock
        self._regions = regions
        self._introduction = introduction
        self._accepted = accepted
        self._leases = leases
        self._registered = registered
        self._jitter = jitter
        self._probe = probe
        self._endpoints_told = endpoints_told
        self._link: Link | None = None  # only while registered
        self._sequence = 0
        self.registrations = 0  # since the start
        self._running: Deferred[None] | None = None

    @property
    def is_registered(self) -> bool:
        """Whether a region is there now."""
        return self._link is not None

    def move(self, regions: Sequence[Region]) -> None:
        """Try these from the next connection on; the one that there is stays."""
        self._regions = regions

    def startService(self) -> None:
        super().startService()
        self._running = Deferred.fromCoroutine(self._run())

    async def stop(self) -> None:
        """Drop the connection and make no other."""
        if self.running:
            await self.stopService()

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        running, self._running = self._running, None
        ended: Deferred[None] = Deferred()
        if running is None:
            ended.callback(None)
            return ended
        # Cancelling ends whatever is awaited: an attempt, a call, a pause.
        running.addBoth(lambda _: ended.callback(None))
        running.cancel()
        return ended

    async def report_topology(self, interfaces: tuple[InterfaceReport, ...]) -> None:
        """Tell the region the whole picture. Raises NotReported."""
        link = self._link
        if link is None:
            raise NotReported("there is no connection to the region")
        self._sequence += 1
        pages = list(INTERFACES.pages_of(interfaces))
        try:
            for page, rows in enumerate(pages):
                await link.call(
                    commands.ReportTopology, sequence=self._sequence, page=page, pages=len(pages), interfaces=rows
                )
        except _EXPECTED as error:
            raise NotReported(str(error)) from error

    async def renew_certificate(self, request: str) -> tuple[str, str]:
        """The region's answer to a signing request (PEM): certificate and authority. Raises as `Link.call` does."""
        if self._link is None:
            raise LinkLost("there is no connection to the region")
        answer = await self._link.call(commands.RenewCertificate, request=request)
        return answer["certificate"], answer["authority"]

    async def report_dhcp_server(self, picture: ServerPicture, error: str | None) -> None:
        """Tell the region all that the DHCP server has of its own, or why that is not known. Raises NotReported."""
        link = self._link
        if link is None:
            raise NotReported("there is no connection to the region")
        self._sequence += 1
        pools = list(SERVER_POOLS.pages_of(sorted(picture.pools, key=lambda pool: (pool.low, pool.high, pool.source))))
        entries = list(
            SERVER_ENTRIES.pages_of(sorted(picture.entries, key=lambda entry: (entry.address, entry.source)))
        )
        pages = max(len(pools), len(entries))
        optional: dict[str, Any] = {} if error is None else {"error": error[: commands.MAX_ERROR_LENGTH]}
        try:
            for page in range(pages):
                await link.call(
                    commands.ReportDhcpServer,
                    sequence=self._sequence,
                    page=page,
                    pages=pages,
                    pools=pools[page] if page < len(pools) else (),
                    entries=entries[page] if page < len(entries) else (),
                    remarks=picture.remarks if page == 0 else (),
                    **optional,
                )
        except UnknownCommand as unknown:
            raise NotReported("this region is older and does not ask for it") from unknown
        except _EXPECTED as refused:
            raise NotReported(str(refused)) from refused

    # ---- the loop ----

    async def _run(self) -> None:
        failures = turn = 0
        while self.running:
            region = self._regions[turn % len(self._regions)]
            turn += 1
            try:
                lasted = await self._hold(region)
                # Two hosts with one identity push each other off the link, and so does a region that dies of us.
                failures = 0 if lasted >= LASTING_SECONDS else failures + 1
            except _EXPECTED as error:
                failures += 1
                # The same for days: told less and less often.
                level = LogLevel.warn if failures & (failures - 1) == 0 else LogLevel.debug
                self._log.emit(
                    level,
                    "no connection to the region at {region}: {reason}",
                    event="region.unreachable",
                    region=region.name,
                    reason=str(error),
                    attempts=failures,
                )
            except CancelledError:
                pass  # the service was stopped
            except Exception:
                failures += 1
                self._log.failure("connecting to {region} failed here", event="region.failed-here", region=region.name)
            if self.running:
                await self._pause(failures)

    async def _pause(self, failures: int) -> None:
        longest = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(failures, 16))
        over: Deferred[None] = Deferred()
        timer = self._clock.callLater(longest * (0.5 + self._jitter() / 2), over.callback, None)
        try:
            await over
        finally:
            if timer.active():
                timer.cancel()

    async def _hold(self, region: Region) -> float:
        """Connect, register, and stay until the connection ends: for so many seconds. Raises when it did not come to a
        registration.
        """
        responders = RegionResponders(self._accepted, self._leases, self._probe)
        link = Link(self._clock, responders)
        await region.endpoint.connect(_OneLink(link))
        try:
            await self._register(link)
            responders.open()
            self._link = link
            self.registrations += 1
            self._log.info("registered with the region at {region}", event="region.registered", region=region.name)
            begun = self._clock.seconds()
            self._registered()
            await _end_of(link)
            self._log.warn(
                "the connection to the region at {region} ended; DHCP goes on with what was accepted",
                event="region.lost",
                region=region.name,
            )
            return self._clock.seconds() - begun
        finally:
            self._link = None
            self._accepted.disconnected()
            responders.close()
            if link.connected_now:
                link.abort()

    async def _register(self, link: Link) -> None:
        introduction = self._introduction
        origin, held = await self._accepted.held(introduction.cluster)
        # More subnets than fit are no loss: the region asks for what is held of the others where it has to know.
        listed = next(iter(HELD_SUBNETS.pages_of(held)))
        answer = await link.call(
            commands.Register,
            protocol_version=commands.PROTOCOL_VERSION,
            software_version=introduction.software_version,
            hostname=introduction.hostname,
            cluster=introduction.cluster,
            backend=introduction.backend,
            instance=introduction.instance or None,
            history=None if origin is None else origin.history,
            region=None if origin is None else origin.region,
            held=listed,
            reports_dhcp_server=1,
        )
        session = Origin(region=answer["region"], cluster=introduction.cluster, history=answer["history"])
        await self._accepted.connected(session, _reporting_on(link))
        if (endpoints := answer.get("endpoints")) is not None:
            self._endpoints_told(endpoints)


def _reporting_on(link: Link) -> Callable[[HostMapState], Awaitable[None]]:
    async def report(state: HostMapState) -> None:
        arguments: dict[str, Any] = {} if state.error is None else {"error": state.error}
        if state.drift_repaired:
            arguments["drift_repaired"] = state.drift_repaired
        await link.call(
            commands.ReportHostMapState,
            history=state.history,
            subnet=state.subnet,
            applied_generation=state.applied_generation,
            rejected=state.rejected,
            **arguments,
        )

    return report


class _OneLink(Factory):
    """Gives the link that was made for this one connection."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return self._link


async def _end_of(link: Link) -> None:
    """Waits for the end without taking `link.lost` away from others: it may be cancelled."""
    ended: Deferred[None] = Deferred()

    def end(result: None) -> None:
        if not ended.called:
            ended.callback(None)

    link.lost.addCallback(end)
    await ended


_EXPECTED = (ConnectError, OSError, LinkLost, CallTimedOut, ProtocolError, RemoteAmpError)
