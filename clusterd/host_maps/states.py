"""What the region is told of each subnet, and when: the latest state, once, when it changed and a region is there."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.protocols.amp import RemoteAmpError

from clusterd.protocol.arguments import REJECTED_MAPS
from clusterd.protocol.commands import MAX_ERROR_LENGTH
from clusterd.protocol.connection import CallTimedOut, LinkLost
from clusterd.protocol.errors import ProtocolError
from clusterd.protocol.values import HostMap, Identifier, RejectedMap

RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HostMapState:
    """One subnet's state in the DHCP server. `rejected` is the whole list; `error` the server's own words.

    `drift_repaired` counts what was found not as applied and was put right since the report before this one.
    """

    history: str
    subnet: str
    applied_generation: int
    rejected: tuple[RejectedMap, ...] = ()
    error: str | None = None
    drift_repaired: int = 0


Report = Callable[[HostMapState], Awaitable[None]]
"""Tells the region. May raise what `Link.call` raises: then the state is reported again after RETRY_SECONDS, or, where
the region is away, after the next registration.
"""


def host_map_state(
    history: str,
    subnet: str,
    applied_generation: int,
    rejected: Mapping[Identifier, tuple[HostMap, str]],
    error: str | None,
) -> HostMapState:
    """A state that fits in one report. Where not all rejections fit, `error` says so: none is passed over silently."""
    rejections = tuple(RejectedMap(identifier, _sendable(rejected[identifier][1])) for identifier in sorted(rejected))
    listed = tuple(next(iter(REJECTED_MAPS.pages_of(rejections))))
    if len(listed) < len(rejections) and error is None:
        error = f"{len(rejections)} host maps are not served, {len(listed)} of them are listed: {rejections[-1].reason}"
    return HostMapState(history, subnet, applied_generation, listed, error and _sendable(error)[:MAX_ERROR_LENGTH])


def _sendable(words: str) -> str:
    """A server's own words without what the link refuses: NUL characters, and bytes that were no text."""
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


class HostMapStates:
    """The latest state per subnet, reported one at a time; what changes meanwhile is reported once more."""

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._current: dict[str, HostMapState] = {}
        self._drift: dict[str, int] = {}  # of what was not reported yet
        self._unreported: dict[str, None] = {}  # in the order in which they changed
        self._report: Report | None = None
        self._sending = False
        self._retry: IDelayedCall | None = None

    def connected(self, report: Report) -> None:
        """A region is there that knows none of the states: tell it all of them."""
        self._report = report
        self._unreported = dict.fromkeys(self._current)
        self._kick()

    def disconnected(self) -> None:
        """Nobody is there."""
        self._report = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def update(self, state: HostMapState) -> None:
        """This is the subnet's state now."""
        if self._current.get(state.subnet) != state:
            self._current[state.subnet] = state
            self._unreported[state.subnet] = None
            self._kick()

    def drift_repaired(self, subnet: str, count: int) -> None:
        """So many of the subnet's host maps were not as applied, and are again."""
        self._drift[subnet] = self._drift.get(subnet, 0) + count
        if subnet in self._current:
            self._unreported[subnet] = None
            self._kick()

    def drop(self, subnet: str) -> None:
        """The subnet is not held any more."""
        self._drift.pop(subnet, None)
        self._current.pop(subnet, None)
        self._unreported.pop(subnet, None)

    def _kick(self) -> None:
        if not self._sending and self._retry is None and self._report is not None and self._unreported:
            self._sending = True
            Deferred.fromCoroutine(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._report is not None and self._unreported and self._retry is None:
                subnet = next(iter(self._unreported))
                del self._unreported[subnet]
                await self._send(self._report, self._current[subnet])
        finally:
            self._sending = False

    async def _send(self, report: Report, state: HostMapState) -> None:
        drift = self._drift.pop(state.subnet, 0)
        try:
            await report(replace(state, drift_repaired=drift) if drift else state)
        except (ProtocolError, RemoteAmpError, CallTimedOut, LinkLost) as error:
            self._log.warn(
                "the region was not told the state of subnet {subnet}: {reason}",
                event="host-map-state.not-reported",
                subnet=state.subnet,
                generation=state.applied_generation,
                reason=str(error),
            )
            self._again_later(report, state.subnet, drift)
        except Exception:
            self._log.failure("reporting subnet {subnet} failed", event="host-map-state.failed", subnet=state.subnet)
            self._again_later(report, state.subnet, drift)

    def _again_later(self, report: Report, subnet: str, drift: int) -> None:
        if subnet in self._current:
            self._unreported[subnet] = None
            if drift:
                self._drift[subnet] = self._drift.get(subnet, 0) + drift
        if self._report is report and self._retry is None:
            self._retry = self._clock.callLater(RETRY_SECONDS, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._kick()
