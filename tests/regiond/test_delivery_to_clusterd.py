"""Deliveries from a real database to the real parts of clusterd: see `tests.regiond.office`."""

from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor as global_reactor

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from regiond.domain.reservations import MapState
from tests.fakes.backend import FakeBackend
from tests.regiond.office import office, site
from tests.waiting import until

reactor: Any = global_reactor

V4, V6 = "192.0.2.0/24", "2001:db8::/64"
MAC = Identifier.mac("00:16:3e:00:00:01")
DUID = Identifier(IdentifierKind.DUID, b"\x00\x03\x00\x01\x00\x16\x3e\x00\x00\x01")


@pytest_twisted.ensureDeferred
async def test_claims_reach_the_dhcp_server_and_releases_leave_it(database: str, tmp_path: Path) -> None:
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, FakeBackend()) as rack:
        await rack.report("192.0.2.0/24", "2001:db8::/64")
        region = at.region
        v4, v6 = await at.subnet(V4), await at.subnet(V6)
        first = await region.do(region.device(v4, MAC, hostname="bmc-1"))
        assert await at.settled(first) == (MapState.APPLIED, None)
        second = await region.do(region.device(v6, DUID))
        assert await at.settled(second) == (MapState.APPLIED, None)
        assert rack.backend.maps == {
            HostMap(MAC, "192.0.2.2", "bmc-1"),
            HostMap(DUID, second.reservations[0].address),
        }
        await region.release(first.reservations[0])
        await until(lambda: len(rack.backend.maps) == 1)

        async def confirmed() -> bool:
            view = await region.reads.reservation(first.reservations[0].id)
            return view is not None and view.reservation.confirmed_at is not None

        await until(confirmed)


@pytest_twisted.ensureDeferred
async def test_many_claims_at_once_are_all_delivered_in_a_few_calls(database: str, tmp_path: Path) -> None:
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, FakeBackend()) as rack:
        await rack.report("10.0.0.0/16")
        subnet = await at.subnet("10.0.0.0/16")
        region = at.region
        macs = [Identifier(IdentifierKind.MAC, (0x020000000000 + n).to_bytes(6)) for n in range(1, 1201)]
        last = None
        for start in range(0, len(macs), 400):
            last = await region.do(*[region.device(subnet, mac) for mac in macs[start : start + 400]])
        assert last is not None
        assert all(view.progress for view in await at.progress.settled(last, 20.0))
        assert {host_map.identifier for host_map in rack.backend.maps} == set(macs)
        rows = await region.pool.query("SELECT count(DISTINCT address) FROM host_map WHERE NOT removed")
        assert rows == [(1200,)]


@pytest_twisted.ensureDeferred
async def test_what_happened_while_the_cluster_was_away_is_made_up_for(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at:
        region = at.region
        async with site(tmp_path, at.socket, backend) as rack:
            await rack.report("192.0.2.0/24")
            subnet = await at.subnet(V4)
            kept = await region.do(region.device(subnet, MAC))
            assert (await at.settled(kept))[0] is MapState.APPLIED
        other = Identifier.mac("00:16:3e:00:00:02")
        await region.do(region.device(subnet, other))
        await region.release(kept.reservations[0])
        assert {host_map.identifier for host_map in backend.maps} == {MAC}, "served while the region is not there"
        async with site(tmp_path, at.socket, backend):
            await until(lambda: {host_map.identifier for host_map in backend.maps} == {other})


@pytest_twisted.ensureDeferred
async def test_a_cluster_that_lost_its_disk_is_given_everything(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    disks = [tmp_path / "one", tmp_path / "two"]
    for disk in disks:
        disk.mkdir()
    async with office(database, tmp_path) as at:
        region = at.region
        async with site(disks[0], at.socket, backend) as rack:
            await rack.report("192.0.2.0/24")
            subnet = await at.subnet(V4)
            claimed = await region.do(region.device(subnet, MAC))
            assert (await at.settled(claimed))[0] is MapState.APPLIED
        backend.forget(list(backend.maps))
        async with site(disks[1], at.socket, backend):
            await until(lambda: {host_map.identifier for host_map in backend.maps} == {MAC})
            assert (await at.settled(claimed))[0] is MapState.APPLIED


@pytest_twisted.ensureDeferred
async def test_a_dhcp_server_that_refuses_is_quoted_and_recovers(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, backend) as rack:
        await rack.report("192.0.2.0/24")
        region = at.region
        subnet = await at.subnet(V4)
        backend.refuse_all("no more memory")
        refused = await region.do(region.device(subnet, MAC))
        assert await at.settled(refused) == (MapState.FAILED, "no more memory")
        backend.accept_all()

        async def recovered() -> bool:
            return (await at.settled(refused))[0] is MapState.APPLIED

        await until(recovered)


@pytest_twisted.ensureDeferred
async def test_a_network_that_is_gone_for_good_is_forgotten_by_the_dhcp_server(database: str, tmp_path: Path) -> None:
    backend = FakeBackend()
    async with office(database, tmp_path) as at, site(tmp_path, at.socket, backend) as rack:
        await rack.report("192.0.2.0/24", "198.51.100.0/24")
        region = at.region
        subnet = await at.subnet(V4)
        claimed = await region.do(region.device(subnet, MAC))
        assert (await at.settled(claimed))[0] is MapState.APPLIED
        await rack.report("198.51.100.0/24")
        await region.pool.execute("UPDATE cluster_interface SET last_changed = now() - interval '1 hour'")
        await region.clusters.drain_absent()
        await at.dispatch.sweep()
        await until(lambda: backend.maps == set())

        async def former() -> bool:
            rows = await region.pool.query("SELECT role FROM delivery WHERE subnet = %s", (subnet,))
            return rows == [("former",)]

        await until(former)
        await rack.report("192.0.2.0/24")
        await until(lambda: {host_map.identifier for host_map in backend.maps} == {MAC})
