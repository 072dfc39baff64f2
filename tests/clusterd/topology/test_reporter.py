"""When the region is told of the interfaces."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, globalLogPublisher

from clusterd.protocol.values import InterfaceReport
from clusterd.topology.reporter import LONGEST_RETRY_SECONDS, RESYNC_SECONDS, NotReported, TopologyReporter

A = (InterfaceReport("eth0", "192.0.2.0/24", ("192.0.2.2",)),)
B = (InterfaceReport("eth0", "198.51.100.0/24", ("198.51.100.2",)),)
C = (*A, *B)
Interfaces = tuple[InterfaceReport, ...]


@dataclass
class World:
    """The kernel on one side, the region on the other, both obedient."""

    clock: Clock = field(default_factory=Clock)
    present: Interfaces = A
    look_error: Exception | None = None
    report_error: Exception | None = None
    looks: int = 0
    reported: list[Interfaces] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    waiting_looks: list[Deferred[Interfaces]] | None = None  # a list makes looks take their time
    waiting_reports: list[Deferred[None]] | None = None
    stopped: bool = False
    changed: Callable[[], None] = lambda: None
    reporter: TopologyReporter = field(init=False)

    def __post_init__(self) -> None:
        self.reporter = TopologyReporter(self.clock, self.watch, self.look, self.report)
        self.reporter.start()

    def watch(self, changed: Callable[[], None]) -> "World":
        self.changed = changed
        return self

    def stop(self) -> None:
        self.stopped = True

    def look(self) -> Deferred[Interfaces]:
        self.looks += 1
        if self.look_error is not None:
            raise self.look_error
        if self.waiting_looks is None:
            return succeed(self.present)
        self.waiting_looks.append(Deferred())
        return self.waiting_looks[-1]

    def report(self, interfaces: Interfaces) -> Deferred[None]:
        assert self.waiting_reports is None or all(report.called for report in self.waiting_reports), "two at once"
        self.times.append(self.clock.seconds())
        self.reported.append(interfaces)
        if self.report_error is not None:
            raise self.report_error
        if self.waiting_reports is None:
            return succeed(None)
        self.waiting_reports.append(Deferred())
        return self.waiting_reports[-1]

    def change_to(self, interfaces: Interfaces) -> None:
        self.present = interfaces
        self.changed()


@pytest.fixture
def world() -> World:
    """A reporter that has made its first report."""
    made = World()
    made.reporter.refresh()
    made.clock.advance(0)
    assert made.reported == [A]
    made.reported.clear()
    made.times.clear()
    made.looks = 0
    return made


@contextmanager
def events() -> Iterator[list[LogEvent]]:
    """What is logged meanwhile."""
    seen: list[LogEvent] = []

    def observe(event: LogEvent) -> None:
        seen.append(event)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        yield seen
    finally:
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_nothing_is_reported_before_it_is_asked_for_or_changes() -> None:
    world = World()
    world.clock.advance(10)
    assert world.looks == 0
    world.changed()
    world.clock.advance(0.1)
    assert world.reported == [A]


def test_a_change_is_reported_after_a_tenth_of_a_second(world: World) -> None:
    world.change_to(B)
    world.clock.advance(0.09)
    assert world.looks == 0
    world.clock.advance(0.02)
    assert world.reported == [B]


def test_a_burst_is_one_report_of_its_end(world: World) -> None:
    for interfaces in (B, C, A, B, C):
        world.change_to(interfaces)
        world.clock.advance(0.05)
    world.clock.advance(0.06)
    assert world.reported == [C]
    assert world.looks == 1


def test_a_change_that_changes_nothing_is_not_reported(world: World) -> None:
    world.change_to(B)
    world.change_to(A)
    world.clock.advance(1)
    assert world.looks == 1
    assert world.reported == []


def test_a_storm_without_end_is_reported_at_least_every_two_seconds(world: World) -> None:
    for _ in range(1000):  # ten seconds
        world.change_to(C if world.reported[-1:] == [B] else B)
        world.clock.advance(0.01)
    assert max(later - earlier for earlier, later in pairwise([0.0, *world.times, 10.0])) <= 2.0
    assert world.looks <= 10


def test_a_refresh_reports_at_once_also_when_nothing_changed(world: World) -> None:
    world.reporter.refresh()
    world.clock.advance(0)
    assert world.reported == [A]


def test_there_is_one_report_at_a_time_and_the_latest_picture_wins(world: World) -> None:
    world.waiting_reports = []
    world.change_to(B)
    world.clock.advance(0.1)
    for interfaces in (C, A, C):
        world.change_to(interfaces)
        world.clock.advance(5)
    assert world.reported == [B]
    world.waiting_reports[0].callback(None)
    world.clock.advance(0.1)
    assert world.reported == [B, C]


def test_a_change_during_a_look_is_looked_at_again(world: World) -> None:
    world.waiting_looks = []
    world.changed()
    world.clock.advance(0.1)
    world.changed()
    world.waiting_looks[0].callback(A)
    world.clock.advance(0.1)
    assert len(world.waiting_looks) == 2
    world.waiting_looks[1].callback(B)
    assert world.reported == [B]


def test_a_refresh_during_a_report_reports_again(world: World) -> None:
    world.waiting_reports = []
    world.change_to(B)
    world.clock.advance(0.1)
    world.reporter.refresh()
    world.clock.advance(1)
    assert world.reported == [B]
    world.waiting_reports[0].errback(NotReported("the connection was lost"))
    world.clock.advance(0)
    assert world.reported == [B, B]
    world.waiting_reports[1].callback(None)
    world.clock.advance(10)
    assert world.reported == [B, B]


def test_a_failed_report_is_repeated_with_growing_pauses(world: World) -> None:
    world.report_error = NotReported("no connection")
    world.change_to(B)
    for _ in range(3000):
        world.clock.advance(0.1)
    pauses = [later - earlier for earlier, later in pairwise(world.times)]
    assert pauses[:6] == pytest.approx([0.5, 1, 2, 4, 8, 16], abs=0.2)
    assert pauses[6:] == pytest.approx([LONGEST_RETRY_SECONDS] * len(pauses[6:]), abs=0.2)
    assert len(pauses) > 8
    world.report_error = None
    world.clock.advance(LONGEST_RETRY_SECONDS)
    count = len(world.reported)
    world.clock.advance(40)
    assert len(world.reported) == count
    world.change_to(C)
    world.clock.advance(0.1)
    assert world.reported[-1] == C


def test_a_report_in_doubt_is_made_again_although_the_picture_is_the_old_one_again(world: World) -> None:
    world.report_error = NotReported("no answer")  # the region may have it
    world.change_to(B)
    world.clock.advance(0.1)
    world.report_error = None
    world.change_to(A)
    world.clock.advance(1)
    assert world.reported == [B, A]


def test_changes_do_not_cut_a_pause_short_and_a_refresh_does(world: World) -> None:
    world.report_error = NotReported("no connection")
    world.change_to(B)
    world.clock.advance(0.1)
    for _ in range(3):
        world.clock.advance(10)
    attempts = len(world.reported)
    world.change_to(C)
    world.clock.advance(0.2)
    assert len(world.reported) == attempts
    world.report_error = None
    world.reporter.refresh()
    world.clock.advance(0)
    assert world.reported[-1] == C


@pytest.mark.parametrize("error", [OSError("no buffer"), ValueError("malformed"), RuntimeError("a bug")])
def test_a_failed_look_is_repeated(world: World, error: Exception) -> None:
    world.look_error = error
    world.change_to(B)
    world.clock.advance(0.1)
    assert world.reported == []
    world.look_error = None
    world.clock.advance(0.5)
    assert world.reported == [B]


def test_expected_failures_are_warned_of_once_without_a_traceback(world: World) -> None:
    world.report_error = NotReported("no connection")
    with events() as seen:
        world.change_to(B)
        for _ in range(40):
            world.clock.advance(1)
    failed = [event for event in seen if event.get("event") == "topology.report-failed"]
    assert [event["log_level"] for event in failed[:2]] == [LogLevel.warn, LogLevel.debug]
    assert {event["log_level"] for event in failed[1:]} == {LogLevel.debug}
    assert failed[0]["error"] == "no connection"
    assert not any("log_failure" in event for event in failed)


def test_a_bug_is_logged_as_a_failure_and_does_not_end_the_reports(world: World) -> None:
    world.report_error = RuntimeError("a bug")
    with events() as seen:
        world.change_to(B)
        world.clock.advance(0.1)
    assert [event["log_level"] for event in seen if "log_failure" in event] == [LogLevel.critical]
    world.report_error = None
    world.clock.advance(0.5)
    assert world.reported == [B, B]


def test_a_report_is_one_line_that_says_what_came_and_went(world: World) -> None:
    with events() as seen:
        world.change_to(B)
        world.clock.advance(0.1)
    (line,) = [event for event in seen if event.get("event") == "topology.reported"]
    assert (line["interfaces"], line["asked_for"]) == (1, False)
    assert (line["appeared"], line["vanished"]) == (["eth0 198.51.100.0/24"], ["eth0 192.0.2.0/24"])


def test_what_no_announcement_told_is_found_within_a_minute(world: World) -> None:
    world.present = B
    world.clock.advance(RESYNC_SECONDS)
    world.clock.advance(0.1)
    assert world.reported == [B]


def test_stopping_ends_everything(world: World) -> None:
    world.waiting_reports = []
    world.change_to(B)
    world.clock.advance(0.1)
    with events() as seen:
        world.reporter.stop()
        world.reporter.stop()
    assert world.stopped
    assert world.waiting_reports[0].called  # cancelled
    assert seen == []
    world.changed()
    world.reporter.refresh()
    world.clock.advance(100)
    assert world.reported == [B]
    assert world.clock.getDelayedCalls() == []
