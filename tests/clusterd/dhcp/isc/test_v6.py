"""The IPv6 half of the backend `isc` without a server: pace, waiting for the new process, going back."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.commands import Done
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.isc.include import render
from clusterd.dhcp.isc.settings import Ipv6Settings
from clusterd.dhcp.isc.v6 import (
    LOOK_SECONDS,
    PAUSE_BETWEEN_RESTARTS_SECONDS,
    START_SECONDS,
    IncludedHosts,
    words_of_dhcpd,
)
from clusterd.dhcp.signalled_server import RunningServer
from clusterd.protocol.values import HostMap, Identifier
from tests.finished import result_of

ONE = HostMap(Identifier.mac("00:16:3e:00:00:01"), "2001:db8::1", "one")
TWO = HostMap(Identifier.mac("00:16:3e:00:00:02"), "2001:db8::2")


class FakeServer:
    """A process, its init system and its checker."""

    def __init__(self, clock: Clock) -> None:
        self.restarts: list[float] = []
        self.checks = 0
        self.checker = Done(0, "")
        self.stays_down = 0
        self.comes_back_after = 0.0
        self._clock = clock
        self._running: RunningServer | None = RunningServer(100, 0)

    def find(self) -> RunningServer:
        if self._running is None:
            raise BackendError("dhcpd is not running")
        return self._running

    async def run(self, arguments: Sequence[str], timeout: float, /) -> Done:
        if "-t" in arguments:
            self.checks += 1
            return self.checker
        self.restarts.append(self._clock.seconds())
        self._running = None
        if self.stays_down:
            self.stays_down -= 1
        else:
            self._clock.callLater(self.comes_back_after, self._come_back)
        return Done(0, "")

    def _come_back(self) -> None:
        self._running = RunningServer(100 + len(self.restarts), 0)


class Site:
    """The thing under test and what is around it."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.server = FakeServer(self.clock)
        self.include_file = directory / "maps.conf"
        configuration = directory / "dhcpd6.conf"
        configuration.write_text(f'include "{self.include_file}";\n')
        self.settings = Ipv6Settings(include_file=self.include_file, configuration_file=configuration)
        self.hosts = self.fresh()

    def fresh(self) -> IncludedHosts:
        """clusterd after a restart."""
        return IncludedHosts(self.settings, self.server, self.server.run, self.clock, run_at_once)

    def run(self, *changes: "Deferred[object]", seconds: float = 60.0) -> list[object]:
        """Results of what was begun, after some time."""
        results: list[object] = []
        for change in changes:
            change.addBoth(results.append)
        waited = 0.0
        while len(results) < len(changes) and waited < seconds:
            self.clock.advance(LOOK_SECONDS)
            waited += LOOK_SECONDS
        return results

    def apply(self, removed: set[HostMap], added: set[HostMap]) -> object:
        [result] = self.run(Deferred.fromCoroutine(self.hosts.apply(removed, added)))
        return result


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_restarts_are_paced_and_nothing_new_is_none(site: Site) -> None:
    assert site.apply(set(), {ONE}) == ()
    assert site.apply(set(), {ONE}) == ()
    assert site.apply(set(), {TWO}) == ()
    assert len(site.server.restarts) == 2
    assert site.server.restarts[1] - site.server.restarts[0] >= PAUSE_BETWEEN_RESTARTS_SECONDS
    assert result_of(site.hosts.read()) == {ONE, TWO}


def test_another_restart_has_to_wait_for_the_pause(site: Site) -> None:
    assert site.hosts.pause_left() == 0.0
    site.apply(set(), {ONE})
    assert 0.0 < site.hosts.pause_left() <= PAUSE_BETWEEN_RESTARTS_SECONDS
    site.clock.advance(PAUSE_BETWEEN_RESTARTS_SECONDS)
    assert site.hosts.pause_left() == 0.0


def test_on_return_a_new_process_serves(site: Site) -> None:
    site.server.comes_back_after = 5.0
    began = site.clock.seconds()
    assert site.apply(set(), {ONE}) == ()
    assert site.clock.seconds() - began >= 5.0


def test_a_process_that_does_not_come_back_is_started_with_what_it_had(site: Site) -> None:
    assert site.apply(set(), {ONE}) == ()
    site.server.stays_down = 1
    result = site.apply({ONE}, {TWO})
    assert isinstance(result, Failure)
    assert str(result.value) == "no new dhcpd for IPv6 after the restart: dhcpd is not running"
    assert site.include_file.read_text() == render({ONE})
    assert site.server.find() == RunningServer(103, 0)
    assert site.clock.seconds() >= START_SECONDS
    assert result_of(site.hosts.read()) == {ONE}


def test_one_that_never_comes_back_is_said_twice(site: Site) -> None:
    site.server.stays_down = 2
    result = site.apply(set(), {ONE})
    assert isinstance(result, Failure)
    assert "; nor with the host maps of before: no new dhcpd" in str(result.value)


def test_a_crash_between_writing_and_restarting_is_noticed(site: Site) -> None:
    """The file says more than dhcpd was told: what is read is what it was told, and the difference is told again."""
    assert site.apply(set(), {ONE}) == ()
    site.include_file.write_text(render({ONE, TWO}))
    site.hosts = site.fresh()
    assert site.run(Deferred.fromCoroutine(site.hosts.read())) == [frozenset({ONE})]
    assert site.apply(set(), {TWO}) == ()
    assert site.include_file.read_text() == render({ONE, TWO})


def test_what_the_checker_refuses_is_not_tried(site: Site) -> None:
    site.server.checker = Done(1, "dhcpd6.conf line 3: semicolon expected.\n\nexiting.\n")
    result = site.apply(set(), {ONE})
    assert isinstance(result, Failure)
    assert str(result.value).endswith("dhcpd6.conf: dhcpd6.conf line 3: semicolon expected.")
    assert (site.server.restarts, site.server.checks) == ([], 1)
    assert site.include_file.read_text() == render(())


def test_obstacles(site: Site) -> None:
    assert result_of(site.hosts.obstacles()) == []
    assert site.include_file.read_text() == render(())
    site.settings.configuration_file.write_text("subnet6 2001:db8::/64 { }\n")
    [sentence] = result_of(site.hosts.obstacles())
    site.settings.configuration_file.write_text(f'# include "{site.include_file}";\nsubnet6 2001:db8::/64 {{ }}\n')
    [sentence] = result_of(site.hosts.obstacles())
    assert f'no effect: add include "{site.include_file}"; to {site.settings.configuration_file} and' in sentence
    site.server.checker = Done(1, "Can't open /etc/dhcp/dhcpd6.conf: Permission denied\n")
    [sentence] = result_of(site.hosts.obstacles())
    assert "Permission denied" in sentence


def test_words_of_dhcpd() -> None:
    assert words_of_dhcpd("Copyright 2004-2022\n") == "it did not say why"
    assert words_of_dhcpd("x\n  ^\n\nexiting.\ny\n") == "x; y"
    assert len(words_of_dhcpd("x" * 10_000)) == 500
