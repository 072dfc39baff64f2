"""Following what happens, on a real database: nothing is lost, nothing comes twice, whatever is cut and wherever."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, DeferredList

from clusterd.protocol.values import Identifier
from regiond.catalogue import Catalogue
from regiond.domain import errors
from regiond.domain.events import Event, EventKind
from regiond.domain.mutations import Acknowledge, Release
from regiond.domain.reservations import Reservation
from regiond.storage.events import EventReads
from regiond.use_cases.events import KEEP_ALIVE_SECONDS, SLOW_SECONDS, Events, Told
from regiond.use_cases.requests import Caller, RequestContext
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor

NET, OTHER = "192.0.2.0/24", "198.51.100.0/24"


class Here:
    """A regiond's feed of events, and a region to make some."""

    def __init__(self, region: Region, cluster: int, subnets: Sequence[int]) -> None:
        self.region = region
        self.cluster = cluster
        self.net, self.other = subnets
        self.reads = EventReads(region.pool)
        self.events = Events(reactor, self.reads, Catalogue(reactor, region.reads))

    def caller(self, account: int | None = None) -> Caller:
        admin = account is None
        return Caller(self.region.owner if account is None else account, "tester", is_admin=admin, read_only=False)

    async def follow(
        self,
        after: str | None = None,
        *,
        kinds: Sequence[EventKind] = (),
        subnets: Sequence[str] = (),
        wait: float | None = None,
        account: int | None = None,
    ) -> AsyncGenerator[Told, None]:
        context = RequestContext(self.caller(account), "a-follower")
        return await self.events.follow(context, after=after, kinds=kinds, subnets=subnets, wait=wait)

    async def now(self) -> str:
        """The id of the last event."""
        async with aclosing(await self.follow(wait=0.0)) as told:
            return str((await anext(told)).at)

    async def since(self, after: str, **chosen: Any) -> list[Event]:
        """What happened since then."""
        async with aclosing(await self.follow(after, wait=0.0, **chosen)) as told:
            return [event async for news in told for event in news.events]

    async def user(self, name: str = "alice") -> int:
        account = new_id()
        await self.region.pool.execute("INSERT INTO account (id, name, role) VALUES (%s, %s, 'user')", (account, name))
        return account

    async def claim(self, **values: Any) -> Reservation:
        return (await self.region.do(self.region.user(self.net, **values))).reservations[0]


@asynccontextmanager
async def here_on(database: str) -> AsyncIterator[Here]:
    async with region_on(database, reactor) as region:
        cluster, subnets = await region.cluster("rack-a", NET, OTHER)
        here = Here(region, cluster, subnets)
        yield here
        here.events.stop()


@asynccontextmanager
async def also_on(database: str, first: Here) -> AsyncIterator[Here]:
    """Another regiond on the same database."""
    async with region_on(database, reactor) as region:
        region.owner = first.region.owner
        there = Here(region, first.cluster, [first.net, first.other])
        yield there
        there.events.stop()


def mac(number: int) -> Identifier:
    return Identifier.mac(f"00:16:3e:00:00:{number:02x}")


def said(events: Sequence[Event]) -> list[tuple[str, str]]:
    return [(event.kind.value, event.action) for event in events]


@pytest_twisted.ensureDeferred
async def test_the_life_of_a_reservation_is_told(database: str) -> None:
    async with here_on(database) as here:
        start = await here.now()
        (held,) = (await here.region.do(here.region.device(here.net, mac(1)))).reservations
        generation = (await here.region.pool.query("SELECT generation FROM subnet WHERE id = %s", (here.net,)))[0][0]
        await here.region.do(Acknowledge(here.cluster, here.net, generation, generation))
        await here.region.release(held)
        await here.region.do(Acknowledge(here.cluster, here.net, generation + 1, generation + 1))
        await here.region.pool.execute("UPDATE reservation SET free_at = now()")
        await here.region.reclaim(held)
        told = await here.since(start)
        assert said(told) == [
            ("reservation", "claimed"),
            ("host-map", "applied"),
            ("reservation", "releasing"),
            ("host-map", "applied"),
            ("reservation", "changed"),
            ("reservation", "changed"),
            ("reservation", "free"),
        ]
        assert {event.reservation for event in told if event.kind is EventKind.RESERVATION} == {held.id}
        assert {event.address for event in told if event.kind is EventKind.RESERVATION} == {held.address}
        positions = [event.position for event in told]
        assert positions == list(range(positions[0], positions[0] + len(told)))


@pytest_twisted.ensureDeferred
async def test_an_applied_generation_names_its_host_maps_and_those_that_are_refused(database: str) -> None:
    async with here_on(database) as here:
        first, second = [
            (await here.region.do(here.region.device(here.net, mac(number)))).reservations[0] for number in (1, 2)
        ]
        start = await here.now()
        await here.region.pool.execute(
            "INSERT INTO rejected_map (subnet, cluster, kind, identifier, reason) VALUES (%s, %s, 'mac', %s, 'no')",
            (here.net, here.cluster, mac(2).value),
        )
        await here.region.do(Acknowledge(here.cluster, here.net, 2, 2, error="one is refused"))
        (event,) = await here.since(start)
        assert (event.kind, event.action, event.generation) == (EventKind.HOST_MAP, "failed", 2)
        assert (event.cluster_name, event.cidr, event.error, event.more) == ("rack-a", NET, "one is refused", False)
        assert {(one.reservation, one.refused) for one in event.maps} == {(first.id, False), (second.id, True)}


@pytest_twisted.ensureDeferred
async def test_clusters_are_told_of(database: str) -> None:
    async with here_on(database) as here:
        start = await here.now()
        cluster, _ = await here.region.cluster("rack-b", "203.0.113.0/24")
        await here.region.clusters.heard([cluster])
        await here.region.clusters.apply_topology(cluster, [])
        told = await here.since(start)
        assert {event.cluster_name for event in told} == {"rack-b"}
        assert said(told)[:2] == [("cluster", "new"), ("cluster", "connected")]
        assert said(told).count(("cluster", "interfaces")) == 2
        assert ("cluster", "serving") in said(told)
        [serving] = [event for event in told if event.action == "serving"]
        assert serving.cidr == "203.0.113.0/24"
        start = await here.now()
        await here.region.clusters.heard([cluster])
        await here.region.clusters.apply_topology(cluster, [])
        assert await here.since(start) == []


@pytest_twisted.ensureDeferred
async def test_a_user_is_told_of_its_own_and_of_what_is_nobodys(database: str) -> None:
    async with here_on(database) as here:
        alice = await here.user()
        start = await here.now()
        await here.claim()
        own = (
            await here.region.do(here.region.device(here.net, mac(1)), here.region.device(here.net, mac(2)))
        ).reservations[0]
        await here.region.pool.execute("UPDATE reservation SET owner = %s WHERE id = %s", (alice, own.id))
        await here.region.do(Acknowledge(here.cluster, here.net, 1, 1))
        told = await here.since(start, account=alice)
        assert said(told) == [("reservation", "received"), ("host-map", "applied")]
        assert len(told[1].maps) == 2  # which of them are shown is decided where they are shown
        await here.region.do(here.region.device(here.net, mac(3)))
        await here.region.do(Acknowledge(here.cluster, here.net, 2, 2))
        await here.region.clusters.apply_topology(here.cluster, [])
        again = await here.since(start, account=alice)
        assert again[:2] == told and {event.kind for event in again[2:]} == {EventKind.CLUSTER}
        everything = said(await here.since(start))
        assert everything.count(("reservation", "given-away")) == everything.count(("reservation", "received")) == 1


@pytest_twisted.ensureDeferred
async def test_who_chooses_is_told_of_that_only(database: str) -> None:
    async with here_on(database) as here:
        start = await here.now()
        held = await here.claim()
        await here.region.do(here.region.user(here.other))
        await here.region.do(here.region.device(here.other, mac(1)))
        await here.region.do(Acknowledge(here.cluster, here.other, 1, 1))
        assert said(await here.since(start, kinds=[EventKind.HOST_MAP])) == [("host-map", "applied")]
        assert [one.reservation for one in await here.since(start, subnets=[NET])] == [held.id]
        both = await here.since(start, kinds=[EventKind.HOST_MAP, EventKind.RESERVATION], subnets=[OTHER])
        assert said(both) == [("reservation", "claimed"), ("reservation", "claimed"), ("host-map", "applied")]
        with pytest.raises(errors.NoSuchClusterInterface):
            await here.follow(subnets=["10.0.0.0/8"])


@pytest_twisted.ensureDeferred
async def test_what_commits_late_comes_later_and_is_not_lost(database: str) -> None:
    """Its number is lower than that of an event that was told already."""
    async with here_on(database) as here:
        start = await here.now()
        late_begun: Deferred[None] = Deferred()
        go_on: Deferred[None] = Deferred()

        async def late(session: Any) -> None:
            await session.run("INSERT INTO event (kind, action, cluster_name) VALUES ('cluster', 'changed', 'late')")
            late_begun.callback(None)
            await go_on

        writing = Deferred.fromCoroutine(here.region.pool.transaction(late))
        await late_begun
        await here.claim()
        first = await here.since(start)
        assert said(first) == [("reservation", "claimed")]
        go_on.callback(None)
        await writing
        assert [event.cluster_name for event in (await here.since(start))[1:]] == ["late"]
        numbered = [event.position for event in await here.since(start)]
        assert numbered == [first[0].position, first[0].position + 1]


@pytest_twisted.ensureDeferred
async def test_news_is_told_while_one_follows_on_any_regiond(database: str) -> None:
    async with here_on(database) as here, also_on(database, here) as there:
        async with aclosing(await here.follow()) as one, aclosing(await there.follow()) as other:
            for told in (one, other):
                assert (await anext(told)).events == ()
            for _ in range(3):
                held = await here.claim()
                for told in (one, other):
                    (event,) = (await anext(told)).events
                    assert (event.action, event.reservation) == ("claimed", held.id)
        assert here.events.followers == there.events.followers == 0


@pytest_twisted.ensureDeferred
async def test_connections_that_are_cut_anywhere_lose_and_double_nothing(database: str) -> None:
    """Two regionds, eight writers, and a follower that is cut after a few events and goes on at the other one."""
    async with here_on(database) as here, also_on(database, here) as there:
        at = start = await here.now()

        async def write(region: Region, number: int) -> None:
            for _ in range(10):
                (held,) = (await region.do(region.user((here.net, here.other)[number % 2]))).reservations
                await region.do(Release(held.id, held.subnet, held.address))

        writing = DeferredList(
            [Deferred.fromCoroutine(write((here, there)[number % 2].region, number)) for number in range(8)],
            fireOnOneErrback=True,
        )
        told: list[Event] = []
        turn = 0
        while len(told) < 160:
            turn += 1
            async with aclosing(await (here, there)[turn % 2].follow(at, wait=5.0)) as news:
                async for each in news:
                    assert each.ends is None, (each, len(told))
                    taken = each.events[: turn % 4] if turn % 3 == 0 else each.events
                    told.extend(taken)
                    if taken:
                        at = f"{each.at.history[:8]}-{taken[-1].position}"
                    elif not each.events:
                        at = str(each.at)
                    if turn % 3 == 0 or len(told) >= 160:
                        break
                    if taken and taken[-1].position % 5 == 0:
                        break
        await writing
        positions = [event.position for event in told]
        assert positions == list(range(positions[0], positions[0] + 160))
        assert told == await here.since(start) == await there.since(start)
        lives: dict[int | None, list[str]] = {}
        for event in told:
            lives.setdefault(event.reservation, []).append(event.action)
        assert list(lives.values()) == [["claimed", "free"]] * 80


@pytest_twisted.ensureDeferred
async def test_what_is_not_kept_any_more_has_to_be_listed_again(database: str) -> None:
    async with here_on(database) as here:
        start = await here.now()
        await here.claim()
        middle = await here.now()
        await here.claim()
        await here.region.pool.execute("SELECT number_events()")
        await here.region.pool.execute(
            "UPDATE event SET at = at - interval '2 days' WHERE position <= %s", (int(middle[9:]),)
        )
        await here.reads.prune()
        assert len(await here.since(middle)) == 1
        with pytest.raises(errors.EventsGone):
            await here.follow(start)
        history, _, position = middle.partition("-")
        with pytest.raises(errors.EventsGone):
            await here.follow(f"{history}-{int(position) + 100}")
        with pytest.raises(errors.EventsGone):
            await here.follow(f"{'0' * 8}-{position}")
        for nonsense in ("", "x", f"{history}", f"{history}-", f"{history}-x", f"{history}-{'9' * 30}", f"-{position}"):
            with pytest.raises(errors.EventsGone):
                await here.follow(nonsense)


@pytest_twisted.ensureDeferred
async def test_of_too_many_events_the_last_are_kept(database: str) -> None:
    async with here_on(database) as here:
        start = await here.now()
        await here.region.pool.execute(
            "INSERT INTO event (kind, action) SELECT 'cluster', 'changed' FROM generate_series(1, 25000)"
        )
        for _ in range(4):
            await here.region.pool.query("SELECT prune_events('1 day', 100)")
        page = await here.reads.tail()
        assert page.last - page.gone == 100
        rows = await here.region.pool.query("SELECT count(*), min(position), max(position) FROM event")
        assert rows == [(100, page.gone + 1, page.last)]
        assert page.last == int(start[9:]) + 25000


@pytest_twisted.ensureDeferred
async def test_a_region_whose_past_changes_says_so(database: str) -> None:
    async with here_on(database) as here, aclosing(await here.follow()) as told:
        await anext(told)
        await here.region.pool.execute("UPDATE region SET history = gen_random_uuid()")
        end = await anext(told)
        assert end.lost and end.ends is not None and "back in time" in end.ends
        with pytest.raises(StopAsyncIteration):
            await anext(told)


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_stops_lets_everybody_go(database: str) -> None:
    async with here_on(database) as here, aclosing(await here.follow()) as told:
        await anext(told)
        waiting = Deferred.fromCoroutine(anext(told))
        here.events.stop()
        end = await waiting
        assert not end.lost and end.ends is not None and "stopping" in end.ends


class SetClock:
    """The reactor, with a time of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.callLater = reactor.callLater

    def seconds(self) -> float:
        return self.now


@pytest_twisted.ensureDeferred
async def test_who_reads_too_slowly_is_let_go_with_the_reason_and_can_go_on(database: str) -> None:
    async with here_on(database) as here:
        clock = SetClock()
        here.events = Events(clock, here.reads, Catalogue(reactor, here.region.reads))
        async with aclosing(await here.follow()) as told:
            await anext(told)
            held = await here.claim()
            news = await anext(told)
            assert [event.reservation for event in news.events] == [held.id]
            clock.now += SLOW_SECONDS + 1  # as long as it takes until that is on its way
            end = await anext(told)
            assert end.ends is not None and "too slow" in end.ends and not end.lost
            assert [one async for one in told] == []
        assert here.events.followers == 0
        await here.claim()
        assert len(await here.since(str(end.at))) == 1


@pytest_twisted.ensureDeferred
async def test_who_waits_in_vain_is_told_where_it_is(database: str) -> None:
    """It need not look through what was for others when it comes back."""
    async with here_on(database) as here:
        alice = await here.user()
        clock = SetClock()
        here.events = Events(clock, here.reads, Catalogue(reactor, here.region.reads))
        async with aclosing(await here.follow(account=alice)) as told:
            start = (await anext(told)).at
            waiting = Deferred.fromCoroutine(anext(told))
            clock.now += KEEP_ALIVE_SECONDS + 1
            await here.claim()
            news = await waiting
            assert (news.events, news.ends) == ([], None) and news.at.position == start.position + 1


@pytest_twisted.ensureDeferred
async def test_not_everybody_can_follow_at_once(database: str) -> None:
    async with here_on(database) as here:
        here.events = Events(reactor, here.reads, Catalogue(reactor, here.region.reads), most=3, most_of_an_account=2)
        alice = await here.user()
        followers = []
        for _ in range(2):
            followers.append(await here.follow())
            await anext(followers[-1])
        with pytest.raises(errors.TooManyFollowers):
            await here.follow()
        followers.append(await here.follow(account=alice))
        await anext(followers[-1])
        with pytest.raises(errors.TooManyFollowers):
            await here.follow(account=alice)
        for told in followers:
            await told.aclose()
        assert here.events.followers == 0
        await (await here.follow()).aclose()
