"""A database that went back in time: real PostgreSQL, the real parts of clusterd, and what they make of each other."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import HostMap, Identifier
from regiond.domain import errors
from regiond.domain.recovery import RecoveryView
from regiond.domain.reservations import Kind, MapState, Reservation, Status
from regiond.storage.changes import Change
from regiond.storage.networks import NetworkStore
from regiond.storage.reservation_filter import ReservationFilter
from tests.database import TestServer
from tests.fakes.backend import FakeBackend
from tests.regiond.office import Office, Site, office, site
from tests.regiond.storage.region import Region, new_id, region_on
from tests.waiting import until

reactor: Any = global_reactor
NET = "192.0.2.0/24"


def mac(number: int) -> Identifier:
    return Identifier.mac(f"00:16:3e:00:00:{number:02x}")


@asynccontextmanager
async def copied(postgres: TestServer, dsn: str) -> AsyncIterator[str]:
    """A backup of a database that nobody is connected to: the DSN of the copy."""
    name = await postgres.create(postgres.name_of(dsn))
    try:
        yield postgres.dsn_for(name)
    finally:
        await postgres.drop(name)


@asynccontextmanager
async def rack(at: Office, directory: Path, backend: FakeBackend, name: str = "rack-7") -> AsyncIterator[Site]:
    directory.mkdir(exist_ok=True)
    async with site(directory, at.socket, backend, name) as made:
        yield made


async def claim(at: Office, subnet: int, number: int, **values: Any) -> Reservation:
    """A claim that every connected cluster has applied."""
    outcome = await at.region.do(at.region.device(subnet, mac(number), **values))
    assert await at.settled(outcome) == (MapState.APPLIED, None)
    return outcome.reservations[0]


async def begun(dsn: str, directory: Path, backend: FakeBackend, *numbers: int) -> tuple[int, list[Reservation]]:
    """A region with one cluster on one subnet, and what was claimed there before either was stopped."""
    async with office(dsn, directory) as at, rack(at, directory / "disk", backend) as here:
        await here.report(NET)
        subnet = await at.subnet(NET)
        return subnet, [await claim(at, subnet, number) for number in numbers]


async def swept(at: Office, true: Callable[[], bool]) -> None:
    """Wait until it is true, with sweeps as the region makes them."""

    async def holds() -> bool:
        await at.sweep()
        return true()

    await until(holds)


async def is_over(at: Office) -> bool:
    await at.sweep()
    [(over,)] = await at.region.pool.query(
        "SELECT recovering_since IS NULL AND EXISTS (SELECT FROM former_history) FROM region"
    )
    return bool(over)


async def kinds(region: Region) -> dict[str, tuple[Kind, Status]]:
    views = await region.reads.reservations(ReservationFilter())
    return {v.reservation.address: (v.reservation.kind, v.reservation.status) for v in views}


def change_of(region: Region) -> Change:
    return Change(region.actor, "test-request")


async def found(at: Office) -> RecoveryView:
    return await at.recoveries.view()


@pytest_twisted.ensureDeferred
async def test_what_a_cluster_serves_and_the_backup_does_not_know_is_reserved_again(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    backend = FakeBackend()
    subnet, [_, released] = await begun(database, tmp_path, backend, 1, 2)
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            lost = await claim(at, subnet, 3, hostname="bmc-3")
            outcome = await at.region.release(released)
            await until(lambda: len(backend.maps) == 2)
            assert outcome.reservations[0].address == released.address
        served = set(backend.maps)
        backend.changes.clear()
        async with office(backup, tmp_path) as at:
            await at.hearing.begin("the witness has seen more", None)
            with pytest.raises(errors.SubnetRecovering, match=r"rack-7 \(not connected\)"):
                await at.region.do(at.region.device(subnet, mac(9)))
        async with office(backup, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            await until(lambda: is_over(at))
            assert (await kinds(at.region))[lost.address] == (Kind.RECOVERED, Status.ACTIVE)
            (view,) = await at.region.reads.reservations(ReservationFilter(addresses=[lost.address]))
            assert (view.reservation.macs, view.reservation.hostname) == (("00:16:3e:00:00:03",), "bmc-3")
            shown = await found(at)
            assert shown.counts == {"recovered": 1, "possibly-released": 1}
            (doubt,) = [finding for finding in shown.findings if finding.kind == "possibly-released"]
            assert (doubt.address, doubt.reservation) == (released.address, released.id)

            await swept(at, lambda: {HostMap(mac(2), released.address), *served} == backend.maps)
            assert not any(served & change.removed for change in backend.changes), "nothing stopped being served"
            after = await claim(at, subnet, 9)
            assert after.address not in {host_map.address for host_map in served}
            assert await at.region.tiles([subnet])
            assert await at.region.digest_is_right(subnet)
            assert (await at.region.reads.subnets(subnet))[0].generation > 4


@pytest_twisted.ensureDeferred
async def test_an_address_whose_removal_the_dhcp_server_has_not_done_rests_until_it_is_confirmed(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    """The cluster has accepted the removal, so that its accepted host maps tell of it no more."""
    backend = FakeBackend()
    async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
        await here.report(NET)
        subnet = await at.subnet(NET)
        await claim(at, subnet, 1)
        await at.region.pool.execute("UPDATE subnet SET release_hold_seconds = 0")
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            lost = await claim(at, subnet, 2)
            backend.refuse_all("the server hangs")
            await at.region.release(lost)

            async def accepted() -> bool:
                [(accepted, applied)] = await at.region.pool.query(
                    "SELECT accepted_generation, applied_generation FROM delivery"
                )
                return bool(accepted > applied)

            await until(accepted)
        async with office(backup, tmp_path) as at:
            await at.hearing.begin("the witness has seen more", None)
        async with office(backup, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            await until(lambda: is_over(at))
            assert HostMap(mac(2), lost.address) in backend.maps
            assert (await kinds(at.region))[lost.address] == (Kind.RECOVERED, Status.RELEASING)
            assert (await found(at)).counts == {"resting": 1}
            with pytest.raises(errors.AddressTaken):
                await at.region.do(at.region.device(subnet, mac(3), address=lost.address))
            backend.accept_all()

            async def is_free() -> bool:
                await at.sweep()
                for view in await at.region.reads.reservations(ReservationFilter(addresses=[lost.address])):
                    await at.region.reclaim(view.reservation)  # as a sweep does: nothing before its time
                return lost.address not in await kinds(at.region)

            await until(is_free)
            assert HostMap(mac(2), lost.address) not in backend.maps
            assert (await claim(at, subnet, 3)).address == lost.address
            assert await at.region.tiles([subnet])


@pytest_twisted.ensureDeferred
async def test_an_address_that_was_handed_on_in_the_lost_past_stays_with_whom_the_cluster_serves(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    backend = FakeBackend()
    subnet, [first, moved] = await begun(database, tmp_path, backend, 1, 2)
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            for held in (first, moved):
                await at.region.release(held)
            await until(lambda: not backend.maps)
            for held in (first, moved):
                await at.region.release(held, force=True)
            await claim(at, subnet, 3, address=first.address)
            await claim(at, subnet, 2, address="192.0.2.77")
        async with region_on(backup, reactor) as region:
            # Nobody has noticed yet, and somebody claims: an address of the lost past is given out again.
            taken = (await region.do(region.device(subnet, mac(8), address="192.0.2.77"))).reservations[0]
        async with office(backup, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            await until(lambda: is_over(at))
            now = await kinds(at.region)
            assert now[first.address] == (Kind.RECOVERED, Status.ACTIVE)
            assert now["192.0.2.77"] == (Kind.RECOVERED, Status.ACTIVE)
            assert now[moved.address] == (Kind.DEVICE, Status.RELEASING), "its client has moved on"
            shown = await found(at)
            assert shown.counts == {"recovered": 2, "displaced": 2, "moved": 1}
            displaced = {finding.reservation for finding in shown.findings if finding.kind == "displaced"}
            assert displaced == {first.id, taken.id}

            await swept(at, lambda: backend.maps == {HostMap(mac(3), first.address), HostMap(mac(2), "192.0.2.77")})
            assert await at.region.tiles([subnet])
            assert await at.region.digest_is_right(subnet)


@pytest_twisted.ensureDeferred
async def test_what_a_region_that_noticed_nothing_did_since_is_no_base_for_a_difference(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    """The region has overtaken the cluster's generation, so only the digest tells."""
    backend = FakeBackend()
    subnet, _ = await begun(database, tmp_path, backend, 1)
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            lost = await claim(at, subnet, 2, address="192.0.2.50")
        async with region_on(backup, reactor) as region:
            for number in (3, 4, 5):
                await region.do(region.device(subnet, mac(number)))
        async with office(backup, tmp_path) as at, rack(at, tmp_path / "disk", backend):
            await until(lambda: is_over(at))
            assert (await kinds(at.region))[lost.address] == (Kind.RECOVERED, Status.ACTIVE)
            # The region's own claim of the generation at which the cluster was is one that the cluster has not.
            assert (await found(at)).counts == {"recovered": 1, "possibly-released": 1}

            await swept(at, lambda: {m.identifier for m in backend.maps} == {mac(n) for n in (1, 2, 3, 4, 5)})


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_does_not_come_is_waited_for_until_an_admin_ends_it(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    near, far = FakeBackend(), FakeBackend()
    disks = tmp_path / "near", tmp_path / "far"
    async with (
        office(database, tmp_path) as at,
        rack(at, disks[0], near) as here,
        rack(at, disks[1], far, "rack-8") as there,
    ):
        await here.report(NET)
        await there.report("198.51.100.0/24")
        subnet, other = await at.subnet(NET), await at.subnet("198.51.100.0/24")
        await claim(at, subnet, 1)
        await claim(at, other, 1)
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, disks[1], far, "rack-8"):
            lost = await claim(at, other, 2)
            conflicting = await claim(at, other, 3, address="198.51.100.40")
        async with office(backup, tmp_path) as at:
            await at.recoveries.begin(change_of(at.region), "a backup was restored")
            async with rack(at, disks[0], near):

                async def near_is_settled() -> bool:
                    await at.sweep()
                    return [each.id for each in (await found(at)).subnets] == [other]

                await until(near_is_settled)
                assert (await claim(at, subnet, 5)).address == "192.0.2.3"
                with pytest.raises(errors.SubnetRecovering, match=r"rack-8 \(not connected\)"):
                    await at.region.do(at.region.user(other))
                with pytest.raises(errors.NotAllHeard) as refusal:
                    await at.recoveries.end_waiting(change_of(at.region), force=False)
                assert refusal.value.members == {"clusters": ["rack-8"]}
                with pytest.raises(errors.InvalidRequest, match="nobody waits for rack-7"):
                    await at.recoveries.end_waiting(change_of(at.region), force=False, without=["rack-7"])
                assert await at.recoveries.end_waiting(change_of(at.region), force=True) == ("rack-8",)
                [(audited,)] = await at.region.pool.query("SELECT before FROM audit WHERE action = 'recovery.end'")
                assert audited == {"not_heard": ["rack-8"], "given_up": {"rack-8": ["198.51.100.0/24"]}}
                await until(lambda: is_over(at))
                given = await at.region.do(at.region.user(other, address=conflicting.address))
                assert given.created
                # It comes after all: what it serves and nobody else has is taken, what somebody was given stays given.
                async with rack(at, disks[1], far, "rack-8"):

                    async def late() -> bool:
                        await at.sweep()
                        return lost.address in await kinds(at.region)

                    await until(late)
                    now = await kinds(at.region)
                    assert now[lost.address] == (Kind.RECOVERED, Status.ACTIVE)
                    assert now[conflicting.address] == (Kind.USER, Status.ACTIVE)
                    assert (await found(at)).counts == {"given-up": 1, "recovered": 1, "conflict": 1}

                    await swept(at, lambda: {m.identifier for m in far.maps} == {mac(1), mac(2)})


@pytest_twisted.ensureDeferred
async def test_one_cluster_is_given_up_and_another_is_still_waited_for(database: str, tmp_path: Path) -> None:
    disks = tmp_path / "near", tmp_path / "far"
    async with office(database, tmp_path) as at:
        for disk, name, cidr in zip(disks, ("rack-7", "rack-8"), (NET, "198.51.100.0/24"), strict=True):
            async with rack(at, disk, FakeBackend(), name) as one:
                await one.report(cidr)
                await claim(at, await at.subnet(cidr), 1)
    async with office(database, tmp_path) as at:
        await at.recoveries.begin(change_of(at.region), "an admin was not sure")
        assert await at.recoveries.end_waiting(change_of(at.region), force=False, without=["rack-8"]) == ("rack-8",)
        await at.sweep()
        shown = await found(at)
        assert [(one.cidr, one.waits_for) for one in shown.subnets] == [(NET, ("rack-7",))]
        assert [one.name for one in shown.clusters if one.unheard] == ["rack-7"]
        assert [(finding.kind, finding.cidr) for finding in shown.findings] == [("given-up", "198.51.100.0/24")]
        assert (await at.region.do(at.region.user(await at.subnet("198.51.100.0/24")))).created
        with pytest.raises(errors.SubnetRecovering):
            await at.region.do(at.region.user(await at.subnet(NET)))


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_is_on_a_subnet_and_never_served_it_is_waited_for(database: str, tmp_path: Path) -> None:
    """It may have begun to in the lost past."""
    async with office(database, tmp_path) as at:
        for name in ("rack-7", "rack-8"):
            async with rack(at, tmp_path / name, FakeBackend(), name) as one:
                await one.report(NET)
        subnet = await at.subnet(NET)
        assert await at.region.pool.query("SELECT count(*) FROM delivery WHERE subnet = %s", (subnet,)) == [(1,)]
        await at.recoveries.begin(change_of(at.region), "a backup was restored")
        (shown,) = (await found(at)).subnets
        assert shown.waits_for == ("rack-7", "rack-8")


@pytest_twisted.ensureDeferred
async def test_a_recovery_of_a_database_that_lost_nothing_changes_nothing(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
        await here.report(NET)
        subnet = await at.subnet(NET)
        await claim(at, subnet, 1)
        released = await claim(at, subnet, 2)
        await at.region.release(released)
        await until(lambda: len(backend.maps) == 1)
        before = await kinds(at.region)
        assert await at.recoveries.begin(change_of(at.region), "an admin was not sure") is not None
        assert await at.recoveries.begin(change_of(at.region), "twice") is None
        await until(lambda: is_over(at))
        assert await kinds(at.region) == before
        assert (await found(at)).counts == {}
        backend.changes.clear()
        await claim(at, subnet, 3)
        assert not any(change.removed for change in backend.changes)
        audit = await at.region.pool.query("SELECT action, actor FROM audit WHERE action LIKE 'recovery%%'")
        assert audit == [("recovery.begin", "tester")]


@pytest_twisted.ensureDeferred
async def test_a_connection_of_the_lost_past_that_still_lives_is_cut(database: str, tmp_path: Path) -> None:
    """The database has forgotten that the cluster connected, and would give the same numbers again."""
    backend = FakeBackend()
    async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
        await here.report(NET)
        await claim(at, await at.subnet(NET), 1)
        await at.region.pool.execute("UPDATE cluster SET epoch = epoch - 1")
        assert await at.recoveries.begin(change_of(at.region), "a failover lost commits") is not None
        await until(lambda: is_over(at))
        assert len(here.registrations) == 2
        assert (await found(at)).counts == {}


@pytest_twisted.ensureDeferred
async def test_a_subnet_that_the_backup_does_not_know_is_not_claimable_before_its_cluster_was_heard(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    backend = FakeBackend()
    await begun(database, tmp_path, backend, 1)
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
            await here.report(NET, "198.51.100.0/24")
            lost = await claim(at, await at.subnet("198.51.100.0/24"), 2)
        async with office(backup, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
            await until(lambda: is_over(at))  # before the network is reported
            await here.report(NET, "198.51.100.0/24")
            with pytest.raises(errors.SubnetRecovering):
                await at.region.do(at.region.user(await at.subnet("198.51.100.0/24")))
            await at.sweep()
            assert (await kinds(at.region))[lost.address] == (Kind.RECOVERED, Status.ACTIVE)

            await swept(at, lambda: len(backend.maps) == 2)


@pytest_twisted.ensureDeferred
async def test_a_subnet_that_is_made_while_the_region_recovers_waits_for_every_cluster(
    postgres: TestServer, database: str, tmp_path: Path
) -> None:
    """In the lost past any cluster may have got that network, also one of which the backup knows of none."""
    cidr = "198.51.100.0/24"
    async with office(database, tmp_path) as at, rack(at, tmp_path / "near", FakeBackend()) as here:
        await here.report(NET)
        await at.subnet(NET)
        async with rack(at, tmp_path / "far", FakeBackend(), "rack-8") as there:
            await until(lambda: bool(there.registrations))
    async with copied(postgres, database) as backup:
        async with office(database, tmp_path) as at, rack(at, tmp_path / "far", FakeBackend(), "rack-8") as there:
            await there.report(cidr)
            lost = await claim(at, await at.subnet(cidr), 2)
        async with office(backup, tmp_path) as at:
            await at.recoveries.begin(change_of(at.region), "a backup was restored")
            networks = NetworkStore(at.region.pool, new_id)
            async with rack(at, tmp_path / "near", FakeBackend()):

                async def only_the_new_one_recovers() -> bool:
                    await at.sweep()
                    return NET not in [each.cidr for each in (await found(at)).subnets]

                made = await networks.add(change_of(at.region), cidr, 1, 0)
                await until(only_the_new_one_recovers)
                assert [(each.id, each.waits_for) for each in (await found(at)).subnets] == [(made, ("rack-8",))]
                with pytest.raises(errors.SubnetRecovering, match="regionctl recover"):
                    await at.region.do(at.region.user(made))
                with pytest.raises(errors.SubnetRecovering) as refusal:
                    await networks.remove(change_of(at.region), made)
                assert refusal.value.members == {"clusters": ["rack-8"]}
                assert [view.claimable for view in await at.region.reads.subnets()] == [True, False]
                async with rack(at, tmp_path / "far", FakeBackend(), "rack-8"):
                    await until(lambda: is_over(at))
                assert (await kinds(at.region))[lost.address] == (Kind.RECOVERED, Status.ACTIVE)
                assert (await at.region.do(at.region.user(made))).created
            later = await networks.add(change_of(at.region), "203.0.113.0/24", 1, 0)
            assert (await at.region.do(at.region.user(later))).created


@pytest_twisted.ensureDeferred
async def test_the_store_of_another_region_is_no_evidence(database: str, empty_database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend) as here:
        await here.report(NET)
        await claim(at, await at.subnet(NET), 1)
        await at.region.pool.execute("UPDATE region SET id = gen_random_uuid(), history = gen_random_uuid()")
    async with office(database, tmp_path) as at, rack(at, tmp_path / "disk", backend):
        subnet = await at.subnet(NET)
        await claim(at, subnet, 2)
        assert {m.identifier for m in backend.maps} == {mac(1), mac(2)}
        assert await at.region.pool.query("SELECT FROM former_history") == []
