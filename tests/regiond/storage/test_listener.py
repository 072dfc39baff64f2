"""LISTEN survives what happens to its connection."""

from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.storage.listener import Listener
from tests.database import TestServer
from tests.regiond.storage.test_pool import kill_all
from tests.waiting import until

reactor: Any = global_reactor


class Heard:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def has(self, *, begun: int, payloads: int) -> bool:
        return (self.begun, len(self.payloads)) == (begun, payloads)


@asynccontextmanager
async def listening(dsn: str, heard: Heard, channel: str = "changes", **options: Any) -> Any:
    """A started listener, stopped at the end."""
    listener = Listener(reactor, dsn, channel, heard.payloads.append, heard.begin, jitter=lambda: 0.0, **options)
    listener.start()
    try:
        yield listener
    finally:
        await listener.stop()


async def notify(postgres: TestServer, dsn: str, payload: str, channel: str = "changes") -> None:
    """Ring from a connection of its own."""
    await postgres.run("SELECT pg_notify(%s, %s)", [channel, payload], postgres.name_of(dsn))


@pytest_twisted.ensureDeferred
async def test_payloads_arrive_in_order_after_listening_has_begun(postgres: TestServer, empty_database: str) -> None:
    heard = Heard()
    async with listening(empty_database, heard):
        await until(lambda: heard.begun == 1)
        for payload in ("one", "", "three"):
            await notify(postgres, empty_database, payload)
        await until(lambda: len(heard.payloads) == 3)
    assert heard.payloads == ["one", "", "three"]


@pytest_twisted.ensureDeferred
async def test_only_the_named_channel_is_heard_however_it_is_spelt(postgres: TestServer, empty_database: str) -> None:
    heard = Heard()
    channel = 'Odd "Name"; x'
    async with listening(empty_database, heard, channel):
        await until(lambda: heard.begun == 1)
        await notify(postgres, empty_database, "not this", channel.lower())
        await notify(postgres, empty_database, "this", channel)
        await until(lambda: bool(heard.payloads))
    assert heard.payloads == ["this"]


@pytest_twisted.ensureDeferred
async def test_listens_again_after_each_loss(postgres: TestServer, empty_database: str) -> None:
    heard = Heard()
    async with listening(empty_database, heard) as listener:
        for time in (1, 2, 3):
            await until(partial(heard.has, begun=time, payloads=time - 1))
            assert listener.listening
            await notify(postgres, empty_database, f"before loss {time}")
            await until(partial(heard.has, begun=time, payloads=time))
            assert await kill_all(postgres, empty_database) == 1
        await until(lambda: heard.begun == 4)
        await notify(postgres, empty_database, "after")
        await until(lambda: len(heard.payloads) == 4)
    assert heard.payloads[-1] == "after"


@pytest_twisted.ensureDeferred
async def test_listens_once_the_database_is_there(postgres: TestServer, empty_database: str) -> None:
    heard = Heard()
    name = postgres.name_of(empty_database)
    await postgres.run(f"ALTER DATABASE {name} RENAME TO {name}_away")
    try:
        async with listening(empty_database, heard) as listener:
            await until(lambda: listener.failures >= 2)
            assert heard.begun == 0
            await postgres.run(f"ALTER DATABASE {name}_away RENAME TO {name}")
            await until(lambda: heard.begun == 1)
            assert listener.failures == 0
    finally:
        rows = await postgres.run("SELECT FROM pg_database WHERE datname = %s", [f"{name}_away"])
        if rows:
            await postgres.run(f"ALTER DATABASE {name}_away RENAME TO {name}")


@pytest_twisted.ensureDeferred
async def test_notifications_arrive_between_heartbeats_and_during_them(
    postgres: TestServer, empty_database: str
) -> None:
    heard = Heard()
    async with listening(empty_database, heard, heartbeat=0.001):
        await until(lambda: heard.begun == 1)
        for number in range(50):
            await notify(postgres, empty_database, str(number))
        await until(lambda: len(heard.payloads) == 50)
    assert heard.payloads == [str(number) for number in range(50)]
    assert heard.begun == 1


@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_does_not_end_listening(
    postgres: TestServer, empty_database: str, logged_failures: list[Any]
) -> None:
    heard = Heard()

    def answer(payload: str) -> None:
        heard.payloads.append(payload)
        raise LookupError(payload)

    listener = Listener(reactor, empty_database, "changes", answer, heard.begin)
    listener.start()
    try:
        await until(lambda: heard.begun == 1)
        await notify(postgres, empty_database, "one")
        await notify(postgres, empty_database, "two")
        await until(lambda: heard.payloads == ["one", "two"])
    finally:
        await listener.stop()
    assert [event["log_failure"].type for event in logged_failures] == [LookupError, LookupError]


@pytest_twisted.ensureDeferred
async def test_stop_closes_the_connection(postgres: TestServer, empty_database: str) -> None:
    heard = Heard()
    async with listening(empty_database, heard):
        await until(lambda: heard.begun == 1)

    async def nobody_is_connected() -> bool:
        name = postgres.name_of(empty_database)
        return await postgres.run("SELECT FROM pg_stat_activity WHERE datname = %s", [name]) == []

    await until(nobody_is_connected)
    assert heard.begun == 1
