"""From a claim to the DHCP server of the right site, over mutual TLS: one regiond, one clusterd, the backend `file`.

With 10,000 host maps there, `file_p50_ms` and `file_p99_ms` from sending a claim over HTTP to the answer that says
applied. `resync_s`: a cluster that lost its disk, from its registration until 100,000 host maps are accepted and
applied. `delta_s`: from the registration of a cluster that missed 1,000 changes until it has them.
"""

import json
import shutil
import socket
import statistics
import tempfile
import time
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.bench.cluster_process import ClusterProcess
from tests.bench.clusters import Enrolled, enrol
from tests.bench.region import POSTGRES_SETTINGS, MeasuredRegion, cursor_on, postgres, tell
from tests.lab.servers import wait_until

NETWORK, CONTROLLER = "10.0.0.0/8", "10.255.255.254"
THERE, MANY, MISSED = 10_000, 100_000, 1_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*, quick: bool) -> dict[str, Any]:
    """See the module."""
    directory = Path(tempfile.mkdtemp(prefix="hostmap-bench-"))
    directory.chmod(0o711)
    try:
        with postgres(directory) as dsn:
            return _Delivery(directory, dsn, quick).run()
    finally:
        shutil.rmtree(directory)


class _Delivery:
    def __init__(self, directory: Path, dsn: str, quick: bool) -> None:
        self.directory = directory
        self.dsn = dsn
        self.claims = 300 if quick else 3000
        self.times = 1 if quick else 5
        self.endpoint = f"tcp:127.0.0.1:{free_port()}"
        self.region = MeasuredRegion(directory, "region", dsn, [self.endpoint])
        self.clusters = ClusterProcess(directory)
        self.connection: HTTPConnection | None = None
        self.filled = 0
        self.made = 0

    def run(self) -> dict[str, Any]:
        try:
            self.region.up()
            self.token = self.region.new_token()
            (self.cluster,) = enrol(self.dsn, self.directory, self.endpoint, [(NETWORK, CONTROLLER)])
            return self.measure(self.cluster)
        finally:
            self.clusters.close()
            self.region.stop()

    def measure(self, cluster: Enrolled) -> dict[str, Any]:
        self.clusters.start()
        wait_until(lambda: self.one("SELECT count(*) FROM delivery WHERE role = 'serving'") == 1, "it serves")
        self.clusters.stop()
        self.fill(THERE)
        self.caught_up(self.clusters.start)
        figures: dict[str, Any] = {"postgres": POSTGRES_SETTINGS}
        latencies = [self.claim(wait=10) for _ in range(self.claims)]
        percentiles = statistics.quantiles(latencies, n=100)
        figures["file_p50_ms"] = round(percentiles[49] * 1000, 1)
        figures["file_p99_ms"] = round(percentiles[98] * 1000, 1)
        tell(f"claim to applied: {figures}")
        figures["delta_s"] = statistics.median(self.delta() for _ in range(self.times))
        tell(f"difference of {MISSED} changes: {figures['delta_s']} s")
        self.clusters.stop()
        self.fill(MANY - self.made)  # the backend takes no more
        figures["resync_s"] = statistics.median(self.resync(cluster) for _ in range(self.times))
        tell(f"{MANY} host maps to an empty disk: {figures['resync_s']} s")
        self.clusters.stop()
        in_file = (Path(cluster.state_directory) / "dhcp-hosts").read_text().count("\n02")
        figures["lost"] = int(self.one("SELECT count(*) FROM host_map WHERE NOT removed")) - in_file
        figures["max_reactor_stall_ms"] = round(self.region.stopped(), 1)
        return figures

    # ---- the parts ----

    def claim(self, wait: int) -> float:
        """One device, and the seconds until the answer."""
        self.made += 1
        if self.connection is None:
            self.connection = HTTPConnection("127.0.0.1", self.region.port, timeout=40)
        connection = self.connection
        body = json.dumps(
            {
                "mac": f"02:01:{self.made >> 24 & 255:02x}:{self.made >> 16 & 255:02x}:"
                f"{self.made >> 8 & 255:02x}:{self.made & 255:02x}",
                "interface": NETWORK,
            }
        )
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        began = time.perf_counter()
        connection.request("POST", f"/api/v1/devices?wait={wait}", body, headers)
        response = connection.getresponse()
        content = json.loads(response.read())
        took = time.perf_counter() - began
        assert response.status == 201, content
        (reservation,) = content["reservations"]
        assert not wait or reservation["host_map"]["state"] == "applied", reservation
        return took

    def delta(self) -> float:
        self.clusters.stop()
        for _ in range(MISSED):
            self.claim(wait=0)
        return self.caught_up(self.clusters.start)

    def resync(self, cluster: Enrolled) -> float:
        self.clusters.stop()
        shutil.rmtree(cluster.settings.store_path.parent)
        (Path(cluster.state_directory) / "dhcp-hosts").unlink()
        return self.caught_up(self.clusters.start)

    def caught_up(self, start: Any) -> float:
        """Seconds from the registration that follows `start` until everything is applied."""
        log = self.directory / "clusters.log"
        offset = log.stat().st_size
        start()
        registered: list[float] = []

        def has_registered() -> bool:
            lines = log.read_bytes()[offset:].splitlines()
            found = [line for line in map(json.loads, lines) if line.get("event") == "region.registered"]
            registered.extend(datetime.fromisoformat(line["time"]).timestamp() for line in found)
            return bool(registered)

        wait_until(has_registered, "the cluster registers")
        behind = (
            "SELECT count(*) FROM delivery d JOIN subnet s ON s.id = d.subnet WHERE d.applied_generation < s.generation"
        )
        with cursor_on(self.dsn) as cursor:
            end = time.monotonic() + 60
            while cursor.execute(behind) or cursor.fetchone() != (0,):
                assert time.monotonic() < end, "not applied within 60 s"
                cursor.connection.commit()
                time.sleep(0.005)  # between two looks at a condition, bounded: the resolution of the figure
        return round(time.time() - registered[0], 3)

    def fill(self, count: int) -> None:
        """Devices with host maps, up to so many, written past the region."""
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT id, generation + 1 FROM subnet")
            subnet, generation = cursor.fetchone()
            cursor.execute(
                """INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, map_generation)
                   SELECT %s, '10.128.0.0'::inet + n, (1::bigint << 40) + n, 'device', 'active',
                          (SELECT id FROM account WHERE name = 'bench'), ARRAY['02:' || n], %s
                   FROM generate_series(%s, %s) n""",
                (subnet, generation, self.filled + 1, count),
            )
            cursor.execute(
                """INSERT INTO host_map
                       (subnet, kind, identifier, address, reservation, generation, removed, request_id)
                   SELECT subnet, 'mac', substr(int8send((2::bigint << 40) + (id & 16777215)), 3), address, id, %s,
                          false, 'bench' FROM reservation WHERE map_generation = %s AND id >= (1::bigint << 40)""",
                (generation, generation),
            )
            cursor.execute(
                "UPDATE subnet SET generation = %s, digest = host_map_digest(id) WHERE id = %s", (generation, subnet)
            )
            cursor.execute("SELECT rebuild_free_ranges(%s)", (subnet,))
            cursor.execute("ANALYZE reservation, host_map, free_range")
        self.filled = count

    def one(self, sql: str) -> Any:
        with cursor_on(self.dsn) as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0]
