"""What is read on a real PostgreSQL: filters and pages of reservations, devices, nodes; what a release waits for."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain import errors
from regiond.domain.identity import ByName, Introduction
from regiond.domain.mutations import Acknowledge, Idempotency, Release
from regiond.domain.reservations import Kind, Reservation, Status
from regiond.storage.changes import Change
from regiond.storage.nodes import NodeStore
from regiond.storage.reservation_filter import ReservationFilter
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor

V4, V6 = "192.0.2.0/24", "2001:db8::/64"
MACS = [Identifier.mac(f"00:16:3e:00:00:0{n}") for n in range(1, 6)]
DUID = Identifier(IdentifierKind.DUID, b"\x00\x03\x00\x01\x00\x16\x3e\x00\x00\x01")


async def inhabited(region: Region) -> tuple[list[Reservation], int, list[int]]:
    """Reservations of every kind and state, a node's id, and the subnets."""
    _, subnets = await region.cluster("rack-a", V4, V6)
    v4, v6 = subnets
    node = await NodeStore(region.pool, new_id).create(change(region), "node-1", [MACS[3].text], region.owner, None)
    other = new_id()
    await region.pool.execute("INSERT INTO account (id, name, role) VALUES (%s, 'other', 'user')", (other,))
    steps = [
        region.device(v4, MACS[0], MACS[1], hostname="bmc-1"),
        region.device(v4, MACS[2]),
        region.device(v6, DUID),
        region.user(v4, mac=MACS[4].text),
        region.user(v6, address="2001:db8::77"),
        type(region.user(v4))(new_id(), Kind.USER, v4, other, "other", purpose="a VIP"),
        type(region.user(v4))(
            new_id(), Kind.NODE, v4, region.owner, "tester", identifiers=(MACS[3],), node=node, alias="eth0:1"
        ),
    ]
    made = [(await region.do(step)).reservations[0] for step in steps]
    await region.release(made[1])
    views = await region.reads.reservations(ReservationFilter())
    assert {view.reservation.id for view in views} == {one.id for one in made}
    return [view.reservation for view in views], node, subnets


def change(region: Region, key: str | None = None) -> Change:
    idempotency = None if key is None else Idempotency(region.owner, key, "f")
    return Change(region.actor, "test-request", idempotency)


@pytest_twisted.ensureDeferred
async def test_filters_hold_together_and_any_value_of_one_will_do(database: str) -> None:
    async with region_on(database, reactor) as region:
        everything, node, (v4, v6) = await inhabited(region)
        devices = [one.device for one in everything if one.device is not None]
        conditions: list[tuple[dict[str, Any], Callable[[Reservation], bool]]] = [
            ({"kinds": [Kind.DEVICE, Kind.NODE]}, lambda r: r.kind is not Kind.USER),
            ({"statuses": [Status.RELEASING]}, lambda r: r.status is Status.RELEASING),
            ({"subnets": [v4]}, lambda r: r.subnet == v4),
            ({"subnets": [v6, 1]}, lambda r: r.subnet == v6),
            ({"addresses": ["192.0.2.2", "2001:db8::77"]}, lambda r: r.address in ("192.0.2.2", "2001:db8::77")),
            ({"macs": [MACS[1].text, MACS[4].text]}, lambda r: bool({MACS[1].text, MACS[4].text} & set(r.macs))),
            ({"owner": region.owner}, lambda r: r.owner == region.owner),
            ({"devices": devices[:1]}, lambda r: r.device == devices[0]),
            ({"nodes": [node]}, lambda r: r.node == node),
            ({"ids": [everything[0].id, 5]}, lambda r: r.id == everything[0].id),
        ]
        for chosen in [*combinations(conditions, 1), *combinations(conditions, 2)]:
            wanted: dict[str, Any] = {}
            for condition, _ in chosen:
                wanted |= condition
            if len(wanted) < len(chosen):
                continue
            found = [view.reservation for view in await region.reads.reservations(ReservationFilter(**wanted))]
            assert found == [one for one in everything if all(holds(one) for _, holds in chosen)], wanted


async def pages(read: Callable[[int | None], Any], key: Callable[[Any], int]) -> list[int]:
    """All ids of a list that is read in pages."""
    ids: list[int] = []
    while True:
        page: Sequence[Any] = await read(ids[-1] if ids else None)
        if not page:
            return ids
        ids += [key(view) for view in page]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest_twisted.ensureDeferred
async def test_pages_have_everything_once_and_in_order(database: str, limit: int) -> None:
    async with region_on(database, reactor) as region:
        everything, _, _ = await inhabited(region)
        reads = region.reads
        ids = await pages(
            lambda after: reads.reservations(ReservationFilter(), limit, after), lambda v: v.reservation.id
        )
        assert ids == sorted(one.id for one in everything)
        devices = await pages(lambda after: reads.devices(limit=limit, after=after), lambda v: v.id)
        assert devices == sorted({one.device for one in everything if one.device is not None})
        for n in range(3):
            await NodeStore(region.pool, new_id).create(change(region), f"more-{n}", [], region.owner, None)
        nodes = await pages(lambda after: reads.nodes(limit=limit, after=after), lambda v: v.id)
        assert len(nodes) == 4
        assert nodes == sorted(nodes)


@pytest_twisted.ensureDeferred
async def test_devices_come_with_their_reservations_and_only_to_their_owner(database: str) -> None:
    async with region_on(database, reactor) as region:
        everything, _, _ = await inhabited(region)
        views = await region.reads.devices()
        assert {view.id: [one.reservation.id for one in view.reservations] for view in views} == {
            one.device: [one.id] for one in everything if one.device is not None
        }
        assert await region.reads.devices(owner=1) == []
        (one,) = await region.reads.devices(ids=[views[0].id], owner=region.owner)
        assert one == views[0]


@pytest_twisted.ensureDeferred
async def test_a_release_says_for_whom_it_waits(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", V4)
        (held,) = (await region.do(region.device(subnet, MACS[0]))).reservations
        assert (await waits(region, held)) == ()
        await region.release(held)
        registered = await region.clusters.register(ByName("rack-a"), Introduction("h", "b", "0"))
        await region.clusters.disconnected(registered.cluster, registered.epoch)
        (words,) = await waits(region, held)
        assert words.startswith("cluster rack-a to confirm the removal (not connected, at generation 0 of 2 since")
        await region.do(Acknowledge(cluster, subnet, 1, 1, error="no memory", rejected=()))
        assert ": no memory)" in (await waits(region, held))[0]
        await region.do(Acknowledge(cluster, subnet, 2, 2, rejected=()))
        (words,) = await waits(region, held)
        assert words.startswith("the release hold, until 20")


async def waits(region: Region, held: Reservation) -> tuple[str, ...]:
    view = await region.reads.reservation(held.id)
    assert view is not None
    return view.waits_for


@pytest_twisted.ensureDeferred
async def test_nodes_are_made_once_and_their_names_and_macs_are_theirs(database: str) -> None:
    async with region_on(database, reactor) as region:
        nodes = NodeStore(region.pool, new_id)
        macs = [MACS[0].text, MACS[1].text, MACS[0].text]
        first = await nodes.create(change(region, "k"), "node-1", macs, region.owner, "in rack 7")
        assert await nodes.create(change(region, "k"), "node-1", macs, region.owner, "in rack 7") == first
        with pytest.raises(errors.NameTaken):
            await nodes.create(change(region), "node-1", [], region.owner, None)
        with pytest.raises(errors.IdentifierTaken):
            await nodes.create(change(region), "node-2", [MACS[1].text], region.owner, None)
        (view,) = await region.reads.nodes()
        assert (view.id, view.hostname, view.macs, view.comment) == (
            first,
            "node-1",
            (MACS[0].text, MACS[1].text),
            "in rack 7",
        )
        audit = await region.pool.query("SELECT action, after->>'hostname' FROM audit")
        assert audit == [("node.create", "node-1")]


@pytest_twisted.ensureDeferred
async def test_an_answer_is_found_by_its_key(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", V4)
        (held,) = (await region.do(region.user(subnet))).reservations
        outcome = await region.do(Release(held.id, subnet, held.address), key="k")
        answered = await region.reads.answer(Idempotency(region.owner, "k", "f"))
        assert answered is not None
        assert (answered.created, answered.reservations, answered.replayed) == (True, outcome.reservations, True)
        assert await region.reads.answer(Idempotency(region.owner, "other", "f")) is None
        with pytest.raises(errors.IdempotencyKeyReused):
            await region.reads.answer(Idempotency(region.owner, "k", "g"))
