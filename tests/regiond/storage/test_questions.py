"""The table of questions on a real PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.domain.questions import Answer, Question
from regiond.storage.questions import QuestionStore
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor
NET = "192.0.2.0/24"


@asynccontextmanager
async def asked(dsn: str) -> AsyncIterator[tuple[Region, QuestionStore, Question]]:
    async with region_on(dsn, reactor) as region:
        cluster, _ = await region.cluster("rack-a", NET)
        yield region, QuestionStore(region.pool), Question(new_id(), cluster, "ProbeAddresses", b"\0\0")


@pytest_twisted.ensureDeferred
async def test_a_question_is_taken_once_and_so_is_its_answer(database: str) -> None:
    async with asked(database) as (_, store, question):
        assert await store.put(question, 60.0)
        assert await store.put(question, 60.0), "as after an answer of the database that was lost"
        assert await store.collect(question.id) is None
        assert await store.take({question.cluster + 1: 1}) == []
        (taken,) = await store.take({question.cluster: 1})
        assert taken.question == question and 0 < taken.seconds <= 60
        assert await store.take({question.cluster: 1}) == []
        assert not await store.withdraw(question.id), "somebody is at it"
        await store.answer(question.id, Answer(b"\0\1x\0\0\0\0"))
        await store.answer(question.id, Answer(None, "LATE", "too late"))
        assert await store.collect(question.id) == Answer(b"\0\1x\0\0\0\0")
        assert await store.collect(question.id) is None
        await store.answer(question.id, Answer(None, "LATE", "nobody waits"))
        assert await store.collect(question.id) is None


@pytest_twisted.ensureDeferred
async def test_who_may_be_asked_and_by_whom(database: str) -> None:
    async with asked(database) as (region, store, question):
        assert not await store.put(replace(question, cluster=question.cluster + 1), 60.0)
        assert await store.put(question, 60.0)
        await region.pool.execute("UPDATE cluster SET epoch = 2")
        assert await store.take({question.cluster: 1}) == [], "over a former connection nobody asks"
        assert await store.withdraw(question.id)
        assert await store.take({question.cluster: 2}) == []
        await region.pool.execute("UPDATE cluster SET last_heard = now() - interval '2 minutes'")
        assert not await store.put(question, 60.0), "its regiond was killed"
        await region.pool.execute("UPDATE cluster SET last_heard = now(), connected_since = NULL")
        assert not await store.put(question, 60.0)


@pytest_twisted.ensureDeferred
async def test_what_is_left_over_goes(database: str) -> None:
    async with asked(database) as (region, store, question):
        for number in range(2):
            assert await store.put(replace(question, id=number), 60.0)
        await region.pool.execute("UPDATE cluster_question SET expires_at = now() WHERE id = 0")
        assert [taken.question.id for taken in await store.take({question.cluster: 1})] == [1]
        await store.prune()
        assert await region.pool.query("SELECT id FROM cluster_question") == [(1,)]
