"""A thousand mutually authenticated clusters on one regiond, each a whole clusterd on a network of its own.

`rss_mb_per_1000` is what they add to regiond's memory; `reconnect_s` the time from a killed regiond's next start until
all are registered again, and `settled_s` from then until what they said is dealt with. Then 200 claims a second are
spread over them: `applied_s` after the last one everything is applied, and `late` is how many claims the load client
sent later than it should have.
"""

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.bench.cluster_process import ClusterProcess
from tests.bench.clusters import Enrolled, enrol
from tests.bench.delivery import free_port
from tests.bench.region import POSTGRES_SETTINGS, MeasuredRegion, cursor_on, postgres, tell

CLUSTERS = 1000
CLAIMS_PER_SECOND = 200
CONNECTIONS = 8
PATIENCE_SECONDS = 120.0
SPAN_SECONDS = 0.5


def run(*, quick: bool) -> dict[str, Any]:
    """See the module."""
    directory = Path(tempfile.mkdtemp(prefix="hostmap-bench-"))
    directory.chmod(0o711)
    try:
        with postgres(directory) as dsn:
            return _Fleet(directory, dsn, quick).run()
    finally:
        shutil.rmtree(directory)


class _Fleet:
    def __init__(self, directory: Path, dsn: str, quick: bool) -> None:
        self.directory = directory
        self.dsn = dsn
        self.seconds = 5 if quick else 30
        self.endpoint = f"tcp:127.0.0.1:{free_port()}"
        self.region = MeasuredRegion(directory, "region", dsn, [self.endpoint])
        self.clusters = ClusterProcess(directory)

    def run(self) -> dict[str, Any]:
        try:
            self.region.up()
            token = self.region.new_token()
            networks = [(f"10.{n // 250}.{n % 250}.0/24", f"10.{n // 250}.{n % 250}.1") for n in range(CLUSTERS)]
            return self.measure(enrol(self.dsn, self.directory, self.endpoint, networks), token)
        finally:
            self.clusters.close()
            self.region.stop()

    def measure(self, clusters: list[Enrolled], token: str) -> dict[str, Any]:
        figures: dict[str, Any] = {"postgres": POSTGRES_SETTINGS, "clusters": len(clusters)}
        before = self.memory()
        self.clusters.start()
        figures["first_connect_s"] = self.until(f"SELECT count(*) >= {CLUSTERS} FROM delivery WHERE role = 'serving'")
        figures["rss_mb_per_1000"] = round((self.memory() - before) * 1000 / CLUSTERS, 1)
        tell(f"all connected: {figures}")
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT now()")
            (killed,) = cursor.fetchone()
        self.region.kill()
        self.region.up()
        figures["reconnect_s"] = self.until(
            f"SELECT count(*) >= {CLUSTERS} FROM cluster WHERE connected_since > '{killed.isoformat()}'"
        )
        tell(f"all registered again after {figures['reconnect_s']} s")
        figures["settled_s"] = self.settled()
        figures |= self.claims(clusters, token)
        figures["applied_s"] = self.until(
            """SELECT NOT EXISTS (SELECT FROM delivery d JOIN subnet s ON s.id = d.subnet
                                  WHERE d.applied_generation < s.generation)"""
        )
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT count(*) FROM host_map WHERE NOT removed")
            figures["lost"] = figures["claims"] - cursor.fetchone()[0]
        figures["max_reactor_stall_ms"] = round(self.region.stopped(), 1)
        return figures

    def claims(self, clusters: list[Enrolled], token: str) -> dict[str, Any]:
        """At a steady rate over all networks in turn, a few at a time."""
        count = self.seconds * CLAIMS_PER_SECOND
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            one = partial(self.claims_on_one, clusters, token, began, count)
            late = sum(threads.map(one, range(CONNECTIONS)))
        return {"claims": count, "claims_per_second": round(count / (time.monotonic() - began)), "late": late}

    def claims_on_one(self, clusters: list[Enrolled], token: str, began: float, count: int, first: int) -> int:
        """Every so-manieth of the claims on a connection of its own; how many were sent late."""
        connection = HTTPConnection("127.0.0.1", self.region.port, timeout=40)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        late = 0
        for number in range(first, count, CONNECTIONS):
            wait = began + number / CLAIMS_PER_SECOND - time.monotonic()
            if wait > 0:
                time.sleep(wait)  # the load's rate, not a synchronisation
            late += wait < -0.1
            mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
            body = json.dumps({"mac": mac, "interface": clusters[number % len(clusters)].cidr})
            connection.request("POST", "/api/v1/devices?wait=0", body, headers)
            response = connection.getresponse()
            content = response.read()
            assert response.status == 201, content
        connection.close()
        return late

    def settled(self) -> float:
        """Seconds until regiond has dealt with what a thousand clusters say when they register."""
        began = time.monotonic()
        used = SPAN_SECONDS
        while used > SPAN_SECONDS / 5:
            before = self.cpu()
            time.sleep(SPAN_SECONDS)  # over which its use of the processor is taken
            used = self.cpu() - before
            assert time.monotonic() - began < PATIENCE_SECONDS
        return round(time.monotonic() - began, 1)

    def cpu(self) -> float:
        """Seconds of processor time that regiond has used."""
        fields = Path(f"/proc/{self.region.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """MB of regiond's own memory (resident, proc(5))."""
        for line in Path(f"/proc/{self.region.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def until(self, true: str) -> float:
        """Seconds until the query says so."""
        began = time.monotonic()
        with cursor_on(self.dsn) as cursor:
            while True:
                cursor.execute(true)
                if cursor.fetchone()[0]:
                    return round(time.monotonic() - began, 2)
                cursor.connection.commit()
                assert time.monotonic() - began < PATIENCE_SECONDS, true
                time.sleep(0.02)  # between two looks at a condition, bounded
