"""With 100,000 reservations no page of a filtered list reads a whole table, or walks all of an index."""

import json
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.domain.reservations import Kind, Status
from regiond.storage.exports import ExportReads
from regiond.storage.pool import Pool
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from tests.regiond.storage.crowd import crowd
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor

TAKEN = 100_000
MAX_ROWS = 12_000  # a page of what one in a hundred is needs some 10,000 rows


class Explained(Pool):
    """Asks how each statement was carried out, and keeps that, besides carrying it out."""

    plans: list[dict[str, Any]]

    async def query(self, sql: str, args: Any = None, **options: Any) -> Any:
        (row,) = await super().query(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", args, **options)
        plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
        self.plans.append(plan[0]["Plan"])
        return await super().query(sql, args, **options)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A plan and what is below it."""
    return [plan, *(below for each in plan.get("Plans", ()) for below in nodes(each))]


def read_of(plan: dict[str, Any], table: str) -> int:
    """How many rows of a table were looked at."""
    return sum(
        int((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        for node in nodes(plan)
        if node.get("Relation Name") == table
    )


async def wanted(region: Region, subnet: int) -> dict[str, ReservationFilter]:
    """Filters of every sort, by name."""
    somebody = new_id()
    await region.pool.execute("INSERT INTO account (id, name, role) VALUES (%s, 'alice', 'user')", (somebody,))
    for number in range(3):
        await region.pool.execute(
            """INSERT INTO reservation (subnet, address, id, kind, status, owner, device)
               VALUES (%s, %s, %s, 'device', 'active', %s, 7)""",
            (subnet, f"10.200.0.{number}", new_id(), somebody),
        )
    await region.pool.execute("ANALYZE reservation")
    return {
        "nothing": ReservationFilter(),
        "subnet": ReservationFilter(subnets=[subnet]),
        "kind and subnet": ReservationFilter(subnets=[subnet], kinds=[Kind.DEVICE]),
        "rare status": ReservationFilter(statuses=[Status.RELEASING]),
        "address": ReservationFilter(addresses=["10.0.0.20", "10.0.0.22"]),
        "mac": ReservationFilter(macs=["02:00:00:00:10:00"]),
        "owner": ReservationFilter(owner=somebody),
        "device": ReservationFilter(devices=[7]),
    }


@pytest_twisted.ensureDeferred
async def test_no_list_reads_more_than_its_page_needs(database: str) -> None:
    async with region_on(database, reactor) as region:
        subnet, _ = await crowd(region, TAKEN)
        filters = await wanted(region, subnet)
        (middle,) = (await region.pool.query("SELECT id FROM reservation ORDER BY id OFFSET 50000 LIMIT 1"))[0]
        pool = Explained(reactor, database, size=1)
        pool.plans = []
        pool.start()
        try:
            for name, one in filters.items():
                for after in (None, middle):
                    found = await Reads(pool).reservations(one, 100, after)
                    lines = await ExportReads(pool).page(one, 100, after)
                    assert [view.reservation.id for view in found] == [number for number, _ in lines]
                    assert found or after, name
                    for plan in pool.plans:
                        scanned = [n for n in nodes(plan) if n["Node Type"] == "Seq Scan"]
                        assert "reservation" not in {n["Relation Name"] for n in scanned}, (name, plan)
                        assert read_of(plan, "reservation") <= MAX_ROWS, (name, after, plan)
                    pool.plans.clear()
        finally:
            await pool.close()
