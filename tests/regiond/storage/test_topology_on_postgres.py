"""Stories of clusters that register, report and vanish: a real PostgreSQL and the fake end with the same picture."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import Any, Protocol

import pytest_twisted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import InterfaceReport
from regiond.domain.identity import ByName, Introduction
from regiond.domain.mutations import Actor
from regiond.storage.changes import Change
from regiond.storage.cluster_edits import ClusterEditStore
from tests.fakes import topology
from tests.fakes.tables import Tables
from tests.regiond.storage.region import Region, new_id, region_on

reactor: Any = global_reactor

HOUR = timedelta(hours=1)
CIDRS = ("10.0.0.0/29", "10.0.0.0/28", "10.0.1.0/30", "2001:db8::/125")
CLUSTERS = 2
VRFS = ("home", "blue")  # every cluster begins in the first one


@dataclass(frozen=True)
class Picture:
    """What is stored, by CIDR, NIC and number of the cluster in the story instead of ids."""

    subnets: frozenset[str]  # as `vrf cidr`, here and below
    interfaces: frozenset[tuple[int, str, str, str, str | None, bool]]  # cluster, nic, cidr, serving, subnet, present
    roles: frozenset[tuple[str, int, str]]
    infrastructure: frozenset[tuple[str, int, str, str]]
    free: frozenset[tuple[str, int, int]]
    changes: tuple[tuple[int, str, str, str, str, str], ...]  # cluster, what happened, nic, cidr, vrf, serving


# ---- the words of a story ----


@dataclass(frozen=True)
class Registers:
    cluster: int


@dataclass(frozen=True)
class Reports:
    """On the latest connection, or on the one before."""

    cluster: int
    interfaces: tuple[InterfaceReport, ...]
    late: bool


@dataclass(frozen=True)
class TakesVrf:
    """An admin gives a cluster this VRF, whatever stays behind."""

    cluster: int
    vrf: str


@dataclass(frozen=True)
class HourPasses:
    pass


@dataclass(frozen=True)
class Sweep:
    """What was absent for long is drained."""


@dataclass(frozen=True)
class Forgot:
    """A cluster that was draining has confirmed it."""

    cluster: int
    cidr: str


Word = Registers | Reports | TakesVrf | HourPasses | Sweep | Forgot


def _report(
    nic: str, cidr: str, own: int, gateway: int | None, mac: int | None = None, vrf: str | None = None
) -> InterfaceReport:
    base = cidr.rpartition("/")[0]
    prefix = base if ":" in base else base.removesuffix("0")
    gateways = () if gateway is None else (f"{prefix}{gateway}",)
    hardware = None if mac is None else f"00:16:3e:00:00:{mac:02x}"
    return InterfaceReport(nic, cidr, (f"{prefix}{own}",), gateways, hardware, vrf=vrf, serve=own == 1)


_clusters = st.integers(0, CLUSTERS - 1)
_reports = st.builds(
    _report,
    st.sampled_from(["eth0", "eth1"]),
    st.sampled_from(CIDRS),
    st.integers(1, 2),
    st.none() | st.just(3),
    st.none() | st.integers(1, 2),
    st.sampled_from([None, None, None, *VRFS, "unheard-of"]),
)
_words = st.one_of(
    st.builds(
        Reports,
        _clusters,
        st.lists(_reports, max_size=4, unique_by=lambda r: (r.nic, r.cidr)).map(tuple),
        st.sampled_from([False, False, False, True]),
    ),
    st.builds(Registers, _clusters),
    st.builds(TakesVrf, _clusters, st.sampled_from(VRFS)),
    st.just(HourPasses()),
    st.just(Sweep()),
    st.builds(Forgot, _clusters, st.sampled_from(CIDRS)),
)
stories = st.lists(_words, min_size=1, max_size=12)

ONE, OTHER = _report("eth0", CIDRS[0], 1, None), _report("eth1", CIDRS[0], 2, None)
COMES_AND_GOES: list[Word] = [
    Reports(0, (ONE,), late=False),
    HourPasses(),
    Reports(0, (), late=False),
    Sweep(),  # it is gone since a moment only
    Reports(1, (OTHER,), late=False),  # where another one still serves
    Reports(1, (), late=False),
    HourPasses(),
    Sweep(),
    Forgot(0, CIDRS[0]),
    Sweep(),
    Reports(
        1, (_report("eth0", CIDRS[0], 2, None),), late=False
    ),  # nobody serves any more; who did will when it is back
]


RENAMED_AND_MOVED: list[Word] = [
    Reports(0, (_report("eth0", CIDRS[0], 1, 3, mac=1), _report("eth1", CIDRS[2], 1, None, mac=2)), late=False),
    Reports(0, (_report("eth1", CIDRS[0], 1, 3, mac=1), _report("eth0", CIDRS[2], 1, None, mac=2)), late=False),
    TakesVrf(0, "blue"),  # with its subnets
    Reports(1, (_report("eth0", CIDRS[0], 1, None), _report("eth1", CIDRS[1], 1, None, vrf="blue")), late=False),
    TakesVrf(1, "blue"),  # where its network is another cluster's
    Reports(0, (_report("eth1", CIDRS[3], 1, None, mac=1, vrf="unheard-of"),), late=False),
    HourPasses(),
    Sweep(),
]


# ---- what it is played on ----


class World(Protocol):
    async def register(self, cluster: int) -> int:
        """The number of the new connection."""

    async def report(self, cluster: int, interfaces: Sequence[InterfaceReport], epoch: int) -> None: ...

    async def take_vrf(self, cluster: int, vrf: str) -> None: ...

    async def hour_passes(self) -> None: ...

    async def sweep(self) -> None: ...

    async def forgot(self, cluster: int, cidr: str) -> None: ...

    async def picture(self) -> Picture: ...


class InMemory:
    """The fake."""

    def __init__(self) -> None:
        self.tables = Tables(vrfs={vrf: number for number, vrf in enumerate(VRFS, start=1)})
        self.ids = count(1)
        self.clusters: dict[int, int] = {}

    async def register(self, cluster: int) -> int:
        registered = topology.register(self.tables, f"rack-{cluster}", lambda: next(self.ids))
        self.clusters[cluster] = registered.cluster
        self.tables.vrf_of.setdefault(registered.cluster, VRFS[0])
        return registered.epoch

    async def report(self, cluster: int, interfaces: Sequence[InterfaceReport], epoch: int) -> None:
        topology.apply_topology(self.tables, self.clusters[cluster], interfaces, lambda: next(self.ids), epoch=epoch)

    async def take_vrf(self, cluster: int, vrf: str) -> None:
        if self.tables.vrf_of[self.clusters[cluster]] != vrf:
            self.tables.vrf_of[self.clusters[cluster]] = vrf
            topology.apply_topology(self.tables, self.clusters[cluster], None, lambda: next(self.ids))

    async def hour_passes(self) -> None:
        self.tables.now += HOUR

    async def sweep(self) -> None:
        topology.drain_absent(self.tables)

    async def forgot(self, cluster: int, cidr: str) -> None:
        for (subnet, of), row in self.tables.deliveries.items():
            found = self.tables.subnets[subnet]["cidr"] == cidr and of == self.clusters[cluster]  # in any VRF
            if found and row["role"] == "draining":
                row["role"] = "former"

    async def picture(self) -> Picture:
        tables, number = self.tables, {of: cluster for cluster, of in self.clusters.items()}
        subnets = {subnet: f"{VRFS[row['vrf_id'] - 1]} {row['cidr']}" for subnet, row in tables.subnets.items()}
        return Picture(
            frozenset(subnets.values()),
            frozenset(
                (
                    *(number[row["cluster"]], row["report"].nic, row["report"].cidr, row["serving"]),
                    *(subnets.get(row["subnet"] or 0), row["present"]),
                )
                for row in tables.interfaces.values()
            ),
            frozenset((subnets[s], number[c], row["role"]) for (s, c), row in tables.deliveries.items()),
            frozenset(
                (subnets[row["subnet"]], number[row["cluster"]], row["kind"], row["address"])
                for row in tables.infrastructure
            ),
            frozenset((subnets[s], *span) for s in tables.subnets for span in tables.free_ranges(s)),
            tuple(
                (number[c], each.happened.value, each.nic, each.cidr, each.vrf, each.serving)
                for c, each in tables.changes
            ),
        )


class OnPostgres:
    """`ClusterStore`. Many stories share a database: each has a VRF and clusters of its own."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.store = ClusterEditStore(region.pool, new_id)
        self.vrfs = {name: new_id() for name in VRFS}
        self.story = self.vrfs[VRFS[0]]
        self.clusters = [new_id() for _ in range(CLUSTERS)]

    async def prepare(self) -> None:
        for name, vrf in self.vrfs.items():
            await self.region.pool.execute("INSERT INTO vrf VALUES (%s, %s)", (vrf, f"{name}-{self.story}"))
        for cluster in self.clusters:
            await self.region.pool.execute(
                "INSERT INTO cluster (id, name, vrf) VALUES (%s, %s, %s)", (cluster, f"rack-{cluster}", self.story)
            )

    async def register(self, cluster: int) -> int:
        name = f"rack-{self.clusters[cluster]}"
        registered = await self.region.clusters.register(ByName(name), Introduction(name, "file", "0"))
        assert registered.cluster == self.clusters[cluster]
        return registered.epoch

    async def report(self, cluster: int, interfaces: Sequence[InterfaceReport], epoch: int) -> None:
        here = [each if each.vrf is None else replace(each, vrf=f"{each.vrf}-{self.story}") for each in interfaces]
        await self.region.clusters.apply_topology(self.clusters[cluster], here, epoch)

    async def take_vrf(self, cluster: int, vrf: str) -> None:
        change = Change(Actor(None, "tester", is_admin=True), "test-request")
        await self.store.change(change, self.clusters[cluster], vrf=self.vrfs[vrf], force=True)

    async def hour_passes(self) -> None:
        await self.region.pool.execute(
            "UPDATE cluster_interface SET last_changed = last_changed - interval '1 hour' WHERE cluster = ANY(%s)",
            (self.clusters,),
        )

    async def sweep(self) -> None:
        await self.region.clusters.drain_absent()

    async def forgot(self, cluster: int, cidr: str) -> None:
        await self.region.pool.execute(
            """UPDATE delivery d SET role = 'former' FROM subnet s
               WHERE s.id = d.subnet AND s.cidr = %s AND d.cluster = %s AND d.role = 'draining'""",
            (cidr, self.clusters[cluster]),
        )

    async def picture(self) -> Picture:
        query, number = self.region.pool.query, {of: cluster for cluster, of in enumerate(self.clusters)}
        names = {vrf: name for name, vrf in self.vrfs.items()}
        rows = await query("SELECT id, vrf, cidr::text FROM subnet WHERE vrf = ANY(%s)", (list(names),))
        subnets: dict[int, str] = {id_: f"{names[vrf]} {cidr}" for id_, vrf, cidr in rows}
        assert await self.region.tiles(subnets)
        interfaces = await query(
            "SELECT cluster, nic, cidr::text, serving, subnet, present FROM cluster_interface WHERE cluster = ANY(%s)",
            (self.clusters,),
        )
        of_these = "WHERE subnet = ANY(%s)"
        roles = await query(f"SELECT subnet, cluster, role FROM delivery {of_these}", (list(subnets),))
        taken = await query(
            f"SELECT subnet, cluster, kind, host(address) FROM infrastructure_address {of_these}", (list(subnets),)
        )
        free = await query(f"SELECT subnet, host(low), host(high) FROM free_range {of_these}", (list(subnets),))
        changes = await query(
            """SELECT cluster, happened, nic, cidr::text, vrf, serving FROM interface_change
               WHERE cluster = ANY(%s) ORDER BY id""",
            (self.clusters,),
        )
        return Picture(
            frozenset(subnets.values()),
            frozenset((number[c], *row, subnets.get(s), present) for c, *row, s, present in interfaces),
            frozenset((subnets[s], number[c], role) for s, c, role in roles),
            frozenset((subnets[s], number[c], *row) for s, c, *row in taken),
            frozenset((subnets[s], address_to_int(low)[1], address_to_int(high)[1]) for s, low, high in free),
            tuple(
                (number[c], happened, nic, cidr, vrf.removesuffix(f"-{self.story}"), serving)
                for c, happened, nic, cidr, vrf, serving in changes
            ),
        )


async def play(world: World, story: Sequence[Word]) -> AsyncIterator[Picture]:
    """The picture after each word."""
    epochs = [await world.register(cluster) for cluster in range(CLUSTERS)]
    for word in story:
        match word:
            case Registers(cluster):
                epochs[cluster] = await world.register(cluster)
            case Reports(cluster, interfaces, late):
                await world.report(cluster, interfaces, epochs[cluster] - late)
            case TakesVrf(cluster, vrf):
                await world.take_vrf(cluster, vrf)
            case HourPasses():
                await world.hour_passes()
            case Sweep():
                await world.sweep()
            case Forgot(cluster, cidr):
                await world.forgot(cluster, cidr)
        yield await world.picture()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=stories)
@example(story=COMES_AND_GOES)
@example(story=RENAMED_AND_MOVED)
@example(story=[Reports(0, (ONE,), late=False), Registers(0), Reports(0, (OTHER,), late=True)])
@pytest_twisted.ensureDeferred
async def test_a_story_of_clusters_goes_the_same_way_on_postgresql_and_in_memory(
    database: str, story: list[Word]
) -> None:
    async with region_on(database, reactor) as region:
        real, fake = OnPostgres(region), InMemory()
        await real.prepare()
        expected = [picture async for picture in play(fake, story)]
        assert [picture async for picture in play(real, story)] == expected
