"""Reading over HTTP with very many reservations: pages of filtered lists, one by every handle, a whole export."""

import http.client
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

from regiond.domain.ids import Prefix, format_id
from tests.bench.region import POSTGRES_SETTINGS, MeasuredRegion, cursor_on, postgres, tell

PAGE = 100
FAR_PAGE = 1000
BIG = "10.0.0.0/8"
SMALL = [f"172.16.{number}.0/24" for number in range(50)]
SMALL_SIZE = 200
USERS_OWN = 500

# Ids are an odd multiple modulo 2^50: every one once, and in no order. One in twenty is a user's, one in a hundred
# releasing; those of `alice` are spread over all. As many host maps as devices.
_SUBNETS = """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable, generation)
    SELECT %s, 1, %s, host(network(%s)::inet + 1)::inet, host(broadcast(%s)::inet - 1)::inet, 1"""
_RESERVATIONS = """INSERT INTO reservation (subnet, address, id, kind, status, owner, macs, hostname, device,
        map_generation, release_generation)
    SELECT %(subnet)s, host(network(%(cidr)s)::inet + 1 + n)::inet,
           (%(first)s + n)::bigint * 715225739 %% (1::bigint << 50),
           CASE WHEN n %% 20 = 0 THEN 'user' ELSE 'device' END,
           CASE WHEN n %% 100 = 1 THEN 'releasing' ELSE 'active' END,
           CASE WHEN n %% %(every)s = 0 THEN %(alice)s ELSE %(bench)s END,
           ARRAY['00:16:3e:' || regexp_replace(lpad(to_hex(%(first)s + n), 6, '0'), '(..)(..)(..)', '\\1:\\2:\\3')],
           'host-' || n, CASE WHEN n %% 20 <> 0 THEN %(first)s + n END, CASE WHEN n %% 20 <> 0 THEN 1 END,
           CASE WHEN n %% 100 = 1 THEN 1 END
    FROM generate_series(1, %(count)s) n"""
_MAPS = """INSERT INTO host_map (subnet, kind, identifier, address, reservation, generation, removed, request_id)
    SELECT subnet, 'mac', decode(replace(macs[1], ':', ''), 'hex'), address, id, 1, status = 'releasing', 'bench'
    FROM reservation WHERE kind = 'device'"""


def run(*, quick: bool) -> dict[str, Any]:
    """`…_ms` are medians over HTTP, one request at a time on one connection: the first and the thousandth page (100
    each) of a list filtered by subnet and kind; the first page of a rare status, of a user's own, and of a small
    subnet; one reservation by id, by MAC address and by address. `export_…` is the whole list as CSV: rows a second,
    and the memory of regiond before it, at most during it, and after it, in MB. With `--quick` there are 130,000
    reservations instead of a million, so that the thousandth page is near the end.
    """
    directory = Path(tempfile.mkdtemp(prefix="hostmap-bench-"))
    directory.chmod(0o711)
    try:
        with postgres(directory) as dsn:
            return _Api(directory, dsn, 130_000 if quick else 1_000_000, 15 if quick else 51).run()
    finally:
        shutil.rmtree(directory)


class _Api:
    def __init__(self, directory: Path, dsn: str, count: int, times: int) -> None:
        self.dsn = dsn
        self.count = count
        self.times = times
        self.daemon = MeasuredRegion(directory, "region", dsn)

    def run(self) -> dict[str, Any]:
        try:
            self.daemon.up()
            self.admin = self.daemon.new_token()
            self.alice = self.user("alice")
            self.fill()
            figures = self.measure()
        finally:
            stall = self.daemon.stopped()
        return {**figures, "max_reactor_stall_ms": round(stall, 1), "postgres": POSTGRES_SETTINGS}

    def user(self, name: str) -> str:
        self.daemon.api.post("users", {"name": name})
        return str(self.daemon.api.post("tokens", {"account": name, "name": name})["token"])

    def fill(self) -> None:
        began = perf_counter()
        small = len(SMALL) * SMALL_SIZE
        with cursor_on(self.dsn) as cursor:
            cursor.execute("SELECT name, id FROM account")
            accounts = dict(cursor.fetchall())
            first = 0
            for number, cidr in enumerate([BIG, *SMALL], start=1):
                cursor.execute(_SUBNETS, (number, cidr, cidr, cidr))
                count = self.count - small if cidr == BIG else SMALL_SIZE
                every = self.count // USERS_OWN if cidr == BIG else SMALL_SIZE * 10
                values = {"subnet": number, "cidr": cidr, "first": first, "count": count, "every": every}
                cursor.execute(_RESERVATIONS, {**values, "alice": accounts["alice"], "bench": accounts["bench"]})
                first += count
            cursor.execute(_MAPS)
            cursor.execute("UPDATE subnet SET digest = host_map_digest(id)")
            cursor.execute("SELECT rebuild_free_ranges(id) FROM subnet")
            cursor.execute("ANALYZE")
        tell(f"{self.count} reservations after {perf_counter() - began:.0f} s")

    def measure(self) -> dict[str, Any]:
        with cursor_on(self.dsn) as cursor:
            cursor.execute(
                "SELECT id FROM reservation WHERE subnet = 1 AND kind = 'device' ORDER BY id OFFSET %s LIMIT 1",
                (PAGE * (FAR_PAGE - 1) - 1,),
            )
            (far,) = cursor.fetchone()
            cursor.execute(
                "SELECT id, macs[1], host(address) FROM reservation WHERE subnet = 1 ORDER BY hashint8(id) LIMIT %s",
                (self.times,),
            )
            some = cursor.fetchall()
        listed: dict[str, Any] = {"subnet": BIG, "kind": "device"}
        figures: dict[str, Any] = {
            "reservations": self.count,
            "first_page_ms": self.median([_list(listed)]),
            "far_page_ms": self.median([_list({**listed, "after": format_id(Prefix.RESERVATION, far)})]),
            "rare_page_ms": self.median([_list({"subnet": BIG, "status": "releasing", "kind": "device"})]),
            "small_subnet_ms": self.median([_list({"subnet": SMALL[7]})]),
            "users_own_ms": self.median([_list({})], self.alice),
            "by_id_ms": self.median([f"/{format_id(Prefix.RESERVATION, number)}" for number, _, _ in some]),
            "by_mac_ms": self.median([_list({"mac": mac}) for _, mac, _ in some]),
            "by_address_ms": self.median([_list({"address": address}) for _, _, address in some]),
        }
        figures.update(self.export())
        return figures

    def median(self, paths: Sequence[str], token: str | None = None) -> float:
        """Of as many requests; the paths in turn."""
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=60)
        headers = {"Authorization": f"Bearer {token or self.admin}"}
        taken = []
        for number in range(self.times + 1):
            began = perf_counter()
            connection.request("GET", f"/api/v1/reservations{paths[number % len(paths)]}", headers=headers)
            response = connection.getresponse()
            content = json.loads(response.read())
            taken.append(perf_counter() - began)
            if response.status != 200 or not content:
                raise SystemExit(f"{paths[number % len(paths)]}: {response.status} {str(content)[:200]}")
        connection.close()
        found = round(statistics.median(taken[1:]) * 1000, 2)
        tell(f"{found:8.2f} ms {paths[0][:90]}")
        return found

    def export(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=60)
        before, most, lines, size = self.resident(), 0.0, 0, 0
        began = perf_counter()
        headers = {"Authorization": f"Bearer {self.admin}"}
        connection.request("GET", "/api/v1/reservations?format=csv", headers=headers)
        response = connection.getresponse()
        looked = 0.0
        while piece := response.read1(1 << 20):
            lines += piece.count(b"\n")
            size += len(piece)
            if perf_counter() - looked > 0.05:
                most, looked = max(most, self.resident()), perf_counter()
        seconds = perf_counter() - began
        connection.close()
        if lines != self.count + 1:
            raise SystemExit(f"the export has {lines} lines for {self.count} reservations")
        tell(f"exported {size / 1e6:.0f} MB in {seconds:.1f} s")
        return {
            "export_rows_per_s": round(self.count / seconds),
            "export_mb": round(size / 1e6, 1),
            "export_rss_mb": [before, most, self.resident()],
        }

    def resident(self) -> float:
        """The memory of regiond, in MB."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        return round(int(kilobytes) / 1024, 1)


def _list(query: dict[str, Any]) -> str:
    return "?" + urlencode({**query, "limit": PAGE})
