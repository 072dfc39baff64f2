"""How a connection becomes a cluster's, stays it, and ends."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import DeferredSemaphore
from twisted.logger import Logger, LogLevel
from twisted.protocols import amp

from clusterd.protocol import commands, errors
from clusterd.protocol.connection import Link, Responders
from clusterd.protocol.values import HeldSubnet
from regiond.cluster_rpc.connections import Connection, Connections
from regiond.cluster_rpc.identify import Identify
from regiond.cluster_rpc.listeners import Listeners, StoreOrigin
from regiond.cluster_rpc.newcomer import Newcomer
from regiond.cluster_rpc.refusals import Refusals
from regiond.domain.errors import ClusterRefused, EnrolmentRefused
from regiond.domain.identity import ByCertificate, Identity, Introduction, Registered
from regiond.domain.ids import Prefix, format_id
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.reads import RegionIdentity

# When a thousand clusters come at once they wait here, and not for the database's connections, of which whoever asks
# over HTTP needs some too.
MAX_HEARD_AT_ONCE = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shared:
    """What the connections of one listener have in common.

    `later` runs what nobody waits for; `turns` are MAX_HEARD_AT_ONCE; `endpoints` are where clusters are told to
    connect, none where the region was not told; `refusals` are those of clusters that did not get in.
    """

    region: RegionIdentity
    connections: Connections
    listeners: Listeners
    identify: Identify
    later: Callable[[Awaitable[None]], None]
    turns: DeferredSemaphore
    endpoints: Callable[[], Sequence[str]]
    refusals: Refusals


class RegistrationResponders(Responders):
    """Answers what a connection's identity hangs on. Nothing but `Register` is answered before it has registered."""

    _log = Logger(namespace="region.link")

    def __init__(self, link: Link, newcomer: Newcomer, shared: Shared) -> None:
        self.link = link
        self.newcomer = newcomer
        self._shared = shared
        self._connections = shared.connections
        self._listeners = shared.listeners
        self._connection: Connection | None = None
        self._has_asked = False

    @property
    def has_registered(self) -> bool:
        """Whether it speaks for its cluster."""
        return self._connection is not None and self._connections.get(self._connection.cluster) is self._connection

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
        if self._has_asked:  # whatever came of it: each asks the database, and others wait for their turn
            raise errors.RegistrationRefused("this connection has asked for its registration already")
        self._has_asked = True
        self.newcomer.stop_waiting()
        try:
            connection = await self._enter(cluster, Introduction(hostname, backend, software_version, instance))
        finally:
            if not self.has_registered:
                self.newcomer.wait()
        try:
            # Before any topology of this connection can bring a subnet that could be claimed from.
            await self._in_turn(lambda: self._listeners.contact.expect(connection, bool(reports_dhcp_server)))
            origin = StoreOrigin(region, history)
            await self._in_turn(lambda: self._listeners.arrivals.registered(connection, origin, held))
        except Exception:
            # What it is told now, to come again, is not to be lost by whoever cuts those that speak for a cluster.
            self._speaks_no_more(connection)
            self.newcomer.wait()
            raise
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
            "region": self._shared.region.region,
            "history": connection.history,
            "cluster": format_id(Prefix.CLUSTER, connection.cluster),
            "endpoints": " ".join(self._shared.endpoints()) or None,
        }

    async def _enter(self, claimed_name: str | None, said: Introduction) -> Connection:
        """Let it in, as the one that speaks for its cluster from now on. Raises RegistrationRefused."""
        identity = self._shared.identify(self.link, claimed_name)
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
            registered = await self._in_turn(lambda: self._listeners.arrivals.register(identity, said))
            if self.newcomer.is_unwelcome:
                raise ClusterRefused("its certificate was revoked or has expired")
            self._shared.refusals.let_in(identity.name)
            return registered
        except ClusterRefused as refused:
            times = self._shared.refusals.add(identity.name, refused.detail)
            # It comes every ten seconds or so for as long as its clusterd runs: told less and less often.
            self._log.emit(
                LogLevel.warn if times & (times - 1) == 0 else LogLevel.debug,
                "{peer} may not register as cluster {cluster}, its {times}. attempt: {reason}",
                event="cluster.refused",
                peer=self.link.peer,
                cluster=identity.name,
                hostname=said.hostname,
                times=times,
                reason=refused.detail,
            )
            raise errors.RegistrationRefused(refused.detail) from refused

    @commands.RenewCertificate.responder
    async def renew_certificate(self, request: str) -> dict[str, Any]:
        connection = self._registered()
        renew = self._listeners.renew
        if renew is None or connection.serial is None:
            raise errors.EnrolmentRefused("a plain link has no certificate")
        owner = Registered(connection.cluster, connection.epoch, connection.name, history=connection.history)
        try:
            certificate, authority = await self._heard(renew(owner, connection.serial, request))
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

    # ---- for whatever else a cluster says ----

    async def _in_turn(self, listen: Callable[[], Awaitable[T]]) -> T:
        """As `_heard`, a few clusters at a time: see MAX_HEARD_AT_ONCE."""
        await self._shared.turns.acquire()
        try:
            return await self._heard(listen())
        finally:
            self._shared.turns.release()

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
            await self._listeners.arrivals.disconnected(connection)
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

    def _speaks_no_more(self, connection: Connection) -> None:
        if self._connections.get(connection.cluster) is connection:
            del self._connections.by_cluster[connection.cluster]

    def lost(self) -> None:
        """The link is gone."""
        self.newcomer.gone()
        connection = self._connection
        if connection is None:
            return
        self._speaks_no_more(connection)
        self._log.info(
            "cluster {cluster} disconnected",
            event="cluster.disconnected",
            cluster=connection.name,
            peer=self.link.peer,
        )
        self._shared.later(self._note_end(connection))
