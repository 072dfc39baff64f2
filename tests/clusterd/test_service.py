"""The daemon as it is started: `twistd clusterd` in a process of its own, a scripted region on a UNIX socket."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from clusterd.daemon.endpoints import UnixAddress
from clusterd.protocol.values import HostMap, Identifier
from tests.fakes.region import FakeRegion

CIDR = "192.0.2.0/24"
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]


def host_map(number: int) -> HostMap:
    return HostMap(Identifier.mac(f"02:00:00:00:00:{number:02x}"), f"192.0.2.{number}", f"node-{number}")


class Daemon(ProcessProtocol):
    """A clusterd in a process of its own; `events` are its log lines.

    It ends with its exit code, or minus the signal: twistd ends by the signal that it was stopped with.
    """

    def __init__(self, config: Path) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        self.exit_code: int | None = None
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        command = [*TWISTD, "clusterd", "--config", str(config)]
        self.process = reactor.spawnProcess(self, command[0], command, environment)

    def outReceived(self, data: bytes) -> None:
        self.output += data

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        ended = reason.value
        assert isinstance(ended, ProcessDone | ProcessTerminated)
        self.exit_code = -ended.signal if ended.signal is not None else ended.exitCode
        self.ended.callback(self.exit_code)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.decode().splitlines(keepends=True) if line.endswith("\n")]

    def names(self) -> list[str]:
        return [event["event"] for event in self.events if event["event"]]

    def signal(self, number: int) -> None:
        self.process.signalProcess(number)


async def until(condition: Callable[[], Any], daemon: Daemon, seconds: float = 20.0) -> None:
    """Wait for the condition. Raises AssertionError, with what the daemon said, after `seconds`."""
    for _ in range(round(seconds / 0.02)):
        if condition():
            return
        await deferLater(reactor, 0.02)
    raise AssertionError(f"not in {seconds} s; the daemon said {daemon.output.decode()} {daemon.errors.decode()}")


class Host:
    """One cluster controller: a state directory, a configuration, and the region it can reach."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hosts_file = directory / "state" / "dhcp-hosts"
        self.region = FakeRegion(reactor)
        self.daemons: list[Daemon] = []
        self.config = directory / "clusterd.toml"
        self.config.write_text(
            f"""
            name = "rack-7"
            state_directory = "{directory / "state"}"
            [region]
            endpoints = ["unix:{directory / "region.sock"}"]
            """
        )

    async def listen(self) -> Any:
        address = UnixAddress(str(self.directory / "region.sock"))
        return await address.server_endpoint(reactor).listen(self.region.factory())  # type: ignore[arg-type]

    def start(self) -> Daemon:
        self.daemons.append(Daemon(self.config))
        return self.daemons[-1]


@pytest_twisted.async_yield_fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    yield made
    for daemon in made.daemons:
        if daemon.exit_code is None and not daemon.ended.called:
            daemon.signal(signal.SIGKILL)
            await daemon.ended
    if made.region.link is not None and made.region.link.connected_now:
        made.region.link.abort()
        await made.region.link.lost


@pytest_twisted.ensureDeferred
async def test_it_starts_serves_and_stops_on_sigterm(host: Host) -> None:
    port = await host.listen()
    daemon = host.start()
    await until(lambda: host.region.topologies, daemon)
    assert host.region.registrations[0].cluster == "rack-7"
    assert await host.region.change("subnet-1", CIDR, [host_map(1)], request_ids=["request-1"]) == 1
    await until(lambda: host.region.latest_state("subnet-1"), daemon)
    state = host.region.latest_state("subnet-1")
    assert state is not None and state.applied_generation == 1
    assert "192.0.2.1" in host.hosts_file.read_text()
    (line,) = [event for event in daemon.events if event["event"] == "host-map.applied"]
    assert (line["address"], line["request_ids"], line["subnet"]) == ("192.0.2.1", ["request-1"], CIDR)
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended == -signal.SIGTERM
    assert daemon.names()[-1] == "clusterd.stopped"
    assert daemon.errors == b"" and not any(e["level"] in ("error", "critical") for e in daemon.events)
    assert "192.0.2.1" in host.hosts_file.read_text()
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_it_serves_what_it_accepted_while_the_region_is_away_and_after_kill_9(host: Host) -> None:
    port = await host.listen()
    daemon = host.start()
    await until(lambda: host.region.registrations, daemon)
    await host.region.change("subnet-1", CIDR, [host_map(1), host_map(2)])
    daemon.signal(signal.SIGKILL)  # between accept and apply, or just after
    await daemon.ended
    await port.stopListening()
    host.hosts_file.unlink(missing_ok=True)
    daemon = host.start()
    await until(lambda: host.hosts_file.exists() and "192.0.2.2" in host.hosts_file.read_text(), daemon)
    assert "region.unreachable" in daemon.names()
    port = await host.listen()
    await until(lambda: len(host.region.registrations) == 2, daemon)
    assert [held.accepted_generation for held in host.region.registrations[1].held] == [1]
    await host.region.change("subnet-1", CIDR, [], [host_map(1).identifier])
    await until(lambda: "192.0.2.1" not in host.hosts_file.read_text(), daemon)
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended == -signal.SIGTERM
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_second_one_with_the_same_state_directory_does_not_start(host: Host) -> None:
    first = host.start()
    await until(lambda: "clusterd.started" in first.names(), first)
    second = host.start()
    assert await second.ended == 1
    (event,) = [event for event in second.events if event["event"] == "clusterd.cannot-start"]
    assert "in use by another process" in event["reason"] and b"Traceback" not in second.output + second.errors
    first.signal(signal.SIGTERM)
    assert await first.ended == -signal.SIGTERM


def test_every_mistake_of_the_configuration_is_a_line_on_stderr(tmp_path: Path) -> None:
    config = tmp_path / "clusterd.toml"
    config.write_text('nmae = "x"\n[dhcp]\nbackend = "windows"\n[region]\nendpoints = ["tcp:192.0.2.1:1"]\n')
    command = [*TWISTD, "clusterd", "--config", str(config)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1 and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 3
    assert all(line.startswith(str(config)) for line in ran.stderr.splitlines())


@pytest.mark.parametrize("content", ["this is no database " * 50])
def test_a_damaged_store_ends_the_process_with_advice(tmp_path: Path, content: str) -> None:
    host = Host(tmp_path)
    (tmp_path / "state" / "accepted").mkdir(parents=True)
    (tmp_path / "state" / "accepted" / "host-maps.sqlite").write_text(content)
    command = [*TWISTD, "clusterd", "--config", str(host.config)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "move it aside" in ran.stdout and "Traceback" not in ran.stdout + ran.stderr
