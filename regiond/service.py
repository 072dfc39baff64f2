"""`twistd regiond`: the options, and the parts wired together. No logic."""

import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.daemon.config_file import ConfigError
from clusterd.daemon.daemon_options import DaemonOptions
from clusterd.daemon.descriptors import use_all_descriptors
from clusterd.daemon.endpoints import LinkAddress, LocalAddress, LoopbackAddress, TlsAddress, UnixAddress
from clusterd.daemon.exit_codes import fail_at_exit
from clusterd.daemon.handshakes import Admission
from clusterd.daemon.mutual_tls import TlsConnections
from clusterd.daemon.pauses import avoid_long_collections
from regiond.accounts import Accounts, random_id
from regiond.adoption import Adoptions
from regiond.audit_trail import AuditTrail
from regiond.catalogue import Catalogue
from regiond.claims import Claims
from regiond.cluster_rpc import ClusterLinkFactory, Connections, identify_by_certificate, identify_plain
from regiond.config import HttpAddress, HttpsAddress, RegionSettings
from regiond.edits import Edits
from regiond.enrolment import Enrolment, Eviction, RegionCertificates
from regiond.enrolment_door import EnrolmentDoor, EnrolmentFactory
from regiond.file_limit import connections_that_fit
from regiond.first_contact import FirstContacts
from regiond.health import Health
from regiond.hearing import Hearing
from regiond.host_map_dispatch import HostMapDispatch
from regiond.http.application import Application
from regiond.http.rate import RateLimit
from regiond.http.site import ApiSite
from regiond.http.tls import ServerCertificate
from regiond.http.use_cases import UseCases
from regiond.inventory import Inventory
from regiond.postgres.embedded import EmbeddedPostgres
from regiond.postgres.errors import PostgresUnavailable
from regiond.progress import Progress
from regiond.recovery import Recoveries
from regiond.storage.accounts import AccountStore
from regiond.storage.audit import AuditReads
from regiond.storage.certificates import CertificateStore
from regiond.storage.check import SubnetChecks
from regiond.storage.connection import Vet
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.doorbell import Doorbell, Rung
from regiond.storage.errors import DatabaseUnavailable, SchemaError
from regiond.storage.first_contact import FirstContactStore
from regiond.storage.nodes import NodeStore
from regiond.storage.pool import ConnectionLost, Pool
from regiond.storage.primary import NewestPrimary
from regiond.storage.ranges import RangeStore
from regiond.storage.reads import Reads, RegionIdentity
from regiond.storage.recovery import RecoveryStore
from regiond.storage.schema import migrate
from regiond.storage.subnets import SubnetStore
from regiond.storage.topology import ClusterStore
from regiond.storage.writer import Writer
from regiond.subnets import Subnets
from regiond.sweeps import Sweeps
from regiond.witness import Witness

WRITER_CONNECTIONS = 2
WRITER_DEADLINE_SECONDS = 10.0
WRITER_PATIENCE_SECONDS = 3.0


class Options(DaemonOptions):
    """Options of `twistd regiond`."""

    synopsis = "[--config FILE]"


def makeService(options: Options) -> IService:
    """The daemon for these options. Ends the process when the configuration cannot be used."""
    from twisted.internet import reactor

    daemon = RegionDaemon(reactor, options.settings(RegionSettings))
    avoid_long_collections()
    use_all_descriptors()
    return daemon


class _Announcements:
    """Something was committed here: those who wait here and the other regionds hear of it."""

    def __init__(self, progress: Progress, catalogue: Catalogue, doorbell: Doorbell) -> None:
        self._progress = progress
        self._catalogue = catalogue
        self._doorbell = doorbell

    def acknowledged(self, subnets: Iterable[int]) -> None:
        self._progress.acknowledged(subnets)
        self._doorbell.acknowledged(subnets)

    def topology_changed(self) -> None:
        self._catalogue.changed()
        self._doorbell.topology_changed()


class Region:
    """The parts of a region on an open database, and the order in which they start and stop."""

    _log = Logger(namespace="regiond")

    def __init__(
        self,
        reactor: Any,
        dsn: str,
        pool: Pool,
        writing: Pool,
        identity: RegionIdentity,
        certificates: RegionCertificates,
        witness_file: Path,
        *,
        vet: Vet | None = None,
        rate: RateLimit | None = None,
    ) -> None:
        self.reads = Reads(pool)
        self.catalogue = Catalogue(reactor, self.reads)
        self.progress = Progress(reactor, self.reads)
        self.connections = Connections()
        self.doorbell = Doorbell(reactor, dsn, pool, self._rung, vet=vet)
        self.writer = Writer(reactor, writing, self._committed)
        self.clusters = ClusterStore(pool, random_id)
        announce = _Announcements(self.progress, self.catalogue, self.doorbell)
        deliveries, recoveries = DeliveryReads(pool), RecoveryStore(pool, random_id)
        hearing = Hearing(reactor, recoveries)
        self.witness = Witness(witness_file, identity.region, recoveries, hearing.begin)
        self.dispatch = HostMapDispatch(
            reactor,
            self.connections,
            self.clusters,
            deliveries,
            self.writer,
            hearing,
            identity.region,
            announce,
        )
        self.accounts = Accounts(reactor, AccountStore(pool))
        self.inventory = Inventory(self.reads, self.catalogue)
        self.claims = Claims(
            self.writer, self.reads, NodeStore(pool, random_id), self.catalogue, self.progress, random_id
        )
        self.subnets = Subnets(self.inventory, RangeStore(pool, random_id), SubnetStore(pool), SubnetChecks(pool))
        certificate_store = CertificateStore(pool, random_id)
        self.enrolment = Enrolment(
            certificates, certificate_store, self.inventory, self.clusters, self.writer, self._certificates_changed
        )
        edits = Edits(self.writer, self.reads, self.claims, self.progress)
        contacts = FirstContactStore(pool, random_id)
        use_cases = UseCases(
            self.claims,
            edits,
            self.inventory,
            self.enrolment,
            self.subnets,
            Adoptions(contacts, self.inventory, self.reads, self.writer, random_id),
            self.accounts,
            AuditTrail(AuditReads(pool)),
            Recoveries(recoveries, hearing),
            Health(pool),
        )
        self.application = Application(reactor, use_cases, rate=rate)
        contact = FirstContacts(contacts, announce.topology_changed)
        self.plain_links = ClusterLinkFactory(
            reactor, identity, self.connections, self.dispatch, contact, identify_plain
        )
        self.links = ClusterLinkFactory(
            reactor, identity, self.connections, self.dispatch, contact, identify_by_certificate, self.enrolment.renew
        )
        self.eviction = Eviction(certificate_store, self.links, self.connections)
        self.is_enrolling = certificate_store.is_enrolling
        self.door: EnrolmentDoor | None = None
        self.sweeps = Sweeps(
            reactor,
            pool,
            self.writer,
            self.dispatch.sweep,
            self.clusters.drain_absent,
            self._heartbeat,
            hearing.settle,
            self.witness.beat,
            deliveries.prune_tombstones,
        )

    def _committed(self, subnets: frozenset[int]) -> None:
        self.dispatch.committed(subnets)
        self.doorbell.host_maps(subnets)

    async def _certificates_changed(self) -> None:
        self.catalogue.changed()
        self.doorbell.certificates_changed()
        await self.look_at_certificates()

    async def look_at_certificates(self) -> None:
        """Somebody may have to be cut off, or the door for enrolment be opened or closed."""
        with suppress(DatabaseUnavailable):  # then the sweep looks again
            await self.eviction.look()
        if self.door is not None:
            await self.door.look()

    def _not_looked(self, failure: Failure) -> None:
        self._log.failure("what became of certificates was not looked at", failure, event="certificates.bug")

    def _rung(self, rung: Rung) -> None:
        if rung.certificates:
            Deferred.fromCoroutine(self.look_at_certificates()).addErrback(self._not_looked)
            self.catalogue.changed()
        if rung.topology:
            self.catalogue.changed()
        if rung.host_maps is not None:
            self.dispatch.committed(rung.host_maps)
        if rung.acknowledged is not None:
            self.progress.acknowledged(rung.acknowledged)

    async def _heartbeat(self) -> None:
        if connected := self.connections.clusters():
            self.eviction.supersede(await self.clusters.heard(connected))
        await self.eviction.look()
        if self.door is not None:
            await self.door.look()

    def start(self) -> None:
        self.doorbell.start()
        self.sweeps.start()

    async def stop(self) -> None:
        await self.sweeps.stop()
        if self.door is not None:
            await self.door.close()
        await self.links.close()
        await self.plain_links.close()
        await self.writer.stop()
        await self.doorbell.stop()


class RegionDaemon(Service):
    """Starts the database, then the region on it, then opens the doors; stops the other way round."""

    _log = Logger(namespace="regiond")

    def __init__(
        self, reactor: Any, settings: RegionSettings, *, fail_at_exit: Callable[[], None] = fail_at_exit
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._fail_at_exit = fail_at_exit
        self._embedded: EmbeddedPostgres | None = None
        self._pools: list[Pool] = []
        self._region: Region | None = None
        self._ports: list[IListeningPort] = []
        self._sites: list[ApiSite] = []
        self._admission = Admission(reactor)
        self._http_admission = Admission(reactor)
        self._starting: Deferred[None] | None = None
        self._database_is_gone = False

    def startService(self) -> None:
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _start(self) -> None:
        if not self._settings.state_directory.is_dir():
            self._settings.state_directory.mkdir(parents=True)
            self._settings.state_directory.chmod(0o711)  # whatever the umask is: PostgreSQL's user has to pass
        dsn = self._settings.database.complete_dsn()
        if dsn is None:
            self._embedded = EmbeddedPostgres(
                self._reactor, self._settings.state_directory, self._settings.database.run_as
            )
            dsn = await self._embedded.start()
            self._embedded.ended.addCallback(self._database_ended)
        vet = await self._vet(dsn)
        pool = Pool(self._reactor, dsn, vet=vet)
        # a claim is answered within a bounded time whatever the database does: see regiond/storage/writer.py
        writing = Pool(
            self._reactor,
            dsn,
            size=WRITER_CONNECTIONS,
            deadline=WRITER_DEADLINE_SECONDS,
            patience=WRITER_PATIENCE_SECONDS,
            vet=vet,
        )
        self._pools = [pool, writing]
        for each in self._pools:
            each.start()
        await migrate(pool)
        identity = await Reads(pool).identity()
        certificates = await RegionCertificates.open(CertificateStore(pool, random_id), identity.region)
        witness_file = self._settings.state_directory / "database-witness.json"
        per_second = self._settings.http.requests_per_second
        rate = None if per_second is None else RateLimit(per_second)
        region = Region(self._reactor, dsn, pool, writing, identity, certificates, witness_file, vet=vet, rate=rate)
        await region.accounts.local_caller()
        await region.witness.beat()  # before anybody can claim in a database that went back
        self._region = region
        region.start()
        http, clusters = await self._open_doors(region)
        self._log.info(
            "regiond {version} is ready",
            event="regiond.started",
            version=version("hostmap"),
            region=identity.region,
            history=identity.history,
            http=list(map(str, http)),
            clusters=list(map(str, clusters)),
            database="embedded" if self._embedded is not None else "external",
        )

    async def _vet(self, dsn: str) -> Vet | None:
        """What looks at every connection to an external database."""
        if self._embedded is not None:
            return None
        newest = NewestPrimary(self._reactor, self._settings.state_directory / "database-timeline.json")
        await newest.look_around(dsn)
        return newest.vet

    async def _open_doors(self, region: Region) -> tuple[list[HttpAddress], list[LinkAddress]]:
        """Where the HTTP API and where the clusters' listener are to be found."""
        clusters = [await self._listen_for_clusters(address, region) for address in self._settings.cluster_listen]
        self._prepare_enrolment(region, clusters)
        most = connections_that_fit(self._settings.http.max_connections)
        site = ApiSite(self._reactor, region.application, local=False, most=most)
        http: list[HttpAddress] = [await self._listen_for_programs(each, site) for each in self._settings.http.listen]
        local = ApiSite(self._reactor, region.application, local=True)
        http.append(await self._listen(self._settings.api_socket, local))
        self._sites = [site, local]
        return http, clusters

    async def _listen(self, address: LocalAddress, factory: Any) -> LocalAddress:
        """Where it listens: the port is the one that was chosen where the setting leaves it open."""
        port: Any = await address.server_endpoint(self._reactor).listen(factory)
        self._ports.append(port)
        return address if isinstance(address, UnixAddress) else LoopbackAddress(address.host, port.getHost().port)

    async def _listen_for_programs(self, address: HttpAddress, site: ApiSite) -> HttpAddress:
        if not isinstance(address, HttpsAddress):
            return await self._listen(address, site)
        settings = self._settings.http
        assert settings.certificate is not None and settings.private_key is not None
        connections = TlsConnections(ServerCertificate(settings.certificate, settings.private_key).context)
        port: Any = await address.server_endpoint(self._reactor, connections, self._http_admission).listen(site)
        self._ports.append(port)
        return HttpsAddress(address.host, port.getHost().port)

    async def _listen_for_clusters(self, address: LinkAddress, region: Region) -> LinkAddress:
        if isinstance(address, UnixAddress):
            self._ports.append(await address.server_endpoint(self._reactor).listen(region.plain_links))
            return address
        connections = region.enrolment.certificates.for_clusters()
        endpoint = address.server_endpoint(self._reactor, connections, self._admission)
        port: Any = await endpoint.listen(region.links)
        self._ports.append(port)
        return TlsAddress(address.host, port.getHost().port)

    def _prepare_enrolment(self, region: Region, clusters: Sequence[LinkAddress]) -> None:
        """Clusters can enrol where they can connect."""
        listen = self._settings.enrolment_listen
        told = self._settings.clusters.endpoints
        reached = [*told] or [_as_reached(address) for address in clusters if isinstance(address, TlsAddress)]
        if listen is None or not reached:
            return
        region.enrolment.endpoints = [str(address) for address in reached]
        first = reached[0]
        assert isinstance(first, TlsAddress)
        connections = region.enrolment.certificates.for_enrolment()
        factory = EnrolmentFactory(self._reactor, region.enrolment.certificates.authority.region, region.enrolment)

        async def open_port() -> IListeningPort:
            port: Any = await listen.server_endpoint(self._reactor, connections, self._admission).listen(factory)
            region.enrolment.address = str(TlsAddress(first.host, port.getHost().port))
            return cast(IListeningPort, port)

        region.door = EnrolmentDoor(open_port, factory, region.is_enrolling)
        region.enrolment.address = str(TlsAddress(first.host, listen.port))
        region.door.look()

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        for port in self._ports:
            await _finished(port.stopListening())
        if self._region is not None:
            self._region.progress.wait_no_longer()
        if self._database_is_gone:
            # Nobody brings it back but the next start: what waits for it is told so now.
            await self._close_pools()
        for site in self._sites:
            site.close()
        for site in self._sites:
            await site.finished()
        if self._region is not None:
            await self._region.stop()
        await self._close_pools()
        if self._embedded is not None:
            await self._embedded.stop()
        self._log.info("regiond stopped", event="regiond.stopped")

    async def _close_pools(self) -> None:
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.close()

    def _start_failed(self, failure: Failure) -> None:
        """Nothing works without a start: say why, in one sentence where it is the world's fault, and end."""
        if not self.running:
            return
        expected = (ConfigError, PostgresUnavailable, DatabaseUnavailable, ConnectionLost, SchemaError, OSError)
        if failure.check(*expected, CannotListenError):
            self._log.critical(
                "regiond cannot start: {reason}", event="regiond.start-failed", reason=str(failure.value)
            )
        else:
            self._log.failure("regiond cannot start", failure, event="regiond.start-failed")
        self._end()

    def _database_ended(self, how: str) -> str:
        self._log.critical("the embedded PostgreSQL ended: {how}", event="regiond.database-ended", how=how)
        self._database_is_gone = True
        self._end()
        return how

    def _end(self) -> None:
        """Stop the process with an exit code that tells its supervisor to start it again."""
        self._fail_at_exit()
        # A start can fail before the reactor runs, and what does not run cannot be stopped.
        self._reactor.callWhenRunning(self._reactor.stop)


async def _finished(maybe: Any) -> None:
    if isinstance(maybe, Deferred):
        await maybe


def _as_reached(address: TlsAddress) -> TlsAddress:
    """What clusters are told of a listener: this host's name where it listens on all addresses."""
    return TlsAddress(socket.getfqdn(), address.port) if ip_address(address.host).is_unspecified else address
