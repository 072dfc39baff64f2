"""Batches whose addresses are probed, on a real PostgreSQL: as single claims are, and together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.progress import Progress
from regiond.use_cases.batches import Batches, Member
from regiond.use_cases.steps import DeviceClaim, ReservationRelease, UserClaim
from tests.clusterd.log_events import logged
from tests.regiond.storage.region import region_on
from tests.regiond.use_cases.test_probed_claims import MAC, NET, NET6, SQUATTER, World
from tests.waiting import until

reactor: Any = global_reactor


class Asking(World):
    """As `World`, for batches."""

    async def run(self, *members: Member, probe: bool | None = None, key: str | None = None) -> list[tuple[str, Any]]:
        """Of each address that was claimed, whether it was probed."""
        batches = Batches(self.requests.reads, self.requests.claims, Progress(reactor, self.requests.reads))
        context = replace(self.requests.context(key, wait=0.0), probe=probe)
        results = await batches.run(context, members=members)
        views = [view.reservation for result in results for view in result.reservations]
        return [(held.address, held.probed) for held in views]

    async def refusal(self, *members: Member, **how: Any) -> list[tuple[int, type[Exception]]]:
        with pytest.raises(errors.BatchRefused) as refused:
            await self.run(*members, **how)
        return [(position, type(error)) for position, error in refused.value.refused]


@asynccontextmanager
async def asking(database: str) -> AsyncIterator[Asking]:
    async with region_on(database, reactor) as region:
        cluster, subnets = await region.cluster("rack-a", NET, NET6)
        yield Asking(region, cluster, subnets)


def reserve(interface: str | None = NET, address: str | None = None, count: int = 1) -> UserClaim:
    return UserClaim(interface, address, None, count, None, None, None, None, None)


def device(mac: str, address: str | None = None) -> DeviceClaim:
    return DeviceClaim(NET, (mac,), None, address, None, None, None)


def on(*numbers: int) -> list[str]:
    return [f"192.0.2.{number}" for number in numbers]


@pytest_twisted.ensureDeferred
async def test_all_of_a_subnet_are_probed_with_one_question_and_nobody_gets_a_squatters(database: str) -> None:
    async with asking(database) as it:
        it.probes.squatters = {"192.0.2.3": SQUATTER, "192.0.2.5": SQUATTER, "2001:db8::2": SQUATTER}
        members: list[Member] = [reserve(count=3), reserve(NET6), device(MAC), reserve(None, "192.0.2.99")]
        given = await it.run(*members, probe=True)
        assert given == [
            *((address, True) for address in on(2, 4, 6)),
            ("2001:db8::3", True),
            ("192.0.2.7", True),
            ("192.0.2.99", True),
        ]
        assert sorted(map(len, it.probes.asked)) == [5, 9], "one question for each subnet"
        assert await it.marked() == {"192.0.2.3": SQUATTER, "192.0.2.5": SQUATTER}
        assert await it.sound()


@pytest_twisted.ensureDeferred
async def test_the_subnet_may_want_it_and_the_batch_may_not(database: str) -> None:
    async with asking(database) as it:
        it.probes.squatters = {"192.0.2.2": SQUATTER}
        await it.by_default(True)
        assert await it.run(reserve(), reserve(NET6)) == [("192.0.2.3", True), ("2001:db8::2", None)]
        assert await it.run(reserve(), probe=False) == [("192.0.2.4", None)]
        it.probes.reasons = ["cluster rack-a cannot be asked: it is not connected"]
        with logged() as events:
            assert await it.run(reserve(), reserve()) == [("192.0.2.5", False), ("192.0.2.6", False)]
        assert _names(events).count("claim.not-probed") == 1
        with pytest.raises(errors.NotProbed, match="not connected"):
            await it.run(reserve(), reserve(NET6), probe=True)


@pytest_twisted.ensureDeferred
async def test_what_else_is_wrong_is_told_before_anything_is_probed(database: str) -> None:
    async with asking(database) as it:
        assert await it.run(device(MAC)) == [("192.0.2.2", None)]
        members: list[Member] = [reserve(), device(MAC, "192.0.2.9"), reserve(None, "192.0.2.1")]
        wrong = [(1, errors.IdentifierTaken), (2, errors.AddressOfInfrastructure)]
        assert await it.refusal(*members, probe=True) == wrong
        assert it.probes.asked == []


@pytest_twisted.ensureDeferred
async def test_a_wanted_address_that_is_in_use_is_the_fault_of_its_member(database: str) -> None:
    async with asking(database) as it:
        it.probes.squatters = {"192.0.2.8": MAC, "192.0.2.9": SQUATTER}
        members: list[Member] = [reserve(), reserve(None, "192.0.2.9"), device(MAC, "192.0.2.8")]
        assert await it.refusal(*members, probe=True) == [(1, errors.AddressInUse)]
        assert await it.run(members[0], members[2], probe=True) == [("192.0.2.2", True), ("192.0.2.8", True)]
        # One address for another, in one request: who had it may still use it.
        (held,) = await it.reserve(False, address="192.0.2.20")
        it.probes.squatters["192.0.2.20"] = SQUATTER
        release = ReservationRelease(format_id(Prefix.RESERVATION, held.reservation.id), False)
        assert await it.refusal(release, reserve(None, "192.0.2.20"), probe=True) == [(1, errors.AddressInUse)]
        del it.probes.squatters["192.0.2.20"]
        assert ("192.0.2.20", True) in await it.run(release, reserve(None, "192.0.2.20"), probe=True)


@pytest_twisted.ensureDeferred
async def test_what_its_own_machine_uses_is_no_other_members(database: str) -> None:
    async with asking(database) as it:
        it.probes.squatters = {"192.0.2.2": MAC}
        assert await it.run(reserve(), device(MAC), probe=True) == [("192.0.2.3", True), ("192.0.2.2", True)]
        assert await it.marked() == {}


@pytest_twisted.ensureDeferred
async def test_a_whole_batch_of_addresses_and_a_repeated_one(database: str) -> None:
    async with asking(database) as it:
        it.probes.squatters = dict.fromkeys(on(*range(2, 60, 2)), SQUATTER)
        members = [reserve() for _ in range(100)]
        given = await it.run(*members, probe=True, key="k")
        assert len({address for address, _ in given}) == 100 and {probed for _, probed in given} == {True}
        assert not {address for address, _ in given} & set(it.probes.squatters)
        asked = len(it.probes.asked)
        assert await it.run(*members, probe=True, key="k") == given
        assert len(it.probes.asked) == asked == 2, "the first hundred were not enough"
        assert await it.sound()


@pytest_twisted.ensureDeferred
async def test_what_others_take_during_a_probe_is_not_given_twice(database: str) -> None:
    async with asking(database) as it:
        it.probes.hold()
        probed = Deferred.fromCoroutine(it.run(reserve(), reserve(), probe=True))
        await until(lambda: it.probes.held == 1)
        taken = [await it.address(probe=False) for _ in range(6)]
        assert [address for address, _ in taken] == on(*range(2, 8)), "no lock is held meanwhile"
        it.probes.let_go()
        assert await probed == [("192.0.2.8", True), ("192.0.2.9", True)]


def _names(events: Sequence[LogEvent]) -> list[str]:
    return [str(event["event"]) for event in events]
