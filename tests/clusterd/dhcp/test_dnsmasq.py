"""The backend `dnsmasq` in memory: when it makes the server read again, and what it says when it cannot."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from clusterd.dhcp.backend import Backend, BackendError
from clusterd.dhcp.dnsmasq import MAX_HOST_MAPS, DnsmasqBackend
from clusterd.dhcp.dnsmasq_lines import HEADER, parse
from clusterd.dhcp.file import FileBackend
from clusterd.dhcp.signalled_server import RunningServer, ServerWithPidFile
from clusterd.protocol.values import HostMap
from tests.clusterd.dhcp.contract import PLAIN, SCENARIOS, UNNAMED, Scenario, numbered
from tests.finished import result_of

T = TypeVar("T")


class FakeServer:
    """A server that reads when told, in no time or in `parse_seconds` of the clock."""

    def __init__(self, clock: Clock) -> None:
        self.running: RunningServer | None = RunningServer(100, 1)
        self.parse_seconds = 0.0
        self.deaf = False
        self.reload_times: list[float] = []
        self.serves: frozenset[HostMap] = frozenset()
        self._clock = clock

    def find(self) -> RunningServer:
        if self.running is None:
            raise BackendError("it is not running")
        return self.running

    async def reload(self, server: RunningServer, path: Path, timeout: float) -> float:
        self.reload_times.append(self._clock.seconds())
        if self.deaf:
            raise BackendError("it did not read")
        if self.parse_seconds:
            await deferLater(self._clock, self.parse_seconds)
        self.serves = parse(path.read_text()).host_maps
        return self.parse_seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> FakeServer:
    return FakeServer(clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "maps"


@pytest.fixture
def backend(path: Path, server: FakeServer, clock: Clock) -> DnsmasqBackend:
    return DnsmasqBackend(path, server, clock)


def finish(clock: Clock, waiting: Deferred[T], seconds: float = 100.0) -> T:
    """Let time pass until the call is done, and answer what it returned."""
    results: list[T | Failure] = []
    waiting.addBoth(results.append)
    deadline = clock.seconds() + seconds
    while not results and clock.seconds() < deadline:
        clock.advance(0.01)
    assert results, f"still waiting after {seconds} s"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_contract(scenario: Scenario, backend: Backend, clock: Clock) -> None:
    finish(clock, Deferred.fromCoroutine(scenario(backend)))


def test_a_single_change_is_in_effect_at_once(backend: DnsmasqBackend, server: FakeServer) -> None:
    result_of(backend.apply((), {PLAIN}))
    assert server.serves == {PLAIN}
    assert server.reload_times == [0.0]


def test_nothing_new_is_not_read_again(backend: DnsmasqBackend, server: FakeServer, clock: Clock) -> None:
    result_of(backend.apply((), {PLAIN}))
    clock.advance(10)
    result_of(backend.apply({UNNAMED}, {PLAIN}))
    assert result_of(backend.read()) == {PLAIN}
    assert server.reload_times == [0.0]


def test_changes_in_a_row_are_a_quarter_second_apart(backend: DnsmasqBackend, server: FakeServer, clock: Clock) -> None:
    result_of(backend.apply((), {PLAIN}))
    finish(clock, Deferred.fromCoroutine(backend.apply((), {UNNAMED})))
    finish(clock, Deferred.fromCoroutine(backend.apply({PLAIN}, ())))
    assert server.serves == {UNNAMED}
    first, second, third = server.reload_times
    assert second - first == pytest.approx(0.25, abs=0.02)
    assert third - second == pytest.approx(0.25, abs=0.02)


def test_a_slow_parse_makes_the_pause_longer(backend: DnsmasqBackend, server: FakeServer, clock: Clock) -> None:
    server.parse_seconds = 1.0
    finish(clock, Deferred.fromCoroutine(backend.apply((), {PLAIN})))
    finish(clock, Deferred.fromCoroutine(backend.apply((), {UNNAMED})))
    first, second = server.reload_times
    assert second - first == pytest.approx(5.0, abs=0.05)


def test_calls_that_overlap_take_turns(backend: DnsmasqBackend, server: FakeServer, clock: Clock) -> None:
    server.parse_seconds = 0.1
    one = Deferred.fromCoroutine(backend.apply((), {PLAIN}))
    two = Deferred.fromCoroutine(backend.read())
    assert finish(clock, one) == ()
    assert finish(clock, two) == {PLAIN}
    assert len(server.reload_times) == 1


def test_the_file_is_written_while_the_server_is_away_and_settled_at_its_return(
    backend: DnsmasqBackend, server: FakeServer, path: Path
) -> None:
    server.running = None
    with pytest.raises(BackendError, match="it is not running"):
        result_of(backend.apply((), {PLAIN}))
    assert result_of(FileBackend(path).read()) == {PLAIN}
    with pytest.raises(BackendError, match="it is not running"):
        result_of(backend.read())
    server.running = RunningServer(200, 2)
    assert result_of(backend.read()) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_change_that_was_not_read_is_not_in_effect_before_it_is(
    backend: DnsmasqBackend, server: FakeServer, clock: Clock
) -> None:
    server.deaf = True
    with pytest.raises(BackendError, match="it did not read"):
        result_of(backend.apply((), {PLAIN}))
    with pytest.raises(BackendError, match="it did not read"):
        result_of(backend.read())
    server.deaf = False
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_crash_between_writing_and_signalling_is_settled_by_the_next_process(
    path: Path, server: FakeServer, clock: Clock
) -> None:
    result_of(FileBackend(path).apply((), {PLAIN}))
    assert result_of(DnsmasqBackend(path, server, clock).read()) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_restarted_server_is_made_to_read(backend: DnsmasqBackend, server: FakeServer, clock: Clock) -> None:
    result_of(backend.apply((), {PLAIN}))
    server.running, server.serves = RunningServer(200, 2), frozenset()
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_file_that_was_deleted_no_longer_serves(
    backend: DnsmasqBackend, server: FakeServer, path: Path, clock: Clock
) -> None:
    result_of(backend.apply((), {PLAIN}))
    path.unlink()
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == frozenset()
    assert server.serves == frozenset()
    assert path.read_text() == HEADER


def test_more_than_it_can_parse_in_time_is_refused(path: Path, server: FakeServer, clock: Clock) -> None:
    assert DnsmasqBackend(path, server, clock).capabilities.max_host_maps == MAX_HOST_MAPS == 50_000
    small = DnsmasqBackend(path, server, clock, max_host_maps=5)
    with pytest.raises(BackendError, match="6 host maps are more than the 5"):
        result_of(small.replace(numbered(6)))
    assert server.serves == frozenset()


def test_warns_once_above_twenty_thousand(backend: DnsmasqBackend, clock: Clock) -> None:
    with capturedLogs() as logs:
        finish(clock, Deferred.fromCoroutine(backend.replace(numbered(20_001))))
        finish(clock, Deferred.fromCoroutine(backend.apply((), {PLAIN})))
    warnings = [event for event in logs if event.get("event") == "dnsmasq.many-host-maps"]
    assert [(event["count"], event["seconds"]) for event in warnings] == [(20_001, 0.6)]


def test_check_tells_what_the_server_says(backend: DnsmasqBackend, server: FakeServer) -> None:
    assert result_of(backend.check()) == []
    server.running = None
    assert result_of(backend.check()) == ["it is not running."]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def find(pid_file: Path) -> RunningServer:
    return ServerWithPidFile(pid_file, "dnsmasq", MemoryReactorClock()).find()


def test_no_pid_file(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"dnsmasq is not running: there is no .*/dnsmasq\.pid"):
        find(tmp_path / "dnsmasq.pid")


@pytest.mark.parametrize("content", ["", "none", "-1", "0", "99999999999999999999", "12 13"])
def test_a_pid_file_that_holds_no_process_id(tmp_path: Path, content: str) -> None:
    pid_file = tmp_path / "dnsmasq.pid"
    pid_file.write_text(content)
    with pytest.raises(BackendError, match="holds no process id"):
        find(pid_file)


def test_a_process_that_is_something_else_is_never_signalled(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pid_file = tmp_path / "dnsmasq.pid"
    pid_file.write_text(f"{sleeper.pid}\n")
    with pytest.raises(BackendError, match=f"process {sleeper.pid}, which .* names, is 'sleep' and not dnsmasq"):
        find(pid_file)
    (tmp_path / "maps").write_text("")
    server = ServerWithPidFile(pid_file, "dnsmasq", MemoryReactorClock())
    with pytest.raises(BackendError, match="'sleep' and not dnsmasq"):
        result_of(server.reload(RunningServer(sleeper.pid, 1), tmp_path / "maps", 1.0))
    assert sleeper.poll() is None


def test_a_process_that_ended_and_one_that_nobody_has_buried(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pid_file = tmp_path / "dnsmasq.pid"
    pid_file.write_text(f"{sleeper.pid}\n")
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(BackendError, match=f"names process {sleeper.pid}, which does not exist"):
        find(pid_file)
    sleeper.wait()
    with pytest.raises(BackendError, match=f"names process {sleeper.pid}, which does not exist"):
        find(pid_file)


def test_a_server_that_does_not_read_is_reported(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """`sleep` dies of SIGHUP without reading anything."""
    pid_file, path = tmp_path / "pid", tmp_path / "maps"
    pid_file.write_text(f"{sleeper.pid}\n")
    path.write_text("")
    reactor = MemoryReactorClock()
    server = ServerWithPidFile(pid_file, "sleep", reactor)
    errors: list[object] = []
    waiting = Deferred.fromCoroutine(server.reload(server.find(), path, 3.0))
    waiting.addErrback(lambda failure: errors.append(str(failure.value)))
    assert errors == []
    reactor.advance(3.1)
    assert errors == [
        f"sleep (process {sleeper.pid}) did not read {path} within 3 s of SIGHUP: "
        "is it the file that its configuration names, and may its user read it?"
    ]
