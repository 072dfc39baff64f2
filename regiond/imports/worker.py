"""Who works on imports, and when."""

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from regiond.catalogue import Catalogue
from regiond.domain.ids import NewId
from regiond.imports.names import Names
from regiond.imports.work import KeepingOff, Work
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.imports import Abandoned, ImportStore, Job
from regiond.storage.reads import Reads

LOOK_SECONDS: Final = 10.0
MAX_ATTEMPTS: Final = 5

Committed = Callable[[frozenset[int]], None]


class ImportWorker:
    """Works on imports, one at a time, until it is stopped: on those made here at once, on any other in a while."""

    _log = Logger(namespace="region.imports")

    def __init__(
        self,
        clock: Any,
        store: ImportStore,
        reads: Reads,
        catalogue: Catalogue,
        new_id: NewId,
        on_commit: Committed,
        keeping_off: KeepingOff,
    ) -> None:
        self._clock = clock
        self._store = store
        self._reads = reads
        self._catalogue = catalogue
        self._new_id = new_id
        self._on_commit = on_commit
        self._keeping_off = keeping_off
        self._looks = LoopingCall(self.wake)
        self._looks.clock = clock
        self._running: Deferred[None] | None = None
        self._again = False
        self._stopping = False

    def start(self) -> None:
        self._looks.start(LOOK_SECONDS)

    async def stop(self) -> None:
        """What is worked on is put back, for another regiond or the next start."""
        self._stopping = True
        if self._looks.running:
            self._looks.stop()
        if self._running is not None:
            finished: Deferred[None] = Deferred()
            self._running.addBoth(lambda _: finished.callback(None))
            await finished

    def wake(self) -> None:
        """There may be something to do."""
        if self._running is not None:
            self._again = True
        elif not self._stopping:
            self._again = False
            running = self._running = Deferred.fromCoroutine(self._run())
            running.addErrback(self._bug)
            running.addCallback(self._rest)

    def _rest(self, _: object) -> None:
        self._running = None
        if self._again:
            self.wake()

    def _bug(self, failure: Failure) -> None:
        self._log.failure("working on imports failed", failure, event="import.bug")

    async def _run(self) -> None:
        try:
            await self._store.prune()
            while not self._stopping and (job := await self._store.take()) is not None:
                await self._work_on(job)
        except DatabaseUnavailable as error:
            self._log.warn("imports wait for the database: {reason}", event="import.postponed", reason=str(error)[:500])

    async def _work_on(self, job: Job) -> None:
        names = Names(job, self._reads, self._catalogue)
        work = Work(job, self._store, names, self._new_id, self._clock.seconds, self._pause, self._keeping_off)
        try:
            if job.attempts > MAX_ATTEMPTS:
                reason = f"it was begun {MAX_ATTEMPTS} times and never finished; nothing was changed"
                await work.fail(reason)
                self._log.error(
                    "an import was given up: {reason}",
                    event="import.given-up",
                    reason=reason,
                    request_id=job.request_id,
                )
                return
            mapped = await work.do()
        except (Abandoned, _Stopped):
            await self._store.put_back(job)  # nothing when it is somebody else's
            return
        self._log.info(
            "an import is {state}: {created} new, {present} there already, {skipped} passed over, {mistakes} mistakes",
            event="import.over",
            state=work.state,
            dry_run=job.dry_run,
            created=work.counts.created,
            present=work.counts.present,
            skipped=work.counts.skipped,
            mistakes=work.mistake_count,
            actor=job.actor.name,
            request_id=job.request_id,
        )
        if mapped:
            self._on_commit(mapped)

    async def _pause(self) -> None:
        """Let everybody else have a turn."""
        await deferLater(self._clock, 0)
        if self._stopping:
            raise _Stopped


class _Stopped(Exception):
    """The region is stopping."""
