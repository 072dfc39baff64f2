"""The daemon as it is started: `twistd clusterd` in a process of its own, a scripted region on a UNIX socket."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from clusterd.convergence.acceptance import Announced, Origin
from clusterd.daemon.endpoints import UnixAddress
from clusterd.host_maps.schema import MIGRATIONS
from clusterd.host_maps.store import HostMapStore
from clusterd.protocol.digest import digest_of
from clusterd.protocol.errors import NotStored
from clusterd.protocol.values import HostMap, Identifier
from tests.fakes.region import FakeRegion
from tests.requirements import need

CIDR = "192.0.2.0/24"
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]


def host_map(number: int) -> HostMap:
    return HostMap(Identifier.mac(f"02:00:00:00:00:{number:02x}"), f"192.0.2.{number}", f"node-{number}")


class Daemon(ProcessProtocol):
    """A clusterd in a process of its own; `events` are its log lines.

    It ends with its exit code, or minus the signal: twistd ends by the signal that it was stopped with.
    """

    def __init__(self, config: Path, before: Sequence[str] = ()) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        self.exit_code: int | None = None
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        command = [*before, *TWISTD, "clusterd", "--config", str(config)]
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


async def until(condition: Callable[[], Any], daemon: Daemon, seconds: float = 60.0) -> None:
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

    def start(self, before: Sequence[str] = ()) -> Daemon:
        self.daemons.append(Daemon(self.config, before))
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
    config.write_text('nmae = "x"\n[dhcp]\nbackend = "windows"\n[region]\nendpoints = ["tcp:192.0.2.1:0"]\n')
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


def test_a_store_without_its_tables_ends_the_process_too(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = tmp_path / "state" / "accepted" / "host-maps.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    command = [*TWISTD, "clusterd", "--config", str(host.config)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "no such table" in ran.stdout and "Traceback" not in ran.stdout + ran.stderr


# ---- --check ----


def check(config: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    # Without --nodaemon: it stays in the foreground by itself.
    command = [*TWISTD[:-2], *options, "clusterd", "--config", str(config), "--check"]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(
        command, cwd=config.parent, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_check_that_finds_nothing_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path)
    (tmp_path / "state").mkdir()
    ran = check(host.config)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "file: ready for up to 100000 host maps, IPv4 and IPv6.\n"
    assert sorted(tmp_path.rglob("*")) == [host.config, tmp_path / "state"]


def test_a_check_says_what_is_missing_and_ends_with_1(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.config.write_text(host.config.read_text() + f'[dhcp]\nbackend = "dnsmasq"\npid_file = "{tmp_path}/pid"\n')
    ran = check(host.config, "--nodaemon")
    assert (ran.returncode, ran.stderr) == (1, "")
    obstacle = f"The directory {tmp_path}/state does not exist: create it, writable for the user that clusterd runs as."
    assert ran.stdout == f"dnsmasq: {obstacle}\n"
    (tmp_path / "state").mkdir()
    ran = check(host.config)
    assert (ran.returncode, ran.stdout) == (1, f"dnsmasq: dnsmasq is not running: there is no {tmp_path}/pid.\n")


@pytest_twisted.ensureDeferred
async def test_a_check_is_possible_beside_a_running_daemon(host: Host) -> None:
    daemon = host.start()
    await until(lambda: "clusterd.started" in daemon.names(), daemon)
    ran = await deferToThread(check, host.config)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert daemon.exit_code is None


# ---- a full disk ----

FULL = """
mount -t tmpfs -o size=512k tmpfs "$1/state" && cp -r "$1/prepared/." "$1/state" || exit 3
cat /dev/zero > "$1/state/ballast" || touch "$1/filled"
shift && exec "$@"
"""
IN_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "--"]


@pytest.fixture
def mounts() -> None:
    tried = subprocess.run([*IN_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    need(tried.returncode == 0, f"no mount in a user namespace: {tried.stderr.decode()}")


@pytest_twisted.ensureDeferred
async def test_on_a_full_disk_it_starts_and_what_it_holds_goes_on_being_served(
    mounts: None, host: Host, tmp_path: Path
) -> None:
    """The hosts file is elsewhere and was lost; what the region sends cannot be stored, and it is told why."""
    (tmp_path / "state").mkdir()
    store = HostMapStore.open(tmp_path / "prepared" / "accepted" / "host-maps.sqlite")
    origin = Origin("region", "rack-7", "history")
    store.accept_delta(Announced(origin, "subnet-1", CIDR, 0, 1, digest_of([host_map(1)])), [host_map(1)], [])
    store.close()
    hosts_file = tmp_path / "dhcp-hosts"
    host.config.write_text(host.config.read_text() + f'[dhcp]\nhosts_file = "{hosts_file}"\n')
    port = await host.listen()
    daemon = host.start([*IN_NAMESPACE, "sh", "-c", FULL, "sh", str(tmp_path)])
    await until(lambda: host.region.registrations, daemon)
    assert (tmp_path / "filled").exists()
    await until(lambda: hosts_file.exists() and "192.0.2.1" in hosts_file.read_text(), daemon)
    assert host.region.registrations[0].held[0].accepted_generation == 1
    with pytest.raises(NotStored, match="full"):
        await host.region.change(
            "subnet-2", "198.51.100.0/24", [HostMap(Identifier.mac("02:00:00:00:01:00"), "198.51.100.1")]
        )
    assert "192.0.2.1" in hosts_file.read_text() and daemon.exit_code is None
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended == -signal.SIGTERM
    await port.stopListening()
