"""Thousands of clients that send a byte now and then do not keep a quick one out, nor cost memory without end.

SLOW_CONNECTIONS says how many: `make soak` takes ten thousand, in front of a regiond with its default settings.
"""

import http.client
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest_twisted
from twisted.internet.threads import deferToThread

from regiond.config import MAX_CONNECTIONS
from tests.conformance.test_conformance import drain, start
from tests.requirements import need

SLOW = int(os.environ.get("SLOW_CONNECTIONS", "1200"))
MOST = 400 if SLOW < 2 * MAX_CONNECTIONS else MAX_CONNECTIONS
QUICK_REQUESTS = 40
SPARE_DESCRIPTORS = 500
UNFINISHED = b"POST /api/v1/reservations HTTP/1.1\r\nHost: x\r\nX-Slow: "
BYTES_OF_A_CONNECTION = 25_000
BYTES_OF_OTHERS = 30_000_000


class SlowClients:
    """Connections that never finish their requests; one that is hung up on comes again at once."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._sockets: list[socket.socket | None] = [None] * count
        self._stop = threading.Event()
        self.all_came = threading.Event()
        self.came = 0
        self.thread = threading.Thread(target=self._run)

    def stop(self) -> None:
        self._stop.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for index, each in enumerate(self._sockets):
                if self._stop.is_set():
                    break
                self._sockets[index] = self._dribble(each)
            self.all_came.set()
        for each in self._sockets:
            if each is not None:
                each.close()

    def _dribble(self, each: socket.socket | None) -> socket.socket | None:
        """One more byte; a new connection where there is none any more."""
        if each is not None:
            try:
                each.send(b"x")
            except OSError:
                each.close()
            else:
                return each
        made = socket.socket()
        made.settimeout(10.0)
        try:
            made.connect(("127.0.0.1", self._port))
            made.send(UNFINISHED)
        except OSError:
            made.close()
            return None
        self.came += 1
        return made


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need(hard == resource.RLIM_INFINITY or hard >= wanted, f"{wanted} open files for a process")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(daemon: "subprocess.Popen[str]") -> int:
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def quick_request(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def meanwhile(daemon: "subprocess.Popen[str]", port: int) -> tuple[list[int], int, int]:
    """What a quick client gets while all the slow ones are there; the daemon's memory before, and at its highest."""
    assert quick_request(port) == 200
    before = highest = resident_bytes(daemon)
    slow = SlowClients(port, SLOW)
    slow.thread.start()
    statuses = []
    try:
        statuses.append(quick_request(port))
        assert slow.all_came.wait(300.0)
        for _ in range(QUICK_REQUESTS):
            statuses.append(quick_request(port))
            highest = max(highest, resident_bytes(daemon))
    finally:
        slow.stop()
    assert slow.came >= SLOW
    with suppress(OSError):
        statuses.append(quick_request(port))
    return statuses, before, highest


@pytest_twisted.ensureDeferred
async def test_slow_clients_do_not_keep_a_quick_one_out(database: str, state_directory: Path) -> None:
    config = state_directory / "regiond.toml"
    config.write_text(
        f'state_directory = "{state_directory}/state"\n[http]\nlisten = ["tcp:127.0.0.1:0"]\nmax_connections = {MOST}\n'
        f'[database]\ndsn = "{database}"\n'
    )
    with descriptors(SLOW + SPARE_DESCRIPTORS):
        daemon, port = await deferToThread(start, config)
        log = deferToThread(drain, daemon)
        try:
            statuses, before, highest = await deferToThread(meanwhile, daemon, port)
        finally:
            daemon.terminate()
            lines = await log
            daemon.wait()
    assert statuses == [200] * (QUICK_REQUESTS + 2)
    assert highest - before < BYTES_OF_OTHERS + BYTES_OF_A_CONNECTION * MOST
    assert not [line for line in lines if "traceback" in line]
