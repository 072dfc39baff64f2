"""Requests that are carried out while their answer gets lost, or twice at once: one key has one answer."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, DeferredList

from regiond.catalogue import Catalogue
from regiond.domain import errors, versions
from regiond.domain.ids import Prefix, format_id
from regiond.domain.reservations import Status
from regiond.domain.views import DeviceView, NodeView, ReservationView
from regiond.progress import Progress
from regiond.storage.addresses_in_use import InUseStore
from regiond.storage.errors import DatabaseUnavailable
from regiond.storage.nodes import NodeStore
from regiond.storage.reads import Reads
from regiond.storage.reservation_filter import ReservationFilter
from regiond.use_cases.claims import Claims
from regiond.use_cases.probed_claims import ProbedClaims
from regiond.use_cases.requests import Caller, RequestContext
from tests.fakes.leases import FakeLeases
from tests.fakes.probes import FakeProbes
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor

NETWORK = "192.0.2.0/24"
MAC = "00:16:3e:00:00:01"


class Interrupted(Reads):
    """Something happens before it looks at devices, or after it has looked at nodes or reservations; or all is away."""

    def __init__(self, region: Region) -> None:
        super().__init__(region.pool)
        self.elsewhere: Any = None
        self.after_nodes: Any = None
        self.after_reservations: Any = None
        self.is_away = False

    async def devices(self, *arguments: Any, **named: Any) -> list[DeviceView]:
        if (elsewhere := self.elsewhere) is not None:
            self.elsewhere = None
            await elsewhere()
        return await super().devices(*arguments, **named)

    async def reservations(
        self, wanted: ReservationFilter, limit: int = 1000, after: int | None = None
    ) -> list[ReservationView]:
        self._need_database()
        found = await super().reservations(wanted, limit, after)
        happens, self.after_reservations = self.after_reservations, None
        if happens is not None:
            await happens()
        return found

    async def nodes(self, *arguments: Any, **named: Any) -> list[NodeView]:
        self._need_database()
        found = await super().nodes(*arguments, **named)
        happens, self.after_nodes = self.after_nodes, None
        if happens is not None:
            await happens()
        return found

    def _need_database(self) -> None:
        if self.is_away:
            raise DatabaseUnavailable("the server is gone")


class Requests:
    """The use cases on a database, called as an admin."""

    def __init__(self, region: Region) -> None:
        self.reads = Interrupted(region)
        self.region = region
        self.leases = FakeLeases()
        self.probes = FakeProbes()
        self.claims = Claims(
            region.writer,
            self.reads,
            NodeStore(region.pool, new_id),
            Catalogue(reactor, self.reads),
            Progress(reactor, self.reads),
            self.leases,
            new_id,
            ProbedClaims(region.writer, self.probes, InUseStore(region.pool, new_id)),
        )

    def context(self, key: str | None = None, wait: float | None = None) -> RequestContext:
        caller = Caller(self.region.owner, "tester", is_admin=True, read_only=False)
        return RequestContext(caller, "test-request", "f", key, wait)

    async def device(self, key: str | None = None, wait: float | None = None) -> DeviceView:
        made, _ = await self.claims.create_device(
            self.context(key, wait),
            interface=NETWORK,
            macs=(MAC,),
            duid=None,
            address=None,
            hostname=None,
            owner=None,
            comment=None,
        )
        return made

    async def delete(self, device: DeviceView, key: str | None) -> Sequence[ReservationView]:
        return await self.claims.delete_device(self.context(key), format_id(Prefix.DEVICE, device.id), force=True)


@asynccontextmanager
async def requests_on(database: str) -> AsyncIterator[Requests]:
    async with region_on(database, reactor) as region:
        await region.cluster("rack-a", NETWORK)
        yield Requests(region)


@asynccontextmanager
async def also_on(database: str, first: Requests) -> AsyncIterator[Requests]:
    """Another regiond on the same database, asked by the same account."""
    async with region_on(database, reactor) as region:
        region.owner = first.region.owner
        yield Requests(region)


@pytest_twisted.ensureDeferred
async def test_a_delete_that_another_regiond_carries_out_meanwhile_has_its_answer(database: str) -> None:
    async with requests_on(database) as ours, also_on(database, ours) as theirs:
        device = await ours.device()
        ours.reads.elsewhere = lambda: theirs.delete(device, "key-1")
        assert await ours.delete(device, "key-1") == []


@pytest_twisted.ensureDeferred
async def test_a_delete_of_what_another_request_deleted_finds_nothing(database: str) -> None:
    async with requests_on(database) as ours, also_on(database, ours) as theirs:
        device = await ours.device()
        ours.reads.elsewhere = lambda: theirs.delete(device, "key-2")
        with pytest.raises(errors.NotFound):
            await ours.delete(device, "key-1")


@pytest_twisted.ensureDeferred
async def test_a_claim_is_answered_when_the_database_goes_away_after_its_commit(database: str) -> None:
    async with requests_on(database) as ours:
        ours.reads.is_away = True
        device = await ours.device(wait=5.0)
        ours.reads.is_away = False
        (kept,), _ = await ours.claims.list_devices(ours.context(), filters={}, limit=10, after=None)
        assert [view.reservation.address for view in kept.reservations] == [
            view.reservation.address for view in device.reservations
        ]


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_made_and_cannot_be_shown_is_not_said_to_be_unmade(database: str) -> None:
    async with requests_on(database) as ours:
        ours.reads.is_away = True
        with pytest.raises(DatabaseUnavailable) as unavailable:
            await ours.claims.create_node(ours.context("key-1"), hostname="n1", macs=(), owner=None, comment=None)
        assert unavailable.value.outcome_unknown
        ours.reads.is_away = False
        again = await ours.claims.create_node(ours.context("key-1"), hostname="n1", macs=(), owner=None, comment=None)
        assert again.hostname == "n1"


async def _node(ours: Requests) -> NodeView:
    return await ours.claims.create_node(ours.context(), hostname="n1", macs=(), owner=None, comment=None)


async def _node_address(requests: Requests, node: NodeView, number: int) -> ReservationView:
    made, _ = await requests.claims.claim_node_address(
        requests.context(wait=0.0),
        format_id(Prefix.NODE, node.id),
        interface=NETWORK,
        mac=f"00:16:3e:00:01:{number:02x}",
        alias=None,
        client_id=None,
        duid=None,
        address=None,
        hostname=None,
    )
    return made


@pytest_twisted.ensureDeferred
async def test_a_node_is_never_deleted_from_under_an_address(database: str) -> None:
    """Claims and the deletion race, through two regionds: what is claimed is released with the node, or refused."""
    async with requests_on(database) as ours, also_on(database, ours) as theirs:
        node = await _node(ours)
        claims = [_node_address((ours, theirs)[number % 2], node, number) for number in range(40)]
        deletion = ours.claims.delete_node(ours.context(), format_id(Prefix.NODE, node.id), force=False)
        work = [Deferred.fromCoroutine(one) for one in (*claims[:20], deletion, *claims[20:])]
        results: list[tuple[bool, Any]] = await DeferredList(work, consumeErrors=True)
        deleted, _ = results.pop(20)
        assert deleted
        for made, result in results:
            assert made or result.check(errors.NotFound), result
        left = await ours.reads.reservations(ReservationFilter(nodes=[node.id]))
        assert [view.reservation.status for view in left] == [Status.RELEASING] * sum(made for made, _ in results)


@pytest_twisted.ensureDeferred
async def test_a_node_with_an_address_that_just_came_is_deleted_with_it(database: str) -> None:
    async with requests_on(database) as ours:
        node = await _node(ours)
        ours.reads.after_reservations = lambda: _node_address(ours, node, 1)
        resting = await ours.claims.delete_node(ours.context(), format_id(Prefix.NODE, node.id), force=False)
        assert [view.reservation.status for view in resting] == [Status.RELEASING]
        with pytest.raises(errors.NotFound):
            await ours.claims.node(ours.context(), format_id(Prefix.NODE, node.id))


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_gone_gets_no_address(database: str) -> None:
    async with requests_on(database) as ours, also_on(database, ours) as theirs:
        node = await _node(ours)
        ours.reads.after_nodes = lambda: theirs.claims.delete_node(
            theirs.context(), format_id(Prefix.NODE, node.id), force=False
        )
        with pytest.raises(errors.NotFound):
            await _node_address(ours, node, 1)
        assert await ours.reads.reservations(ReservationFilter()) == []


@pytest_twisted.ensureDeferred
async def test_a_group_is_given_back_at_once_and_once(database: str) -> None:
    """Also when one of it was given back alone, before or at the same moment; a repeated key has its one answer."""
    async with requests_on(database) as here:
        nothing: dict[str, Any] = dict.fromkeys(
            ("address", "mac", "hostname", "purpose", "comment", "user", "expires_at"), None
        )

        async def reserved() -> tuple[str, list[str]]:
            made, _ = await here.claims.reserve(here.context(), interface=NETWORK, count=4, **nothing)
            group = made[0].reservation.group
            assert group is not None
            ids = [format_id(Prefix.RESERVATION, view.reservation.id) for view in made]
            return format_id(Prefix.GROUP, group), ids

        group, ids = await reserved()
        other, _ = await reserved()
        await here.claims.release_reservation(here.context(), ids[0], force=False)
        assert len(await here.claims.group(here.context(), group)) == 3

        async def meanwhile() -> None:
            await here.claims.release_reservation(here.context(), ids[1], force=False)

        here.reads.after_reservations = meanwhile
        await here.claims.release_group(here.context("k"), group)
        await here.claims.release_group(here.context("k"), group)
        with pytest.raises(errors.NotFound):
            await here.claims.group(here.context(), group)
        with pytest.raises(errors.NotFound):
            await here.claims.release_group(here.context(), group)
        assert len(await here.claims.group(here.context(), other)) == 4


@pytest_twisted.ensureDeferred
async def test_a_claim_is_answered_as_the_first_time_when_what_it_names_is_gone(database: str) -> None:
    async with requests_on(database) as here:
        node = await _node(here)

        nothing: dict[str, Any] = dict.fromkeys(("alias", "client_id", "duid", "address", "hostname"))

        async def claimed(key: str) -> int:
            made, _ = await here.claims.claim_node_address(
                here.context(key, 0.0),
                format_id(Prefix.NODE, node.id),
                interface=NETWORK,
                mac=MAC,
                **nothing,
            )
            return made.reservation.id

        first = await claimed("k")
        await here.claims.delete_node(here.context(), format_id(Prefix.NODE, node.id), force=True)
        assert await claimed("k") == first
        with pytest.raises(errors.NotFound):
            await claimed("another")


@pytest_twisted.ensureDeferred
async def test_a_device_that_is_gone_is_shown_as_it_was_made(database: str) -> None:
    async with requests_on(database) as here:
        first = await here.device("k", 0.0)
        await here.delete(first, None)
        again = await here.device("k", 0.0)
        assert (again.id, again.reservations[0].reservation.address) == (
            first.id,
            first.reservations[0].reservation.address,
        )


@pytest_twisted.ensureDeferred
async def test_a_group_is_given_back_as_it_was_read_or_not_at_all(database: str) -> None:
    async with requests_on(database) as here:
        nothing: dict[str, Any] = dict.fromkeys(
            ("address", "mac", "hostname", "purpose", "comment", "user", "expires_at"), None
        )
        made, _ = await here.claims.reserve(here.context(), interface=NETWORK, count=3, **nothing)
        number = made[0].reservation.group
        assert number is not None
        group = format_id(Prefix.GROUP, number)

        async def seen() -> RequestContext:
            held = [view.reservation for view in await here.claims.group(here.context(), group)]
            return replace(here.context(), if_match=frozenset({versions.of_group(number, held)}))

        before = await seen()
        await here.claims.release_reservation(
            here.context(), format_id(Prefix.RESERVATION, made[0].reservation.id), force=False
        )
        with pytest.raises(errors.StaleVersion):
            await here.claims.release_group(before, group)
        assert len(await here.claims.group(here.context(), group)) == 2
        await here.claims.release_group(await seen(), group)
        with pytest.raises(errors.NotFound):
            await here.claims.group(here.context(), group)
