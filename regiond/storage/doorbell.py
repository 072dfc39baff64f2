"""Tells the other regionds that something was committed. Only latency depends on it: a sweep is the guarantee.

A `NOTIFY` inside the writing transaction ends group commit (0.29 × the rate at 8 clients), so it is a statement of
its own after the commit, and what happens within RING_INTERVAL_SECONDS is told at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from regiond.storage.connection import Connector, Vet
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.listener import Listener
from regiond.storage.pool import ConnectionLost, Pool

CHANNEL = "hostmap"
RING_INTERVAL_SECONDS = 0.05
MAX_NAMED_SUBNETS = 200  # a payload has at most 8,000 bytes


@dataclass(frozen=True, slots=True)
class Rung:
    """What a doorbell tells; None for subnets means "any of them"."""

    host_maps: frozenset[int] | None = frozenset()
    acknowledged: frozenset[int] | None = frozenset()
    topology: bool = False
    certificates: bool = False  # or tokens for enrolment, or which clusters there are


@dataclass(slots=True)
class _Waiting:
    host_maps: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    topology: bool = False
    certificates: bool = False

    def __bool__(self) -> bool:
        return bool(self.host_maps or self.acknowledged or self.topology or self.certificates)


def format_payload(sender: str, rung: Rung) -> str:
    """`sender|host maps|acknowledged|topology|certificates`: ids with commas between them, or `*`."""
    flags = ("1" if flag else "" for flag in (rung.topology, rung.certificates))
    return "|".join((sender, _ids(rung.host_maps), _ids(rung.acknowledged), *flags))


def parse_payload(payload: str) -> tuple[str, Rung] | None:
    """The inverse; None for what this version cannot read (a newer regiond may tell more)."""
    parts = payload.split("|")
    if len(parts) < 4:
        return None
    try:
        return parts[0], Rung(_numbers(parts[1]), _numbers(parts[2]), parts[3] == "1", parts[4:5] == ["1"])
    except ValueError:
        return None


class Doorbell:
    """Rings for the others, and calls `on_rung` when one of them rings."""

    _log = Logger(namespace="region.doorbell")

    def __init__(
        self, reactor: Any, dsn: str, pool: Pool, on_rung: Callable[[Rung], None], *, vet: Vet | None = None
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._on_rung = on_rung
        self._me = uuid4().hex[:12]
        self._waiting = _Waiting()
        self._ringing = False
        self._stopped = False
        connector = Connector(reactor, dsn, vet=vet)
        self._listener = Listener(reactor, dsn, CHANNEL, self._heard, self._missed, connector=connector)

    def start(self) -> None:
        self._listener.start()

    async def stop(self) -> None:
        self._stopped = True
        await self._listener.stop()

    def host_maps(self, subnets: Iterable[int]) -> None:
        """The desired host maps of these subnets changed."""
        self._waiting.host_maps.update(subnets)
        self._ring_soon()

    def acknowledged(self, subnets: Iterable[int]) -> None:
        """Clusters said something about these subnets."""
        self._waiting.acknowledged.update(subnets)
        self._ring_soon()

    def topology_changed(self) -> None:
        self._waiting.topology = True
        self._ring_soon()

    def certificates_changed(self) -> None:
        """Certificates, tokens for enrolment or clusters came or went."""
        self._waiting.certificates = True
        self._ring_soon()

    def _ring_soon(self) -> None:
        if not self._ringing and not self._stopped:
            self._ringing = True
            self._reactor.callLater(RING_INTERVAL_SECONDS, self._start_ringing)

    def _start_ringing(self) -> None:
        if self._stopped:
            return
        Deferred.fromCoroutine(self._ring()).addErrback(
            lambda failure: self._log.failure("the doorbell broke", failure, event="doorbell.bug")
        )

    async def _ring(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        rung = Rung(_few(waiting.host_maps), _few(waiting.acknowledged), waiting.topology, waiting.certificates)
        try:
            await self._pool.execute("SELECT pg_notify(%s, %s)", (CHANNEL, format_payload(self._me, rung)), retry=True)
        except (DatabaseUnavailable, ConnectionLost) as error:
            self._log.warn("the others were not told: {reason}", event="doorbell.failed", reason=str(error)[:500])
        finally:
            self._ringing = False
            if self._waiting:
                self._ring_soon()

    def _heard(self, payload: str) -> None:
        told = parse_payload(payload)
        if told is not None and told[0] != self._me:
            self._on_rung(told[1])

    def _missed(self) -> None:
        self._on_rung(Rung(None, None, True, True))


def _few(subnets: set[int]) -> frozenset[int] | None:
    return frozenset(subnets) if len(subnets) <= MAX_NAMED_SUBNETS else None


def _ids(subnets: frozenset[int] | None) -> str:
    return "*" if subnets is None else ",".join(map(str, sorted(subnets)))


def _numbers(text: str) -> frozenset[int] | None:
    return None if text == "*" else frozenset(int(part) for part in text.split(",") if part)
