"""Each DHCP server with many host maps: how soon a new one is answered, who is kept waiting, and what it costs.

Per server and number of host maps: `replace_s` to write all of them and `verify_s` to find them right, in which
`verify_stall_ms` is the longest time that the reactor did nothing else; `answered_ms` from apply to a real client's
offer (median); `mixed_answered_ms` the same from acceptance on, through clusterd's own driver, while others are
removed; `silence_ms`, the longest time that a client asking all along had no answer, with nothing changing, with
additions and with removals at 10 a second; `cpu_ms` of the server per addition; `restart_s` from its start to the first
right answer; `exchanges` per second that perfdhcp had: as many as the server can do, and half of that asked while host
maps change; and whether its process stayed the same.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet import task
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from clusterd.daemon.pauses import avoid_long_collections
from clusterd.protocol.values import HostMap, Identifier
from tests.bench.dhcp_servers import SUBJECTS, Subject
from tests.bench.mixed_changes import mixed_ms
from tests.bench.region import postgres, tell
from tests.lab import namespaces
from tests.lab.namespaces import Network, Wire, within
from tests.lab.raw_v4 import RawClient4

reactor: Any = global_reactor

Change = tuple[Sequence[HostMap], Sequence[HostMap]]  # removed, added

SERVER, RELAY = "10.128.0.1", "10.191.255.254"
WIRE = Wire((f"{SERVER}/10", "2001:db8:0:1::1/64"))  # the latter because dhcpd -6 wants a network to serve
CHANGES_PER_SECOND = 10
TICK_SECONDS = 0.005
ROOM = 200  # for the host maps of the changes that are measured
BEARABLE = 0.5  # of the exchanges that a server can do
FLOOD = 6000  # exchanges a second, more than any server answers
SIZES = {"dnsmasq": (1_000, 10_000), "isc": (1_000, 10_000, 100_000), "kea": (1_000, 10_000, 100_000)}
QUICK_SIZES = (10_000,)


def run(*, quick: bool) -> dict[str, Any]:
    """All servers; see the module for the figures."""
    directory = Path(tempfile.mkdtemp(prefix="hostmap-bench-"))
    directory.chmod(0o711)
    figures: dict[str, Any] = {}
    avoid_long_collections()  # as clusterd does

    async def measure(dsn: str) -> None:
        for name, subject in SUBJECTS.items():
            for size in QUICK_SIZES if quick else SIZES[name]:
                place = directory / f"{name}-{size}"
                place.mkdir()
                with namespaces.network([WIRE]) as network, subject(network, place, reactor, dsn) as running:
                    measured = await _Measured(running, network, place, size, quick).measure()
                figures[f"{name}_{size}"] = measured
                tell(f"{name}, {size} host maps: {json.dumps(measured)}")

    try:
        with postgres(directory) as dsn:
            failures: list[Failure] = []
            running = Deferred.fromCoroutine(measure(dsn))
            running.addErrback(failures.append)
            running.addCallback(lambda _: reactor.callLater(0, reactor.stop))
            reactor.run()
            for failure in failures:
                failure.raiseException()
    finally:
        shutil.rmtree(directory)
    return figures


class _Measured:
    """One server with `size` host maps."""

    def __init__(self, subject: Subject, network: Network, directory: Path, size: int, quick: bool) -> None:
        self.subject = subject
        self.network = network
        self.directory = directory
        self.size = size
        self.seconds = 1.5 if quick else 6.0
        self.tries = 15 if quick else 50
        self.made = 0

    async def measure(self) -> dict[str, Any]:
        backend = self.subject.backend
        figures: dict[str, Any] = {}
        there = [self.new_map() for _ in range(self.size)]
        began = time.monotonic()
        rejected = await backend.replace(there)
        assert not rejected, rejected[:3]
        figures["replace_s"] = round(time.monotonic() - began, 2)
        began = time.monotonic()
        async with _ticking() as gaps:
            found = await backend.read()
        figures["verify_s"] = round(time.monotonic() - began, 2)
        figures["verify_stall_ms"] = round(max(gaps, default=0.0) * 1000, 1)
        assert found == frozenset(there)
        before = self.subject.identity()
        figures["answered_ms"] = round(statistics.median([await self.answered() for _ in range(self.tries)]), 1)
        if self.made + ROOM > backend.capabilities.max_host_maps:
            await self.apply(there[:ROOM], ())  # the driver keeps to what the server takes
            del there[:ROOM]
        figures["mixed_answered_ms"] = await mixed_ms(backend, self.network, self.directory, reactor, self.seconds)
        watched = there[self.size // 2].identifier.text
        figures["silence_ms"] = await self.silence(watched, there)
        figures["exchanges"] = await self.exchanges(there)
        figures["same_process"] = self.subject.identity() == before
        figures["restart_s"] = self.restarted(there[-1])
        return figures

    def new_map(self) -> HostMap:
        self.made += 1
        high, low = divmod(self.made, 256)
        mac = Identifier.mac(f"00:16:3e:{high >> 8:02x}:{high & 255:02x}:{low:02x}")
        return HostMap(mac, f"10.{129 + (high >> 8)}.{high & 255}.{low}")

    async def answered(self) -> float:
        """Milliseconds from the apply of one host map to a client's first offer of its address."""
        host_map = self.new_map()
        with RawClient4(self.network) as client:
            began = time.monotonic()
            offered = deferToThread(_offered, client, host_map)
            await self.apply((), (host_map,))
            answered: float = await offered
        return (answered - began) * 1000

    async def apply(self, removed: Collection[HostMap], added: Collection[HostMap]) -> None:
        rejected = await self.subject.backend.apply(removed, added)
        assert not rejected, rejected

    async def silence(self, mac: str, there: Sequence[HostMap]) -> dict[str, float]:
        longest: dict[str, float] = {}
        async with self.listening(mac, longest, "idle"):
            await task.deferLater(reactor, self.seconds)
        cpu, made = self.cpu(), self.made
        async with self.listening(mac, longest, "additions"):
            await self.churn(lambda: ((), (self.new_map(),)))
        longest["cpu_ms_per_addition"] = round((self.cpu() - cpu) * 1000 / (self.made - made), 2)
        doomed = iter(there)
        async with self.listening(mac, longest, "removals"):
            await self.churn(lambda: ((next(doomed),), ()))
        return longest

    @asynccontextmanager
    async def listening(self, mac: str, longest: dict[str, float], name: str) -> AsyncIterator[None]:
        process = _started(sys.executable, "-m", "tests.bench.silence", self.network.client, mac)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "asking\n"
            yield
        finally:
            process.stdin.close()
            process.wait(30)
        longest[name] = json.loads(process.stdout.read())["longest_ms"]
        process.stdout.close()

    async def churn(self, change: Callable[[], Change]) -> None:
        """A change of one host map ten times a second; what comes during an apply joins the next, as in clusterd."""
        count = int(self.seconds * CHANGES_PER_SECOND)
        began = reactor.seconds()
        waiting: list[Change] = []
        applying: Deferred[None] = succeed(None)

        async def apply_all() -> None:
            while waiting:
                taken, waiting[:] = list(waiting), []
                await self.apply(
                    [one for removed, _ in taken for one in removed], [one for _, added in taken for one in added]
                )

        for number in range(count):
            wait = began + number / CHANGES_PER_SECOND - reactor.seconds()
            if wait > 0:
                await task.deferLater(reactor, wait)
            waiting.append(change())
            if applying.called:
                await applying
                applying = Deferred.fromCoroutine(apply_all())
        await applying
        await apply_all()

    async def exchanges(self, there: Sequence[HostMap]) -> dict[str, int]:
        """perfdhcp: four-way exchanges a second, as many as the server answers, and of a rate that it bears."""
        macs = self.directory / "macs"
        macs.write_text("".join(f"{one.identifier.text}\n" for one in there[-1000:]))
        assert _started("ip", "-n", self.network.client, "addr", "add", f"{RELAY}/10", "dev", "c0").wait(10) == 0
        before = await self.perfdhcp(macs, FLOOD)
        self.wait_for_the_queue(there[-1])
        # At the limit of its strength a server falls behind and answers everything too late, with or without changes.
        asked = max(1, round(before * BEARABLE))
        churning = Deferred.fromCoroutine(self.churn(lambda: ((), (self.new_map(),))))
        during = await self.perfdhcp(macs, asked)
        await churning
        return {"before": before, "asked_during_additions": asked, "during_additions": during}

    def wait_for_the_queue(self, known: HostMap) -> None:
        """Return when the server has gone through what a flood left behind."""
        end = time.monotonic() + 30
        with RawClient4(self.network) as client:
            while client.discover(known.identifier.text, timeout=0.05) is None:
                assert time.monotonic() < end, "no offer within 30 s of the flood"

    async def perfdhcp(self, macs: Path, rate: int) -> int:
        options = ("-r", str(rate), "-p", str(int(self.seconds)), "-W", "200000", "-M", str(macs), "-l", RELAY)
        process = _started(*within(self.network.client), "perfdhcp", "-4", *options, SERVER)
        while process.poll() is None:
            await task.deferLater(reactor, 0.05)
        assert process.stdout is not None
        said = process.stdout.read()
        process.stdout.close()
        found = re.search(r"^Rate: ([0-9.]+) 4-way", said, re.MULTILINE)
        assert found is not None, said
        return round(float(found[1]))

    def cpu(self) -> float:
        """Seconds of processor time that the server has used."""
        fields = Path(f"/proc/{self.subject.identity().pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def restarted(self, known: HostMap) -> float:
        """Seconds from the start of a killed server to the first right answer."""
        self.subject.kill()
        began = time.monotonic()
        self.subject.start()
        with RawClient4(self.network) as client:
            while (offer := client.discover(known.identifier.text, timeout=0.05)) is None:
                assert time.monotonic() - began < 60, "no offer within 60 s of the restart"
        assert offer.address == known.address
        return round(time.monotonic() - began, 2)


@asynccontextmanager
async def _ticking() -> AsyncIterator[list[float]]:
    """Seconds by which each of the reactor's calls of every few milliseconds comes late."""
    gaps: list[float] = []
    last = reactor.seconds()

    def tick() -> None:
        nonlocal last
        now = reactor.seconds()
        gaps.append(max(0.0, now - last - TICK_SECONDS))
        last = now

    ticking = task.LoopingCall(tick)
    ticking.start(TICK_SECONDS)
    try:
        yield gaps
    finally:
        ticking.stop()
        tick()


def _started(*command: str) -> subprocess.Popen[str]:
    """A program whose input and output are pipes."""
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _offered(client: RawClient4, host_map: HostMap) -> float:
    """Ask until there is an offer of the address; when it came. Blocks."""
    end = time.monotonic() + 10
    while (offer := client.discover(host_map.identifier.text, timeout=0.002)) is None:
        assert time.monotonic() < end, "no offer within 10 s"
    assert offer.address == host_map.address, offer
    return time.monotonic()
