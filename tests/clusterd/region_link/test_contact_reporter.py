"""When the region is told what the DHCP server has of its own."""

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from clusterd.dhcp.first_contact import ServerPicture, Unreadable
from clusterd.protocol.values import ServerPool
from clusterd.region_link.contact_reporter import LONGEST_RETRY_SECONDS, READ_AGAIN_SECONDS, ContactReporter
from clusterd.topology.reporter import NotReported
from tests.clusterd.log_events import logged

POOL = ServerPool("192.0.2.100", "192.0.2.150")
FULL = ServerPicture(frozenset({POOL}), remarks=("line 7 is odd",))


class Server:
    """A DHCP server's configuration, and a region that hears of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.picture: ServerPicture | Exception = FULL
        self.readings = 0
        self.heard: list[tuple[ServerPicture, str | None]] = []
        self.connected = True
        self.slow: Deferred[None] | None = None
        self.reporter = ContactReporter(self.clock, self, self.report)

    async def read(self) -> ServerPicture:
        self.readings += 1
        if self.slow is not None:
            await self.slow
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture

    async def report(self, picture: ServerPicture, error: str | None) -> None:
        if not self.connected:
            raise NotReported("no connection")
        self.heard.append((picture, error))


@pytest.fixture
def server() -> Server:
    return Server()


def test_each_registration_is_told_and_then_only_changes(server: Server) -> None:
    server.reporter.refresh()
    server.reporter.refresh()
    assert server.heard == [(FULL, None)] * 2
    server.clock.advance(READ_AGAIN_SECONDS)
    assert (server.readings, len(server.heard)) == (3, 2)
    server.picture = ServerPicture()
    server.clock.advance(READ_AGAIN_SECONDS)
    assert server.heard[2:] == [(ServerPicture(), None)]


def test_what_cannot_be_read_is_told_once_and_tried_again(server: Server) -> None:
    server.picture = Unreadable("permission denied")
    server.reporter.refresh()
    assert server.heard == [(ServerPicture(), "permission denied")]
    server.clock.advance(1.0)
    assert (server.readings, len(server.heard)) == (2, 1)
    server.picture = FULL
    server.clock.advance(2.0)
    assert server.heard[1:] == [(FULL, None)]


def test_attempts_get_rarer(server: Server) -> None:
    server.picture = Unreadable("permission denied")
    server.reporter.refresh()
    for _ in range(600):
        server.clock.advance(1.0)
    assert 600 / LONGEST_RETRY_SECONDS < server.readings < 20


def test_a_region_that_does_not_hear_is_told_later(server: Server) -> None:
    server.connected = False
    server.reporter.refresh()
    server.clock.advance(1.0)
    assert server.heard == []
    server.connected = True
    server.reporter.refresh()
    assert server.heard == [(FULL, None)]


def test_what_is_asked_for_during_a_reading_follows_it(server: Server) -> None:
    server.slow = Deferred()
    server.reporter.refresh()
    server.reporter.refresh()
    assert server.readings == 1
    waiting, server.slow = server.slow, None
    waiting.callback(None)
    assert server.readings == 2
    assert server.heard[-1] == (FULL, None)


@pytest.mark.parametrize("when", ["reading", "between"])
def test_after_the_end_nothing_is_read(server: Server, when: str) -> None:
    if when == "reading":
        server.slow = Deferred()
    server.reporter.refresh()
    readings = server.readings
    server.reporter.stop()
    server.clock.advance(2 * READ_AGAIN_SECONDS)
    assert server.readings == readings
    assert server.clock.getDelayedCalls() == []


def test_a_bug_of_a_reader_is_logged_and_does_not_end_it(server: Server) -> None:
    server.picture = RuntimeError("a bug")
    with logged() as events:
        server.reporter.refresh()
    assert [event["event"] for event in events] == ["contact.failed-here"]
    server.picture = FULL
    server.clock.advance(1.0)
    assert server.heard == [(FULL, None)]
