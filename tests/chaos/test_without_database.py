"""A regiond whose external database is away stays, says so in bounded time and memory, and goes on when it is back."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.postgres import PostgresServer, Servers
from tests.chaos.regionds import Regiond
from tests.chaos.setting import make_regionds
from tests.end_to_end.daemons import Reply
from tests.lab.servers import wait_until

NETWORK = "192.0.2.0/24"
CLAIMANTS = 40  # fewer than the socket's queue is long
# a turn behind one batch, and a batch: 10 s each, and what the answer of the database may take at the end of either
LONGEST_ANSWER_SECONDS = 35.0
LONGEST_READINESS_SECONDS = 20.0
LATER_ANSWER_SECONDS = 20.0
RECOVERY_SECONDS = 30.0
MOST_GROWTH_BYTES = 48 << 20


@dataclass(frozen=True, slots=True)
class Answered:
    reply: Reply
    seconds: float


@pytest.fixture
def server(state_directory: Path) -> Iterator[PostgresServer]:
    made = Servers(state_directory).server("postgres")
    made.initialize()
    made.start()
    made.create_database()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def regiond(server: PostgresServer, state_directory: Path) -> Iterator[Regiond]:
    (made,) = make_regionds(state_directory, 1, server.dsn)
    made.start()
    try:
        made.wait_ready()
        server.query(
            "INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)"
            " VALUES (1, 1, %s, '192.0.2.1', '192.0.2.254')",
            (NETWORK,),
        )
        server.query("SELECT rebuild_free_ranges(1)")
        yield made
        assert made.bugs() == []
    finally:
        made.kill()


def timed(request: Callable[[], Reply]) -> Answered:
    began = time.monotonic()
    return Answered(request(), time.monotonic() - began)


def claim(regiond: Regiond, key: str) -> Answered:
    headers = {"Idempotency-Key": key}
    return timed(lambda: regiond.api.request("POST", "reservations", {"interface": NETWORK}, headers))


def storm(regiond: Regiond, name: str) -> list[Answered]:
    """Many claims at once."""
    with ThreadPoolExecutor(CLAIMANTS) as pool:
        return list(pool.map(lambda claimant: claim(regiond, f"{name}-{claimant}"), range(CLAIMANTS)))


def check_refusals(refused: Sequence[Answered], longest: float) -> None:
    """All of them said so, in time, and in the way that a program understands."""
    assert {answered.reply.status for answered in refused} == {503}
    assert {answered.reply.headers.get("retry-after") for answered in refused} == {"1"}
    assert {answered.reply.body["type"] for answered in refused} == {"database-unavailable"}
    assert max(answered.seconds for answered in refused) < longest


def check_readiness(regiond: Regiond) -> None:
    """It lives, and says what is missing."""
    assert regiond.api.request("GET", "/healthz").status == 200
    ready = timed(lambda: regiond.api.request("GET", "/readyz"))
    assert ready.reply.status == 503
    assert "the database is not reachable" in ready.reply.body["detail"]
    assert ready.seconds < LONGEST_READINESS_SECONDS


def check_recovery(server: PostgresServer, regiond: Regiond, pid: int) -> None:
    """The same process serves again; what was claimed in vain has its one address."""
    regiond.wait_ready(RECOVERY_SECONDS)
    assert regiond.pid == pid
    settled = storm(regiond, "first")
    assert {answered.reply.status for answered in settled} == {201}
    addresses = {answered.reply.body["address"] for answered in settled}
    assert len(addresses) == CLAIMANTS
    # a refusal with an unknown outcome that nobody asked about again may have been carried out, once
    (kept,) = server.query("SELECT count(*), count(DISTINCT address) FROM reservation")
    assert kept[0] == kept[1] >= 1 + len(addresses)


def test_without_its_database_a_regiond_answers_503_in_bounded_time_and_memory(
    server: PostgresServer, regiond: Regiond
) -> None:
    assert claim(regiond, "before").reply.status == 201
    pid = regiond.pid
    before = regiond.resident_bytes()
    server.kill()
    check_refusals(storm(regiond, "first"), LONGEST_ANSWER_SECONDS)
    after_first = regiond.resident_bytes()
    check_readiness(regiond)
    for turn in range(2):
        check_refusals(storm(regiond, f"later-{turn}"), LATER_ANSWER_SECONDS)
    assert regiond.resident_bytes() - before < MOST_GROWTH_BYTES
    assert regiond.resident_bytes() - after_first < MOST_GROWTH_BYTES / 4
    server.start()
    check_recovery(server, regiond, pid)


def test_a_database_that_hangs_is_no_different(server: PostgresServer, regiond: Regiond) -> None:
    """Its sockets stay open and nobody answers."""
    assert claim(regiond, "before").reply.status == 201
    pid = regiond.pid
    frozen = server.freeze()
    try:
        check_refusals(storm(regiond, "first"), LONGEST_ANSWER_SECONDS)
        check_readiness(regiond)
    finally:
        server.thaw(frozen)
    check_recovery(server, regiond, pid)


def test_a_regiond_that_finds_no_database_at_its_start_ends_with_1_and_says_why(
    server: PostgresServer, state_directory: Path
) -> None:
    server.kill()
    (regiond,) = make_regionds(state_directory, 1, server.dsn)
    regiond.start()
    try:
        wait_until(lambda: not regiond.alive, "regiond ends")
        assert regiond.exit_code == 1
        (failed,) = [line for line in regiond.lines() if line.get("event") == "regiond.start-failed"]
        assert "no connection to the database" in failed["reason"]
        assert "traceback" not in failed
    finally:
        regiond.kill()
