"""Ranges at run time on a real PostgreSQL: what they take from the free space, what they refuse, what they leave."""

import itertools
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from clusterd.protocol.values import Identifier
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.networks import network
from regiond.domain.ranges import RangeKind, RangeValues, check_range, newly_dynamic
from regiond.domain.reservations import Status
from regiond.storage.reservation_filter import ReservationFilter
from tests.regiond.storage.region import addresses
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor

MAC = Identifier.mac("00:16:3e:00:00:01")


def values(low: str, high: str, kind: RangeKind = RangeKind.DYNAMIC) -> RangeValues:
    return RangeValues(kind, low, high, None)


@pytest.mark.parametrize(
    ("low", "high", "error"),
    [
        ("192.0.2.20", "192.0.2.10", errors.InvalidRequest),
        ("192.0.2.20", "2001:db8::1", errors.InvalidRequest),
        ("192.0.1.255", "192.0.2.10", errors.AddressOutsideSubnet),
        ("192.0.2.20", "192.0.3.0", errors.AddressOutsideSubnet),
    ],
)
def test_ends_that_are_no_range_of_the_subnet(low: str, high: str, error: type[errors.DomainError]) -> None:
    with pytest.raises(error):
        check_range(network("192.0.2.0/24"), values(low, high))


def test_a_whole_subnet_may_be_a_range() -> None:
    check_range(network("192.0.2.0/24"), values("192.0.2.0", "192.0.2.255"))
    check_range(network("2001:db8::/64"), values("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"))


def test_only_addresses_that_become_dynamic_are_asked_about() -> None:
    before = values("192.0.2.10", "192.0.2.20")
    assert newly_dynamic(None, before)
    assert newly_dynamic(values("192.0.2.1", "192.0.2.99", RangeKind.RESERVED), before)
    assert newly_dynamic(before, values("192.0.2.9", "192.0.2.20"))
    assert newly_dynamic(before, values("192.0.2.10", "192.0.2.21"))
    assert not newly_dynamic(before, values("192.0.2.11", "192.0.2.19"))
    assert not newly_dynamic(None, values("192.0.2.1", "192.0.2.9", RangeKind.RESERVED))


@pytest_twisted.ensureDeferred
async def test_a_range_takes_its_addresses_at_once_and_gives_them_back(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("192.0.2.0/28")
        region = world.region
        range_id = await world.add(subnet, "192.0.2.2", "192.0.2.5", comment="leases")
        assert addresses(await region.do(region.user(number))) == ["192.0.2.6"]
        with pytest.raises(errors.AddressInDynamicRange):
            await region.do(region.user(number, address="192.0.2.5"))
        await world.subnets.change_range(world.admin, subnet, range_id, changes={"high": "192.0.2.3"}, force=False)
        assert addresses(await region.do(region.user(number))) == ["192.0.2.4"]
        await world.add(subnet, "192.0.2.8", "192.0.2.14", "reserved")
        with pytest.raises(errors.AddressInReservedRange):
            await region.do(region.user(number, address="192.0.2.9"))
        await world.subnets.remove_range(world.admin, subnet, range_id)
        assert addresses(await region.do(region.user(number))) == ["192.0.2.2"]
        assert await world.sound(subnet)
        assert await world.actions("range.") == [
            (
                "range.add",
                None,
                {"subnet": subnet, "kind": "dynamic", "low": "192.0.2.2", "high": "192.0.2.5", "comment": "leases"},
            ),
            (
                "range.change",
                {"subnet": subnet, "kind": "dynamic", "low": "192.0.2.2", "high": "192.0.2.5", "comment": "leases"},
                {"subnet": subnet, "kind": "dynamic", "low": "192.0.2.2", "high": "192.0.2.3", "comment": "leases"},
            ),
            ("range.add", None, {"subnet": subnet, "kind": "reserved", "low": "192.0.2.8", "high": "192.0.2.14"}),
            (
                "range.remove",
                {"subnet": subnet, "kind": "dynamic", "low": "192.0.2.2", "high": "192.0.2.3", "comment": "leases"},
                None,
            ),
        ]


@pytest_twisted.ensureDeferred
async def test_an_overlap_is_refused_with_the_other_range(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, subnet = await world.subnet()
        first = await world.add(subnet, "192.0.2.100", "192.0.2.150")
        second = await world.add(subnet, "192.0.2.151", "192.0.2.160", "reserved")
        for low, high in (("192.0.2.90", "192.0.2.100"), ("192.0.2.120", "192.0.2.121"), ("192.0.2.1", "192.0.2.254")):
            with pytest.raises(errors.RangeOverlap) as refused:
                await world.add(subnet, low, high, "reserved")
            assert format_id(Prefix.ADDRESS_RANGE, refused.value.members["range"].id) == first
        with pytest.raises(errors.RangeOverlap):
            await world.subnets.change_range(world.admin, subnet, second, changes={"low": "192.0.2.150"}, force=True)
        kept = await world.subnets.list_ranges(subnet)
        assert [(each.values.low, each.values.high) for each in kept] == [
            ("192.0.2.100", "192.0.2.150"),
            ("192.0.2.151", "192.0.2.160"),
        ]
        assert await world.sound(subnet)


@pytest_twisted.ensureDeferred
async def test_a_dynamic_range_over_reservations_is_refused_with_the_first_hundred(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        region = world.region
        await region.do(*[region.user(number) for _ in range(120)])
        (resting,) = (await region.do(region.device(number, MAC, address="192.0.2.200"))).reservations
        await region.release(resting)
        with pytest.raises(errors.RangeOverReservations) as refused:
            await world.add(subnet, "192.0.2.10", "192.0.2.254")
        assert refused.value.members["count"] == 113
        listed = [held.address for held in refused.value.members["reservations"]]
        assert listed == [f"192.0.2.{n}" for n in range(10, 110)]
        with pytest.raises(errors.RangeOverReservations) as refused:
            await world.add(subnet, "192.0.2.199", "192.0.2.201")
        assert [held.status for held in refused.value.members["reservations"]] == [Status.RELEASING]
        assert await world.subnets.list_ranges(subnet) == []
        await world.add(subnet, "192.0.2.10", "192.0.2.254", "reserved")
        assert await world.sound(subnet)


@pytest_twisted.ensureDeferred
async def test_a_forced_dynamic_range_leaves_its_holders_and_never_frees_their_addresses(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet("192.0.2.0/29")
        region = world.region
        held = (await region.do(*[region.user(number) for _ in range(3)])).reservations
        range_id = await world.add(subnet, "192.0.2.2", "192.0.2.3", force=True)
        assert (await world.actions("range."))[0][2]["forced_over_reservations"] == 2
        assert len(await region.reads.reservations(ReservationFilter(subnets=[number]))) == 3
        await region.release(held[0])
        assert addresses(await region.do(region.user(number))) == ["192.0.2.5"]
        assert await world.sound(subnet)
        # a comment, or a smaller range, asks about nobody again; a larger one asks about the new addresses only
        await world.subnets.change_range(world.admin, subnet, range_id, changes={"comment": "x"}, force=False)
        with pytest.raises(errors.RangeOverReservations) as refused:
            await world.subnets.change_range(world.admin, subnet, range_id, changes={"high": "192.0.2.4"}, force=False)
        assert refused.value.members["count"] == 1
        await world.subnets.change_range(world.admin, subnet, range_id, changes={"high": "192.0.2.4"}, force=True)
        await world.subnets.remove_range(world.admin, subnet, range_id)
        assert addresses(await region.do(region.user(number))) == ["192.0.2.2"]
        assert await world.sound(subnet)


@pytest_twisted.ensureDeferred
async def test_a_reserved_range_that_becomes_dynamic_asks_about_its_reservations(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        await world.region.do(world.region.user(number))
        range_id = await world.add(subnet, "192.0.2.2", "192.0.2.9", "reserved")
        with pytest.raises(errors.RangeOverReservations):
            await world.subnets.change_range(world.admin, subnet, range_id, changes={"kind": "dynamic"}, force=False)
        await world.subnets.change_range(world.admin, subnet, range_id, changes={"kind": "dynamic"}, force=True)
        assert (await world.subnets.range(subnet, range_id)).values.kind is RangeKind.DYNAMIC


@pytest_twisted.ensureDeferred
async def test_a_repeated_key_does_it_once(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, subnet = await world.subnet()
        adding = world.keyed("k1")
        arguments: dict[str, Any] = {"kind": "reserved", "low": "192.0.2.9", "high": "192.0.2.9", "comment": None}
        made = await gatherResults(
            [
                Deferred.fromCoroutine(world.subnets.add_range(adding, subnet, **arguments, force=False))
                for _ in range(4)
            ],
            consumeErrors=True,
        )
        assert len({each.id for each in made}) == 1
        with pytest.raises(errors.RangeOverlap):
            await world.subnets.add_range(world.admin, subnet, **arguments, force=False)
        with pytest.raises(errors.IdempotencyKeyReused):
            await world.subnets.add_range(world.keyed("k1", "g"), subnet, **arguments, force=False)
        range_id = format_id(Prefix.ADDRESS_RANGE, made[0].id)
        for _ in range(2):
            await world.subnets.remove_range(world.keyed("k2"), subnet, range_id)
        for gone in (
            world.subnets.remove_range(world.admin, subnet, range_id),
            world.subnets.range(subnet, range_id),
            world.subnets.change_range(world.admin, subnet, range_id, changes={"comment": "x"}, force=False),
            world.subnets.add_range(adding, subnet, **arguments, force=False),
        ):
            with pytest.raises(errors.NotFound):
                await gone
        assert len(await world.actions("range.")) == 2


@pytest_twisted.ensureDeferred
async def test_claims_and_range_changes_at_once_never_cross(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        number, subnet = await world.subnet()
        region = world.region

        async def claim() -> str:
            return addresses(await region.do(region.user(number)))[0]

        async def add(low: int) -> str | None:
            try:
                return await world.add(subnet, f"192.0.2.{low}", f"192.0.2.{low + 3}")
            except errors.RangeOverReservations:
                return None

        running: list[Any] = []
        for low in range(10, 60, 4):
            running += [Deferred.fromCoroutine(claim()) for _ in range(4)]
            running.append(Deferred.fromCoroutine(add(low)))
        done = await gatherResults(running, consumeErrors=True)
        claimed = [each for each in done if isinstance(each, str) and each.startswith("192.")]
        assert len(set(claimed)) == 52
        for each in await world.subnets.list_ranges(subnet):
            low = int(each.values.low.rsplit(".")[-1])
            assert not {f"192.0.2.{n}" for n in range(low, low + 4)} & set(claimed)
        assert await world.sound(subnet)


@pytest_twisted.ensureDeferred
async def test_of_another_subnet_or_by_a_user(database: str) -> None:
    async with subnet_world(database, reactor) as world:
        _, subnet = await world.subnet()
        _, other = await world.subnet("198.51.100.0/24")
        range_id = await world.add(subnet, "192.0.2.9", "192.0.2.9")
        for refused in (
            world.subnets.range(other, range_id),
            world.subnets.remove_range(world.admin, other, range_id),
            world.subnets.change_range(world.admin, other, range_id, changes={"comment": "x"}, force=False),
            world.add("sn-0000000000", "192.0.2.9", "192.0.2.9"),
        ):
            with pytest.raises(errors.NotFound):
                await refused
        arguments: dict[str, Any] = {"kind": "reserved", "low": "192.0.2.9", "high": "192.0.2.9", "comment": None}
        for refused in (
            world.subnets.add_range(world.user, subnet, **arguments, force=False),
            world.subnets.change_range(world.user, subnet, range_id, changes={}, force=False),
            world.subnets.remove_range(world.user, subnet, range_id),
        ):
            with pytest.raises(errors.NotPermitted):
                await refused
        assert len(await world.subnets.list_ranges("192.0.2.0/24")) == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 15), st.integers(0, 6), st.sampled_from(["dynamic", "reserved"])),
        st.tuples(st.just("move"), st.integers(0, 15), st.integers(0, 6), st.sampled_from(["dynamic", "reserved"])),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0), st.just("")),
        st.tuples(st.just("claim"), st.just(0), st.just(0), st.just("")),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0), st.just("")),
    ),
    min_size=1,
    max_size=15,
)


class Model:
    """A subnet of sixteen addresses as sets of their last digits."""

    def __init__(self, family: int) -> None:
        self.usable = set(range(1, 15 if family == 4 else 16)) - {1}  # the first is the controller's
        self.ranges: dict[str, tuple[str, set[int]]] = {}
        self.reserved: dict[int, Any] = {}

    def lowest(self) -> int | None:
        excluded = {address for _, span in self.ranges.values() for address in span}
        return min(self.usable - excluded - set(self.reserved), default=None)

    def refuses(self, kind: str, span: set[int], moved: str | None) -> type[errors.DomainError] | None:
        """What has to be said to a range, without force."""
        if any(span & other for range_id, (_, other) in self.ranges.items() if range_id != moved):
            return errors.RangeOverlap
        known = self.ranges.get(moved or "", ("", set()))
        new = span - (known[1] if known[0] == "dynamic" else set())
        return errors.RangeOverReservations if kind == "dynamic" and new & set(self.reserved) else None


NETWORKS = itertools.count(16)  # all examples share one database


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(family=st.sampled_from([4, 6]), steps=STEPS, force=st.booleans())
@pytest_twisted.ensureDeferred
async def test_any_interleaving_of_range_changes_claims_and_releases(
    database: str, family: int, steps: list[tuple[str, int, int, str]], force: bool
) -> None:
    base = f"10.0.{next(NETWORKS)}." if family == 4 else f"2001:db8:{next(NETWORKS):x}::"
    async with subnet_world(database, reactor) as world:
        await _play(world, family, base, steps, force)


async def _play(
    world: SubnetWorld, family: int, base: str, steps: list[tuple[str, int, int, str]], force: bool
) -> None:
    number, subnet = await world.subnet(f"{base}0/28" if family == 4 else f"{base}/124")
    model, region, show = Model(family), world.region, (str if family == 4 else "{:x}".format)
    for what, first, length, kind in steps:
        if what == "claim":
            if (lowest := model.lowest()) is None:
                with pytest.raises(errors.SubnetExhausted):
                    await region.do(region.user(number))
                continue
            (held,) = (await region.do(region.user(number))).reservations
            assert held.address == f"{base}{show(lowest)}"
            model.reserved[lowest] = held
        elif what == "release" and model.reserved:
            last = sorted(model.reserved)[first % len(model.reserved)]
            await region.release(model.reserved.pop(last))
        elif what == "remove" and model.ranges:
            range_id = sorted(model.ranges)[first % len(model.ranges)]
            del model.ranges[range_id]
            await world.subnets.remove_range(world.admin, subnet, range_id)
        elif what in ("add", "move"):
            moved = min(model.ranges, default=None) if what == "move" else None
            span = set(range(first, min(first + length, 15) + 1))
            values = {"kind": kind, "low": f"{base}{show(min(span))}", "high": f"{base}{show(max(span))}"}
            refused = model.refuses(kind, span, moved)
            if refused is errors.RangeOverlap or (refused is not None and not force):
                with pytest.raises(refused):
                    await _write(world, subnet, moved, values, force)
            else:
                model.ranges[await _write(world, subnet, moved, values, force)] = (kind, span)
        report = await world.check(subnet)
        assert report.findings == ()


async def _write(world: SubnetWorld, subnet: str, moved: str | None, values: dict[str, str], force: bool) -> str:
    if moved is None:
        return await world.add(subnet, **values, force=force)
    await world.subnets.change_range(world.admin, subnet, moved, changes=values, force=force)
    return moved
