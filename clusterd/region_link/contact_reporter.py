"""Tells the region what the DHCP server has of its own: at each registration, and when it has changed since.

Until the region has heard it, it claims no address on the subnets that this cluster serves.
"""

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from clusterd.dhcp.first_contact import ServerPicture, ServerReader, Unreadable
from clusterd.topology.reporter import NotReported

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
READ_AGAIN_SECONDS = 300.0

Report = Callable[[ServerPicture, str | None], Awaitable[None]]


class ContactReporter:
    """Reads and reports; at most one reading or report is under way at a time.

    `report` is given the picture, or an empty one and why it cannot be read. It raises NotReported. What cannot be read
    is tried again with growing pauses, and told once.
    """

    _log = Logger(namespace="contact")

    def __init__(self, clock: IReactorTime, reader: ServerReader, report: Report) -> None:
        self._clock = clock
        self._reader = reader
        self._report = report
        self._running: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._again = False
        self._stopped = False
        self._failures = 0
        self._reported: tuple[ServerPicture, str | None] | None = None
        self._remarks: tuple[str, ...] = ()

    def refresh(self) -> None:
        """Read and report now, whether or not anything changed: a new connection knows nothing yet."""
        self._reported = None
        self._failures = 0
        self._begin()

    def stop(self) -> None:
        """No more; what is under way is cancelled."""
        self._stopped = True
        self._cancel_timer()
        if self._running is not None:
            self._running.cancel()

    def _begin(self) -> None:
        self._cancel_timer()
        if self._stopped:
            return
        if self._running is not None:
            self._again = True
            return
        self._again = False
        self._running = Deferred.fromCoroutine(self._read_and_report())
        self._running.addBoth(self._ended)

    async def _read_and_report(self) -> None:
        error: str | None = None
        try:
            picture = await self._reader.read()
        except Unreadable as unreadable:
            picture, error = ServerPicture(), str(unreadable)
        if (picture, error) != self._reported:
            await self._report(picture, error)
            self._tell(picture, error)
            self._reported = picture, error
        self._failures = 0 if error is None else self._failures + 1

    def _ended(self, result: Failure | None) -> None:
        self._running = None
        if self._stopped:
            return  # what it ended with was the cancellation
        if isinstance(result, Failure):
            self._failures += 1
            if result.check(NotReported):
                # There is no connection, or it is about to end: the next registration asks for a report.
                self._log.debug(
                    "the region was not told what the DHCP server has of its own: {reason}",
                    event="contact.not-reported",
                    reason=str(result.value),
                )
            else:
                self._log.failure("reading or reporting the DHCP server failed", result, event="contact.failed-here")
        if self._again:
            self._begin()
        else:
            self._timer = self._clock.callLater(self._pause(), self._begin)

    def _pause(self) -> float:
        if self._failures == 0:
            return READ_AGAIN_SECONDS
        return float(min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 16)))

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tell(self, picture: ServerPicture, error: str | None) -> None:
        if error is not None:
            self._log.warn(
                "what the DHCP server has of its own cannot be read, so the region claims nothing here: {reason}",
                event="contact.unreadable-here",
                reason=error,
            )
            return
        self._log.info(
            "the region was told of {pools} pools and {entries} static entries of the DHCP server",
            event="contact.reported",
            pools=len(picture.pools),
            entries=len(picture.entries),
        )
        if picture.remarks != self._remarks:
            for remark in picture.remarks:
                self._log.warn("{remark}", event="contact.not-understood", remark=remark)
        self._remarks = picture.remarks
