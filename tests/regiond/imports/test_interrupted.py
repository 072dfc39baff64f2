"""Imports whose regiond dies, stops, or meets others: all or nothing, once, and by whoever is left."""

from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.task import deferLater

from regiond.catalogue import Catalogue
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import Mutation
from regiond.domain.reservations import Kind
from regiond.imports import work
from regiond.imports.worker import MAX_ATTEMPTS, ImportWorker
from regiond.storage.imports import ImportStore
from regiond.storage.writer import Writer
from tests.regiond.imports.desk import Desk, desk
from tests.regiond.storage.region import new_id
from tests.waiting import until

reactor: Any = global_reactor

LINES = "address,mac\n" + "".join(
    f"10.1.{n // 200}.{n % 200 + 1},00:16:3e:01:{n // 256:02x}:{n % 256:02x}\n" for n in range(400)
)


class StoppedInBetween(ImportStore):
    """Something happens after the first part is written and before anything is committed."""

    def __init__(self, at: Desk, happens: Any) -> None:
        super().__init__(at.region.pool, new_id)
        self._happens = happens
        self.parts = 0

    async def apply(self, job: Any, mutations: Any, counts: Any, size: int, between: Any) -> frozenset[int]:
        async def then(applied: int) -> None:
            self.parts += 1
            if self.parts == 1:
                await self._happens()
            await between(applied)

        return await super().apply(job, mutations, counts, size, then)


def another_worker(at: Desk, store: ImportStore | None = None) -> ImportWorker:
    """As of another regiond."""
    store = store or ImportStore(at.region.pool, new_id)
    catalogue, off = Catalogue(reactor, at.region.reads), at.region.writer.keeping_off
    return ImportWorker(reactor, store, at.region.reads, catalogue, new_id, at.committed.append, off)


async def handed_in(at: Desk, content: str = LINES) -> int:
    """An import that nobody works on yet; its id."""
    await at.worker.stop()
    return (await at.imports.create(at.context(wait=0), LineFormat.CSV, content.encode(), dry_run=False, ignored=[])).id


async def state_of(at: Desk, number: int) -> ImportState:
    return (await at.store.views([number]))[0].state


async def over(at: Desk, number: int) -> None:
    while not (await state_of(at, number)).is_over:
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_a_region_that_stops_leaves_it_to_another_one(database: str) -> None:
    async with desk(database) as at:
        number = await handed_in(at)
        first: ImportWorker

        async def stop() -> None:
            first._stopping = True

        store = StoppedInBetween(at, stop)
        first = another_worker(at, store)
        first.wake()
        await until(lambda: store.parts == 1)
        await first.stop()
        assert await state_of(at, number) is ImportState.WAITING
        assert await at.count() == 0 and at.committed == []
        second = another_worker(at)
        second.wake()
        await over(at, number)
        await second.stop()
        assert await state_of(at, number) is ImportState.DONE
        assert await at.count() == 400
        assert await at.is_sound()


@pytest_twisted.ensureDeferred
async def test_a_region_that_dies_is_missed_and_its_late_work_does_not_count(database: str) -> None:
    async with desk(database) as at:
        number = await handed_in(at)
        second = another_worker(at)

        async def fall_silent() -> None:
            await at.region.pool.execute("UPDATE import SET heartbeat = now() - interval '31 s'")
            second.wake()
            # the other one waits for the subnet's lock by now, or has read what is there before anything is committed
            await until_taken(at)

        store = StoppedInBetween(at, fall_silent)
        first = another_worker(at, store)
        first.wake()
        await over(at, number)
        await first.stop()
        await second.stop()
        assert await state_of(at, number) is ImportState.DONE
        assert await at.count() == 400
        (row,) = await at.region.pool.query("SELECT count(*) FROM audit WHERE action = 'import.apply'")
        assert row[0] == 1
        assert await at.is_sound()


async def until_taken(at: Desk) -> None:
    while (await at.region.pool.query("SELECT attempts FROM import"))[0][0] < 2:
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_what_somebody_takes_meanwhile_refuses_the_whole(database: str) -> None:
    async with desk(database) as at:
        number = await handed_in(at)

        class TakenInBetween(ImportStore):
            async def apply(self, *arguments: Any) -> frozenset[int]:
                claim = at.region.user(at.subnets[1], address="10.1.1.7")
                elsewhere = Writer(reactor, at.region.pool, at.committed.append)  # of another regiond
                await elsewhere.submit(Mutation(at.region.actor, (claim,), "test-request"))
                return await super().apply(*arguments)

        worker = another_worker(at, TakenInBetween(at.region.pool, new_id))
        worker.wake()
        await over(at, number)
        await worker.stop()
        (view,) = await at.store.views([number])
        assert view.state is ImportState.REFUSED
        assert [(each.line, each.slug) for each in view.mistakes] == [(208, "address-taken")]
        assert await at.count() == 1 and at.committed == []
        assert await at.is_sound()


@pytest_twisted.ensureDeferred
async def test_an_import_that_is_never_finished_is_given_up(database: str) -> None:
    async with desk(database) as at:
        number = await handed_in(at)
        await at.region.pool.execute("UPDATE import SET attempts = %s", (MAX_ATTEMPTS,))
        worker = another_worker(at)
        worker.wake()
        await over(at, number)
        await worker.stop()
        (view,) = await at.store.views([number])
        assert view.state is ImportState.FAILED and "nothing was changed" in (view.reason or "")
        assert await at.count() == 0


@pytest_twisted.ensureDeferred
async def test_claims_go_on_beside_it_and_see_all_or_nothing(database: str) -> None:
    async with desk(database) as at:
        seen: list[int] = []

        async def look() -> None:
            seen.append(await at.count())
            (made,) = (await at.region.do(at.region.user(at.subnets[0]))).reservations
            assert made.kind is Kind.USER

        number = await handed_in(at)
        store = StoppedInBetween(at, look)
        worker = another_worker(at, store)
        worker.wake()
        await over(at, number)
        await worker.stop()
        assert seen == [0] and store.parts == -(-400 // work.STEP)
        assert await at.count() == 401
        assert at.committed == [frozenset({at.subnets[1]})]


@pytest_twisted.ensureDeferred
async def test_what_is_over_is_forgotten_after_a_week(database: str) -> None:
    async with desk(database) as at:
        view = await at.send("address\n10.1.0.1\n")
        await at.region.pool.execute("UPDATE import SET finished = now() - interval '6 days'")
        await at.store.prune()
        assert len(await at.store.views([view.id])) == 1
        await at.region.pool.execute("UPDATE import SET finished = now() - interval '8 days'")
        await at.store.prune()
        assert await at.store.views([view.id]) == []
