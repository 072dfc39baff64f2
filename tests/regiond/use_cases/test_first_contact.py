"""What clusters report of their DHCP servers, on a real PostgreSQL: kept out of allocation, shown, adopted."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from clusterd.protocol.values import Identifier, IdentifierKind, InterfaceReport, ServerEntry, ServerPool
from regiond.domain import errors
from regiond.domain.first_contact import (
    Adoption,
    AdoptionResult,
    Contact,
    DhcpServerReport,
    adoption_of,
    difference,
)
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Forgotten, Mutation
from regiond.domain.ranges import RangeKind
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.first_contact import FirstContactStore
from regiond.use_cases.adoption import Adoptions
from tests.clusterd import strategies as values
from tests.regiond.storage.region import Region, addresses, new_id
from tests.regiond.subnet_world import SubnetWorld, subnet_world

reactor: Any = global_reactor

NET = "192.0.2.0/28"  # .1 is the controller's: .2 to .14 can be claimed
MAC = Identifier.mac("00:16:3e:00:00:01")
OTHER = Identifier.mac("00:16:3e:00:00:02")
CLIENT_ID = Identifier(IdentifierKind.CLIENT_ID, b"fred")
POOL = ServerPool("192.0.2.3", "192.0.2.6", "dnsmasq.conf:1")
ENTRY = ServerEntry("192.0.2.8", (MAC,), "web1", "dnsmasq.conf:2")


def report(*pools: ServerPool, entries: Sequence[ServerEntry] = (), error: str | None = None) -> DhcpServerReport:
    return DhcpServerReport(pools, entries, (), error)


@dataclass
class World:
    """A cluster with one subnet, whose DHCP server is yet to be heard of."""

    subnets: SubnetWorld
    store: FirstContactStore
    adoptions: Adoptions
    cluster: int
    subnet: int

    @property
    def region(self) -> Region:
        return self.subnets.region

    @property
    def subnet_id(self) -> str:
        return format_id(Prefix.SUBNET, self.subnet)

    async def says(self, *pools: ServerPool, entries: Sequence[ServerEntry] = (), error: str | None = None) -> None:
        await self.store.report(self.cluster, "rack-a", report(*pools, entries=entries, error=error))
        assert await self.region.tiles([self.subnet])

    async def claim(self, address: str | None = None) -> str:
        (given_,) = addresses(await self.region.do(self.region.user(self.subnet, address=address)))
        return given_

    async def free(self) -> list[str]:
        return list(await self.subnets.subnets.available(self.subnet_id, 100))

    async def entries(self) -> dict[str, tuple[str, Adoption, str | None]]:
        """Address → id, adoption, reason."""
        found = await self.adoptions.entries(self.subnets.admin, "rack-a", subnet=None, limit=1000, after=None)
        return {f.entry.address: (format_id(Prefix.FOREIGN_ENTRY, f.id), *adoption_of(f)) for f in found}

    async def adopt(self, *chosen: str) -> Sequence[AdoptionResult]:
        known = await self.entries()
        ids = [known[address][0] for address in chosen]
        return await self.adoptions.adopt(self.subnets.admin, "rack-a", entries=ids, owner=None)


@asynccontextmanager
async def world(dsn: str, *, backend: str = "dnsmasq") -> AsyncIterator[World]:
    async with subnet_world(dsn, reactor) as made:
        region = made.region
        cluster, (subnet,) = await region.cluster("rack-a", NET)
        await region.pool.execute("UPDATE cluster SET backend = %s", (backend,))
        store = FirstContactStore(region.pool, new_id)
        adoptions = Adoptions(store, made.inventory, region.reads, region.writer, new_id)
        yield World(made, store, adoptions, cluster, subnet)


@pytest_twisted.ensureDeferred
async def test_nothing_is_claimed_before_the_server_was_heard_of(database: str) -> None:
    async with world(database) as site:
        await site.store.expect(site.cluster, True)
        with pytest.raises(errors.SubnetNotReady, match="the DHCP server of rack-a"):
            await site.claim()
        with pytest.raises(errors.SubnetNotReady):
            await site.claim("192.0.2.9")
        (view,) = await site.region.reads.subnets()
        assert (view.awaits, view.claimable_anyway) == (("rack-a",), False)
        await site.says(error="permission denied")
        with pytest.raises(errors.SubnetNotReady):
            await site.claim()
        assert (await site.store.contact(site.cluster)).error == "permission denied"
        await site.says(POOL)
        assert await site.claim() == "192.0.2.2"
        contact = await site.store.contact(site.cluster)
        assert (contact.contact, contact.error) == (Contact.REPORTED, None)
        # What was heard once stays true while it registers again, and while its configuration cannot be read.
        await site.store.expect(site.cluster, True)
        await site.says(error="permission denied")
        assert await site.claim() == "192.0.2.7"


@pytest_twisted.ensureDeferred
async def test_an_admin_can_say_that_it_is_claimable_anyway(database: str) -> None:
    async with world(database) as site:
        await site.store.expect(site.cluster, True)
        await site.subnets.subnets.change_subnet(site.subnets.admin, site.subnet_id, claimable_anyway=True)
        assert await site.claim() == "192.0.2.2"
        await site.subnets.subnets.change_subnet(site.subnets.admin, site.subnet_id, claimable_anyway=False)
        with pytest.raises(errors.SubnetNotReady):
            await site.claim()
        assert [after for _, _, after in await site.subnets.actions("subnet.")] == [
            {"claimable_anyway": True},
            {"claimable_anyway": False},
        ]


@pytest_twisted.ensureDeferred
async def test_an_older_clusterd_is_not_waited_for(database: str) -> None:
    async with world(database) as site:
        await site.store.expect(site.cluster, False)
        assert await site.claim() == "192.0.2.2"
        assert (await site.store.contact(site.cluster)).contact is Contact.UNSUPPORTED


@pytest_twisted.ensureDeferred
async def test_pools_and_static_entries_are_kept_out_as_long_as_they_are_reported(database: str) -> None:
    async with world(database) as site:
        await site.says(POOL, ServerPool("192.0.2.5", "192.0.2.7"), entries=[ENTRY, ServerEntry("192.0.2.20")])
        assert await site.free() == [f"192.0.2.{host}" for host in (2, 9, 10, 11, 12, 13, 14)]
        with pytest.raises(errors.AddressInDynamicRange):
            await site.claim("192.0.2.4")
        with pytest.raises(errors.AddressOfStaticEntry, match="rack-a"):
            await site.claim("192.0.2.8")
        assert await site.subnets.sound(site.subnet_id)
        use = await site.subnets.subnets.utilisation(site.subnet_id)
        assert (use.in_ranges["dynamic"], use.static_entries, use.free) == (5, 1, 7)
        await site.says(ServerPool("192.0.2.9", "192.0.2.255"))
        assert await site.free() == [f"192.0.2.{host}" for host in range(2, 9)]
        await site.says()
        assert await site.free() == [f"192.0.2.{host}" for host in range(2, 15)]
        assert await site.subnets.sound(site.subnet_id)


@pytest_twisted.ensureDeferred
async def test_reported_pools_are_ranges_that_only_the_server_changes(database: str) -> None:
    async with world(database) as site:
        await site.says(POOL)
        await site.subnets.add(site.subnet_id, "192.0.2.5", "192.0.2.9", "reserved")  # over it: both hold
        reported, own = await site.subnets.subnets.list_ranges(site.subnet_id)
        assert (reported.reported_by, own.reported_by) == ("rack-a", None)
        assert (reported.values.kind, reported.values.low, reported.values.high) == (
            RangeKind.DYNAMIC,
            "192.0.2.3",
            "192.0.2.6",
        )
        range_id = format_id(Prefix.ADDRESS_RANGE, reported.id)
        assert await site.subnets.subnets.range(site.subnet_id, range_id) == reported
        with pytest.raises(errors.RangeReported, match=r"dnsmasq\.conf:1"):
            await site.subnets.subnets.remove_range(site.subnets.admin, site.subnet_id, range_id)
        with pytest.raises(errors.RangeReported):
            await site.subnets.subnets.change_range(
                site.subnets.admin, site.subnet_id, range_id, changes={"low": "192.0.2.4"}, force=False
            )
        assert await site.subnets.sound(site.subnet_id)
        await site.says()
        assert await site.free() == [f"192.0.2.{host}" for host in (2, 3, 4, 10, 11, 12, 13, 14)]


@pytest_twisted.ensureDeferred
async def test_reservations_that_were_there_before_a_pool_stay_and_are_shown(database: str) -> None:
    async with world(database) as site:
        (held,) = (await site.region.do(site.region.user(site.subnet, address="192.0.2.4"))).reservations
        await site.says(POOL, entries=[ServerEntry("192.0.2.4", (MAC,))])
        (pool,) = (await site.store.contact(site.cluster)).pools
        assert (pool.cidr, pool.reservations) == (NET, 1)
        _, adoption, reason = (await site.entries())["192.0.2.4"]
        assert adoption is Adoption.CONFLICT and reason is not None and "reserved already" in reason
        assert await site.subnets.sound(site.subnet_id)
        await site.region.release(held)
        with pytest.raises(errors.AddressOfStaticEntry):
            await site.claim("192.0.2.4")
        assert "192.0.2.4" not in await site.free()


@pytest_twisted.ensureDeferred
async def test_a_subnet_that_comes_later_finds_what_was_reported_before(database: str) -> None:
    async with world(database) as site:
        await site.says(ServerPool("198.51.100.2", "198.51.100.3"), entries=[ServerEntry("198.51.100.4")])
        reports = [InterfaceReport("eth0", "192.0.2.0/28", ("192.0.2.1",))]
        reports.append(InterfaceReport("eth1", "198.51.100.0/29", ("198.51.100.1",)))
        await site.region.clusters.apply_topology(site.cluster, reports)
        (later,) = [view.id for view in await site.region.reads.subnets() if view.cidr == "198.51.100.0/29"]
        assert addresses(await site.region.do(site.region.user(later))) == ["198.51.100.5"]
        assert await site.region.tiles([later])


@pytest_twisted.ensureDeferred
async def test_a_cluster_speaks_only_for_subnets_that_it_serves(database: str) -> None:
    async with world(database) as site:
        stranger, _ = await site.region.cluster("rack-b", "203.0.113.0/28")
        await site.store.report(stranger, "rack-b", report(POOL, entries=[ENTRY]))
        assert (await site.free())[:3] == ["192.0.2.2", "192.0.2.3", "192.0.2.4"]
        # Unconfirmed on the same network, it still does not.
        await site.region.clusters.apply_topology(stranger, [InterfaceReport("eth0", NET, ("192.0.2.2",))])
        assert "192.0.2.3" in await site.free()


@pytest_twisted.ensureDeferred
async def test_what_a_former_holder_reported_keeps_nothing_out(database: str) -> None:
    async with world(database) as site:
        await site.says(POOL)
        await site.region.clusters.apply_topology(site.cluster, [])
        await site.region.pool.execute("UPDATE cluster_interface SET last_changed = last_changed - interval '1 hour'")
        await site.region.clusters.drain_absent()
        assert "192.0.2.3" not in await site.free()
        await site.region.do(Forgotten(site.cluster, site.subnet))
        assert "192.0.2.3" in await site.free()
        assert await site.region.tiles([site.subnet])


@pytest_twisted.ensureDeferred
async def test_a_holder_that_goes_costs_only_what_its_server_had_there(database: str) -> None:
    """The whole subnet would be too much for a batch where it has a million reservations."""
    async with world(database) as site:
        edges = ServerPool("192.0.1.200", "192.0.2.2", "a"), ServerPool("192.0.2.5", "192.0.2.6", "b")
        await site.says(*edges, entries=[ENTRY])  # .8
        await site.region.pool.execute("UPDATE delivery SET role = 'draining'")
        # a mistake of the index above all that: who rebuilds all of it would correct this one
        await site.region.pool.execute(
            "UPDATE free_range SET low = '192.0.2.11' WHERE subnet = %s AND high = '192.0.2.14'", (site.subnet,)
        )
        await site.region.pool.execute("INSERT INTO free_range VALUES (%s, '192.0.2.9', '192.0.2.9')", (site.subnet,))
        await site.region.do(Forgotten(site.cluster, site.subnet))
        assert await site.free() == [f"192.0.2.{n}" for n in (*range(2, 10), *range(11, 15))]
        await site.region.pool.execute("UPDATE delivery SET role = 'serving'")
        assert await site.free() == [f"192.0.2.{n}" for n in (3, 4, 7, 9, *range(11, 15))]


@pytest_twisted.ensureDeferred
async def test_static_entries_are_adopted_once(database: str) -> None:
    async with world(database) as site:
        both = ServerEntry("192.0.2.4", (CLIENT_ID, OTHER), None, "dnsmasq.conf:3")  # within the pool
        await site.says(POOL, entries=[ENTRY, both])
        assert {adoption for _, adoption, _ in (await site.entries()).values()} == {Adoption.POSSIBLE}
        results = await site.adopt("192.0.2.8", "192.0.2.4", "192.0.2.8")
        assert [result.adoption for result in results] == [Adoption.DONE, Adoption.DONE]
        devices = await site.region.reads.devices()
        held = {view.reservation.address: view.reservation for device in devices for view in device.reservations}
        assert (held["192.0.2.8"].macs, held["192.0.2.8"].hostname) == ((MAC.text,), "web1")
        assert (held["192.0.2.4"].macs, held["192.0.2.4"].client_id) == ((OTHER.text,), CLIENT_ID.text)
        assert {adoption for _, adoption, _ in (await site.entries()).values()} == {Adoption.DONE}
        again = await site.adopt("192.0.2.8", "192.0.2.4")
        assert {result.reservation for result in again} == {result.reservation for result in results}
        assert len(await site.subnets.actions("reservation.adopt")) == 2
        assert await site.subnets.sound(site.subnet_id)
        # The entry is deleted from the server: the reservation is what is left of it.
        await site.says(POOL)
        assert await site.entries() == {}
        with pytest.raises(errors.AddressTaken):
            await site.claim("192.0.2.8")


@pytest_twisted.ensureDeferred
async def test_every_conflict_is_told_and_harms_no_other_entry(database: str) -> None:
    async with world(database) as site:
        await site.region.do(site.region.device(site.subnet, OTHER, address="192.0.2.2"))
        third = Identifier.mac("00:16:3e:00:00:03")
        fine = Identifier.mac("00:16:3e:00:00:04")
        await site.says(
            entries=[
                ServerEntry("192.0.2.1", (fine,)),
                ServerEntry("192.0.2.15", (fine,)),
                ServerEntry("198.51.100.9", (fine,)),
                ServerEntry("192.0.2.5", (), "by-name"),
                ServerEntry("192.0.2.6", (OTHER,)),
                ServerEntry("192.0.2.7", (third,)),
                ServerEntry("192.0.2.8", (third,)),
                ServerEntry("192.0.2.9", (MAC,), None, "one"),
                ServerEntry("192.0.2.9", (CLIENT_ID,), None, "other"),
                ServerEntry("192.0.2.10", (Identifier.mac("00:16:3e:00:00:05"),)),
            ]
        )
        reasons = {address: reason for address, (_, _, reason) in (await site.entries()).items()}
        expected = {
            "192.0.2.1": "controller",
            "192.0.2.15": "no host can have",
            "198.51.100.9": "serves no subnet",
            "192.0.2.5": "names no MAC",
            "192.0.2.6": "the client has 192.0.2.2",
            "192.0.2.7": "several addresses for this client",
            "192.0.2.8": "several addresses for this client",
            "192.0.2.9": "several entries for this address",
        }
        assert reasons.pop("192.0.2.10") is None
        assert set(reasons) == set(expected)
        assert all(words in str(reasons[address]) for address, words in expected.items())
        results = await site.adopt("192.0.2.6", "192.0.2.10", "192.0.2.9")
        assert [result.adoption.value for result in results] == ["conflict", "adopted", "conflict"]


@pytest_twisted.ensureDeferred
async def test_a_server_with_very_many_entries_is_shown(database: str) -> None:
    """Each entry of a page is compared with all: one by one that took longer than a statement may."""
    async with world(database) as site:
        await site.region.pool.execute(
            """INSERT INTO server_entry (id, cluster, address, identifiers, source)
               SELECT n, %s, '10.0.0.0'::inet + n, ARRAY['mac:02:00:00:' || regexp_replace(
                   lpad(to_hex(n / 2), 6, '0'), '(..)(..)(..)', '\\1:\\2:\\3')], 'test'
               FROM generate_series(1, 40000) n""",
            (site.cluster,),
        )
        await site.region.pool.execute("UPDATE server_entry SET address = '192.0.2.8' WHERE id = 10")
        await site.region.pool.execute("UPDATE server_entry SET address = '192.0.2.9' WHERE id IN (11, 12)")
        found = {each.id: each for each in await site.store.entries(site.cluster)}
        assert len(found) == 1000
        told = {number: (found[number].same_client, found[number].same_address) for number in (10, 11, 12, 13)}
        assert told == {10: (1, 0), 11: (1, 1), 12: (0, 1), 13: (0, 0)}


@pytest_twisted.ensureDeferred
async def test_a_database_that_goes_away_under_an_adoption_is_told_when_nothing_of_it_goes_on(database: str) -> None:
    async with world(database) as site:
        other = ServerEntry("192.0.2.9", (OTHER,), None, "dnsmasq.conf:3")
        await site.says(entries=[ENTRY, other])
        writer = GoesAway()
        region = site.region
        adoptions: Any = Adoptions(site.store, site.subnets.inventory, region.reads, writer, new_id)  # type: ignore[arg-type]
        ids = [found_id for found_id, _, _ in (await site.entries()).values()]
        adopting = Deferred.fromCoroutine(adoptions.adopt(site.subnets.admin, "rack-a", entries=ids, owner=None))
        await writer.both_have_come
        writer.refuse_one()
        assert not adopting.called, "the other one may succeed yet"
        writer.refuse_one()
        with pytest.raises(DatabaseUnavailable):
            await adopting


class GoesAway:
    """A writer that refuses what has come, one after the other."""

    def __init__(self) -> None:
        self.both_have_come: Deferred[None] = Deferred()
        self._waiting: list[Deferred[Any]] = []

    async def submit(self, mutation: Mutation) -> Any:
        waits: Deferred[Any] = Deferred()
        self._waiting.append(waits)
        if len(self._waiting) == 2:
            self.both_have_come.callback(None)
        return await waits

    def refuse_one(self) -> None:
        self._waiting.pop().errback(DatabaseUnavailable("it is gone"))


@pytest_twisted.ensureDeferred
async def test_an_address_in_a_pool_is_not_adopted_from_dhcpd_which_leases_it_too(database: str) -> None:
    async with world(database, backend="isc") as site:
        await site.says(POOL, entries=[ServerEntry("192.0.2.4", (MAC,))])
        _, adoption, reason = (await site.entries())["192.0.2.4"]
        assert adoption is Adoption.CONFLICT and reason is not None and "pool of dhcpd" in reason


@pytest_twisted.ensureDeferred
async def test_adoption_is_for_admins_and_for_entries_that_are_there(database: str) -> None:
    async with world(database) as site:
        with pytest.raises(errors.NotPermitted):
            await site.adoptions.contact(site.subnets.user, "rack-a")
        with pytest.raises(errors.NotPermitted):
            await site.adoptions.entries(site.subnets.user, "rack-a", subnet=None, limit=1, after=None)
        with pytest.raises(errors.NotPermitted):
            await site.adoptions.adopt(site.subnets.user, "rack-a", entries=["fe-0000000001"], owner=None)
        with pytest.raises(errors.NotFound):
            await site.adoptions.adopt(site.subnets.admin, "rack-a", entries=["fe-0000000001"], owner=None)
        with pytest.raises(errors.NotFound):
            await site.adoptions.contact(site.subnets.admin, "rack-z")


pools = st.lists(values.server_pools, max_size=4)
entries = st.lists(values.server_entries, max_size=4)


@settings(deadline=None)
@given(pools, entries, pools, entries)
def test_a_difference_leads_from_one_report_to_the_next(
    pools_before: list[ServerPool],
    entries_before: list[ServerEntry],
    pools_after: list[ServerPool],
    entries_after: list[ServerEntry],
) -> None:
    stored_pools = {pool: number for number, pool in enumerate(pools_before)}
    stored_entries = {entry: number for number, entry in enumerate(entries_before)}
    change = difference(report(*pools_after, entries=entries_after), stored_pools, stored_entries)
    kept = {pool for pool, number in stored_pools.items() if number not in change.pools_gone}
    assert kept | set(change.pools_new) == set(pools_after) and not kept & set(change.pools_new)
    stay = {entry for entry, number in stored_entries.items() if number not in change.entries_gone}
    assert stay | set(change.entries_new) == set(entries_after) and not stay & set(change.entries_new)
    assert bool(change) == (set(stored_pools) != set(pools_after) or set(stored_entries) != set(entries_after))
