"""The count that tells that a database went back: what is begun by it, and what is kept in the file."""

import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.recovery import RecoveryStore
from regiond.witness import LAST_BEAT_SECONDS, Witness, WitnessFile
from tests.clusterd.links import Outcome
from tests.clusterd.log_events import logged
from tests.regiond.storage.region import new_id, region_on

reactor: Any = global_reactor


@dataclass
class Database:
    """Beats as `storage.recovery.RecoveryStore` counts them."""

    beats: dict[str, int] = field(default_factory=dict)
    away: bool = False
    begun: list[str] = field(default_factory=list)
    answer: Deferred[None] | None = None  # waited for, where there is one

    async def beat(self, regiond: str) -> tuple[int, str]:
        if self.answer is not None:
            await self.answer
        if self.away:
            raise DatabaseUnavailable("it is away")
        self.beats[regiond] = self.beats.get(regiond, 0) + 1
        return self.beats[regiond], "history-1"

    async def begin(self, reason: str, of_history: str | None) -> None:
        assert of_history == "history-1"
        self.begun.append(reason)

    def witness(self, directory: Path, region: str = "region-1") -> Witness:
        return Witness(WitnessFile(directory / "witness.json"), region, self, self.begin)


@pytest_twisted.ensureDeferred
async def test_an_earlier_database_is_noticed_while_regiond_runs_and_once(tmp_path: Path) -> None:
    database = Database()
    witness = database.witness(tmp_path)
    for _ in range(5):
        await witness.beat()
    (regiond,) = database.beats
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [("witness.json", 0o600)]
    database.beats[regiond] = 2
    await witness.beat()
    await witness.beat()
    assert database.begun == ["the database counts 3 where this regiond had seen 5: it is an earlier one"]


@pytest_twisted.ensureDeferred
async def test_an_earlier_database_is_noticed_at_the_start(tmp_path: Path) -> None:
    database = Database()
    await database.witness(tmp_path).beat()
    await database.witness(tmp_path).beat()
    assert (database.begun, list(database.beats.values())) == ([], [2])
    database.beats.clear()  # a backup from before this regiond's first start
    await database.witness(tmp_path).beat()
    assert len(database.begun) == 1


@pytest_twisted.ensureDeferred
async def test_a_database_that_was_away_is_no_earlier_one(tmp_path: Path) -> None:
    database = Database()
    witness = database.witness(tmp_path)
    await witness.beat()
    database.away = True
    with pytest.raises(DatabaseUnavailable):
        await witness.beat()
    database.away = False
    await witness.beat()
    assert database.begun == []


@pytest_twisted.ensureDeferred
async def test_the_copy_of_another_region_counts_for_nothing(tmp_path: Path) -> None:
    database = Database()
    witness = database.witness(tmp_path)
    for _ in range(3):
        await witness.beat()
    other = Database()
    await other.witness(tmp_path, "region-2").beat()
    assert other.begun == []
    assert json.loads((tmp_path / "witness.json").read_text())["region"] == "region-2"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"region": "region-1", "regiond": "x", "beats": "y"}']
)
@pytest_twisted.ensureDeferred
async def test_a_copy_that_cannot_be_read_is_told_and_begins_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "witness.json").write_bytes(content)
    database = Database()
    with logged() as events:
        await database.witness(tmp_path).beat()
    assert [event["event"] for event in events] == ["recovery.witness-unread"]
    assert database.begun == []


@pytest_twisted.ensureDeferred
async def test_a_count_that_cannot_be_kept_is_told_and_counts_on(tmp_path: Path) -> None:
    database = Database()
    with logged() as events:
        await database.witness(tmp_path / "gone").beat()
    assert [event["event"] for event in events] == ["recovery.witness-unkept"]
    assert list(database.beats.values()) == [1]


@pytest_twisted.ensureDeferred
async def test_it_counts_in_the_database(database: str) -> None:
    async with region_on(database, reactor) as region:
        store = RecoveryStore(region.pool, new_id)
        [(history,)] = await region.pool.query("SELECT history::text FROM region")
        regiond = "5d2e0000-0000-4000-8000-000000000001"
        assert [await store.beat(regiond) for _ in range(2)] == [(1, history), (2, history)]


@pytest_twisted.ensureDeferred
async def test_a_backup_that_is_restored_after_an_orderly_stop_is_noticed_however_young_it_is(tmp_path: Path) -> None:
    database = Database()
    witness = database.witness(tmp_path)
    await witness.beat()
    backup = dict(database.beats)
    await witness.last_beat(Clock())
    await database.witness(tmp_path).beat()
    assert database.begun == [], "it is the same database"
    database.beats = backup
    await database.witness(tmp_path).beat()
    assert len(database.begun) == 1


def test_a_stop_does_not_wait_long_for_a_database_that_is_away(tmp_path: Path) -> None:
    database, clock = Database(), Clock()
    database.answer = Deferred()
    stopped = Outcome(database.witness(tmp_path).last_beat(clock))
    clock.advance(LAST_BEAT_SECONDS - 0.1)
    assert not stopped.done()
    clock.advance(0.1)
    assert stopped.done() and stopped.error is None
    database.away, database.answer = True, None
    refused = Outcome(database.witness(tmp_path).last_beat(clock))
    assert refused.done() and refused.error is None
