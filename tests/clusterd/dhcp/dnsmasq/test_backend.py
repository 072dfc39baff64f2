"""The backend `dnsmasq` in memory: when it makes the server read again, and what it says when it cannot."""

from pathlib import Path
from typing import TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from clusterd.dhcp.backend import Backend, BackendError
from clusterd.dhcp.dnsmasq.backend import MAX_HOST_MAPS, TRIAL_SECONDS, DnsmasqBackend
from clusterd.dhcp.dnsmasq.release import LeaseEnding
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.host_lines import HEADER
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.signalled_server import RunningServer
from clusterd.protocol.values import HostMap, Identifier
from tests.clusterd.dhcp.contract import ALIAS, ALL_KINDS, PLAIN, SCENARIOS, UNNAMED, Scenario, numbered
from tests.fakes.signalled_server import FakeSignalledServer
from tests.finished import result_of
from tests.lab.servers import dnsmasq_configuration

T = TypeVar("T")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> FakeSignalledServer:
    return FakeSignalledServer(clock)


@pytest.fixture
def path(tmp_path: Path, server: FakeSignalledServer) -> Path:
    hosts_file = tmp_path / "maps"
    server.configuration = tmp_path / "dnsmasq.conf"
    networks = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8:0:1::/64"]
    server.configuration.write_text(
        dnsmasq_configuration(
            networks,
            hosts_file=hosts_file,
            hosts_directory=tmp_path / "maps.new",
            pid_file=tmp_path / "pid",
            lease_file=tmp_path / "leases",
        )
    )
    (tmp_path / "maps.new").mkdir()
    return hosts_file


def make_backend(
    path: Path, server: FakeSignalledServer, clock: Clock, *, max_host_maps: int = MAX_HOST_MAPS
) -> DnsmasqBackend:
    leases = LeaseEnding(clock, run_at_once, run_at_once)
    return DnsmasqBackend(
        path, path.with_name("maps.new"), server, clock, leases, max_host_maps=max_host_maps, show_timeout=1.0
    )


@pytest.fixture
def backend(path: Path, server: FakeSignalledServer, clock: Clock) -> DnsmasqBackend:
    return make_backend(path, server, clock)


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


def test_a_single_change_is_in_effect_at_once(backend: DnsmasqBackend, server: FakeSignalledServer) -> None:
    result_of(backend.apply((), {PLAIN}))
    assert server.serves == {PLAIN}
    assert server.reload_times == [0.0]


def test_nothing_new_is_not_read_again(backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock) -> None:
    result_of(backend.apply((), {PLAIN}))
    clock.advance(10)
    result_of(backend.apply({UNNAMED}, {PLAIN}))
    assert result_of(backend.read()) == {PLAIN}
    assert server.reload_times == [0.0]


def test_changes_in_a_row_are_a_quarter_second_apart(
    backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    result_of(backend.apply((), {PLAIN}))
    finish(clock, Deferred.fromCoroutine(backend.apply({PLAIN}, {UNNAMED})))
    finish(clock, Deferred.fromCoroutine(backend.apply({UNNAMED}, {ALIAS})))
    assert server.serves == {ALIAS}
    first, second, third = server.reload_times
    assert second - first == pytest.approx(0.25, abs=0.02)
    assert third - second == pytest.approx(0.25, abs=0.02)


def test_a_slow_parse_makes_the_pause_longer(
    backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    server.parse_seconds = 1.0
    finish(clock, Deferred.fromCoroutine(backend.apply((), {PLAIN})))
    finish(clock, Deferred.fromCoroutine(backend.apply({PLAIN}, {UNNAMED})))
    first, second = server.reload_times
    assert second - first == pytest.approx(5.0, abs=0.05)


def test_calls_that_overlap_take_turns(backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock) -> None:
    server.parse_seconds = 0.1
    one = Deferred.fromCoroutine(backend.apply((), {PLAIN}))
    two = Deferred.fromCoroutine(backend.read())
    assert finish(clock, one) == ()
    assert finish(clock, two) == {PLAIN}
    assert len(server.reload_times) == 1


def test_the_file_is_written_while_the_server_is_away_and_settled_at_its_return(
    backend: DnsmasqBackend, server: FakeSignalledServer, path: Path
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
    backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    server.deaf = True
    with pytest.raises(BackendError, match="it did not read"):
        finish(clock, Deferred.fromCoroutine(backend.apply((), {PLAIN})))
    with pytest.raises(BackendError, match="it did not read"):
        finish(clock, Deferred.fromCoroutine(backend.read()))
    server.deaf = False
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_crash_between_writing_and_signalling_is_settled_by_the_next_process(
    path: Path, server: FakeSignalledServer, clock: Clock
) -> None:
    result_of(FileBackend(path).apply((), {PLAIN}))
    assert result_of(make_backend(path, server, clock).read()) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_restarted_server_is_made_to_read(backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock) -> None:
    result_of(backend.apply((), {PLAIN}))
    server.running, server.serves = RunningServer(200, 2), frozenset()
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == {PLAIN}
    assert server.serves == {PLAIN}


def test_a_file_that_was_deleted_no_longer_serves(
    backend: DnsmasqBackend, server: FakeSignalledServer, path: Path, clock: Clock
) -> None:
    result_of(backend.apply((), {PLAIN}))
    path.unlink()
    assert finish(clock, Deferred.fromCoroutine(backend.read())) == frozenset()
    assert server.serves == frozenset()
    assert path.read_text() == HEADER


def test_more_than_it_can_parse_in_time_is_refused(path: Path, server: FakeSignalledServer, clock: Clock) -> None:
    assert make_backend(path, server, clock).capabilities.max_host_maps == MAX_HOST_MAPS == 50_000
    small = make_backend(path, server, clock, max_host_maps=5)
    with pytest.raises(BackendError, match="6 host maps are more than the 5"):
        result_of(small.replace(numbered(6)))
    assert server.serves == frozenset()


def test_warns_once_above_twenty_thousand(backend: DnsmasqBackend, clock: Clock) -> None:
    with capturedLogs() as logs:
        finish(clock, Deferred.fromCoroutine(backend.replace(numbered(20_001))))
        finish(clock, Deferred.fromCoroutine(backend.apply((), {PLAIN})))
    warnings = [event for event in logs if event.get("event") == "dnsmasq.many-host-maps"]
    assert [(event["count"], event["seconds"]) for event in warnings] == [(20_001, 0.6)]


def test_check_tells_what_the_server_says(backend: DnsmasqBackend, server: FakeSignalledServer) -> None:
    assert result_of(backend.check()) == []
    server.running = None
    assert result_of(backend.check()) == ["it is not running."]


# ---- Note [Two ways to dnsmasq] ----

MANY = numbered(20)


@pytest.fixture
def settled(backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock) -> DnsmasqBackend:
    """A backend that has been at work: the file is in effect, and no pause is due."""
    result_of(backend.replace(MANY))
    clock.advance(60)
    server.reload_times.clear()
    return backend


def test_additions_are_served_without_sighup_and_leave_nothing_in_the_directory(
    settled: DnsmasqBackend, server: FakeSignalledServer, path: Path
) -> None:
    for host_map in ALL_KINDS:
        assert result_of(settled.apply((), {host_map})) == ()
    assert result_of(settled.read()) == server.serves == MANY | ALL_KINDS
    assert (server.reload_times, server.shown) == ([], len(ALL_KINDS))
    assert list(path.with_name("maps.new").iterdir()) == []


def test_what_cannot_be_added_without_forgetting_is_a_sighup(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    result_of(settled.apply((), {PLAIN}))
    dock = HostMap(Identifier.mac("00:16:3e:00:00:0d"), PLAIN.address, PLAIN.hostname)
    moved = HostMap(UNNAMED.identifier, PLAIN.address)
    for removed, added in (((), {dock}), ({PLAIN, dock}, {moved}), ({moved}, ())):
        finish(clock, Deferred.fromCoroutine(settled.apply(removed, added)))
        assert result_of(settled.read()) == server.serves
    assert len(server.reload_times) == 3


def test_beside_a_removal_an_addition_does_not_wait_for_the_pause(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    first, second, *_ = sorted(MANY)
    server.parse_seconds = 1.0
    finish(clock, Deferred.fromCoroutine(settled.apply({first}, ())))
    before = clock.seconds()
    both = Deferred.fromCoroutine(settled.apply({second}, {PLAIN}))
    assert clock.seconds() == before and PLAIN in server.serves and second in server.serves
    finish(clock, both)
    assert clock.seconds() - before == pytest.approx(5.0, abs=0.05)
    assert result_of(settled.read()) == server.serves == MANY - {first, second} | {PLAIN}


def test_only_what_needs_a_sighup_has_to_wait_for_the_pause(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    first, second, *_ = sorted(MANY)
    dock = HostMap(Identifier.mac("00:16:3e:00:00:0d"), second.address, second.hostname)
    changes = {"a removal": ((second,), ()), "a line that changes": ((), (dock,)), "new": ((), (PLAIN, UNNAMED))}

    def pauses() -> dict[str, float]:
        return {name: settled.pause(*change) for name, change in changes.items()}

    assert pauses() == {"a removal": 0.0, "a line that changes": 0.0, "new": 0.0}
    server.parse_seconds = 1.0
    finish(clock, Deferred.fromCoroutine(settled.apply({first}, ())))
    assert pauses() == {"a removal": pytest.approx(4.0), "a line that changes": pytest.approx(4.0), "new": 0.0}
    server.blind = True
    finish(clock, Deferred.fromCoroutine(settled.apply((), {ALIAS})))
    assert pauses() == dict.fromkeys(changes, pytest.approx(4.0))
    clock.advance(4.0)
    assert pauses() == dict.fromkeys(changes, 0.0)


def lease(number: int) -> str:
    mac = f"00:16:3e:01:{number >> 8:02x}:{number & 255:02x}"
    return f"1795376680 {mac} 10.65.{number >> 8}.{number & 255} * *\n"


def test_many_leases_make_additions_pause_and_share_a_file(
    settled: DnsmasqBackend, server: FakeSignalledServer, path: Path, clock: Clock
) -> None:
    """dnsmasq compares each lease with each host map whenever it has read one: at most a fifth of the time."""
    finish(clock, Deferred.fromCoroutine(settled.replace(numbered(1000))))
    path.with_name("leases").write_text("".join(lease(number) for number in range(2000)))
    server.busy_seconds = 0.1
    several = [HostMap(Identifier.mac(f"00:16:3e:02:00:{n:02x}"), f"10.66.0.{n + 1}") for n in range(4)]
    before, began = len(server.reload_times), clock.seconds()
    for host_map in several[:3]:
        assert finish(clock, Deferred.fromCoroutine(settled.apply((), {host_map}))) == ()
    assert len(server.reload_times) == before
    first, second, third = server.show_times[-3:]
    assert first - began < 0.02
    assert settled.pause((), {several[3]}) == pytest.approx(0.4, abs=0.03)
    assert second - first == pytest.approx(0.5, abs=0.03)
    assert third - second == pytest.approx(0.5, abs=0.03)
    # A SIGHUP is followed by the same work, and pauses after it.
    assert finish(clock, Deferred.fromCoroutine(settled.apply({several[0]}, {several[3]}))) == ()
    assert server.reload_times[-1] - server.show_times[-1] == pytest.approx(0.5, abs=0.03)
    assert server.serves >= {*several[1:]} and several[0] not in server.serves


def test_few_leases_keep_no_addition_waiting(
    settled: DnsmasqBackend, server: FakeSignalledServer, path: Path, clock: Clock
) -> None:
    path.with_name("leases").write_text("".join(lease(number) for number in range(20)))
    server.busy_seconds = 10.0  # with something else: other clients
    for number in range(3):
        added = HostMap(Identifier.mac(f"00:16:3e:02:00:{number:02x}"), f"10.66.0.{number + 1}")
        result_of(settled.apply((), {added}))
    assert server.asked_busy == []


def test_more_than_a_hundred_are_a_sighup(settled: DnsmasqBackend, server: FakeSignalledServer) -> None:
    result_of(settled.apply((), numbered(121)))
    assert (server.shown, len(server.reload_times)) == (0, 1)
    assert server.serves == numbered(121)


def test_a_directory_that_nobody_looks_into_costs_one_attempt(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock, path: Path
) -> None:
    server.blind = True
    with capturedLogs() as logs:
        finish(clock, Deferred.fromCoroutine(settled.apply((), {PLAIN})))
        finish(clock, Deferred.fromCoroutine(settled.apply((), {UNNAMED})))
    assert server.serves == MANY | {PLAIN, UNNAMED}
    assert [event["reason"] for event in logs if event.get("event") == "dnsmasq.directory-unread"] == [
        "it did not look"
    ]
    assert list(path.with_name("maps.new").iterdir()) == []


def test_a_directory_that_dnsmasq_is_not_told_of_is_not_used_and_said(
    backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock
) -> None:
    assert server.configuration is not None
    lines = server.configuration.read_text().splitlines(keepends=True)
    server.configuration.write_text("".join(line for line in lines if "hostsdir" not in line))
    with capturedLogs() as logs:
        result_of(backend.apply((), {PLAIN}))
        finish(clock, Deferred.fromCoroutine(backend.apply((), {UNNAMED})))
    assert (server.shown, len(server.reload_times)) == (0, 2)
    assert len([event for event in logs if event.get("event") == "dnsmasq.no-hosts-directory"]) == 1


class Crash(Exception):
    """The process ends here."""


STEPS = ["before it is shown", "it is shown", "the file is written", "it is taken away"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dnsmasq_ends_too", [False, True])
def test_a_crash_after_any_step_of_an_addition_is_put_right(
    step: str,
    dnsmasq_ends_too: bool,
    settled: DnsmasqBackend,
    server: FakeSignalledServer,
    clock: Clock,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object) -> None:
        raise Crash

    if step == "before it is shown":
        monkeypatch.setattr(server, "show", crash)
    elif step == "it is shown":
        monkeypatch.setattr("clusterd.dhcp.file.backend.replace_file", crash)
    elif step == "the file is written":
        monkeypatch.setattr("clusterd.dhcp.dnsmasq.hosts_directory.take_away", crash)
    if step == "it is taken away":
        result_of(settled.apply((), {PLAIN}))
    else:
        with pytest.raises(Crash):
            result_of(settled.apply((), {PLAIN}))
    monkeypatch.undo()
    if dnsmasq_ends_too:
        server.running = RunningServer(300, 3)
        result_of(server.reload(server.running, path, 1.0))  # what a start reads
        clock.advance(60)
    successor = make_backend(path, server, clock)
    written = step in STEPS[2:]
    assert finish(clock, Deferred.fromCoroutine(successor.read())) == MANY | ({PLAIN} if written else set())
    # Whatever was only shown is forgotten again: were it released now, nothing would tell dnsmasq.
    assert server.serves == MANY | ({PLAIN} if written else set())
    finish(clock, Deferred.fromCoroutine(successor.apply((), {PLAIN})))
    assert server.serves == result_of(successor.read()) == MANY | {PLAIN}
    assert list(path.with_name("maps.new").iterdir()) == []


def test_an_addition_that_was_shown_and_could_not_be_written_is_taken_back(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clusterd.dhcp.file.backend.replace_file", full)
    with pytest.raises(BackendError, match=r"cannot write .*/maps: No space left on device"):
        result_of(settled.apply((), {PLAIN}))
    monkeypatch.undo()
    assert PLAIN in server.serves
    assert finish(clock, Deferred.fromCoroutine(settled.read())) == MANY == server.serves


def test_an_address_that_the_servers_own_configuration_gives_away_is_rejected_in_its_words(
    settled: DnsmasqBackend, server: FakeSignalledServer, clock: Clock, path: Path
) -> None:
    result_of(settled.apply((), {PLAIN}))
    assert server.configuration is not None
    line = f"dhcp-host=00:16:3e:99:00:01,{PLAIN.address}"
    server.configuration.write_text(f"{server.configuration.read_text()}{line}\n")
    server.running = RunningServer(200, 2)  # it reads its configuration only at its start
    assert PLAIN not in finish(clock, Deferred.fromCoroutine(settled.read()))
    (rejection,) = finish(clock, Deferred.fromCoroutine(settled.apply((), {PLAIN, UNNAMED})))
    assert rejection.host_map == PLAIN
    assert rejection.reason.startswith(f"duplicate dhcp-host IP address {PLAIN.address}: ") and line in rejection.reason
    assert PLAIN.address not in path.read_text() and UNNAMED in server.serves
    (rejection,) = finish(clock, Deferred.fromCoroutine(settled.replace({PLAIN})))
    assert rejection.host_map == PLAIN


def test_settings_in_the_way_are_said_once_each(
    backend: DnsmasqBackend, server: FakeSignalledServer, clock: Clock, path: Path
) -> None:
    assert server.configuration is not None
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace("dhcp-lease-max=150000", "dhcp-lease-max=5"))
    result_of(backend.apply((), numbered(10)))
    with capturedLogs() as logs:
        for _ in range(2):
            finish(clock, Deferred.fromCoroutine(backend.read()))
    sentence = (
        "dnsmasq stops giving out addresses at 5 leases, and there are 10 host maps: set dhcp-lease-max=12 or more "
        "and restart it."
    )
    assert [event["obstacle"] for event in logs if event.get("event") == "dhcp-server.obstacle"] == [sentence]
    server.unreadable = "dnsmasq's user (uid 999) may not enter the directory /x."
    server.deaf = True
    first, second = finish(clock, Deferred.fromCoroutine(make_backend(path, server, clock).check()))
    assert (first, second) == (sentence, "it did not read dnsmasq's user (uid 999) may not enter the directory /x.")


def test_a_check_that_knows_the_answer_tries_nothing_and_another_waits_once(
    settled: DnsmasqBackend, path: Path, server: FakeSignalledServer, clock: Clock
) -> None:
    server.deaf = server.blind = True
    server.forbidden = {path.name: "Its user may not read it.", "maps.new": "Its user may not enter."}
    assert result_of(make_backend(path, server, clock).check()) == ["Its user may not read it."]
    assert result_of(settled.check()) == ["Additions wait for SIGHUP: Its user may not enter."]
    assert server.reload_times == server.show_times == []
    server.forbidden = {}
    began = clock.seconds()
    assert finish(clock, Deferred.fromCoroutine(make_backend(path, server, clock).check())) == ["it did not read."]
    assert clock.seconds() - began == pytest.approx(TRIAL_SECONDS, abs=0.02)
    assert server.show_times == []


def test_an_unreadable_lease_file_is_said_and_holds_up_nothing(
    settled: DnsmasqBackend, path: Path, clock: Clock
) -> None:
    path.with_name("leases").mkdir()
    with capturedLogs() as logs:
        finish(clock, Deferred.fromCoroutine(settled.release({PLAIN})))
    (event,) = [event for event in logs if event.get("event") == "dnsmasq.leases-unread"]
    (sentence,) = finish(clock, Deferred.fromCoroutine(settled.check()))
    assert sentence == f"{event['reason']}." == f"cannot read dnsmasq's leases, {path.parent}/leases: Is a directory."


def test_a_directory_that_cannot_be_written_is_said(settled: DnsmasqBackend, path: Path, clock: Clock) -> None:
    path.with_name("maps.new").rmdir()
    (sentence,) = finish(clock, Deferred.fromCoroutine(settled.check()))
    assert sentence.startswith(f"The directory {path.parent}/maps.new does not exist: create it")


def test_a_directory_that_dnsmasq_does_not_look_into_is_said(
    settled: DnsmasqBackend, server: FakeSignalledServer, path: Path, clock: Clock
) -> None:
    assert finish(clock, Deferred.fromCoroutine(settled.check())) == []
    server.blind = True
    (sentence,) = finish(clock, Deferred.fromCoroutine(settled.check()))
    directory = path.with_name("maps.new")
    told = f"If {directory} was made again since dnsmasq was started, restart it."
    assert sentence == f"it did not look: additions wait for SIGHUP. {told}"
    server.unreadable = "Its user may not."
    (sentence,) = finish(clock, Deferred.fromCoroutine(settled.check()))
    assert sentence == "it did not look: additions wait for SIGHUP. Its user may not."
    assert list(directory.iterdir()) == []


def test_a_check_after_all_is_in_effect_sends_no_sighup(
    settled: DnsmasqBackend, path: Path, server: FakeSignalledServer, clock: Clock
) -> None:
    assert finish(clock, Deferred.fromCoroutine(settled.check())) == []
    assert server.reload_times == []
    assert finish(clock, Deferred.fromCoroutine(make_backend(path, server, clock).check())) == []
    assert len(server.reload_times) == 1


def test_checking_changes_nothing(
    settled: DnsmasqBackend, path: Path, server: FakeSignalledServer, clock: Clock
) -> None:
    before = path.stat()
    assert finish(clock, Deferred.fromCoroutine(settled.check())) == []
    assert path.stat() == before
    path.unlink()
    assert finish(clock, Deferred.fromCoroutine(settled.check())) == []
    assert not path.exists() and server.serves == MANY
