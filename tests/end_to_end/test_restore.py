"""A region whose database went back in time, with the daemons as they are installed and a PostgreSQL that is durable.

Nothing that a cluster serves is given to anybody else, whatever the database that is there has forgotten.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.failover import in_recovery, two_hosts
from tests.chaos.postgres import PostgresServer, Servers
from tests.end_to_end.daemons import REGIONCTL, Cluster, Region, Reply, eventually
from tests.end_to_end.dhcp_sites import subnet_path
from tests.lab import namespaces
from tests.lab.namespaces import Network, Wire
from tests.requirements import need

pytestmark = pytest.mark.namespaces

NEAR, FAR = "10.40.0.0/22", "10.41.0.0/24"
WIRES = (Wire(("10.40.0.1/22",)), Wire(("10.41.0.1/24",)))
CONNECTIONS = 6

Maps = dict[str, str]  # addresses by MAC address


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network(WIRES) as made:
        yield made


@dataclass
class Sites:
    """One region on servers of its own, and two clusters with a subnet each."""

    directory: Path
    servers: Servers
    network: Network
    region: Region
    near: Cluster
    far: Cluster
    running: list[PostgresServer] = field(default_factory=list)
    macs: int = 0

    def server(self, name: str) -> PostgresServer:
        """A server that ends with the test."""
        made = self.servers.server(name)
        self.running.append(made)
        return made

    def move_to(self, dsn: str) -> None:
        """regiond, which is stopped, finds its database there from now on."""
        self.region = Region(self.directory, dsn=dsn)

    def new_macs(self, count: int) -> list[str]:
        self.macs += count
        return [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(self.macs - count, self.macs)]

    def at_once(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Do it for each item, on several connections at a time."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(work, items))

    def claim(self, interface: str, count: int) -> list[Any]:
        """New devices; their reservations, which need not be applied yet."""

        def one(mac: str) -> Any:
            return self.region.api.post("devices?wait=0", {"mac": mac, "interface": interface})["reservations"][0]

        return self.at_once(one, self.new_macs(count))

    def release(self, held: Sequence[Any]) -> None:
        self.at_once(lambda each: self.region.api.delete(f"devices/{each['device']}", 202), held)

    def fill(self, interface: str) -> set[str]:
        """Claim until nothing is free: what was given."""

        def all_there_is(_: int) -> list[str]:
            given: list[str] = []
            while True:
                reply = self.region.api.request("POST", "reservations", {"interface": interface})
                if reply.status != 201:
                    assert (reply.status, reply.body["type"]) == (409, "subnet-exhausted"), reply
                    return given
                given.append(reply.body["address"])

        given = [address for part in self.at_once(all_there_is, range(CONNECTIONS)) for address in part]
        assert len(given) == len(set(given))
        return set(given)

    def settled(self) -> bool:
        """Whether every cluster's DHCP server has what is desired, and no released address is left to confirm."""
        clusters = self.region.api.get("clusters")
        subnets = {row["cidr"]: row["generation"] for row in self.region.api.get("subnets")}
        applied = [row["applied_generation"] == subnets[row["cidr"]] for each in clusters for row in each["subnets"]]
        return len(applied) == len(subnets) == 2 and all(applied)

    def is_over(self) -> bool:
        return self.region.api.get("recovery")["since"] is None

    def findings(self, kind: str) -> dict[str, Any]:
        """By address."""
        return {row["address"]: row for row in self.region.api.get("recovery")["findings"] if row["kind"] == kind}

    def counted(self) -> int:
        """How far regiond has counted, in its own copy: what happens between two counts only the clusters tell."""
        return int(json.loads((self.region.state / "database-witness.json").read_text())["beats"])

    def reserved(self) -> dict[str, Any]:
        """All reservations, by address."""
        found: list[Any] = []
        while len(page := self.region.api.get(f"reservations?limit=1000{_after(found)}")) == 1000:
            found += page
        return {row["address"]: row for row in [*found, *page]}

    def refused(self, interface: str) -> Reply:
        """The answer to a claim that must not be given anything."""
        reply = self.region.api.request("POST", "reservations", {"interface": interface})
        assert (reply.status, reply.body["type"]) == (503, "subnet-recovering"), reply
        return reply


def _after(rows: Sequence[Any]) -> str:
    return f"&after={rows[-1]['id']}" if rows else ""


def served_by(cluster: Cluster) -> Maps:
    """What the file says that the cluster's DHCP server gets."""
    lines = [line.split(",") for line in (cluster.state / "dhcp-hosts").read_text().splitlines() if line[0] != "#"]
    maps = {mac: address for mac, address, *_ in lines}
    assert len(maps) == len(lines)
    return maps


@contextmanager
def sites_on(network: Network, directory: Path) -> Iterator[Sites]:
    servers = Servers(directory)
    first = servers.server("first")
    first.initialize()
    first.start()
    running = [first]
    region = near = far = None
    try:
        first.create_database()
        region = Region(directory, dsn=first.dsn)
        region.up()
        near = Cluster(directory, region.link, "near", namespace=network.server, nics=["s0"])
        far = Cluster(directory, region.link, "far", namespace=network.server, nics=["s1"])
        sites = Sites(directory, servers, network, region, near, far, running)
        for cluster, cidr in ((near, NEAR), (far, FAR)):
            cluster.start("topology.reported", "contact.reported")  # before, nothing can be claimed there
            eventually(partial(_is_claimable, sites, cidr), f"{cidr} is claimable")
            region.api.patch(subnet_path(cidr), {"release_hold_seconds": 0})
        yield sites
        region = sites.region
    finally:
        for daemon in (near, far, region):
            if daemon is not None:
                daemon.stop()
        for server in running:
            server.kill()


def _is_claimable(sites: Sites, cidr: str) -> bool:
    reply = sites.region.api.request("GET", subnet_path(cidr))
    return reply.status == 200 and bool(reply.body["claimable"])


@pytest.fixture
def sites(network: Network, state_directory: Path) -> Iterator[Sites]:
    with sites_on(network, state_directory) as made:
        yield made


def test_a_restored_backup_gives_away_nothing_that_is_served(sites: Sites) -> None:
    kept = sites.claim(NEAR, 60)
    doomed = sites.claim(NEAR, 60)
    far = sites.claim(FAR, 20)
    backup = sites.server("backup")
    with ThreadPoolExecutor(1) as pool:
        meanwhile = pool.submit(sites.claim, NEAR, 60)
        backup.back_up(sites.running[0])
        during = meanwhile.result()

    # What the backup does not know: 350 claims and 150 releases, of addresses that are handed on at once.
    sites.release(doomed)
    sites.release(during[:30])
    eventually(lambda: not sites.region.api.get("reservations?status=releasing"), "what was released is free")
    lost = [*sites.claim(NEAR, 200), *sites.claim(FAR, 90)]
    sites.release(lost[100:160])
    lost = [*lost[:100], *lost[160:], *sites.claim(NEAR, 60)]
    eventually(sites.settled, "everything is applied")
    counted = sites.counted()
    eventually(lambda: sites.counted() > counted, "regiond has noted that the database went on")
    near, far_maps = served_by(sites.near), served_by(sites.far)
    assert {row["address"] for row in [*kept, *during[30:], *lost, *far]} == {*near.values(), *far_maps.values()}

    for daemon in (sites.near, sites.far, sites.region):
        daemon.stop()
    sites.running[0].kill()
    backup.start()
    sites.move_to(backup.dsn)
    sites.region.up()
    begun = sites.region.wait_for("recovery.begun")
    assert "it is an earlier one" in begun["reason"]
    for interface, name in ((NEAR, "near"), (FAR, "far")):
        problem = sites.refused(interface).body
        assert problem["clusters"] == [name] and f"{name} (not connected)" in problem["detail"]
    sites.near.up()
    eventually(lambda: _recovers(sites) == [FAR], "the near subnet is settled")
    assert sites.region.api.post("reservations", {"interface": NEAR})["address"] not in near.values()
    assert sites.refused(FAR).body["clusters"] == ["far"]
    shown = sites.region.ctl("recover")
    assert "recovering since" in shown
    assert [line.split()[-1] for line in shown.splitlines() if FAR in line] == ["far"]
    sites.far.up()
    eventually(sites.is_over, "the recovery is over")

    assert "not recovering" in sites.region.ctl("recover")
    reserved = sites.reserved()
    assert len(sites.region.ctl("reservations", "list", "--kind", "recovered").splitlines()) > len(lost)
    for mac, address in [*near.items(), *far_maps.items()]:
        assert reserved[address]["status"] == "active" and mac in reserved[address]["macs"], reserved[address]
    possibly = sites.findings("possibly-released")
    released = {row["address"]: row for row in [*doomed, *during[:30]]}
    assert set(possibly) <= set(released)
    for address, row in possibly.items():
        # As the backup has it; nobody can tell whether it was released, so somebody has to look.
        assert reserved[address]["id"] == row["reservation"] == released[address]["id"]
    eventually(sites.settled, "everything is delivered again")
    after = {**served_by(sites.near), **served_by(sites.far)}
    assert {**near, **far_maps}.items() <= after.items()
    in_use = {*near.values(), *far_maps.values()}
    given = sites.fill(NEAR) | sites.fill(FAR)
    assert not given & in_use
    assert not given & set(after.values())


def _recovers(sites: Sites) -> list[str]:
    return [row["cidr"] for row in sites.region.api.get("recovery")["subnets"]]


def test_a_promoted_standby_that_missed_commits_is_noticed_while_regiond_runs(sites: Sites) -> None:
    first = sites.running[0]
    standby = sites.server("standby")
    standby.clone(first)
    sites.region.stop()
    sites.move_to(two_hosts(first, standby))
    sites.region.up()
    held = sites.claim(NEAR, 20)
    standby.start()
    eventually(lambda: _has_all_of(first, standby), "the standby has followed")
    standby.stop()
    lost = sites.claim(NEAR, 30)
    sites.release(held[:5])
    eventually(sites.settled, "everything is applied")
    served = served_by(sites.near)
    offset = sites.region.log.stat().st_size

    first.kill()
    standby.start()
    standby.query("SELECT pg_promote()")
    eventually(lambda: not in_recovery(standby), "the standby is promoted")
    sites.region.wait_for("recovery.begun", offset)
    sites.region.wait_for("recovery.ended", offset)
    reserved = sites.reserved()
    assert all(reserved[address]["status"] == "active" for address in served.values())
    assert {reserved[row["address"]]["kind"] for row in lost} == {"recovered"}
    assert set(sites.findings("possibly-released")) == {row["address"] for row in held[:5]}
    eventually(sites.settled, "everything is delivered again")
    assert served.items() <= served_by(sites.near).items()
    assert not sites.fill(NEAR) & set(served.values())


def _has_all_of(primary: PostgresServer, standby: PostgresServer) -> bool:
    (where,) = primary.query("SELECT pg_current_wal_flush_lsn()::text")[0]
    return bool(standby.query("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (where,))[0][0])


def test_a_recovery_by_hand_is_shown_and_ended(sites: Sites) -> None:
    held = sites.claim(FAR, 10)
    eventually(sites.settled, "everything is applied")
    served = served_by(sites.far)
    sites.far.stop()
    said = sites.region.ctl("recover", "--begin", "the backup of last night was restored")
    assert "the backup of last night was restored" in said
    eventually(lambda: _recovers(sites) == [FAR], "the near subnet is settled")
    refusal = _ctl(sites, "recover", "--end")
    assert refusal.returncode != 0
    assert "were not heard: far" in refusal.stderr and "ended by force" in refusal.stderr
    assert sites.refused(FAR).body["clusters"] == ["far"]
    sites.region.ctl("recover", "--end", "--force")
    eventually(sites.is_over, "the recovery is over")
    assert {row["address"] for row in held} <= set(sites.reserved())
    sites.far.up()
    eventually(sites.settled, "everything is delivered")
    assert served_by(sites.far) == served


def _ctl(sites: Sites, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(REGIONCTL), "--socket", str(sites.region.api.where), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_an_old_disk_and_the_disk_of_another_region_are_brought_up_to_date(sites: Sites) -> None:
    first = sites.claim(NEAR, 20)
    eventually(sites.settled, "everything is applied")
    sites.near.stop()
    old = sites.directory / "old"
    shutil.copytree(sites.near.state, old)
    sites.near.start("topology.reported", "contact.reported")  # before, nothing can be claimed there
    sites.release(first[:10])
    second = sites.claim(NEAR, 20)
    eventually(sites.settled, "everything is applied")
    now = served_by(sites.near)
    assert set(now.values()) == {row["address"] for row in [*first[10:], *second]}

    sites.near.stop()
    shutil.rmtree(sites.near.state)
    shutil.copytree(old, sites.near.state)
    sites.near.start("topology.reported", "contact.reported")  # before, nothing can be claimed there
    eventually(lambda: served_by(sites.near) == now, "the old disk has what it missed")

    # The same host joins another region, whose first claims are of the same network.
    sites.near.stop()
    elsewhere = sites.directory / "elsewhere"
    elsewhere.mkdir(mode=0o711)
    other = sites.server("other")
    other.initialize()
    other.start()
    other.create_database()
    region = Region(elsewhere, dsn=other.dsn)
    moved = Cluster(elsewhere, region.link, "near", namespace=sites.network.server, nics=["s0"])
    shutil.copytree(sites.near.state, moved.state)
    region.up()
    try:
        moved.start("topology.reported", "contact.reported")  # before, nothing can be claimed there
        assert served_by(moved) == now, "served until the region of today says otherwise"
        body = {"mac": "02:ff:00:00:00:01", "interface": NEAR}
        (made,) = region.api.post("devices?wait=20", body)["reservations"]
        assert made["host_map"]["state"] == "applied"
        eventually(lambda: served_by(moved) == {"02:ff:00:00:00:01": made["address"]}, "the new region's host maps")
        assert region.api.get("recovery")["counts"] == {}
    finally:
        moved.stop()
        region.stop()
