"""The audit as admins read it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import AuditEntry
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor


async def entries(
    world: SubnetWorld, limit: int = 100, after: str | None = None, filters: Mapping[str, Sequence[str]] | None = None
) -> Any:
    return await world.audit.entries(world.admin, filters=filters or {}, limit=limit, after=after)


def ids(found: list[AuditEntry]) -> list[str]:
    return [format_id(Prefix.AUDIT_ENTRY, entry.id) for entry in found]


@pytest_twisted.ensureDeferred
async def test_who_did_what_the_newest_first(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        range_id = await world.add(subnet, "192.0.2.100", "192.0.2.150")
        other = replace(world.admin, request_id="deploy-7")
        await world.subnets.change_range(other, subnet, range_id, changes={"comment": "x"}, force=False)
        (held,) = (await world.region.do(world.region.user(number))).reservations
        newest, changed, added = await entries(world)
        assert (newest.action, newest.object) == ("reservation.claim", format_id(Prefix.RESERVATION, held.id))
        assert (changed.action, changed.object, changed.request_id) == ("range.change", range_id, "deploy-7")
        assert (added.account, added.actor, added.before) == (world.region.owner, "tester", None)
        assert changed.before is not None and changed.after is not None
        assert changed.after == {**changed.before, "comment": "x"}
        assert newest.at >= changed.at >= added.at


@pytest_twisted.ensureDeferred
async def test_filters_are_alternatives_within_and_conditions_between(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        range_id = await world.add(subnet, "192.0.2.100", "192.0.2.150")
        await world.region.do(world.region.user(number))
        await world.subnets.remove_range(replace(world.admin, request_id="r2"), subnet, range_id)
        for filters, expected in (
            ({"object": [range_id]}, ["range.remove", "range.add"]),
            ({"action": ["range.add", "reservation.claim"]}, ["reservation.claim", "range.add"]),
            ({"request_id": ["r2"]}, ["range.remove"]),
            ({"object": [range_id], "request_id": ["test-request"]}, ["range.add"]),
            ({"actor": ["nobody"]}, []),
            ({"actor": ["nobody", "tester"]}, ["range.remove", "reservation.claim", "range.add"]),
        ):
            assert [entry.action for entry in await entries(world, filters=filters)] == expected
        with pytest.raises(errors.InvalidRequest):
            await entries(world, filters={"colour": ["red"]})


@pytest_twisted.ensureDeferred
async def test_what_happened_from_a_time_on_and_before_another(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, _ = await world.subnet()
        for _ in range(3):
            await world.region.do(world.region.user(number))
        third, second, first = await entries(world, filters={"action": ["reservation.claim"]})
        assert first.at < second.at < third.at

        async def between(**times: Any) -> list[int]:
            wanted = {"action": ["reservation.claim"]}
            found = await world.audit.entries(world.admin, filters=wanted, limit=10, after=None, **times)
            return [entry.id for entry in found]

        assert await between(since=second.at) == [third.id, second.id]
        assert await between(until=second.at) == [first.id]
        assert await between(since=second.at, until=third.at) == [second.id]
        assert await between(since=third.at, until=first.at) == []


@pytest_twisted.ensureDeferred
async def test_pages_go_on_with_what_is_older_whatever_is_added_meanwhile(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, _ = await world.subnet()
        await world.region.do(*[world.region.user(number) for _ in range(7)])
        everything = ids(await entries(world))
        pages: list[str] = []
        after: str | None = None
        while page := ids(await entries(world, limit=3, after=after)):
            pages += page
            after = page[-1]
            await world.region.do(world.region.user(number))
        assert pages == everything == sorted(everything, reverse=True)
        for wrong in ("x", "rs-0000000001"):
            with pytest.raises(errors.InvalidRequest):
                await entries(world, after=wrong)


@pytest_twisted.ensureDeferred
async def test_only_for_admins(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        with pytest.raises(errors.NotPermitted):
            await world.audit.entries(world.user, filters={}, limit=1, after=None)


@pytest_twisted.ensureDeferred
async def test_looking_for_little_does_not_read_all(database: str) -> None:
    """Plans over many entries, most of them of the three frequent actions."""
    async with subnet_world(database, reactor) as world:
        pool = world.region.pool
        await pool.execute(
            """INSERT INTO audit (actor, action, object, request_id)
               SELECT 'a', CASE WHEN n % 5000 = 0 THEN 'reservation.force-release' ELSE 'reservation.claim' END,
                      'rs-' || n, 'r' || n FROM generate_series(1, 50000) n"""
        )
        await pool.execute("ANALYZE audit")
        for condition, index in (
            ("object = ANY(ARRAY['rs-77', 'rs-78'])", "audit_object"),
            ("request_id = ANY(ARRAY['r77'])", "audit_request_id"),
            ("action = ANY(ARRAY['reservation.force-release', 'range.add'])", "audit_rare_action"),
            ("id < 40000", "audit_pkey"),
        ):
            rows = await pool.query(f"EXPLAIN SELECT * FROM audit WHERE {condition} ORDER BY id DESC LIMIT 50")
            assert index in "".join(row[0] for row in rows), rows
        assert len(await entries(world, filters={"action": ["reservation.force-release"]})) == 10
