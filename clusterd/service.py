"""`twistd clusterd`: the options, and the parts wired together. No logic."""

import random
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, ClassVar
from uuid import uuid4

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.check import BackendCheck
from clusterd.config import LOCAL_REGION, ClusterSettings
from clusterd.convergence.convergence import Convergence
from clusterd.daemon.daemon_options import DaemonOptions
from clusterd.daemon.endpoints import LinkAddress, TlsAddress, UnixAddress, parse_link_address
from clusterd.daemon.pauses import avoid_long_collections
from clusterd.dhcp.backends import make_backend, make_reader
from clusterd.dhcp.host_system import run_in_threads_of
from clusterd.host_maps.accepted import AcceptedHostMaps
from clusterd.host_maps.schema import StoreFailed, StoreUnusable
from clusterd.host_maps.store import HostMapStore
from clusterd.host_maps.store_thread import StoreThread
from clusterd.metrics_file import MetricsFile
from clusterd.probing.prober import make_prober
from clusterd.region_link.addresses import RegionAddresses
from clusterd.region_link.certificate_renewal import CertificateRenewal
from clusterd.region_link.connection import Introduction, Region, RegionConnection
from clusterd.region_link.contact_reporter import ContactReporter
from clusterd.region_link.identity import EnrolledEndpoint, IdentityFile, IdentityUnusable
from clusterd.region_link.lease_answers import LeaseAnswers
from clusterd.topology.netlink import Monitor
from clusterd.topology.reporter import Interfaces, TopologyReporter, look_in_thread


class Options(DaemonOptions):
    """Options of `twistd clusterd`."""

    synopsis = "[--config FILE] [--check]"
    optFlags: ClassVar[list[list[object]]] = [
        [
            "check",
            None,
            "only try whether the DHCP server can be reached, written and read back, and say what is missing",
        ]
    ]

    def postOptions(self) -> None:
        parent: dict[str, object] | None = getattr(self, "parent", None)
        if self["check"] and parent is not None:
            # Answers where it is asked: in the foreground, and without a file that says that a daemon runs.
            parent.update(nodaemon=True, pidfile="", logger="clusterd.daemon.text_logs.errors_observer")
        super().postOptions()


def makeService(options: Options) -> IService:
    """The daemon for these options. Ends the process when the configuration cannot be used."""
    from twisted.internet import reactor

    if options["check"]:
        settings = options.settings(ClusterSettings)
        return BackendCheck(reactor, make_backend(settings.dhcp, settings.state_directory, reactor), sys.stdout)
    daemon = ClusterDaemon(reactor, options.settings(ClusterSettings))
    avoid_long_collections()
    return daemon


class ClusterDaemon(Service):
    """Starts the parts in an order in which each finds what it needs, and stops them the other way round.

    The store is opened at start and not before: a lock does not survive the fork of a daemon.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, settings: ClusterSettings, look: Callable[[], Awaitable[Interfaces]] | None = None
    ) -> None:
        """`look` tells the interfaces of this host; the kernel does when it is None."""
        self._reactor = reactor
        self._settings = settings
        self._look = look
        self._thread = StoreThread(reactor)
        self._backend = make_backend(settings.dhcp, settings.state_directory, reactor)

    def startService(self) -> None:
        try:
            self._start()
        except BaseException:
            self._thread.stop()  # it would keep the process from ending
            raise

    def _start(self) -> None:
        try:
            self._find_out_who_we_are()
            self._store = HostMapStore.open(self._settings.store_path)
            self._convergence = Convergence(self._store, self._backend, self._reactor, self._thread, random.random)
            self._thread.start()
            self._convergence.start()
        except (IdentityUnusable, StoreUnusable, StoreFailed) as error:
            self._log.critical("clusterd cannot start: {reason}", event="clusterd.cannot-start", reason=str(error))
            raise SystemExit(1) from None
        super().startService()
        self._connection = self._connect()
        self._topology.start()
        self._connection.startService()
        self._metrics = self._metrics_file()
        if self._metrics is not None:
            self._metrics.start()
        if self._is_enrolled:
            self._renewal.start()
        self._log.info(
            "clusterd {version} started as {cluster}",
            event="clusterd.started",
            version=version("hostmap"),
            cluster=self._name,
            backend=self._backend.name,
            regions=[str(address) for address in self._regions],
        )
        Deferred.fromCoroutine(self._check_backend()).addErrback(self._check_failed)

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._metrics is not None:
            await self._metrics.stop()
        self._topology.stop()
        self._renewal.stop()
        self._contact.stop()
        await self._connection.stop()
        self._prober.close()
        await self._convergence.stop()
        await self._backend.close()
        await self._thread(self._store.close)
        self._thread.stop()
        self._log.info("clusterd stopped; the DHCP server keeps what it has", event="clusterd.stopped")

    def _connect(self) -> RegionConnection:
        settings = self._settings
        accepted = AcceptedHostMaps(self._store, self._convergence, self._thread)
        introduction = Introduction(
            self._name, socket.gethostname()[:253], version("hostmap"), self._backend.name, uuid4().hex
        )
        look = self._look or look_in_thread(self._reactor, settings.interfaces)
        self._prober = make_prober(self._reactor, look)
        connection = RegionConnection(
            self._reactor,
            self._at(self._regions),
            introduction,
            accepted,
            LeaseAnswers(self._backend),
            self._registered,
            random.random,
            self._prober.probe,
            RegionAddresses(self._identity_file, None if settings.region.endpoints else self._move).told,
        )
        self._renewal = CertificateRenewal(self._reactor, self._identity_file, connection.renew_certificate)
        self._topology = TopologyReporter(
            self._reactor,
            lambda changed: Monitor(self._reactor, changed),
            look,
            connection.report_topology,
        )
        reader = make_reader(settings.dhcp, settings.state_directory, look, self._reactor)
        self._contact = ContactReporter(self._reactor, reader, connection.report_dhcp_server)
        return connection

    def _metrics_file(self) -> MetricsFile | None:
        path, connection = self._settings.metrics.file, self._connection
        if path is None:
            return None
        return MetricsFile(
            self._reactor,
            path,
            run_in_threads_of(self._reactor),
            (self._name, self._backend.name),
            lambda: (connection.is_registered, connection.registrations),
            lambda: self._convergence.standing,
        )

    def _at(self, addresses: Sequence[LinkAddress]) -> Sequence[Region]:
        return [Region(str(address), self._endpoint(address)) for address in addresses]

    def _move(self, addresses: Sequence[LinkAddress]) -> None:
        self._connection.move(self._at(addresses))

    def _endpoint(self, address: LinkAddress) -> IStreamClientEndpoint:
        if isinstance(address, UnixAddress):
            return address.client_endpoint(self._reactor)
        return EnrolledEndpoint(self._reactor, address, self._identity_file)

    def _registered(self) -> None:
        self._topology.refresh()
        self._contact.refresh()
        if self._is_enrolled:
            self._renewal.look()

    def _find_out_who_we_are(self) -> None:
        """Raises IdentityUnusable where the region wants a proof of who we are and there is none."""
        settings = self._settings
        self._identity_file = IdentityFile(settings.identity_path)
        told = settings.region.endpoints
        self._is_enrolled = self._identity_file.exists()
        if self._is_enrolled or any(isinstance(address, TlsAddress) for address in told or ()):
            identity = self._identity_file.load()
            self._name = identity.name
            self._regions = told or tuple(parse_link_address(text) for text in identity.endpoints)
        else:
            self._name = settings.name
            self._regions = told or (LOCAL_REGION,)

    async def _check_backend(self) -> None:
        for obstacle in await self._backend.check():
            self._log.warn("{obstacle}", event="dhcp-server.obstacle", backend=self._backend.name, obstacle=obstacle)

    def _check_failed(self, failure: Failure) -> None:
        self._log.failure("the DHCP server could not be checked", failure, event="dhcp-server.check-failed")
