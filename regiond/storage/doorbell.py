"""Tells the other regionds that something was committed. Only latency depends on it: a sweep is the guarantee.

A `NOTIFY` inside the writing transaction ends group commit (0.29 × the rate at 8 clients), so it is a statement of
its own after the commit, and what happens within RING_INTERVAL_SECONDS is told at once. Questions and answers do not
wait for that: somebody waits for them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from regiond.storage.connection import Vet
from regiond.storage.connector import Connector
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.listener import Listener
from regiond.storage.pool import ConnectionLost, Pool

CHANNEL = "hostmap"
RING_INTERVAL_SECONDS = 0.05
MAX_NAMED_SUBNETS = 200  # a payload has at most 8,000 bytes
MAX_NAMED_QUESTIONS = 30


@dataclass(frozen=True, slots=True)
class Rung:
    """What a doorbell tells: subnets, clusters that are asked something, questions that are answered; None means "any".

    See Note [Questions to siblings] in regiond/cluster_rpc/siblings.py.
    """

    host_maps: frozenset[int] | None = frozenset()
    acknowledged: frozenset[int] | None = frozenset()
    topology: bool = False
    certificates: bool = False  # or tokens for enrolment, or which clusters there are
    asked: frozenset[int] | None = frozenset()
    answered: frozenset[int] | None = frozenset()


@dataclass(slots=True)
class _Waiting:
    host_maps: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    topology: bool = False
    certificates: bool = False
    asked: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for just this."""
        return bool(self.asked or self.answered)

    def __bool__(self) -> bool:
        return bool(self.host_maps or self.acknowledged or self.topology or self.certificates or self.is_urgent)


def format_payload(sender: str, rung: Rung) -> str:
    """`sender|host maps|acknowledged|topology|certificates|asked|answered`: ids with commas between them, or `*`."""
    flags = ("1" if flag else "" for flag in (rung.topology, rung.certificates))
    questions = (_ids(rung.asked), _ids(rung.answered))
    return "|".join((sender, _ids(rung.host_maps), _ids(rung.acknowledged), *flags, *questions))


def parse_payload(payload: str) -> tuple[str, Rung] | None:
    """The inverse; None for what this version cannot read (a newer regiond may tell more, an older one less)."""
    parts = payload.split("|")
    if len(parts) < 4:
        return None
    sender, host_maps, acknowledged, topology, certificates, asked, answered = [*parts, "", "", ""][:7]
    try:
        return sender, Rung(
            _numbers(host_maps),
            _numbers(acknowledged),
            topology == "1",
            certificates == "1",
            _numbers(asked),
            _numbers(answered),
        )
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
        self._soon: IDelayedCall | None = None
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

    def asked(self, clusters: Iterable[int]) -> None:
        """There are questions to these clusters."""
        self._waiting.asked.update(clusters)
        self._ring_soon()

    def answered(self, questions: Iterable[int]) -> None:
        self._waiting.answered.update(questions)
        self._ring_soon()

    def _ring_soon(self) -> None:
        if self._stopped:
            return
        seconds = 0.0 if self._waiting.is_urgent else RING_INTERVAL_SECONDS
        if not self._ringing:
            self._ringing = True
            self._soon = self._reactor.callLater(seconds, self._start_ringing)
        elif self._soon is not None and not seconds:
            self._soon.reset(0)

    def _start_ringing(self) -> None:
        self._soon = None
        if self._stopped:
            return
        Deferred.fromCoroutine(self._ring()).addErrback(
            lambda failure: self._log.failure("the doorbell broke", failure, event="doorbell.bug")
        )

    async def _ring(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        rung = Rung(
            _few(waiting.host_maps),
            _few(waiting.acknowledged),
            waiting.topology,
            waiting.certificates,
            _few(waiting.asked, MAX_NAMED_QUESTIONS),
            _few(waiting.answered, MAX_NAMED_QUESTIONS),
        )
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
        self._on_rung(Rung(None, None, True, True, None, None))


def _few(ids: set[int], most: int = MAX_NAMED_SUBNETS) -> frozenset[int] | None:
    return frozenset(ids) if len(ids) <= most else None


def _ids(ids: frozenset[int] | None) -> str:
    return "*" if ids is None else ",".join(map(str, sorted(ids)))


def _numbers(text: str) -> frozenset[int] | None:
    return None if text == "*" else frozenset(int(part) for part in text.split(",") if part)
