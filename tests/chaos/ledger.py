"""What clients were told: every claim and release that got a definitive answer, with the times around it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Any, Final

# what any client may be told about a claim that is legal in itself, by the request's nature
REFUSALS: Final = frozenset({"address-taken", "subnet-exhausted"})


@dataclass(slots=True)
class Request:
    """One request under one idempotency key, however often it is sent. `sent` is the time of the first sending."""

    method: str
    path: str
    body: Any
    key: str
    account: str
    sent: float
    acknowledged: float | None = None
    attempts: int = 0
    reservations: tuple[tuple[str, str], ...] = ()
    """What a claim was answered: reservation ids and addresses."""
    object: str | None = None
    """What a release deletes: the path of the device, node address or reservation."""


@dataclass(slots=True)
class Claimed:
    """An acknowledged claim, and the requests that release its reservations, by reservation id."""

    claim: Request
    cidr: str
    identifiers: Sequence[str]
    releases: dict[str, Request] = field(default_factory=dict)

    def released(self, reservation: str) -> bool:
        """Whether the release was acknowledged."""
        release = self.releases.get(reservation)
        return release is not None and release.acknowledged is not None


@dataclass(slots=True)
class Ledger:
    """Shared by all clients of a run."""

    claims: list[Claimed] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    unsettled: list[Request] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    acknowledgements: list[float] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    slowest_answer: float = 0.0
    _lock: Lock = field(default_factory=Lock)

    def claimed(self, claim: Claimed) -> None:
        with self._lock:
            self.claims.append(claim)

    def acknowledged(self, request: Request, now: float) -> None:
        with self._lock:
            request.acknowledged = now
            self.acknowledgements.append(now)

    def refuse(self, slug: str) -> None:
        with self._lock:
            self.refused[slug] = self.refused.get(slug, 0) + 1

    def answered(self, what: str, seconds: float) -> None:
        """One attempt got this: a status, or how it failed."""
        with self._lock:
            self.answers[what] = self.answers.get(what, 0) + 1
            self.slowest_answer = max(self.slowest_answer, seconds)

    def violated(self, what: str) -> None:
        with self._lock:
            self.violations.append(what)

    def never_settled(self, request: Request) -> None:
        with self._lock:
            self.unsettled.append(request)

    def live(self) -> dict[str, tuple[Claimed, str]]:
        """The reservations that have to be there at the end, by id: the claim and the address."""
        return {
            reservation: (claimed, address)
            for claimed in self.claims
            for reservation, address in claimed.claim.reservations
            if not claimed.released(reservation)
        }

    def longest_gap(self, since: float, until: float) -> tuple[float, float]:
        """The longest time without an acknowledgement that ends after `since`: when it began, how long it was."""
        times = sorted(time for time in self.acknowledgements if time <= until)
        gaps = [(end - begin, begin) for begin, end in pairwise(times) if end > since]
        longest, begin = max(gaps, default=(0.0, since))
        return begin, longest
