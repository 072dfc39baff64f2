"""Exports on a real database: everything once, also while it changes; a user's own; a long one in many pages."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import Claim
from regiond.domain.reservations import Kind
from regiond.storage.exports import ExportReads
from regiond.storage.pool import Pool
from regiond.use_cases.exports import PAGE, Exports
from regiond.use_cases.filters import ReservationFilters
from regiond.use_cases.requests import Caller, RequestContext
from tests.regiond.storage.crowd import crowd
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor


def exports_on(region: Region) -> Exports:
    return Exports(ExportReads(region.pool), ReservationFilters(Catalogue(reactor, region.reads), region.reads))


def context_of(account: int, name: str, *, is_admin: bool) -> RequestContext:
    return RequestContext(Caller(account, name, is_admin=is_admin, read_only=False), "test")


async def exported(
    region: Region,
    context: RequestContext,
    form: LineFormat = LineFormat.JSONL,
    after: str | None = None,
    **filters: Sequence[str],
) -> list[dict[str, Any]]:
    pieces = await exports_on(region).export(context, form, filters=filters, after=after)
    content = b"".join([piece async for piece in pieces]).decode()
    if form is LineFormat.CSV:
        return list(csv.DictReader(io.StringIO(content, newline="")))
    return [json.loads(line) for line in content.splitlines()]


@pytest_twisted.ensureDeferred
async def test_what_stands_in_an_export_and_for_whom(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet, six) = await region.cluster("rack-a", "192.0.2.0/24", "2001:db8::/64")
        alice = new_id()
        await region.pool.execute("INSERT INTO account (id, name, role) VALUES (%s, 'alice', 'user')", (alice,))
        node = new_id()
        await region.pool.execute("INSERT INTO node (id, hostname, owner) VALUES (%s, 'node1', %s)", (node, alice))
        await region.do(region.device(subnet, Identifier.mac("00:16:3e:00:00:01"), hostname="web1", comment="=1+1"))
        await region.do(region.user(six, purpose='ü, "quoted"\nlines'))
        (outcome,) = (await region.do(_node_claim(subnet, node, alice))).reservations
        admin = context_of(region.owner, "tester", is_admin=True)
        user = context_of(alice, "alice", is_admin=False)
        everything = {row["address"]: row for row in await exported(region, admin)}
        assert set(everything) == {"192.0.2.2", "192.0.2.3", "2001:db8::2"}
        assert everything["192.0.2.2"]["comment"] == "=1+1"
        assert everything["192.0.2.3"]["node"] == "node1" and everything["192.0.2.3"]["owner"] == "alice"
        assert everything["2001:db8::2"]["purpose"] == 'ü, "quoted"\nlines'
        rows = {row["address"]: row for row in await exported(region, admin, LineFormat.CSV)}
        assert rows["192.0.2.2"]["comment"] == "'=1+1" and rows["192.0.2.2"]["macs"] == "00:16:3e:00:00:01"
        assert [row["id"] for row in await exported(region, user)] == [format_id(Prefix.RESERVATION, outcome.id)]
        assert [row["address"] for row in await exported(region, admin, kind=["user"])] == ["2001:db8::2"]
        assert len(await exported(region, admin, kind=["user", "node"])) == 2
        assert len(await exported(region, admin, owner=["alice"])) == 1
        assert len(await exported(region, user, owner=["alice"])) == 1
        assert await exported(region, user, owner=["tester"]) == []
        assert [row["address"] for row in await exported(region, admin, address=["192.0.2.3", "10.0.0.1"])] == [
            "192.0.2.3"
        ]
        assert await exported(region, user, address=["192.0.2.2"]) == []
        for name, value, says in (
            ("colour", "red", "there is no filter colour"),
            ("kind", "x", "'x' is none of device, node, user, recovered"),
            ("owner", "nobody", "no account nobody"),
        ):
            with pytest.raises(errors.InvalidRequest, match=says):
                await exports_on(region).export(admin, LineFormat.CSV, filters={name: [value]}, after=None)


def _node_claim(subnet: int, node: int, owner: int) -> Any:
    identifiers = (Identifier.mac("00:16:3e:00:00:02"),)
    return Claim(new_id(), Kind.NODE, subnet, owner, "alice", identifiers=identifiers, node=node)


@pytest_twisted.ensureDeferred
async def test_a_long_export_has_everything_once_though_it_changes_meanwhile(database: str) -> None:
    async with region_on(database, reactor) as region:
        subnet, _ = await crowd(region, 4 * PAGE + 10)
        admin = context_of(region.owner, "tester", is_admin=True)
        lasting = {row["id"] for row in await exported(region, admin, status=["active"])}
        pieces = await exports_on(region).export(admin, LineFormat.JSONL, filters={}, after=None)
        seen: list[str] = []
        async for piece in pieces:
            seen += [json.loads(line)["id"] for line in piece.splitlines()]
            (made,) = (await region.do(region.user(subnet))).reservations
            await region.do(region.user(subnet))
            await region.release(made)
        assert len(seen) == len(set(seen)) and set(seen) >= lasting
        assert seen == sorted(seen)
        rest = [row["id"] for row in await exported(region, admin, after=seen[PAGE])]
        assert seen[PAGE + 1] in rest and seen[PAGE] not in rest


@pytest_twisted.ensureDeferred
async def test_a_reader_that_pauses_holds_no_connection(database: str) -> None:
    async with region_on(database, reactor) as region:
        await crowd(region, 3 * PAGE)
        pool = Pool(reactor, database, size=1, patience=1.0)
        pool.start()
        try:
            exports = Exports(ExportReads(pool), ReservationFilters(Catalogue(reactor, region.reads), region.reads))
            admin = context_of(region.owner, "tester", is_admin=True)
            pieces = await exports.export(admin, LineFormat.CSV, filters={}, after=None)
            await anext(pieces)
            await anext(pieces)
            assert (await pool.query("SELECT 1"))[0][0] == 1
            assert pool.stats.idle == 1
        finally:
            await pool.close()
