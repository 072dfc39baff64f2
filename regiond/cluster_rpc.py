"""The region's end of the links: who is connected, and what clusters report.

Nothing is decided here. What a cluster says is turned into values and handed to the callables of `Listening`; whoever
has something to tell a cluster takes its `Connection` from `Connections`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from clusterd.daemon.mutual_tls import peer_certificate
from clusterd.protocol import commands, errors
from clusterd.protocol.connection import Link, Responders
from clusterd.protocol.values import HeldSubnet, InterfaceReport, RejectedMap, ServerEntry, ServerPool, parse_name
from regiond.certificates import BACKDATED
from regiond.domain.errors import ClusterRefused, EnrolmentRefused
from regiond.domain.first_contact import DhcpServerReport
from regiond.domain.identity import ByCertificate, ByName, Identity, Introduction, Registered
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.newcomer import Newcomer
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import RegionIdentity

MAX_TOPOLOGY_ROWS = 5000
# When a thousand clusters come at once they wait here, and not for the database's connections, of which whoever asks
# over HTTP needs some too.
MAX_HEARD_AT_ONCE = 4
MAX_SERVER_ROWS = 250_000  # pools and static entries; a server of ours has at most 100,000 host maps
LONGEST_NOTING_SECONDS = 1.0

T = TypeVar("T")


class Identify(Protocol):
    """Who the peer of a connection is."""

    def __call__(self, link: Link, claimed_name: str | None) -> Identity:
        """Raises RegistrationRefused."""


def identify_plain(link: Link, claimed_name: str | None) -> Identity:
    """On a plain link, a socket that only regiond's own user can open, whoever connects is trusted to say its name."""
    if claimed_name is None:
        raise errors.RegistrationRefused("a plain link needs the cluster's name")
    try:
        return ByName(parse_name(claimed_name))
    except ValueError as error:
        raise errors.RegistrationRefused(str(error)) from error


def identify_by_certificate(link: Link, claimed_name: str | None) -> Identity:
    """On a TLS link the certificate says it, and nothing else: a claimed name is not looked at."""
    shown = peer_certificate(link.transport)
    number = None if shown is None or shown.name.cluster is None else parse_id(Prefix.CLUSTER, shown.name.cluster)
    if shown is None or number is None:
        raise errors.RegistrationRefused("there is no certificate of a cluster")
    return ByCertificate(number, shown.common_name, shown.serial, shown.not_before + BACKDATED, shown.not_after)


Renew = Callable[[Registered, str, str], Awaitable[tuple[str, str]]]
"""From who it is, its present certificate's serial and a signing request to a new certificate and the authority's."""


@dataclass(slots=True)
class Connection:
    """A registered cluster's live link.

    `epoch` counts the cluster's connections; `history` is the region's, as the cluster was told; see `Registered`.
    """

    cluster: int
    name: str
    epoch: int
    link: Link
    history: str
    unheard: bool
    serial: str | None = None  # of the certificate, on a TLS link


@dataclass(slots=True)
class Connections:
    """The clusters connected to this regiond, by id."""

    by_cluster: dict[int, Connection] = field(default_factory=dict)

    def get(self, cluster: int) -> Connection | None:
        return self.by_cluster.get(cluster)

    def clusters(self) -> list[int]:
        return list(self.by_cluster)


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """Whose host maps a cluster has when it registers: the region's id and history, None where it has none."""

    region: str | None
    history: str | None


class Listening(Protocol):
    """What has to happen when a cluster says something."""

    async def register(self, identity: Identity, said: Introduction) -> Registered: ...

    async def registered(self, connection: Connection, store: StoreOrigin, held: Sequence[HeldSubnet]) -> None: ...

    async def disconnected(self, connection: Connection) -> None: ...

    async def topology(self, connection: Connection, reports: Sequence[InterfaceReport]) -> None: ...

    async def host_map_state(
        self, connection: Connection, subnet: int, applied: int, rejected: Sequence[RejectedMap], error: str | None
    ) -> None: ...


class FirstContact(Protocol):
    """What has to happen when a cluster says what its DHCP server has of its own."""

    async def expect(self, connection: Connection, reports: bool) -> None: ...

    async def report(self, connection: Connection, report: DhcpServerReport) -> None: ...


@dataclass(slots=True)
class _ServerPages:
    """What has come so far of one report of a DHCP server."""

    sequence: int = -1
    seen: set[int] = field(default_factory=set)
    pools: list[ServerPool] = field(default_factory=list)
    entries: list[ServerEntry] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    error: str | None = None


class ClusterResponders(Responders):
    """Answers one cluster's commands. Nothing but `Register` is answered before it has registered."""

    _log = Logger(namespace="region.link")

    def __init__(
        self,
        link: Link,
        identity: RegionIdentity,
        connections: Connections,
        listening: Listening,
        contact: FirstContact,
        identify: Identify,
        renew: Renew | None,
        later: Callable[[Awaitable[None]], None],
        turns: DeferredSemaphore,
        newcomer: Newcomer,
    ) -> None:
        self.link = link
        self.newcomer = newcomer
        self._identity = identity
        self._connections = connections
        self._listening = listening
        self._contact = contact
        self._identify = identify
        self._renew = renew
        self._later = later
        self._turns = turns
        self._connection: Connection | None = None
        self._sequence = -1
        self._pages: dict[int, Sequence[InterfaceReport]] = {}
        self._server = _ServerPages()

    @property
    def has_registered(self) -> bool:
        return self._connection is not None

    @commands.Register.responder
    async def register(
        self,
        protocol_version: int,
        software_version: str,
        hostname: str,
        backend: str,
        held: Sequence[HeldSubnet],
        cluster: str | None = None,
        history: str | None = None,
        instance: str | None = None,
        reports_dhcp_server: int | None = None,
        region: str | None = None,
    ) -> dict[str, Any]:
        if protocol_version != commands.PROTOCOL_VERSION:
            raise errors.IncompatibleVersion(
                f"this region speaks version {commands.PROTOCOL_VERSION} of the protocol, not {protocol_version}"
            )
        if self._connection is not None:
            raise errors.RegistrationRefused("this connection has registered already")
        self.newcomer.stop_waiting()
        try:
            connection = await self._enter(cluster, Introduction(hostname, backend, software_version, instance))
        finally:
            if self._connection is None:
                self.newcomer.wait()
        # Before any topology of this connection can bring a subnet that could be claimed from.
        await self._in_turn(lambda: self._contact.expect(connection, bool(reports_dhcp_server)))
        await self._in_turn(lambda: self._listening.registered(connection, StoreOrigin(region, history), held))
        self._log.info(
            "cluster {cluster} registered from {peer}",
            event="cluster.registered",
            cluster=connection.name,
            id=format_id(Prefix.CLUSTER, connection.cluster),
            peer=self.link.peer,
            hostname=hostname,
            backend=backend,
            software_version=software_version,
            subnets_held=len(held),
        )
        return {
            "region": self._identity.region,
            "history": connection.history,
            "cluster": format_id(Prefix.CLUSTER, connection.cluster),
        }

    async def _enter(self, claimed_name: str | None, said: Introduction) -> Connection:
        """Let it in, as the one that speaks for its cluster from now on. Raises RegistrationRefused."""
        identity = self._identify(self.link, claimed_name)
        registered = await self._admitted(identity, said)
        name = registered.name
        serial = identity.serial if isinstance(identity, ByCertificate) else None
        connection = Connection(
            registered.cluster, name, registered.epoch, self.link, registered.history, registered.unheard, serial
        )
        if not self.link.connected_now:
            # Gone while the database was asked; whoever registers next speaks for the cluster.
            raise errors.RegistrationRefused("the connection ended")
        former = self._connections.get(connection.cluster)
        if registered.takes_turns:
            self._log.error(
                "two hosts take turns as cluster {cluster}, now {hostname} at {peer}: a disk was cloned, or one "
                "identity is on two hosts. Revoke it and enrol each by a name of its own",
                event="cluster.takes-turns",
                cluster=name,
                peer=self.link.peer,
                hostname=said.hostname,
            )
        if former is not None and former.epoch > connection.epoch:
            # Two registrations were answered by the database in another order than they come back here.
            raise errors.RegistrationRefused("a newer connection speaks for this cluster")
        if former is not None:
            self._log.warn(
                "cluster {cluster} connected again from {peer}: cutting its connection from {former}",
                event="cluster.superseded",
                cluster=name,
                peer=self.link.peer,
                former=former.link.peer,
            )
            former.link.abort()
        self._connection = connection
        self._connections.by_cluster[connection.cluster] = connection
        return connection

    async def _admitted(self, identity: Identity, said: Introduction) -> Registered:
        try:
            registered = await self._in_turn(lambda: self._listening.register(identity, said))
            if self.newcomer.is_unwelcome:
                raise ClusterRefused("its certificate was revoked or has expired")
            return registered
        except ClusterRefused as refused:
            self._log.warn(
                "{peer} may not register as cluster {cluster}: {reason}",
                event="cluster.refused",
                peer=self.link.peer,
                cluster=identity.name,
                hostname=said.hostname,
                reason=refused.detail,
            )
            raise errors.RegistrationRefused(refused.detail) from refused

    @commands.RenewCertificate.responder
    async def renew_certificate(self, request: str) -> dict[str, Any]:
        connection = self._registered()
        if self._renew is None or connection.serial is None:
            raise errors.EnrolmentRefused("a plain link has no certificate")
        owner = Registered(connection.cluster, connection.epoch, connection.name, history=connection.history)
        try:
            certificate, authority = await self._heard(self._renew(owner, connection.serial, request))
        except EnrolmentRefused as refused:
            self._log.warn(
                "cluster {cluster} at {peer} gets no new certificate: {reason}",
                event="certificate.renewal-refused",
                peer=self.link.peer,
                cluster=connection.name,
                reason=refused.detail,
            )
            raise errors.EnrolmentRefused(refused.detail) from refused
        return {"certificate": certificate, "authority": authority}

    @commands.ReportTopology.responder
    async def report_topology(
        self, sequence: int, page: int, pages: int, interfaces: Sequence[InterfaceReport]
    ) -> dict[str, Any]:
        connection = self._registered()
        if not 0 <= page < pages:
            raise errors.MalformedArgument(f"there is no page {page} of {pages}")
        if sequence > self._sequence:
            self._sequence = sequence
            self._pages = {}
        if sequence == self._sequence:
            self._pages[page] = interfaces
            if sum(map(len, self._pages.values())) > MAX_TOPOLOGY_ROWS:
                self._pages = {}
                raise errors.MalformedArgument(f"a cluster has at most {MAX_TOPOLOGY_ROWS} interfaces")
            if len(self._pages) >= pages:
                reports = [report for _, rows in sorted(self._pages.items()) for report in rows]
                self._pages = {}
                await self._in_turn(lambda: self._listening.topology(connection, reports))
        return {}

    @commands.ReportDhcpServer.responder
    async def report_dhcp_server(
        self,
        sequence: int,
        page: int,
        pages: int,
        pools: Sequence[ServerPool],
        entries: Sequence[ServerEntry],
        remarks: Sequence[str],
        error: str | None = None,
    ) -> dict[str, Any]:
        connection = self._registered()
        if not 0 <= page < pages:
            raise errors.MalformedArgument(f"there is no page {page} of {pages}")
        if sequence > self._server.sequence:
            self._server = _ServerPages(sequence)
        come = self._server
        if sequence == come.sequence and page not in come.seen:
            come.seen.add(page)
            come.pools.extend(pools)
            come.entries.extend(entries)
            come.remarks.extend(remarks)
            come.error = error if error is not None else come.error
            if len(come.pools) + len(come.entries) > MAX_SERVER_ROWS:
                self._server = _ServerPages(sequence, come.seen)
                raise errors.MalformedArgument(f"a DHCP server has at most {MAX_SERVER_ROWS} pools and static entries")
            if len(come.seen) == pages:
                self._server = _ServerPages(sequence, come.seen)
                report = DhcpServerReport(come.pools, come.entries, come.remarks, come.error)
                await self._in_turn(lambda: self._contact.report(connection, report))
        return {}

    @commands.ReportHostMapState.responder
    async def report_host_map_state(
        self,
        history: str,
        subnet: str,
        applied_generation: int,
        rejected: Sequence[RejectedMap],
        error: str | None = None,
        drift_repaired: int | None = None,
    ) -> dict[str, Any]:
        connection = self._registered()
        if history != connection.history:
            raise errors.HistoryMismatch(connection.history)
        number = parse_id(Prefix.SUBNET, subnet)
        if drift_repaired:
            self._log.warn(
                "{count} host maps of {subnet} had been changed in the DHCP server of {cluster} and are put right",
                event="delivery.drift-repaired",
                cluster=format_id(Prefix.CLUSTER, connection.cluster),
                subnet=subnet,
                count=drift_repaired,
            )
        if number is not None:
            await self._heard(self._listening.host_map_state(connection, number, applied_generation, rejected, error))
        return {}

    async def _in_turn(self, listen: Callable[[], Awaitable[T]]) -> T:
        """As `_heard`, a few clusters at a time: see MAX_HEARD_AT_ONCE."""
        await self._turns.acquire()
        try:
            return await self._heard(listen())
        finally:
            self._turns.release()

    async def _heard(self, listened: Awaitable[T]) -> T:
        """What comes of it. A database that is away is nobody's bug: the cluster is told to come again."""
        try:
            return await listened
        except DatabaseUnavailable as error:
            self._log_database_away(error)
            words = "the region's database does not answer now"
            raise amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, words, False) from error

    async def _note_end(self, connection: Connection) -> None:
        try:
            await self._listening.disconnected(connection)
        except DatabaseUnavailable as error:
            self._log_database_away(error)  # it stays marked as connected until nothing was heard of it for a while

    def _log_database_away(self, error: DatabaseUnavailable) -> None:
        self._log.warn(
            "what {peer} said or did is not recorded: {reason}",
            event="link.database-away",
            peer=self.link.peer,
            reason=str(error)[:500],
        )

    def _registered(self) -> Connection:
        if self._connection is None:
            raise errors.NotRegistered("the first command of a connection is Register")
        if self._connections.get(self._connection.cluster) is not self._connection:
            raise errors.NotRegistered("a newer connection speaks for this cluster")
        return self._connection

    def lost(self) -> None:
        """The link is gone."""
        self.newcomer.gone()
        connection = self._connection
        if connection is None:
            return
        if self._connections.get(connection.cluster) is connection:
            del self._connections.by_cluster[connection.cluster]
        self._log.info(
            "cluster {cluster} disconnected",
            event="cluster.disconnected",
            cluster=connection.name,
            peer=self.link.peer,
        )
        self._later(self._note_end(connection))


class ClusterLinkFactory(Factory):
    """Makes a link and its responders for each connection."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        identity: RegionIdentity,
        connections: Connections,
        listening: Listening,
        contact: FirstContact,
        identify: Identify,
        renew: Renew | None = None,
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._connections = connections
        self._listening = listening
        self._contact = contact
        self._identify = identify
        self._renew = renew
        self._turns = DeferredSemaphore(MAX_HEARD_AT_ONCE)
        self.peers: dict[Link, ClusterResponders] = {}
        self._notes: set[Deferred[None]] = set()  # of ends that are being recorded
        self._log = Logger(namespace="region.link")

    def buildProtocol(self, addr: IAddress | None) -> amp.AMP:
        link = Link(self._clock)
        responders = ClusterResponders(
            link,
            self._identity,
            self._connections,
            self._listening,
            self._contact,
            self._identify,
            self._renew,
            self._in_background,
            self._turns,
            Newcomer(self._clock, link),
        )
        link.answer_with(responders)
        responders.newcomer.wait()
        self.peers[link] = responders
        link.lost.addCallback(lambda _: self._lost(link, responders))
        return link

    def by_serial(self) -> dict[str, list[ClusterResponders]]:
        """Those who are connected, by the serial of the certificate that they were let in with."""
        found: dict[str, list[ClusterResponders]] = {}
        for link, peer in self.peers.items():
            if (shown := peer_certificate(link.transport)) is not None:
                found.setdefault(shown.serial, []).append(peer)
        return found

    async def close(self) -> None:
        """Cut every connection; returns when it is recorded that these clusters are not connected any more.

        A database that is away is not waited for: nothing heard of them tells the same a minute later. The listeners
        have to be closed already: what connects meanwhile is not waited for either.
        """
        links = list(self.peers)
        ends: list[Deferred[None]] = [Deferred() for _ in links]
        for link, end in zip(links, ends, strict=True):
            link.lost.addCallback(end.callback)
            link.abort()
        for end in ends:
            await end
        noted: Deferred[None] = Deferred()

        def enough(_: object = None) -> None:
            if not noted.called:
                noted.callback(None)

        timer = self._clock.callLater(LONGEST_NOTING_SECONDS, enough)
        DeferredList(list(self._notes)).addCallback(enough)
        await noted
        if timer.active():
            timer.cancel()

    def _lost(self, link: Link, responders: ClusterResponders) -> None:
        del self.peers[link]
        responders.lost()

    def _in_background(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        def failed(failure: Failure) -> None:
            self._log.failure("the end of a connection was not noted", failure, event="link.lost-failed")

        note = Deferred.fromCoroutine(run()).addErrback(failed)
        self._notes.add(note)
        note.addBoth(lambda _: self._notes.discard(note))
