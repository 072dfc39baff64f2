"""Keeps the region's picture of this host's interfaces right: watch, let a burst settle, look, compare, report.

Any announcement of the kernel only means "look again"; what is reported is always the whole picture.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorThreads, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from clusterd.protocol.values import InterfaceReport
from clusterd.topology.interfaces import TopologySettings, interface_reports, relays_without_nic
from clusterd.topology.netlink import OpenSocket, open_netlink, snapshot

SETTLE_SECONDS = 0.1
LONGEST_SETTLE_SECONDS = 1.5  # under a storm of changes; the region is right within 2 s
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0
RESYNC_SECONDS = 60.0  # finds what an announcement that never came would have told

Interfaces = tuple[InterfaceReport, ...]

_log = Logger(namespace="topology")


class NotReported(Exception):
    """The region did not get a report: there is no connection, or it did not answer in time."""


class Watching(Protocol):
    """A watch that has begun."""

    def stop(self) -> None:
        """Hear of no more changes."""


def look_in_thread(
    reactor: IReactorThreads, settings: TopologySettings, open_socket: OpenSocket = open_netlink
) -> Callable[[], Awaitable[Interfaces]]:
    """A `look` that asks the kernel, in a thread of the reactor's pool. Warns of relays whose NIC is missing."""
    told: set[str] = set()

    def look() -> tuple[Interfaces, frozenset[str]]:
        facts = snapshot(open_socket)
        missing = frozenset(relay.via for relay in relays_without_nic(facts, settings))
        return interface_reports(facts, settings), missing

    async def look_and_tell() -> Interfaces:
        interfaces, missing = await deferToThreadPool(reactor, reactor.getThreadPool(), look)
        for nic in sorted(missing - told):
            _log.warn(
                "[[relay]] names the NIC {nic}, which this host does not have: its networks are reported as down",
                event="topology.relay-without-nic",
                nic=nic,
            )
        told.clear()
        told.update(missing)
        return interfaces

    return look_and_tell


class TopologyReporter:
    """Reports the interfaces whenever they differ from what was last reported, and whenever `refresh` is called.

    `watch` begins to call its argument on every change. `look` gives the present interfaces and may raise OSError
    and ValueError; it must not hold up the reactor (see `Note [A look takes a thread]`). `report` delivers them,
    and raises NotReported when it could not. At most one look or report is under way at a time; what changed in
    the meantime is looked at afterwards. Failures are retried with growing pauses, which `refresh` cuts short.
    """

    # Note [A look takes a thread]
    #
    # A snapshot by netlink and its reports take 1 ms on an ordinary host and 28 ms with 400 NICs (800 addresses),
    # too long for a reactor that must not stall for 20 ms. In a thread of the reactor's pool the interpreter
    # switches back to the reactor every 5 ms and the longest pause measured is about 10 ms.

    def __init__(
        self,
        clock: IReactorTime,
        watch: Callable[[Callable[[], None]], Watching],
        look: Callable[[], Awaitable[Interfaces]],
        report: Callable[[Interfaces], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._watch = watch
        self._look = look
        self._report = report
        self._watching: Watching | None = None
        self._resync = LoopingCall(self._changed)
        self._resync.clock = clock
        self._timer: IDelayedCall | None = None
        self._dirty_since: float | None = None
        self._busy = False
        self._running: Deferred[None] | None = None
        self._asked = False  # refresh was called since the last look began
        self._owed = False  # a report must follow, changed or not: it was asked for, or the last one is in doubt
        self._reported: Interfaces | None = None
        self._failures = 0
        self._last_complaint = ""

    def start(self) -> None:
        """Begin to watch. The first report follows the first change or `refresh`. Raises OSError."""
        self._watching = self._watch(self._changed)
        self._resync.start(RESYNC_SECONDS, now=False)

    def stop(self) -> None:
        """Stop watching; a look or report that is under way is cancelled."""
        if self._watching is None:
            return
        self._watching.stop()
        self._watching = None
        self._resync.stop()
        self._cancel_timer()
        if self._running is not None:
            self._running.cancel()

    def refresh(self) -> None:
        """Look and report now, whether or not anything changed: a new connection knows nothing yet."""
        if self._watching is None:
            return
        self._asked = self._owed = True
        self._failures = 0
        self._begin_soon(0)

    def _changed(self) -> None:
        if self._watching is None:
            return
        now = self._clock.seconds()
        if self._dirty_since is None:
            self._dirty_since = now
        if self._failures == 0:  # otherwise the retry that is already waiting will see it
            self._begin_soon(min(SETTLE_SECONDS, max(0.0, self._dirty_since + LONGEST_SETTLE_SECONDS - now)))

    def _begin_soon(self, seconds: float) -> None:
        self._cancel_timer()
        if not self._busy:
            self._timer = self._clock.callLater(seconds, self._begin)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _begin(self) -> None:
        self._timer = None
        self._busy = True
        self._running = Deferred.fromCoroutine(self._look_and_report())
        self._running.addBoth(self._ended)

    async def _look_and_report(self) -> None:
        self._dirty_since = None
        self._asked = False
        interfaces = await self._look()
        if self._owed or interfaces != self._reported:
            owed, self._owed = self._owed, True
            await self._report(interfaces)
            self._tell_of(interfaces, asked_for=owed)
            self._owed = False
            self._reported = interfaces

    def _ended(self, result: Failure | None) -> None:
        self._busy = False
        self._running = None
        if self._watching is None:
            return  # what it ended with was the cancellation
        if isinstance(result, Failure):
            self._failures += 1
            self._complain(result)
        else:
            self._failures = 0
            self._last_complaint = ""
        if self._asked:
            self.refresh()
        elif self._failures:
            pause = FIRST_RETRY_SECONDS * 2 ** min(self._failures - 1, 16)
            self._begin_soon(min(pause, LONGEST_RETRY_SECONDS))
        elif self._dirty_since is not None:
            self._changed()

    def _complain(self, failure: Failure) -> None:
        """The same complaint again, every half minute for days, is told at level debug only."""
        if failure.check(OSError, ValueError, NotReported) is None:
            _log.failure("reporting the interfaces failed", failure, event="topology.report-failed")
            return
        complaint = failure.getErrorMessage()
        _log.emit(
            LogLevel.debug if complaint == self._last_complaint else LogLevel.warn,
            "interfaces not reported: {error}",
            event="topology.report-failed",
            error=complaint,
            attempts=self._failures,
        )
        self._last_complaint = complaint

    def _tell_of(self, interfaces: Interfaces, *, asked_for: bool) -> None:
        before = {(known.nic, known.cidr) for known in self._reported or ()}
        now = {(known.nic, known.cidr) for known in interfaces}
        _log.info(
            "{interfaces} interfaces reported",
            event="topology.reported",
            interfaces=len(interfaces),
            appeared=[f"{nic} {cidr}" for nic, cidr in sorted(now - before)],
            vanished=[f"{nic} {cidr}" for nic, cidr in sorted(before - now)],
            asked_for=asked_for,
        )
