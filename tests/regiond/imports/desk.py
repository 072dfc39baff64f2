"""Imports and exports on a database, as the region puts them together, for tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor as global_reactor

from regiond.catalogue import Catalogue
from regiond.domain.importing import ImportView
from regiond.domain.lines import LineFormat
from regiond.imports.requests import Imports
from regiond.imports.worker import ImportWorker
from regiond.storage.exports import ExportReads
from regiond.storage.imports import ImportStore
from regiond.use_cases.exports import Exports
from regiond.use_cases.filters import ReservationFilters
from regiond.use_cases.requests import Caller, RequestContext
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor
LONG_SECONDS = 120.0


@dataclass
class Desk:
    """Where files are handed in and out. `subnets` are those of rack-a: 192.0.2.0/24, 10.0.0.0/8, 2001:db8::/64."""

    region: Region
    subnets: list[int]
    store: ImportStore
    worker: ImportWorker
    imports: Imports
    exports: Exports
    committed: list[frozenset[int]]

    def context(
        self,
        account: int | None = None,
        name: str | None = None,
        *,
        is_admin: bool = True,
        key: str | None = None,
        fingerprint: str = "f",
        wait: float = LONG_SECONDS,
    ) -> RequestContext:
        caller = Caller(
            account or self.region.owner, name or f"tester-{self.region.owner}", is_admin=is_admin, read_only=False
        )
        return RequestContext(caller, "test-request", fingerprint, key, wait)

    async def account(self, name: str, **limits: Any) -> RequestContext:
        """A user."""
        number = new_id()
        await self.region.pool.execute(
            "INSERT INTO account (id, name, role, max_reservations) VALUES (%s, %s, 'user', %s)",
            (number, name, limits.get("most")),
        )
        return self.context(number, name, is_admin=False)

    async def send(
        self,
        content: str | bytes,
        *,
        apply: bool = False,
        form: LineFormat = LineFormat.CSV,
        context: RequestContext | None = None,
        ignored: Sequence[str] = (),
    ) -> ImportView:
        """Hand a file in and wait until it is over."""
        raw = content.encode() if isinstance(content, str) else content
        return await self.imports.create(context or self.context(), form, raw, dry_run=not apply, ignored=ignored)

    async def export(self, form: LineFormat, context: RequestContext | None = None, **filters: Sequence[str]) -> bytes:
        pieces = await self.exports.export(context or self.context(), form, filters=filters, after=None)
        return b"".join([piece async for piece in pieces])

    async def count(self) -> int:
        """How many reservations there are."""
        return int((await self.region.pool.query("SELECT count(*) FROM reservation"))[0][0])

    async def is_sound(self) -> bool:
        """Whether free space and digests are what they have to be."""
        return await self.region.tiles(self.subnets) and all(
            [await self.region.digest_is_right(subnet) for subnet in self.subnets]
        )


@asynccontextmanager
async def desk(database: str) -> AsyncIterator[Desk]:
    async with region_on(database, reactor) as region:
        _, subnets = await region.cluster("rack-a", "192.0.2.0/24", "10.0.0.0/8", "2001:db8::/64")
        catalogue = Catalogue(reactor, region.reads)
        store = ImportStore(region.pool, new_id)
        committed: list[frozenset[int]] = []
        worker = ImportWorker(
            reactor, store, region.reads, catalogue, new_id, committed.append, region.writer.keeping_off
        )
        exports = Exports(ExportReads(region.pool), ReservationFilters(catalogue, region.reads))
        try:
            yield Desk(region, subnets, store, worker, Imports(reactor, store, worker.wake), exports, committed)
        finally:
            await worker.stop()
