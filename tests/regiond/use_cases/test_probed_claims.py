"""Claims whose addresses are probed, on a real PostgreSQL: who is in the way is marked, and never given to anybody."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.views import DeviceView, ReservationView
from regiond.storage.addresses_in_use import InUseStore
from regiond.storage.check import SubnetChecks
from regiond.storage.subnets import SubnetStore
from regiond.use_cases.addresses_in_use import AddressesInUse
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.requests import Caller
from tests.fakes.probes import FakeProbes
from tests.regiond.storage.region import Region, new_id, region_on
from tests.regiond.test_repeated_requests import Requests
from tests.waiting import until

reactor: Any = global_reactor

NET, NET6 = "192.0.2.0/24", "2001:db8::/64"
MAC, SQUATTER = "00:16:3e:00:00:01", "00:16:3e:00:00:66"


class World:
    """The use cases on a database, with probes in a test's hand. The subnets' first addresses are the controller's."""

    def __init__(self, region: Region, cluster: int, subnets: list[int]) -> None:
        self.region = region
        self.requests = Requests(region)
        self.probes: FakeProbes = self.requests.probes
        self.probes.cluster = cluster
        self.subnet, self.subnet6 = subnets
        self.store = InUseStore(region.pool, new_id)
        self.in_use = AddressesInUse(Inventory(region.reads, Catalogue(reactor, region.reads)), self.store)
        self.subnets = SubnetStore(region.pool)

    async def reserve(
        self, probe: bool | None = True, interface: str | None = NET, key: str | None = None, **values: Any
    ) -> list[ReservationView]:
        given: dict[str, Any] = {"address": None, "mac": None, "count": 1, **values}
        nothing: dict[str, Any] = dict.fromkeys(("hostname", "purpose", "comment", "user", "expires_at"))
        context = replace(self.requests.context(key), probe=probe)
        views, _ = await self.requests.claims.reserve(context, interface=interface, **nothing, **given)
        return list(views)

    async def address(self, probe: bool | None = True, **values: Any) -> tuple[str, bool | None]:
        (view,) = await self.reserve(probe, **values)
        return view.reservation.address, view.reservation.probed

    async def device(self, mac: str = MAC, probe: bool | None = True, **values: Any) -> DeviceView:
        nothing: dict[str, Any] = dict.fromkeys(("duid", "address", "hostname", "owner", "comment"))
        context = replace(self.requests.context(wait=0.0), probe=probe)
        made, _ = await self.requests.claims.create_device(context, interface=NET, macs=(mac,), **{**nothing, **values})
        return made

    async def by_default(self, probe: bool) -> None:
        await self.subnets.change(self.requests.context().change, self.subnet, {"probe": probe})

    async def marked(self) -> dict[str, str]:
        return {mark.address: mark.mac for mark in await self.store.marks(self.subnet)}

    async def sound(self) -> bool:
        report = await SubnetChecks(self.region.pool).check(self.subnet)
        return not report.findings and await self.region.tiles([self.subnet, self.subnet6])

    async def actions(self) -> list[str]:
        rows = await self.region.pool.query("SELECT action FROM audit WHERE action LIKE 'address.%' ORDER BY id")
        return [row[0] for row in rows]


@asynccontextmanager
async def world(database: str) -> AsyncIterator[World]:
    async with region_on(database, reactor) as region:
        cluster, subnets = await region.cluster("rack-a", NET, NET6)
        yield World(region, cluster, subnets)


@pytest_twisted.ensureDeferred
async def test_a_squatters_address_is_marked_and_the_next_one_is_taken(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {"192.0.2.2": SQUATTER, "192.0.2.3": SQUATTER, "2001:db8::2": SQUATTER}
        assert await on.address() == ("192.0.2.4", True)
        assert on.probes.asked == [("192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6")]
        assert await on.address(interface=NET6) == ("2001:db8::3", True)
        assert await on.marked() == {"192.0.2.2": SQUATTER, "192.0.2.3": SQUATTER}
        assert await on.address(probe=None) == ("192.0.2.5", None), "a claim without a probe keeps off the mark, too"
        assert (await on.subnets.utilisation(on.subnet)).in_use == 2
        assert await on.subnets.available(on.subnet, 2) == ["192.0.2.6", "192.0.2.7"]
        assert await on.actions() == ["address.in-use"] * 3
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_a_wanted_address_is_probed_too_and_its_own_machine_may_have_it(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {"192.0.2.7": SQUATTER, "192.0.2.8": MAC}
        with pytest.raises(errors.AddressInUse, match=r"192\.0\.2\.7"):
            await on.address(interface=None, address="192.0.2.7")
        with pytest.raises(errors.AddressInUse):
            await on.address(probe=None, address="192.0.2.7")
        mine = await on.device(address="192.0.2.8")
        assert mine.reservations[0].reservation.probed is True
        squatter = await on.device(SQUATTER, address="192.0.2.7")
        assert squatter.reservations[0].reservation.address == "192.0.2.7", "who uses it already gets a reservation"
        assert await on.address(address="192.0.2.9") == ("192.0.2.9", True)
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_a_mark_expires_or_is_cleared_and_the_address_is_handed_out(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {"192.0.2.2": SQUATTER, "192.0.2.3": SQUATTER}
        assert await on.address() == ("192.0.2.4", True)
        admin = on.requests.context()
        first, second = await on.in_use.marks(NET)
        assert (first.address, first.cluster_name) == ("192.0.2.2", "rack-a") and first.expires_at > first.seen_at
        user = replace(admin, caller=Caller(1, "alice", is_admin=False, read_only=False))
        with pytest.raises(errors.NotPermitted):
            await on.in_use.clear(user, NET, format_id(Prefix.ADDRESS_IN_USE, first.id))
        await on.in_use.clear(admin, NET, format_id(Prefix.ADDRESS_IN_USE, first.id))
        with pytest.raises(errors.NotFound):
            await on.in_use.clear(admin, NET, format_id(Prefix.ADDRESS_IN_USE, first.id))
        assert await on.address(probe=None) == ("192.0.2.2", None)
        await on.store.expire()
        assert list(await on.marked()) == ["192.0.2.3"], "its time is not over"
        await on.region.pool.execute("UPDATE address_in_use SET expires_at = now() WHERE id = %s", (second.id,))
        await on.store.expire()
        assert await on.marked() == {}
        assert await on.address(probe=None) == ("192.0.2.3", None)
        assert await on.actions() == ["address.in-use", "address.in-use", "address.clear-in-use"]
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_who_is_seen_again_stays_marked_for_longer(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {"192.0.2.7": SQUATTER}
        with pytest.raises(errors.AddressInUse):
            await on.address(address="192.0.2.7")
        (before,) = await on.store.marks(on.subnet)
        found = (await on.probes.ask(on.subnet, ["192.0.2.7"])).in_use
        await on.store.mark("again", on.subnet, on.probes.cluster, found)
        (after,) = await on.store.marks(on.subnet)
        assert (after.id, after.since) == (before.id, before.since)
        assert after.seen_at > before.seen_at and after.expires_at > before.expires_at
        assert await on.actions() == ["address.in-use"], "told once"


@pytest_twisted.ensureDeferred
async def test_a_released_address_with_a_mark_is_not_free(database: str) -> None:
    async with world(database) as on:
        (held,) = await on.reserve(address="192.0.2.2")
        on.probes.squatters = {"192.0.2.2": SQUATTER, "192.0.2.3": SQUATTER}
        found = (await on.probes.ask(on.subnet, ["192.0.2.2"])).in_use
        await on.store.mark("late", on.subnet, on.probes.cluster, found)
        assert await on.marked() == {}, "who has a reservation by now is the one that answers"
        squatter = await on.device(SQUATTER, address="192.0.2.3")
        await on.requests.claims.release_reservation(
            on.requests.context(), format_id(Prefix.RESERVATION, held.reservation.id), force=False
        )
        with pytest.raises(errors.AddressInUse):
            await on.address(address="192.0.2.2")
        await on.requests.delete(squatter, None)
        assert await on.address(probe=False) == ("192.0.2.3", None)
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_the_subnet_may_want_it_by_default(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {"192.0.2.2": SQUATTER}
        await on.by_default(True)
        assert await on.address(probe=None) == ("192.0.2.3", True)
        assert await on.address(probe=False) == ("192.0.2.4", None)
        on.probes.reasons = ["cluster rack-a cannot be asked: it is not connected"]
        assert await on.address(probe=None) == ("192.0.2.5", False), "a cluster that is away never fails a claim"
        with pytest.raises(errors.NotProbed, match="not connected") as refused:
            await on.address(probe=True)
        assert refused.value.members["reasons"] == on.probes.reasons
        await on.by_default(False)
        assert await on.address(probe=None) == ("192.0.2.6", None)


@pytest_twisted.ensureDeferred
async def test_several_addresses_are_probed_together_all_or_none(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {f"192.0.2.{n}": SQUATTER for n in range(2, 12)}
        views = await on.reserve(count=8)
        assert [view.reservation.address for view in views] == [f"192.0.2.{n}" for n in range(12, 20)]
        assert {view.reservation.probed for view in views} == {True}
        assert len(on.probes.asked) == 2, "the first twelve were not enough"
        with pytest.raises(errors.SubnetExhausted):
            await on.reserve(count=250)
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_it_ends_where_everybody_answers(database: str) -> None:
    async with world(database) as on:
        on.probes.squatters = {f"192.0.2.{n}": SQUATTER for n in range(2, 255)}
        with pytest.raises(errors.NotProbed, match="are in use"):
            await on.address()
        assert list(map(len, on.probes.asked)) == [5, 17, 65]


@pytest_twisted.ensureDeferred
async def test_nothing_is_probed_for_who_has_its_address_already(database: str) -> None:
    async with world(database) as on:
        first = await on.device()
        asked = len(on.probes.asked)
        on.probes.squatters = {first.reservations[0].reservation.address: MAC}
        again = await on.device()
        assert again.id == first.id and len(on.probes.asked) == asked
        (kept,) = await on.reserve(key="k")
        assert [view.reservation.id for view in await on.reserve(key="k")] == [kept.reservation.id]
        assert len(on.probes.asked) == asked + 1
        assert (await on.reserve(key="k", probe=None))[0].reservation.probed is True
        with pytest.raises(errors.IdentifierTaken):
            await on.device(address="192.0.2.99")
        assert len(on.probes.asked) == asked + 1


@pytest_twisted.ensureDeferred
async def test_probed_claims_at_once_never_get_one_address_nor_a_squatters(database: str) -> None:
    async with world(database) as on:
        squatted = {f"192.0.2.{n}" for n in range(2, 200, 5)}
        on.probes.squatters = dict.fromkeys(squatted, SQUATTER)
        probed = [on.address() for _ in range(30)]
        plain = [on.address(probe=False) for _ in range(20)]
        both = await gatherResults([Deferred.fromCoroutine(one) for one in (*probed, *plain)])
        given = [address for address, _ in both]
        assert len(set(given)) == 50
        assert not {address for address, was_probed in both if was_probed} & squatted
        assert [was_probed for _, was_probed in both] == [True] * 30 + [None] * 20
        assert await on.sound()


@pytest_twisted.ensureDeferred
async def test_one_key_at_once_is_one_claim(database: str) -> None:
    async with world(database) as on:
        on.probes.hold()
        both = [Deferred.fromCoroutine(on.reserve(key="k")) for _ in range(2)]
        await until(lambda: on.probes.held == 2)
        on.probes.let_go()
        (first,), (second,) = await gatherResults(both)
        assert first.reservation.id == second.reservation.id
        rows = await on.region.pool.query("SELECT count(*) FROM reservation")
        assert rows == [(1,)]


@pytest_twisted.ensureDeferred
async def test_what_others_take_during_a_probe_is_not_given_twice(database: str) -> None:
    async with world(database) as on:
        on.probes.hold()
        probed = Deferred.fromCoroutine(on.address())
        await until(lambda: on.probes.held == 1)
        taken = [await on.address(probe=False) for _ in range(5)]
        assert [address for address, _ in taken] == [f"192.0.2.{n}" for n in range(2, 7)], "no lock is held meanwhile"
        on.probes.let_go()
        assert await probed == ("192.0.2.7", True)
        assert len(on.probes.asked) == 2
