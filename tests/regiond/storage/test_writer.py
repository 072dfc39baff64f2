"""The writer on a real PostgreSQL: claims, releases, acknowledgements, replays, and the index of free space."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, gatherResults

from clusterd.protocol.values import Identifier, RejectedMap
from regiond.domain import errors
from regiond.domain.mutations import Acknowledge, DropDevice, Mutation, Release
from regiond.domain.reservations import MapState, Status, overall_state
from regiond.storage import writer
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.session import Session
from tests.clusterd.log_events import logged
from tests.regiond.storage.region import Region, addresses, new_id, region_on
from tests.waiting import until

reactor: Any = global_reactor

MAC = Identifier.mac("00:16:3e:00:00:01")
OTHER_MAC = Identifier.mac("00:16:3e:00:00:02")


def at_once(coroutine: Any) -> Any:
    return Deferred.fromCoroutine(coroutine)


async def all_of(*coroutines: Any) -> list[Any]:
    return await gatherResults([at_once(coroutine) for coroutine in coroutines], consumeErrors=True)


async def applied(region: Region, cluster: int, subnet: int, generation: int) -> None:
    await region.do(Acknowledge(cluster, subnet, generation, generation, rejected=()))


@pytest_twisted.ensureDeferred
async def test_the_lowest_free_address_is_claimed_and_the_controller_is_left_out(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/29")
        with pytest.raises(errors.SubnetExhausted, match=r"only 5 of 6 addresses are left in 192\.0\.2\.0/29"):
            await region.do(region.user(subnet, others=tuple(new_id() for _ in range(5))))
        outcomes = [await region.do(region.user(subnet)) for _ in range(5)]
        assert [addresses(outcome)[0] for outcome in outcomes] == [f"192.0.2.{n}" for n in range(2, 7)]
        with pytest.raises(errors.SubnetExhausted):
            await region.do(region.user(subnet))
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_simultaneous_claims_share_a_batch_and_never_an_address(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        outcomes = await all_of(*[region.do(region.user(subnet)) for _ in range(253)])
        assert len({addresses(outcome)[0] for outcome in outcomes}) == 253
        with pytest.raises(errors.SubnetExhausted):
            await region.do(region.user(subnet))
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_failing_member_leaves_its_neighbours_alone(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        waiting = [
            at_once(region.do(region.user(subnet, address="192.0.2.10"))),
            at_once(region.do(region.user(subnet), region.user(subnet, address="192.0.2.10"))),
            at_once(region.do(region.user(subnet, address="198.51.100.1"))),
            at_once(region.do(region.user(subnet, address="192.0.2.1"))),
            at_once(region.do(region.user(subnet, address="192.0.2.255"))),
            at_once(region.do(region.user(subnet))),
        ]
        assert addresses(await waiting[0]) == ["192.0.2.10"]
        for position, error in enumerate(
            [
                errors.AddressTaken,
                errors.AddressOutsideSubnet,
                errors.AddressOfInfrastructure,
                errors.AddressNotUsable,
            ],
            start=1,
        ):
            with pytest.raises(error):
                await waiting[position]
        assert addresses(await waiting[5]) == ["192.0.2.2"]
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_device_has_a_host_map_until_every_holder_confirmed_and_the_hold_passed(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.device(subnet, MAC, hostname="bmc-1"))).reservations
        assert region.committed == [frozenset({subnet})]
        view = await region.reads.reservation(held.id)
        assert view is not None
        assert view.progress is not None
        assert overall_state(view.progress) is MapState.PENDING
        await applied(region, cluster, subnet, 1)
        view = await region.reads.reservation(held.id)
        assert view is not None
        assert view.progress is not None
        assert overall_state(view.progress) is MapState.APPLIED
        assert await region.digest_is_right(subnet)

        (resting,) = (await region.release(held)).reservations
        assert resting.status is Status.RELEASING
        with pytest.raises(errors.AddressTaken):
            await region.do(region.user(subnet, address=held.address))
        view = await region.reads.reservation(held.id)
        assert view is not None
        assert "cluster rack-a to confirm the removal" in view.waits_for[0]
        await region.reclaim(held)
        assert await region.reads.reservation(held.id) is not None

        await applied(region, cluster, subnet, 2)
        view = await region.reads.reservation(held.id)
        assert view is not None
        assert view.waits_for[0].startswith("the release hold")
        assert not (await region.reclaim(held)).created
        await region.pool.execute("UPDATE reservation SET free_at = now() WHERE id = %s", (held.id,))
        assert (await region.reclaim(held)).created
        assert await region.reads.reservation(held.id) is None
        assert await region.digest_is_right(subnet)
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_the_same_claim_finds_its_reservation_and_another_one_its_holder(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        first = await region.do(region.device(subnet, MAC))
        again = await region.do(region.device(subnet, MAC))
        assert first.created
        assert not again.created
        assert again.reservations[0].id == first.reservations[0].id
        with pytest.raises(errors.IdentifierTaken) as refused:
            await region.do(region.device(subnet, MAC, OTHER_MAC))
        assert refused.value.members["holder"].id == first.reservations[0].id
        assert len(await region.reads.devices()) == 1


@pytest_twisted.ensureDeferred
async def test_an_identifier_takes_its_own_releasing_address_back(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.device(subnet, MAC))).reservations
        await region.release(held)
        other = await region.do(region.device(subnet, OTHER_MAC))
        assert addresses(other) != [held.address]
        back = await region.do(region.device(subnet, MAC))
        assert addresses(back) == [held.address]
        assert back.reservations[0].status is Status.ACTIVE
        assert await region.digest_is_right(subnet)
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_key_answers_the_first_answer_also_after_the_release(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        claim = region.user(subnet)
        first = await region.do(claim, key="k")
        again = await region.do(region.user(subnet), key="k")
        assert again.replayed
        assert again.reservations == first.reservations
        with pytest.raises(errors.IdempotencyKeyReused):
            await region.do(region.user(subnet), key="k", fingerprint="other")
        await region.release(first.reservations[0])
        assert (await region.do(region.user(subnet), key="k")).reservations == first.reservations
        both = await all_of(*[region.do(region.user(subnet), key="same") for _ in range(5)])
        assert len({outcome.reservations[0].id for outcome in both}) == 1


@pytest_twisted.ensureDeferred
async def test_a_key_that_another_regiond_writes_at_the_same_moment_is_looked_up(database: str) -> None:
    """On another subnet, whose lock is not in the way."""
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        first = await region.do(region.user(subnet), key="k")
        written: Deferred[None] = Deferred()

        async def write(session: Session) -> None:
            await session.run(
                """INSERT INTO idempotency (account, key, fingerprint, answer)
                   SELECT account, 'same', fingerprint, answer FROM idempotency WHERE key = 'k'"""
            )
            await written

        async def waits() -> bool:
            return bool(await region.pool.query("SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid'"))

        writing = Deferred.fromCoroutine(region.pool.transaction(write))
        with logged() as events:
            claim = Deferred.fromCoroutine(region.do(region.user(subnet), key="same"))
            await until(waits)
            written.callback(None)
            await writing
            again = await claim
        assert again.replayed and again.reservations == first.reservations
        assert "writer.free-ranges-rebuilt" not in [event.get("event") for event in events]


@pytest_twisted.ensureDeferred
async def test_a_user_reservation_is_free_at_once_and_the_address_is_claimed_again(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.user(subnet))).reservations
        outcome = await region.release(held)
        assert outcome.reservations == ()
        assert addresses(await region.do(region.user(subnet))) == [held.address]
        with pytest.raises(errors.NotFound):
            await region.release(held)


@pytest_twisted.ensureDeferred
async def test_several_addresses_are_claimed_all_or_none(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/27")
        await region.do(region.user(subnet, address="192.0.2.4"))

        def several(count: int) -> Any:
            return region.user(subnet, group=7, others=tuple(new_id() for _ in range(count - 1)))

        together = await all_of(region.do(several(5)), region.do(region.user(subnet)), region.do(several(20)))
        assert addresses(together[0]) == [f"192.0.2.{n}" for n in (2, 3, 5, 6, 7)]
        assert addresses(together[1]) == ["192.0.2.8"]
        assert addresses(together[2]) == [f"192.0.2.{n}" for n in range(9, 29)]
        assert {reservation.group for reservation in together[2].reservations} == {7}
        with pytest.raises(errors.SubnetExhausted):
            await region.do(several(3))
        assert addresses(await region.do(several(2))) == ["192.0.2.29", "192.0.2.30"]
        assert await region.tiles([subnet])
        audit = await region.pool.query("SELECT after->'addresses' FROM audit WHERE object = %s", ("gr-0000000007",))
        assert [len(row[0]) for row in audit] == [5, 20, 2]


@pytest_twisted.ensureDeferred
async def test_a_stale_index_of_free_space_heals(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        for _ in range(3):
            await region.do(region.user(subnet))
        await region.pool.execute(
            "UPDATE free_range SET low = '192.0.2.2' WHERE subnet = %s AND high = '192.0.2.254'", (subnet,)
        )
        assert addresses(await region.do(region.user(subnet))) == ["192.0.2.5"]
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_ipv6_is_claimed_from_a_large_network(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "2001:db8::/48")
        assert addresses(await region.do(region.user(subnet), region.user(subnet))) == ["2001:db8::2", "2001:db8::3"]
        top = "2001:db8:0:ffff:ffff:ffff:ffff:ffff"
        (last,) = (await region.do(region.user(subnet, address=top))).reservations
        assert await region.tiles([subnet])
        await region.release(last)
        with pytest.raises(errors.AddressNotUsable):
            await region.do(region.user(subnet, address="2001:db8::"))
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_a_rejected_map_fails_only_its_own_reservation(database: str) -> None:
    async with region_on(database, reactor) as region:
        cluster, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (bad,) = (await region.do(region.device(subnet, MAC))).reservations
        (good,) = (await region.do(region.device(subnet, OTHER_MAC))).reservations
        await region.do(Acknowledge(cluster, subnet, 2, 2, rejected=(RejectedMap(MAC, "no room"),)))
        states = {}
        for held in (bad, good):
            view = await region.reads.reservation(held.id)
            assert view is not None
            assert view.progress is not None
            states[held.id] = (overall_state(view.progress), view.progress[0].error)
        assert states == {bad.id: (MapState.FAILED, "no room"), good.id: (MapState.APPLIED, None)}
        await region.do(Acknowledge(cluster, subnet, applied_generation=2, rejected=()))
        view = await region.reads.reservation(bad.id)
        assert view is not None
        assert view.progress is not None
        assert overall_state(view.progress) is MapState.APPLIED


@pytest_twisted.ensureDeferred
async def test_a_device_goes_with_its_reservations_in_one_mutation(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        (held,) = (await region.do(region.device(subnet, MAC))).reservations
        assert held.device is not None
        with pytest.raises(errors.NotFound):
            await region.do(DropDevice(held.device), Release(1, subnet, "192.0.2.77"))
        assert len(await region.reads.devices()) == 1
        outcome = await region.do(Release(held.id, subnet, held.address), DropDevice(held.device))
        assert [r.status for r in outcome.reservations] == [Status.RELEASING]
        assert await region.reads.devices() == []
        audit = await region.pool.query("SELECT action FROM audit ORDER BY id")
        assert [row[0] for row in audit] == ["reservation.claim", "reservation.release", "device.delete"]


@pytest_twisted.ensureDeferred
async def test_a_batch_whose_commit_was_lost_is_looked_up_and_not_repeated(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        claims = [at_once(region.do(region.user(subnet))) for _ in range(20)]
        for _ in range(10):
            await region.pool.execute(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE pid <> pg_backend_pid() AND datname = current_database()""",
                retry=True,
            )
            claims.append(at_once(region.do(region.user(subnet))))
        outcomes = await gatherResults(claims, consumeErrors=True)
        claimed = [addresses(outcome)[0] for outcome in outcomes]
        rows = await region.pool.query("SELECT host(address) FROM reservation", retry=True)
        assert sorted(claimed) == sorted(row[0] for row in rows)
        assert len(set(claimed)) == 30
        assert await region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_an_owner_that_is_gone_is_said_and_not_logged_as_a_bug(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        claim = region.user(subnet)
        orphan = type(claim)(**{name: getattr(claim, name) for name in claim.__slots__ if name != "owner"}, owner=5)
        with pytest.raises(errors.NotFound):
            await region.writer.submit(Mutation(region.actor, (orphan,), "test-request"))


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_was_not_heard_of_for_long_is_not_waited_for(database: str) -> None:
    """A regiond that was killed leaves its clusters marked as connected."""
    async with region_on(database, reactor) as region:
        _, (subnet,) = await region.cluster("rack-a", "192.0.2.0/24")
        for silence, connected in (("59 s", True), ("61 s", False)):
            await region.pool.execute("UPDATE cluster SET last_heard = now() - %s::interval", (silence,))
            outcome = await region.do(region.device(subnet, Identifier.mac(f"00:16:3e:00:00:{silence[:2]}")))
            assert [row.connected for row in outcome.deliveries[subnet]] == [connected]


@pytest_twisted.ensureDeferred
async def test_who_is_kept_off_holds_up_nobody_else(database: str) -> None:
    async with region_on(database, reactor) as region:
        _, (held, free) = await region.cluster("rack-a", "192.0.2.0/24", "198.51.100.0/24")
        before = [at_once(region.do(region.user(held))) for _ in range(3)]
        async with region.writer.keeping_off([held]):
            assert all(claim.called for claim in before)  # what was in the queue is done before it begins
            waiting = at_once(region.do(region.user(held)))
            both = at_once(region.do(region.user(free), region.user(held)))
            async with region.writer.keeping_off([held, free]):
                third = at_once(region.do(region.user(free)))
                await region.pool.query("SELECT 1")
                assert not third.called
            assert addresses(await third) == ["198.51.100.2"]
            assert addresses(await region.do(region.user(free))) == ["198.51.100.3"]
            assert not waiting.called and not both.called
        assert addresses(await waiting) == ["192.0.2.5"]
        assert addresses(await both) == ["198.51.100.4", "192.0.2.6"]
        assert await region.tiles([held, free])


@pytest_twisted.ensureDeferred
async def test_who_is_kept_off_for_too_long_is_refused_untouched(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "WAIT_SECONDS", 0.1)
    async with region_on(database, reactor) as region:
        _, (held,) = await region.cluster("rack-a", "192.0.2.0/24")
        async with region.writer.keeping_off([held]):
            with pytest.raises(DatabaseUnavailable) as caught:
                await region.do(region.user(held))
            assert not caught.value.outcome_unknown
        assert addresses(await region.do(region.user(held))) == ["192.0.2.2"]
