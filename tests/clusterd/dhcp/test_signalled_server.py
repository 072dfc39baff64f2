"""Which process is signalled, and what is said when it does not do as it is told."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.signalled_server import RunningServer, ServerWithPidFile
from tests.finished import result_of


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


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Is busy until there is a file `enough`, then waits for the end of its input."""
    loop = f"while not os.path.exists({str(tmp_path / 'enough')!r}): pass"
    script = f"import os, sys\nprint(flush=True)\n{loop}\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest_twisted.ensureDeferred
async def test_how_long_a_server_is_busy(tmp_path: Path, counter: subprocess.Popen[bytes]) -> None:
    (tmp_path / "pid").write_text(f"{counter.pid}\n")
    server = ServerWithPidFile(tmp_path / "pid", Path(f"/proc/{counter.pid}/comm").read_text().strip(), reactor)
    running = server.find()
    assert await server.busy(running, 0.02) == 0.02
    (tmp_path / "enough").touch()
    assert await server.busy(running, 60.0) < 60.0
    counter.kill()
    counter.wait()
    assert await server.busy(running, 60.0) < 60.0


@pytest.mark.parametrize("patience", [(3.0,), (20.0, 3.0)])
def test_a_server_that_does_not_read_is_reported(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], patience: tuple[float, ...]
) -> None:
    """`sleep` dies of SIGHUP without reading anything."""
    pid_file, path = tmp_path / "pid", tmp_path / "maps"
    pid_file.write_text(f"{sleeper.pid}\n")
    path.write_text("")
    clock = MemoryReactorClock()
    server = ServerWithPidFile(pid_file, "sleep", clock)
    errors: list[object] = []
    waiting = Deferred.fromCoroutine(server.reload(server.find(), path, *patience))
    waiting.addErrback(lambda failure: errors.append(str(failure.value)))
    assert errors == []
    clock.advance(3.1)
    assert errors == [
        f"sleep (process {sleeper.pid}) did not read {path} within 3 s of SIGHUP: "
        "it has to be the file that its configuration names, and one that its user may read"
    ]
