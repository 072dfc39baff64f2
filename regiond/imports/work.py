"""One import from its first line to its end; see Note [Imports]."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Final

import psycopg2
from psycopg2 import errorcodes

from regiond.domain import errors
from regiond.domain.ids import NewId, Prefix, parse_id
from regiond.domain.importing import (
    MAX_MISTAKES,
    Duplicates,
    ImportState,
    Labels,
    LineRefused,
    claim_of,
    differences,
    kind_of,
    of_error,
)
from regiond.domain.line_files import Mistake, Read, read_file
from regiond.domain.lines import Line
from regiond.domain.mutations import Claim, Mutation, Outcome
from regiond.domain.plan import plan
from regiond.domain.quotas import Quotas
from regiond.domain.reservations import Kind, Status
from regiond.imports.names import Names
from regiond.storage.imports import Counts, ImportStore, Job, LinesRefused
from regiond.use_cases.steps import alias_identifier

STEP: Final = 128  # lines: reading and planning more would stall the reactor for over 20 ms
TURN_SECONDS: Final = 0.01
TELL_SECONDS: Final = 0.5  # each time costs a commit


KeepingOff = Callable[[Collection[int]], AbstractAsyncContextManager[None]]
"""While in it, this regiond's own changes of these subnets wait where they hold up nobody else: see Writer."""


class Work:
    """One import from its first line to its end."""

    def __init__(
        self,
        job: Job,
        store: ImportStore,
        names: Names,
        new_id: NewId,
        now: Callable[[], float],
        pause: Callable[[], Awaitable[None]],
        keeping_off: KeepingOff,
    ) -> None:
        self._job = job
        self._store = store
        self._names = names
        self._labels = Labels(new_id)
        self._duplicates = Duplicates()
        self._now = now
        self._told = now()
        self._pause = pause
        self._keeping_off = keeping_off
        self._numbers: list[int] = []
        self._claims: list[Claim] = []
        self._present_devices: set[int] = set()  # ids that lines would have made, of devices that are there
        self._mistakes: list[Mistake] = []
        self.mistake_count = 0
        self.counts = Counts()
        self.state = ImportState.CHECKING

    async def do(self) -> frozenset[int]:
        """The subnets whose host maps changed. Raises Abandoned, DatabaseUnavailable, what `pause` raises."""
        part: list[Read] = []
        for read in read_file(self._job.form, self._job.content, self._job.ignored):
            part.append(read)
            if len(part) == STEP:
                await self._look_at(part)
                part = []
        await self._look_at(part)
        self._check_devices()
        await self._check_quotas()
        if not self._mistakes and not self.counts.checked:
            self._mistake(Mistake(None, None, "invalid-request", "there is no line in this file"))
        if self._mistakes:
            await self._finish(ImportState.REFUSED)
        elif self._job.dry_run:
            await self._finish(ImportState.DONE)
        else:
            return await self._apply()
        return frozenset()

    async def fail(self, reason: str) -> None:
        await self._finish(ImportState.FAILED, reason)

    async def _finish(self, state: ImportState, reason: str | None = None) -> None:
        self.state = state
        await self._store.finish(self._job, state, self.counts, self._mistakes, self.mistake_count, reason)

    def _mistake(self, *mistakes: Mistake) -> None:
        self.mistake_count += len(mistakes)
        self._mistakes += mistakes[: MAX_MISTAKES - len(self._mistakes)]

    # ---- looking ----

    async def _look_at(self, part: Sequence[Read]) -> None:
        """Some lines: what they ask for, and whether that could be done now."""
        claims: list[tuple[int, Line, Claim]] = []
        skipped = 0
        began = self._now()
        for read in part:
            if self._now() > began + TURN_SECONDS:
                await self._pause()
                began = self._now()
            self._mistake(*read.mistakes)
            if read.line is None:
                continue
            if read.line.status is Status.RELEASING:
                skipped += 1
                continue
            try:
                claim = await self._claim(read.line)
                self._duplicates.check(read.number, claim)
            except LineRefused as error:
                self._mistake(Mistake(read.number, error.column, error.slug, error.detail))
            else:
                claims.append((read.number, read.line, claim))
        await self._pause()
        present, created = await self._compare(claims)
        self.counts = Counts(
            checked=self.counts.checked + len(part),
            created=self.counts.created + created,
            present=self.counts.present + present,
            skipped=self.counts.skipped + skipped,
        )
        await self._tell(ImportState.CHECKING, self.counts)
        await self._pause()

    async def _tell(self, state: ImportState, counts: Counts) -> None:
        """How far it is, now and then. Raises Abandoned."""
        if self._now() >= self._told + TELL_SECONDS:
            self._told = self._now()
            await self._store.tell(self._job, state, counts)

    async def _claim(self, line: Line) -> Claim:
        kind = kind_of(line, is_admin=self._job.actor.is_admin)
        return claim_of(line, kind, await self._names.of(line, kind), self._labels, alias_identifier)

    async def _compare(self, claims: Sequence[tuple[int, Line, Claim]]) -> tuple[int, int]:
        """How many are there already, and how many would be made; the latter are remembered."""
        if not claims:
            return 0, 0
        facts = await self._store.facts([self._mutation(claim) for _, _, claim in claims])
        labels = [parse_id(Prefix.DEVICE, line.device) for _, line, _ in claims if line.device is not None]
        devices = await self._store.devices_there([label for label in labels if label is not None])
        held = {(each.subnet, each.address): each for each in facts.reservations.values()}
        present = 0
        wanted: list[tuple[int, Claim]] = []
        for number, line, claim in claims:
            assert claim.address is not None
            there = held.get((claim.subnet, claim.address))
            if claim.expires_at is not None and claim.expires_at <= facts.now and there is None:
                self._mistake(Mistake(number, "expires_at", "invalid-request", "this time is over"))
            elif there is not None and there.status is Status.ACTIVE:
                others = differences(there, claim)
                if not others:
                    present += 1
                    if claim.device_id is not None:
                        self._present_devices.add(claim.device_id)
                else:
                    self._mistake(self._taken(number, claim, there.owner, others))
            elif line.device is not None and parse_id(Prefix.DEVICE, line.device) in devices:
                detail = (
                    f"device {line.device} is there: an import makes devices and adds nothing to one; leave this empty"
                )
                self._mistake(Mistake(number, "device", "invalid-request", detail))
            else:
                wanted.append((number, claim))
        decided = plan(facts, [self._mutation(claim) for _, claim in wanted])
        created = 0
        for (number, claim), outcome in zip(wanted, decided.outcomes, strict=True):
            if isinstance(outcome, Outcome):
                created += 1
                self._numbers.append(number)
                self._claims.append(claim)
            elif not isinstance(outcome, errors.QuotaExceeded):  # told once, for all lines
                self._mistake(of_error(number, outcome))
            else:
                self._numbers.append(number)
                self._claims.append(claim)
        return present, created

    def _taken(self, number: int, claim: Claim, holder: int, others: Sequence[str]) -> Mistake:
        detail = f"{claim.address} is taken"
        if self._job.actor.is_admin or holder == self._job.actor.account:
            detail = f"{claim.address} is taken already, with another {', '.join(others)}: an import changes nothing"
        return Mistake(number, "address", errors.AddressTaken.slug, detail)

    def _check_devices(self) -> None:
        """A label of lines that are there, of which other lines are new, wherever they stand in the file: nobody makes
        the device that the new ones would be hung on.
        """
        if not self._present_devices:
            return
        for number, claim in zip(self._numbers, self._claims, strict=True):
            if claim.device_id in self._present_devices:
                detail = (
                    "other lines with this label are there already: an import makes devices and adds nothing to one; "
                    "leave this empty"
                )
                self._mistake(Mistake(number, "device", "invalid-request", detail))
                self.counts = replace(self.counts, created=self.counts.created - 1)

    async def _check_quotas(self) -> None:
        """Of all lines together. The planner checks it again, part by part."""
        wanted = [claim for claim in self._claims if claim.kind is Kind.USER]
        if not wanted:
            return
        first = {(claim.owner, claim.subnet): claim for claim in wanted}
        facts = await self._store.facts([self._mutation(claim) for claim in first.values()])
        try:
            Quotas(facts.quotas).check(wanted, facts.subnets)
        except errors.QuotaExceeded as error:
            self._mistake(Mistake(None, "owner", error.slug, error.detail))

    def _mutation(self, claim: Claim) -> Mutation:
        return Mutation(self._job.actor, (claim,), self._job.request_id)

    # ---- doing ----

    async def _apply(self) -> frozenset[int]:
        # in order of place, so that neighbours are written together; a line's device is made before it is named
        order = sorted(range(len(self._claims)), key=lambda at: self._claims[at].subnet)
        mutations = [self._mutation(self._claims[at]) for at in order]

        async def between(applied: int) -> None:
            await self._tell(ImportState.APPLYING, replace(self.counts, applied=applied))
            await self._pause()

        await self._store.tell(self._job, ImportState.APPLYING, self.counts)
        try:
            async with self._keeping_off(frozenset(claim.subnet for claim in self._claims)):
                mapped = await self._store.apply(self._job, mutations, self.counts, STEP, between)
        except LinesRefused as error:
            self._mistake(*(of_error(self._numbers[order[at]], why) for at, why in error.refused.items()))
            await self._finish(ImportState.REFUSED)
            return frozenset()
        except psycopg2.Error as error:
            if error.pgcode != errorcodes.FOREIGN_KEY_VIOLATION:
                raise
            detail = "an account, subnet or node that this file names is gone, or just changed: import it again"
            self._mistake(Mistake(None, None, errors.NotFound.slug, detail))
            await self._finish(ImportState.REFUSED)
            return frozenset()
        self.state = ImportState.DONE
        return mapped
