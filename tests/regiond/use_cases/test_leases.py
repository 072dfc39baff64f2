"""Leases and claims on a real PostgreSQL, with the real parts of clusterd at the other end of a real link."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier
from regiond.catalogue import Catalogue
from regiond.cluster_rpc.asking import AskHere
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.leases import LeaseListing
from regiond.domain.views import DeviceView
from regiond.storage.addresses_in_use import InUseStore
from regiond.storage.nodes import NodeStore
from regiond.use_cases.batches import Batches
from regiond.use_cases.claims import Claims
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.leases import Leases
from regiond.use_cases.probed_claims import ProbedClaims
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.steps import UserClaim
from tests.clusterd.log_events import logged
from tests.fakes.backend import FakeBackend
from tests.fakes.probes import FakeProbes
from tests.regiond.office import Office, Site, office, site
from tests.regiond.storage.region import new_id
from tests.waiting import until

reactor: Any = global_reactor

NET = "10.9.0.0/16"
WANTED = "10.9.0.77"
MAC, STRANGER = "00:16:3e:00:00:01", Identifier.mac("00:16:3e:00:00:99")
FOREIGN = ServerLease(WANTED, (STRANGER,), "guest", 2_000_000_000)


class World:
    """A region with one cluster, and an admin who claims."""

    def __init__(self, office: Office, site: Site) -> None:
        self.office = office
        self.site = site
        reads = office.region.reads
        self.catalogue = Catalogue(reactor, reads)
        self.leases = Leases(reactor, AskHere(office.connections), Inventory(reads, self.catalogue), reads)
        nodes = NodeStore(office.region.pool, new_id)
        writer = office.region.writer
        probed = ProbedClaims(writer, FakeProbes(), InUseStore(office.region.pool, new_id))
        self.claims = Claims(writer, reads, nodes, self.catalogue, office.progress, self.leases, new_id, probed)

    @property
    def backend(self) -> FakeBackend:
        return self.site.backend

    def context(self, key: str | None = None, *, is_admin: bool = True) -> RequestContext:
        caller = Caller(self.office.region.owner, "tester", is_admin=is_admin, read_only=False)
        return RequestContext(caller, "test-request", "f", key, 0.0)

    async def device(
        self, mac: str = MAC, address: str | None = WANTED, *, key: str | None = None, force: bool = False
    ) -> tuple[DeviceView, bool]:
        return await self.claims.create_device(
            self.context(key),
            interface=NET,
            macs=(mac,),
            duid=None,
            address=address,
            hostname=None,
            owner=None,
            comment=None,
            force=force,
        )

    async def reserve(self, *, mac: str | None = None, force: bool = False, is_admin: bool = True) -> Any:
        return await self.claims.reserve(
            self.context(is_admin=is_admin),
            interface=NET,
            address=WANTED,
            mac=mac,
            count=1,
            hostname=None,
            purpose=None,
            comment=None,
            user=None,
            expires_at=None,
            force=force,
        )

    async def listing(self, **more: Any) -> LeaseListing:
        asked = {"addresses": (), "macs": (), "limit": 1000, "after": None, **more}
        return await self.leases.on_subnet(self.context(), NET, **asked)

    async def audit(self) -> list[tuple[str, Any]]:
        rows = await self.office.region.pool.query("SELECT action, before FROM audit ORDER BY id")
        return [(action, before) for action, before in rows]


@asynccontextmanager
async def world(database: str, directory: Path) -> AsyncIterator[World]:
    backend = FakeBackend()
    async with office(database, directory) as made, site(directory / "site", made.socket, backend) as connected:
        await connected.report(NET)

        async def is_served() -> bool:
            views = await made.region.reads.subnets()
            return any(view.clusters and not view.awaits for view in views)

        await until(is_served)
        yield World(made, connected)


@pytest_twisted.ensureDeferred
async def test_a_foreign_lease_refuses_the_claim_and_force_ends_it(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        with pytest.raises(errors.LeasedToAnother) as refused:
            await it.device()
        (found,) = refused.value.members["leases"]
        assert (found.cluster_name, found.lease) == ("rack-7", FOREIGN)
        with pytest.raises(errors.LeasedToAnother):
            await it.reserve()
        with logged() as events:
            made, created = await it.device(force=True)
        assert created and made.reservations[0].reservation.address == WANTED
        assert it.backend.leased == {}
        (ended,) = [event for event in events if event["event"] == "lease.ended"]
        assert (ended["address"], ended["clients"]) == (WANTED, [str(STRANGER)])
        assert (await it.audit())[-1] == (
            "reservation.force-claim",
            {"leases": [{"cluster": "rack-7", "clients": [str(STRANGER)]}]},
        )


@pytest_twisted.ensureDeferred
async def test_what_is_asked_and_what_is_not(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        made, _ = await it.device("00:16:3e:00:00:02", None)
        assert it.backend.asked == [], "a claim for the next free address costs no question"
        free = made.reservations[0].reservation.address
        await it.device("00:16:3e:00:00:03", "10.9.0.78")
        assert [question.addresses for question in it.backend.asked] == [{"10.9.0.78"}]
        # Its own client may have the lease; whoever has it is told of last.
        assert (await it.device(str(STRANGER.text)))[1]
        it.backend.leased[free] = ServerLease(free, (STRANGER,))
        with pytest.raises(errors.AddressTaken):
            await it.device(address=free)
        for outside in ("10.8.0.1", "10.9.0.0"):
            it.backend.leased[outside] = ServerLease(outside, (STRANGER,))
            with pytest.raises((errors.AddressOutsideSubnet, errors.AddressNotUsable)):
                await it.device(address=outside)


@pytest_twisted.ensureDeferred
async def test_a_repeated_claim_gets_its_first_answer(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        made, _ = await it.device(key="k1")
        it.backend.leased[WANTED] = FOREIGN
        again, created = await it.device(key="k1")
        assert (again.id, created) == (made.id, True)
        that_very, created = await it.device()
        assert (that_very.id, created) == (made.id, False)
        assert WANTED in it.backend.leased
        await it.device(force=True)  # as after an answer that was lost before the lease was ended
        assert it.backend.leased == {}


@pytest_twisted.ensureDeferred
async def test_a_forced_claim_ends_a_lease_once(database: str, tmp_path: Path) -> None:
    """Who has a lease when the request is repeated may have it by right: the reservation may be another's by then."""
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        made, _ = await it.device(key="k1", force=True)
        assert it.backend.leased == {}
        it.backend.leased[WANTED] = FOREIGN
        again, created = await it.device(key="k1", force=True)
        assert (again.id, created) == (made.id, True)
        assert it.backend.leased == {WANTED: FOREIGN}


@pytest_twisted.ensureDeferred
async def test_a_user_reservation_knows_its_own_mac_and_only_an_admin_forces(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        with pytest.raises(errors.NotPermitted):
            await it.reserve(force=True, is_admin=False)
        with pytest.raises(errors.LeasedToAnother):
            await it.reserve(is_admin=False)
        assert (await it.device(address=None, force=True))[1], "there is nothing to force, and nothing is ended"
        assert it.backend.leased == {WANTED: FOREIGN}
        await it.reserve(mac=STRANGER.text, is_admin=False)


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_asked_does_not_hold_a_claim_up(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        it.backend.refuse_all("it is out of order")
        (source,) = (await it.listing()).sources
        assert (source.name, source.error) == ("rack-7", "it is out of order")
        assert (await it.device())[1]


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_is_away_does_not_hold_a_claim_up(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        await it.site.connection.stop()
        await until(lambda: not it.office.connections.clusters())
        listing = await it.listing()
        assert listing.leases == ()
        assert [source.error for source in listing.sources] == ["it is not connected"]
        assert (await it.device())[1]


@pytest_twisted.ensureDeferred
async def test_a_lease_that_stays_is_told(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        end_lease = it.backend.end_lease

        async def refuse(lease: ServerLease) -> None:
            it.backend.refuse_all("not with me")
            await end_lease(lease)

        it.backend.end_lease = refuse  # type: ignore[method-assign]
        with logged() as events:
            assert (await it.device(force=True))[1]
        (stays,) = [event for event in events if event["event"] == "lease.not-ended"]
        assert (stays["reason"], stays["request_id"]) == ("not with me", "test-request")


@pytest_twisted.ensureDeferred
async def test_a_long_list_in_pages(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        for number in range(1, 1301):
            address = f"10.9.{4 + (number >> 8)}.{number & 255}"
            mac = Identifier.mac(f"00:16:3e:01:{number >> 8:02x}:{number & 255:02x}")
            it.backend.leased[address] = ServerLease(address, (mac,), None, 2_000_000_000)
        it.backend.leased["10.77.0.1"] = ServerLease("10.77.0.1", (STRANGER,))
        taken = "10.9.4.1"
        made, _ = await it.device("00:16:3e:01:00:01", taken)
        first = await it.listing()
        assert (len(first.leases), first.following) == (1000, first.leases[-1].found.lease.address)
        held = {view.found.lease.address: view.reservation for view in first.leases}
        assert held[taken] == made.reservations[0].reservation.id and held["10.9.4.2"] is None
        rest = await it.listing(after=first.following)
        assert (len(rest.leases), rest.following) == (300, None)
        only = await it.listing(addresses=[taken, "10.9.4.2"], macs=["00163e010002"])
        assert [view.found.lease.address for view in only.leases] == ["10.9.4.2"]
        by_id = format_id(Prefix.SUBNET, first.subnet)
        assert (await it.leases.on_subnet(it.context(), by_id, addresses=(), macs=(), limit=1, after=None)).following
        with pytest.raises(errors.InvalidRequest):
            await it.listing(after="there")
        user = it.context(is_admin=False)
        with pytest.raises(errors.NotPermitted):
            await it.leases.on_subnet(user, NET, addresses=(), macs=(), limit=1, after=None)


@pytest_twisted.ensureDeferred
async def test_a_batch_is_refused_for_the_member_whose_address_is_leased(database: str, tmp_path: Path) -> None:
    async with world(database, tmp_path) as it:
        it.backend.leased[WANTED] = FOREIGN
        reads = it.office.region.reads
        batches = Batches(reads, it.claims, it.office.progress)
        free = UserClaim(NET, "10.9.0.78", None, 1, None, None, None, None, None)
        with pytest.raises(errors.BatchRefused) as refused:
            await batches.run(it.context(), members=[free, replace(free, address=WANTED)])
        ((position, why),) = refused.value.refused
        assert (position, type(why)) == (1, errors.LeasedToAnother)
        assert len(it.backend.asked) == 1
        it.backend.leased.clear()
        assert len(await batches.run(it.context(), members=[free, replace(free, address=WANTED)])) == 2
