"""What is read for a delivery, and the digest in SQL, on a real PostgreSQL."""

import json
from collections.abc import Sequence
from typing import Any

import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor

from clusterd.protocol.arguments import HOST_MAPS, Packed
from clusterd.protocol.digest import digest_of
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.mutations import Acknowledge
from regiond.storage.batch import from_signed
from regiond.storage.batch_changes import to_signed
from regiond.storage.deliveries import DeliveryReads, DeliveryState
from regiond.storage.pool import Pool
from tests.clusterd.strategies import v4_maps, v6_maps
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor


def mac(number: int) -> Identifier:
    return Identifier(IdentifierKind.MAC, (0x020000000000 + number).to_bytes(6))


_sets = st.lists(v4_maps | v6_maps, max_size=12, unique_by=lambda host_map: host_map.identifier)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(host_maps=_sets)
@pytest_twisted.ensureDeferred
async def test_the_digest_in_sql_is_the_one_of_the_protocol(database: str, host_maps: Sequence[HostMap]) -> None:
    pool = Pool(reactor, database, size=1)
    pool.start()
    try:
        subnet = new_id()
        await pool.execute("DELETE FROM subnet")
        await pool.execute(
            """INSERT INTO subnet (id, vrf, cidr, first_usable, last_usable)
               VALUES (%s, 1, '192.0.2.0/24', '192.0.2.1', '192.0.2.254')""",
            (subnet,),
        )
        rows = [
            {"k": m.identifier.kind.value, "i": m.identifier.value.hex(), "a": m.address, "h": m.hostname}
            for m in host_maps
        ]
        await pool.execute(
            """INSERT INTO host_map (subnet, kind, identifier, address, hostname, reservation, generation, removed,
                                     request_id)
               SELECT %s, k, decode(i, 'hex'), a, h, 1, 1, false, '' FROM jsonb_to_recordset(%s)
               AS q(k text, i text, a inet, h text)""",
            (subnet, json.dumps(rows)),
        )
        assert await pool.query("SELECT host_map_digest(%s)", (subnet,)) == [(to_signed(digest_of(host_maps)),)]
        snapshot = await DeliveryReads(pool).transfer(0, subnet, None)
        assert snapshot is not None
        assert unpacked(snapshot.upsert_pages) == sorted(host_maps)
    finally:
        await pool.close()


@given(st.integers(0, 2**64 - 1))
def test_a_digest_fits_in_a_signed_number_and_comes_back(digest: int) -> None:
    assert -(2**63) <= to_signed(digest) < 2**63
    assert from_signed(to_signed(digest)) == digest


def unpacked(pages: Sequence[Packed]) -> list[HostMap]:
    return sorted(host_map for page in pages for host_map in HOST_MAPS.fromString(page))


async def claimed(region: Region, subnet: int, *numbers: int) -> list[Any]:
    return [(await region.do(region.device(subnet, mac(n), hostname=f"h{n}"))).reservations[0] for n in numbers]


@pytest_twisted.ensureDeferred
async def test_a_difference_has_what_changed_since_and_names_each_request(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        reads = DeliveryReads(region.pool)
        first, _, _ = await claimed(region, subnet, 1, 2, 3)
        await region.release(first)
        change = await reads.difference(0, subnet, 2, 500)
        assert change is not None
        assert (change.cidr, change.from_generation, change.to_generation) == ("192.0.2.0/24", 2, 4)
        assert change.upserts == [HostMap(mac(3), "192.0.2.4", "h3")]
        assert change.removals == [mac(1)]
        assert change.request_ids == ["test-request"] * 2
        remaining = [HostMap(mac(2), "192.0.2.3", "h2"), HostMap(mac(3), "192.0.2.4", "h3")]
        assert change.digest == digest_of(remaining)
        snapshot = await reads.transfer(0, subnet, None)
        assert snapshot is not None
        assert unpacked(snapshot.upsert_pages) == remaining
        assert (snapshot.removals, snapshot.digest) == (0, change.digest)


@pytest_twisted.ensureDeferred
async def test_a_map_that_came_and_went_is_one_removal_and_one_that_came_again_one_upsert(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        reads = DeliveryReads(region.pool)
        gone, back = await claimed(region, subnet, 1, 2)
        await region.release(gone)
        await region.release(back)
        await claimed(region, subnet, 2)
        change = await reads.difference(0, subnet, 0, 500)
        assert change is not None
        assert (change.removals, [host_map.identifier for host_map in change.upserts]) == ([mac(1)], [mac(2)])


@pytest_twisted.ensureDeferred
async def test_a_difference_of_more_than_asked_for_says_so_and_lists_nothing(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        reads = DeliveryReads(region.pool)
        await claimed(region, subnet, 1, 2, 3)
        for at_most, too_long in ((2, True), (3, False)):
            change = await reads.difference(0, subnet, 0, at_most)
            assert change is not None
            assert change.too_long is too_long
            assert len(change.upserts) == (0 if too_long else 3)
        nothing = await reads.difference(0, subnet, 3, 500)
        assert nothing is not None
        assert (nothing.upserts, nothing.to_generation) == ([], 3)
        assert await reads.difference(0, 1, 0, 500) is None
        assert await reads.transfer(0, 1, None) is None


@pytest_twisted.ensureDeferred
async def test_stragglers_are_the_holders_that_are_not_where_they_should_be(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet, other) = await region.cluster("rack-a", "192.0.2.0/24", "198.51.100.0/24")
        reads = DeliveryReads(region.pool)
        assert await reads.stragglers([cluster]) == []
        await claimed(region, subnet, 1)
        assert await reads.stragglers([]) == []
        (state,) = await reads.stragglers([cluster])
        digest = digest_of([HostMap(mac(1), "192.0.2.2", "h1")])
        assert state == DeliveryState(cluster, subnet, "192.0.2.0/24", "serving", 0, 1, digest, recovering=False)
        await region.do(Acknowledge(cluster, subnet, accepted_generation=1))
        assert await reads.stragglers([cluster]) == []
        await region.pool.execute("UPDATE delivery SET role = 'draining' WHERE subnet = %s", (other,))
        assert [state.subnet for state in await reads.stragglers([cluster])] == [other]
        assert {state.subnet for state in await reads.held_by([cluster])} == {subnet, other}
        await region.pool.execute("UPDATE delivery SET role = 'former' WHERE subnet = %s", (other,))
        assert {state.subnet for state in await reads.held_by([cluster])} == {subnet}
