"""`twistd regiond`: the options, and the life of the daemon: database, region, doors, and back."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.daemon.config_file import ConfigError
from clusterd.daemon.daemon_options import DaemonOptions
from clusterd.daemon.descriptors import use_all_descriptors
from clusterd.daemon.exit_codes import fail_at_exit
from clusterd.daemon.pauses import avoid_long_collections
from regiond.config import RegionSettings
from regiond.doors import Doors
from regiond.hearing import Hearing
from regiond.http.rate import RateLimit
from regiond.postgres.embedded import EmbeddedPostgres
from regiond.postgres.errors import PostgresUnavailable
from regiond.region import Region
from regiond.storage.certificates import CertificateStore
from regiond.storage.connection import Vet
from regiond.storage.errors import DatabaseUnavailable, SchemaError
from regiond.storage.last_batch import LastBatch
from regiond.storage.pool import ConnectionLost, Pool
from regiond.storage.primary import NewestPrimary
from regiond.storage.reads import Reads
from regiond.storage.recovery import RecoveryStore
from regiond.storage.schema import migrate
from regiond.use_cases.accounts import random_id
from regiond.use_cases.enrolment import RegionCertificates

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
        self._doors: Doors | None = None
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
        last_batch = await self._last_batch(dsn)
        vet = last_batch.vet
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
        region = Region(
            self._reactor, dsn, pool, writing, identity, certificates, witness_file, last_batch, vet=vet, rate=rate
        )
        await region.accounts.local_caller()
        await region.witness.beat()  # before anybody can claim in a database that went back
        self._region = region
        region.start()
        self._doors = Doors(self._reactor, self._settings, region)
        http, clusters = await self._doors.open()
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

    async def _last_batch(self, dsn: str) -> LastBatch:
        """What looks at every connection. Of an external database it is asked first whether it is the primary."""
        primary: Vet | None = None
        if self._embedded is None:
            newest = NewestPrimary(self._reactor, self._settings.state_directory / "database-timeline.json")
            await newest.look_around(dsn)
            primary = newest.vet

        async def begin(reason: str, history: str) -> None:
            # The other connections are refused until this is done.
            pool = Pool(self._reactor, dsn, size=1, vet=primary)
            pool.start()
            try:
                await Hearing(self._reactor, RecoveryStore(pool, random_id)).begin_anew(reason, history)
            finally:
                await pool.close()

        return LastBatch(self._reactor, begin, primary)

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        if self._doors is not None:
            await self._doors.close()
        if self._region is not None:
            self._region.wait_no_longer()
        if self._database_is_gone:
            # Nobody brings it back but the next start: what waits for it is told so now.
            await self._close_pools()
        if self._doors is not None:
            await self._doors.finish()
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
