"""Leases as a test says: what claims ask for, without clusters."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from regiond.domain.leases import FoundLease
from regiond.domain.mutations import Claim


class FakeLeases:
    """`found` is what clusters tell; `ended` what was taken away, and is not told any more."""

    def __init__(self) -> None:
        self.found: list[FoundLease] = []
        self.ended: list[FoundLease] = []

    async def look(self, claims: Sequence[Claim], *, over: bool = False) -> list[Claim]:
        return [replace(claim, leases=self._on(claim.address), over_leases=over) for claim in claims]

    async def end(self, leases: Collection[FoundLease], request_id: str) -> None:
        self.ended += leases
        self.found = [one for one in self.found if one not in leases]

    def _on(self, address: str | None) -> tuple[FoundLease, ...]:
        return tuple(one for one in self.found if one.lease.address == address)
