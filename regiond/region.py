"""A region: its parts on an open database, wired together."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.daemon.stalls import StallWatch
from regiond.catalogue import Catalogue
from regiond.cluster_rpc.connections import Connections
from regiond.cluster_rpc.identify import identify_by_certificate, identify_plain
from regiond.cluster_rpc.links import ClusterLinkFactory
from regiond.cluster_rpc.listeners import Listeners
from regiond.cluster_rpc.siblings import Siblings
from regiond.enrolment_door import EnrolmentDoor
from regiond.hearing import Hearing
from regiond.host_map_dispatch.arrivals import ClusterArrivals
from regiond.host_map_dispatch.dispatch import HostMapDispatch
from regiond.host_map_dispatch.record import Record
from regiond.http.application import Application
from regiond.http.rate import RateLimit
from regiond.http.use_cases import UseCases
from regiond.imports.requests import Imports
from regiond.imports.worker import ImportWorker
from regiond.metrics.exposition import Exposition, Sources
from regiond.metrics.measurements import Measurements
from regiond.progress import Progress
from regiond.storage.accounts import AccountStore
from regiond.storage.addresses_in_use import InUseStore
from regiond.storage.audit import AuditReads
from regiond.storage.certificates import CertificateStore
from regiond.storage.check import SubnetChecks
from regiond.storage.cluster_edits import ClusterEditStore
from regiond.storage.connection import Vet
from regiond.storage.deliveries import DeliveryReads
from regiond.storage.doorbell import Doorbell, Rung
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.events import EventReads
from regiond.storage.exports import ExportReads
from regiond.storage.first_contact import FirstContactStore
from regiond.storage.imports import ImportStore
from regiond.storage.last_batch import LastBatch
from regiond.storage.networks import NetworkStore
from regiond.storage.nodes import NodeStore
from regiond.storage.pairs import PairStore
from regiond.storage.pool import Pool
from regiond.storage.probing import ProbingReads
from regiond.storage.progress_counts import progress_counts
from regiond.storage.questions import QuestionStore
from regiond.storage.ranges import RangeStore
from regiond.storage.reads import Reads, RegionIdentity
from regiond.storage.recovery import RecoveryStore
from regiond.storage.subnets import SubnetStore
from regiond.storage.topology import ClusterStore
from regiond.storage.topology_history import TopologyHistory
from regiond.storage.vrfs import VrfStore
from regiond.storage.writer import Writer
from regiond.sweeps import Sweeps
from regiond.use_cases.accounts import Accounts, random_id
from regiond.use_cases.addresses_in_use import AddressesInUse
from regiond.use_cases.adoption import Adoptions
from regiond.use_cases.audit_trail import AuditTrail
from regiond.use_cases.batches import Batches
from regiond.use_cases.claims import Claims
from regiond.use_cases.cluster_edits import ClusterEdits
from regiond.use_cases.edits import Edits
from regiond.use_cases.enrolment import Enrolment, Eviction, RegionCertificates
from regiond.use_cases.events import Events
from regiond.use_cases.exports import Exports
from regiond.use_cases.filters import ReservationFilters
from regiond.use_cases.first_contact import FirstContacts
from regiond.use_cases.health import Health
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.leases import Leases
from regiond.use_cases.pairs import Pairs
from regiond.use_cases.probed_claims import ProbedClaims
from regiond.use_cases.probes import Probes
from regiond.use_cases.recovery import Recoveries
from regiond.use_cases.subnets import Subnets
from regiond.use_cases.topologies import Topologies
from regiond.use_cases.vrfs import Vrfs
from regiond.witness import Witness, WitnessFile


class _Announcements:
    """Something was committed here: those who wait here and the other regionds hear of it."""

    def __init__(self, progress: Progress, catalogue: Catalogue, doorbell: Doorbell, events: Events) -> None:
        self._progress = progress
        self._events = events
        self._catalogue = catalogue
        self._doorbell = doorbell

    def acknowledged(self, subnets: Iterable[int]) -> None:
        self._progress.acknowledged(subnets)
        self._doorbell.acknowledged(subnets)
        self._events.nudge()

    def topology_changed(self) -> None:
        self._catalogue.changed()
        self._doorbell.topology_changed()
        self._events.nudge()


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
        last_batch: LastBatch,
        *,
        vet: Vet | None = None,
        rate: RateLimit | None = None,
    ) -> None:
        self.reads = Reads(pool)
        self._clock = reactor
        self.catalogue = Catalogue(reactor, self.reads)
        self.progress = Progress(reactor, self.reads)
        self._event_reads = EventReads(pool)
        self.events = Events(reactor, self._event_reads, self.catalogue)
        self.connections = Connections()
        self.doorbell = Doorbell(reactor, dsn, pool, self._rung, vet=vet)
        measured = Measurements()
        self.writer = Writer(reactor, writing, self._committed, measured, last_batch.committed)
        self.clusters = ClusterStore(pool, random_id)
        announce = self._announce = _Announcements(self.progress, self.catalogue, self.doorbell, self.events)
        deliveries, recoveries = DeliveryReads(pool), RecoveryStore(pool, random_id)
        self._deliveries, self._history = deliveries, TopologyHistory(pool)
        hearing = Hearing(reactor, recoveries)
        memory = WitnessFile(witness_file)
        self.witness = Witness(memory, identity.region, recoveries, hearing.begin_anew, last_batch.seen)
        record = Record(self.writer, announce)
        self.dispatch = HostMapDispatch(
            reactor,
            self.connections,
            self.clusters,
            self._deliveries,
            record,
            hearing,
            announce,
        )
        arrivals = ClusterArrivals(
            reactor,
            self.connections,
            self.clusters,
            self._deliveries,
            record,
            hearing,
            identity.region,
            self.dispatch,
        )
        self.accounts = Accounts(reactor, AccountStore(pool))
        self.inventory = Inventory(self.reads, self.catalogue)
        questions = QuestionStore(pool)
        self.siblings = Siblings(reactor, self.connections, questions, self.doorbell, random_id)
        leases = Leases(reactor, self.siblings, self.inventory, self.reads)
        marks = InUseStore(pool, random_id)
        self.claims = Claims(
            self.writer,
            self.reads,
            NodeStore(pool, random_id),
            self.catalogue,
            self.progress,
            leases,
            random_id,
            ProbedClaims(self.writer, Probes(self.siblings, ProbingReads(pool)), marks),
        )
        self.subnets = Subnets(self.inventory, RangeStore(pool, random_id), SubnetStore(pool), SubnetChecks(pool))
        certificate_store = CertificateStore(pool, random_id)
        self.enrolment = Enrolment(
            certificates, certificate_store, self.inventory, self.clusters, self.writer, self._certificates_changed
        )
        edits = Edits(self.writer, self.reads, self.claims, self.progress)
        contacts = FirstContactStore(pool, random_id)
        imports = ImportStore(pool, random_id)
        self.import_worker = ImportWorker(
            reactor, imports, self.reads, self.catalogue, random_id, self._committed, self.writer.keeping_off
        )
        sources = Sources(
            {"reading": lambda: pool.stats, "writing": lambda: writing.stats},
            lambda: self.writer.waiting,
            lambda: len(self.connections.by_cluster),
            lambda: self.events.followers,
            lambda: progress_counts(pool),
        )
        self.metrics = Exposition(reactor, measured, sources)
        self._stalls = StallWatch(reactor, measured.reactor_stall_seconds.observe)
        vrfs = Vrfs(self.inventory, VrfStore(pool, random_id), NetworkStore(pool, random_id), self._serving_changed)
        use_cases = UseCases(
            self.claims,
            Exports(ExportReads(pool), ReservationFilters(self.catalogue, self.reads)),
            Batches(self.reads, self.claims, self.progress),
            Imports(reactor, imports, self.import_worker.wake),
            edits,
            self.inventory,
            self.enrolment,
            self.subnets,
            Pairs(self.inventory, PairStore(pool), self._pair_changed),
            leases,
            vrfs,
            ClusterEdits(
                self.inventory, vrfs, ClusterEditStore(pool, random_id), PairStore(pool), self._serving_changed
            ),
            Topologies(self.inventory, self._history),
            AddressesInUse(self.inventory, marks),
            Adoptions(contacts, self.inventory, self.reads, self.writer, random_id),
            self.accounts,
            AuditTrail(AuditReads(pool)),
            self.events,
            Recoveries(recoveries, hearing),
            Health(pool),
            self.metrics,
        )
        self.application = Application(reactor, use_cases, rate=rate, measured=measured)
        contact = FirstContacts(contacts, announce.topology_changed)
        told = Listeners(arrivals, self.dispatch, contact, self.enrolment.renew)
        self.plain_links = ClusterLinkFactory(reactor, identity, self.connections, told, identify_plain)
        self.links = ClusterLinkFactory(reactor, identity, self.connections, told, identify_by_certificate)
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
            self._prune,
            marks.expire,
            questions.prune,
        )

    async def _pair_changed(self, cluster: int) -> None:
        await self._serving_changed([cluster])

    async def _serving_changed(self, clusters: Iterable[int]) -> None:
        self._announce.topology_changed()
        with suppress(DatabaseUnavailable):  # then the sweep looks
            for cluster in clusters:
                await self.dispatch.holdings_changed(cluster)

    async def _prune(self) -> None:
        await self._deliveries.prune_tombstones()
        await self._history.prune()
        await self._event_reads.prune()

    def _committed(self, subnets: frozenset[int]) -> None:
        self.dispatch.committed(subnets)
        self.doorbell.host_maps(subnets)
        self.events.nudge()

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
        self.progress.acknowledged(rung.acknowledged)
        self.siblings.heard_of_questions(rung.asked)
        self.siblings.heard_of_answers(rung.answered)
        if rung != Rung(asked=rung.asked, answered=rung.answered):
            self.events.nudge()

    async def _heartbeat(self) -> None:
        if connected := self.connections.clusters():
            self.eviction.supersede(await self.clusters.heard(connected))
        await self.eviction.look()
        if self.door is not None:
            await self.door.look()

    def wait_no_longer(self) -> None:
        """Whoever waits for something to happen is answered with how things stand: the daemon is stopping."""
        self.progress.wait_no_longer()
        self.siblings.wait_no_longer()
        self.events.stop()

    def start(self) -> None:
        self._stalls.start()
        self.doorbell.start()
        self.sweeps.start()
        self.import_worker.start()

    async def stop(self) -> None:
        await self.import_worker.stop()
        await self.sweeps.stop()
        if self.door is not None:
            await self.door.close()
        await self.links.close()
        await self.plain_links.close()
        await self.writer.stop()
        # A backup of before this counts less than this regiond has seen then, however soon it is restored.
        await self.witness.last_beat(self._clock)
        await self.doorbell.stop()
