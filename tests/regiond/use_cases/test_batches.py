"""Claims and releases as one request, on a real database: all or none, each result and each mistake in its place."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, DeferredList

from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.reservations import Kind, Status
from regiond.progress import Progress
from regiond.use_cases.batches import MAX_ADDRESSES, Batches, Member, MemberResult
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.steps import (
    DeviceClaim,
    DeviceRelease,
    NodeAddressClaim,
    NodeAddressRelease,
    ReservationRelease,
    UserClaim,
)
from tests.regiond.storage.region import first_address
from tests.regiond.test_repeated_requests import Requests, also_on, requests_on

reactor: Any = global_reactor

NET, NET_6, OTHER = "192.0.2.0/24", "2001:db8::/64", "198.51.100.0/24"


class Asking:
    """Batches on a database, asked as an admin unless another caller is given."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.batches = Batches(requests.reads, requests.claims, Progress(reactor, requests.reads))

    async def run(
        self, *members: Member, key: str | None = None, fingerprint: str = "f", caller: Caller | None = None
    ) -> Sequence[MemberResult]:
        asker = caller or self.requests.context().caller
        return await self.batches.run(RequestContext(asker, "a-batch", fingerprint, key, 0.0), members=members)

    async def count(self, table: str) -> int:
        return int((await self.requests.region.pool.query(f"SELECT count(*) FROM {table}"))[0][0])

    async def addresses(self) -> set[str]:
        return {row[0] for row in await self.requests.region.pool.query("SELECT host(address) FROM reservation")}

    async def node(self) -> str:
        node = await self.requests.claims.create_node(
            self.requests.context(), hostname="n1", macs=(), owner=None, comment=None
        )
        return format_id(Prefix.NODE, node.id)

    async def user(self, limit: int | None = None) -> Caller:
        await self.requests.region.pool.execute(
            "INSERT INTO account (id, name, role, max_reservations) VALUES (77, 'alice', 'user', %s)", (limit,)
        )
        return Caller(77, "alice", is_admin=False, read_only=False)


@asynccontextmanager
async def asking(database: str) -> AsyncIterator[Asking]:
    async with requests_on(database) as requests:
        await requests.region.cluster("rack-b", NET_6, OTHER)
        yield Asking(requests)


def reservation_ids(results: Sequence[MemberResult]) -> list[str]:
    return [format_id(Prefix.RESERVATION, view.reservation.id) for one in results for view in one.reservations]


def device(number: int, interface: str = NET, **values: Any) -> DeviceClaim:
    return DeviceClaim(interface, (f"00:16:3e:00:00:{number:02x}",), **values)


@pytest_twisted.ensureDeferred
async def test_claims_of_every_kind_over_several_subnets_are_one_transaction(database: str) -> None:
    async with asking(database) as here:
        node = await here.node()
        before = await here.count("batch")
        first, second, third, fourth = await here.run(
            device(1, hostname="web1"),
            NodeAddressClaim(node, OTHER, alias="eth0:1"),
            UserClaim(NET, count=3, purpose="a test"),
            DeviceClaim(NET_6, duid="00:03:00:01:00:16:3e:00:00:01"),
        )
        assert await here.count("batch") == before + 1
        assert all(one.created for one in (first, second, third, fourth))
        kinds = [[view.reservation.kind for view in one.reservations] for one in (first, second, third, fourth)]
        assert kinds == [[Kind.DEVICE], [Kind.NODE], [Kind.USER] * 3, [Kind.DEVICE]]
        assert [view.reservation.address for view in third.reservations] == ["192.0.2.3", "192.0.2.4", "192.0.2.5"]
        assert fourth.reservations[0].reservation.cidr == NET_6
        assert first.reservations[0].progress is not None and third.reservations[0].progress is None


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_any_member_is_told_and_nothing_is_changed(database: str) -> None:
    async with asking(database) as here:
        (held,) = await here.run(device(1))
        taken = held.reservations[0].reservation.address
        before = await here.addresses()
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(
                UserClaim(NET),
                UserClaim(address=taken),
                device(2),
                device(1, hostname="another"),
                UserClaim(NET, address=first_address(NET)),
                UserClaim(OTHER),
            )
        assert [(position, type(error)) for position, error in caught.value.refused] == [
            (1, errors.AddressTaken),
            (3, errors.IdentifierTaken),
            (4, errors.AddressOfInfrastructure),
        ]
        assert caught.value.refused[0][1].members["holder"].address == taken
        assert await here.addresses() == before
        assert await here.count("device") == 1
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(
                UserClaim("nowhere:eth0"),
                UserClaim(NET),
                ReservationRelease("rs-zzzzzzzzzz"),
                ReservationRelease(reservation_ids([held])[0]),
                UserClaim(NET, user="nobody"),
                DeviceRelease("dv-zzzzzzzzzz"),
                NodeAddressRelease("nd-zzzzzzzzzz", "rs-zzzzzzzzzz"),
            )
        assert [(position, error.slug) for position, error in caught.value.refused] == [
            (0, "no-such-cluster-interface"),
            (2, "not-found"),
            (3, "delete-under-owner"),
            (4, "not-found"),
            (5, "not-found"),
            (6, "not-found"),
        ]
        assert await here.addresses() == before


@pytest_twisted.ensureDeferred
async def test_members_happen_in_their_order(database: str) -> None:
    """One address is given for another, and what a member gave up the next one can have."""
    async with asking(database) as here:
        (held,) = await here.run(UserClaim(address="192.0.2.77"))
        gone, again = await here.run(
            ReservationRelease(reservation_ids([held])[0]), UserClaim(address="192.0.2.77", purpose="another")
        )
        assert gone == MemberResult(True, ())
        assert again.reservations[0].reservation.purpose == "another"
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(UserClaim(address="192.0.2.77"), ReservationRelease(reservation_ids([again])[0]))
        assert [position for position, _ in caught.value.refused] == [0]
        assert "192.0.2.77" in await here.addresses()


@pytest_twisted.ensureDeferred
async def test_the_same_claim_twice_is_one_reservation(database: str) -> None:
    async with asking(database) as here:
        first, second = await here.run(device(1), device(1))
        assert (first.created, second.created) == (True, False)
        assert first.reservations[0].reservation.id == second.reservations[0].reservation.id
        assert await here.count("device") == 1


@pytest_twisted.ensureDeferred
async def test_releases_tell_what_clusters_have_yet_to_confirm(database: str) -> None:
    async with asking(database) as here:
        node = await here.node()
        claimed = await here.run(device(1), NodeAddressClaim(node, OTHER, alias="eth0:1"), UserClaim(NET))
        made = claimed[0].reservations[0].reservation
        assert made.device is not None
        _, address, user = reservation_ids(claimed)
        held = format_id(Prefix.DEVICE, made.device)
        results = await here.run(
            DeviceRelease(held), NodeAddressRelease(node, address), ReservationRelease(user), UserClaim(OTHER)
        )
        statuses = [[view.reservation.status for view in one.reservations] for one in results]
        assert statuses == [[Status.RELEASING], [Status.RELEASING], [], [Status.ACTIVE]]
        assert await here.count("device") == 0
        again = await here.run(device(2))
        assert again[0].reservations[0].reservation.device is not None
        freed = await here.run(
            DeviceRelease(format_id(Prefix.DEVICE, again[0].reservations[0].reservation.device), True)
        )
        assert freed == [MemberResult(True, ())]


@pytest_twisted.ensureDeferred
async def test_a_user_may_in_a_batch_what_it_may_alone(database: str) -> None:
    async with asking(database) as here:
        alice = await here.user()
        (others,) = await here.run(UserClaim(NET))
        (own,) = await here.run(UserClaim(NET), caller=alice)
        assert own.reservations[0].reservation.owner_name == "alice"
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(
                device(1),
                UserClaim(NET, user="root"),
                ReservationRelease(reservation_ids([others])[0]),
                ReservationRelease(reservation_ids([own])[0], force=True),
                caller=alice,
            )
        assert [(position, error.slug) for position, error in caught.value.refused] == [
            (0, "not-permitted"),
            (1, "not-permitted"),
            (2, "not-found"),
            (3, "not-permitted"),
        ]
        assert await here.run(ReservationRelease(reservation_ids([own])[0]), caller=alice) == [MemberResult(True, ())]


@pytest_twisted.ensureDeferred
async def test_a_quota_holds_and_what_is_given_back_counts(database: str) -> None:
    async with asking(database) as here:
        alice = await here.user(limit=3)
        held = await here.run(UserClaim(NET, count=2), UserClaim(OTHER), caller=alice)
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(UserClaim(NET), UserClaim(OTHER), caller=alice)
        assert [(position, error.slug) for position, error in caught.value.refused] == [
            (0, "quota-exceeded"),
            (1, "quota-exceeded"),
        ]
        given_back = [ReservationRelease(one) for one in reservation_ids(held)]
        again = await here.run(*given_back, UserClaim(OTHER, count=3), caller=alice)
        assert len(reservation_ids(again)) == 3
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(ReservationRelease(reservation_ids(again)[0]), UserClaim(NET), UserClaim(NET), caller=alice)
        assert [position for position, _ in caught.value.refused] == [2]
        assert await here.run(UserClaim(NET)) != []


@pytest_twisted.ensureDeferred
async def test_a_batch_is_bounded(database: str) -> None:
    async with asking(database) as here:
        with pytest.raises(errors.InvalidRequest):
            await here.run()
        with pytest.raises(errors.InvalidRequest):
            await here.run(*[UserClaim(NET)] * 257)
        half = UserClaim(NET_6, count=MAX_ADDRESSES // 2)
        with pytest.raises(errors.BatchRefused) as caught:
            await here.run(half, half, UserClaim(NET))
        assert [position for position, _ in caught.value.refused] == [2]
        results = await here.run(half, half)
        assert len(set(reservation_ids(results))) == MAX_ADDRESSES
        alone = await here.run(*[UserClaim(NET_6)] * 256)
        assert len(set(reservation_ids(alone)) | set(reservation_ids(results))) == 256 + MAX_ADDRESSES


@pytest_twisted.ensureDeferred
async def test_a_repeated_key_has_the_first_answer_also_on_another_regiond(database: str) -> None:
    async with asking(database) as here, also_on(database, here.requests) as elsewhere:
        there = Asking(elsewhere)
        (old,) = await here.run(UserClaim(NET))
        asked = (ReservationRelease(reservation_ids([old])[0]), UserClaim(NET, count=2), device(1))
        first = await here.run(*asked, key="k")
        for again in (await here.run(*asked, key="k"), await there.run(*asked, key="k")):
            assert [one.created for one in again] == [True, True, True]
            assert reservation_ids(again) == reservation_ids(first)
        assert len(await here.addresses()) == 3
        with pytest.raises(errors.IdempotencyKeyReused):
            await there.run(UserClaim(NET), key="k", fingerprint="another")
        for one in await here.run(*[ReservationRelease(i) for i in reservation_ids(first[1:2])]):
            assert one == MemberResult(True, ())
        assert reservation_ids(await there.run(*asked, key="k")) == reservation_ids(first)  # as it was answered


@pytest_twisted.ensureDeferred
async def test_two_regionds_that_run_the_same_batch_at_once_do_it_once(database: str) -> None:
    async with asking(database) as here, also_on(database, here.requests) as elsewhere:
        there = Asking(elsewhere)
        asked = (UserClaim(NET), UserClaim(OTHER))
        both = await DeferredList(
            [Deferred.fromCoroutine(each.run(*asked, key="k")) for each in (here, there)], consumeErrors=True
        )
        assert [done for done, _ in both] == [True, True]
        assert len({tuple(reservation_ids(results)) for _, results in both}) == 1
        assert len(await here.addresses()) == 2


@pytest_twisted.ensureDeferred
async def test_batches_over_the_same_subnets_in_any_order_wait_for_each_other(database: str) -> None:
    """Everybody locks subnets in the same order, so nobody waits for somebody who waits for it."""
    async with asking(database) as here, also_on(database, here.requests) as elsewhere:
        there = Asking(elsewhere)
        orders = ([NET, OTHER, NET_6], [NET_6, NET, OTHER], [OTHER, NET_6, NET])
        asked = [
            Deferred.fromCoroutine(each.run(*[UserClaim(cidr) for cidr in order]))
            for _ in range(8)
            for order in orders
            for each in (here, there)
        ]
        done = await DeferredList(asked, consumeErrors=True)
        assert all(success for success, _ in done)
        found = [one for _, results in done for one in reservation_ids(results)]
        assert len(set(found)) == len(found) == 8 * 3 * 2 * 3
        assert len(await here.addresses()) == len(found)
