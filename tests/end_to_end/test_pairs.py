"""An HA pair on one wire, each half with a DHCP server of its own kind: one half is killed under claims and releases,
comes back, and goes with the other one to another VRF.
"""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually
from tests.end_to_end.dhcp_sites import kea_table
from tests.lab import namespaces
from tests.lab.kea import KeaServers, missing_programs
from tests.lab.namespaces import Wire
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer
from tests.lab.shared_wire import BRIDGE, SharedWire, shared_wire
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4 = "192.0.2.0/24"
FIRST, SECOND = "192.0.2.1", "192.0.2.2"
CLAIMS = 200
KILLED_AFTER = 60
CONNECTIONS = 4


@pytest.fixture(scope="module")
def wire() -> Iterator[SharedWire]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with shared_wire(Wire((f"{FIRST}/24",)), Wire((f"{SECOND}/24",))) as made:
        yield made


@dataclass
class Pair:
    """A region and two clusters on one wire: `first` has a dnsmasq, `second` a Kea."""

    region: Region
    wire: SharedWire
    first: Cluster
    dnsmasq: DnsmasqServer
    second: Cluster
    kea: KeaServers

    @property
    def api(self) -> Api:
        return self.region.api

    @property
    def subnet(self) -> str:
        """Its path, whatever VRF it is in."""
        (found,) = self.api.get("subnets")
        return f"subnets/{found['id']}"

    def roles(self) -> dict[str, str]:
        return {each["name"]: each["role"] for each in self.api.get(f"{self.subnet}/clusters")}

    def releasing(self) -> list[Any]:
        return list(self.api.get("reservations?status=releasing&limit=1000"))

    def active(self) -> dict[str, str]:
        """Which MAC address has which address, as the region says."""
        rows = self.api.get("reservations?status=active&limit=1000")
        return {row["address"]: row["mac"] for row in rows}

    def given(self) -> tuple[dict[str, str], dict[str, str]]:
        """The same as the files say that the servers are given."""
        lines = ""
        for file in (self.dnsmasq.hosts_file, *self.dnsmasq.hosts_directory.iterdir()):
            with suppress(FileNotFoundError):  # the base has what it said
                lines += file.read_text()
        found = {}
        for line in lines.splitlines():
            mac, address = re.search(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", line), re.search(r"192\.0\.2\.\d+", line)
            if mac is not None and address is not None:
                found[address[0]] = mac[0]
        included = self.kea.include_file(4, V4).read_text().splitlines()
        entries = json.loads("".join(line for line in included if not line.startswith("//")))
        return found, {entry["ip-address"]: entry["hw-address"] for entry in entries}

    def offered(self, macs: set[str], servers: int) -> dict[str, dict[str, str]]:
        """The same as these machines on the wire are told: the address that each server would give to each."""
        with RawClient4(self.wire.first, BRIDGE) as client:
            return client.offers(macs, servers)

    def kill_second(self) -> None:
        """The whole controller: power is gone."""
        self.second.kill()
        self.kea.stop(4, how=SIGKILL)


@pytest.fixture
def pair(wire: SharedWire, state_directory: Path) -> Iterator[Pair]:
    region = Region(state_directory)
    places = [state_directory / name for name in ("dnsmasq", "kea")]
    for place in places:
        place.mkdir()
    dnsmasq = DnsmasqServer(wire.first, places[0])
    kea = KeaServers(wire.second, places[1], families=(4,))
    table = f'backend = "dnsmasq"\nhosts_file = "{dnsmasq.hosts_file}"\npid_file = "{dnsmasq.pid_file}"'
    first = Cluster(state_directory, region.link, "rack-a", namespace=wire.first.server, dhcp=table)
    second = Cluster(state_directory, region.link, "rack-b", namespace=wire.second.server, dhcp=kea_table(kea))
    made = Pair(region, wire, first, dnsmasq, second, kea)
    try:
        dnsmasq.start()
        kea.start(4)
        region.up()
        first.up()
        eventually(lambda: made.api.get("subnets"), "the subnet")
        second.up()
        eventually(
            lambda: made.roles() == {"rack-a": "serving", "rack-b": "shared-subnet"}, "the second one known, unserved"
        )
        yield made
    finally:
        second.stop()
        first.stop()
        region.stop()
        kea.stop(how=SIGKILL)
        dnsmasq.kill()


def mac_of(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def test_one_of_two_is_killed_comes_back_and_is_let_go(pair: Pair) -> None:
    api, region, subnet = pair.api, pair.region, pair.subnet
    api.patch(subnet, {"release_hold_seconds": 0})
    assert f"subnets confirm-pair {api.get(subnet)['id']} rack-b" in region.ctl("subnets", "show", V4)
    assert "serving" in region.ctl("subnets", "confirm-pair", V4, "rack-b")
    # What the DHCP servers have of their own is read before anything is claimed.
    eventually(lambda: api.get(subnet)["claimable"], "the subnet claimable")
    made = api.post("devices?wait=20", {"mac": mac_of(0), "interface": V4})["reservations"][0]
    assert made["host_map"]["state"] == "applied"
    assert {each["name"] for each in made["host_map"]["clusters"]} == {"rack-a", "rack-b"}
    assert pair.offered({mac_of(0)}, 2) == {mac_of(0): {FIRST: made["address"], SECOND: made["address"]}}

    def claim_and_release(number: int) -> None:
        if number == KILLED_AFTER:
            pair.kill_second()
        mac = mac_of(number)
        held = api.post("devices?wait=0", {"mac": mac, "interface": V4})["reservations"][0]
        # Whoever is given an address gets it from no DHCP server that still gives it to somebody else.
        for given in pair.given():
            assert given.get(held["address"], mac) == mac
        if number % 4:
            api.request("DELETE", f"devices/{held['device']}")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(claim_and_release, range(1, CLAIMS + 1)))

    active = pair.active()
    machines = set(active.values())
    assert len(active) == len(machines) == 1 + CLAIMS // 4
    eventually(lambda: pair.given()[0] == active, "the survivor having everything")
    assert pair.offered(machines, 1) == {mac: {FIRST: address} for address, mac in active.items()}
    releasing = pair.releasing()
    assert releasing, "what was released since then waits"
    for row in releasing:
        assert any(reason.startswith("cluster rack-b to confirm") for reason in row["waits_for"]), row
    left_behind = pair.given()[1]
    assert left_behind.keys() <= active.keys() | {row["address"] for row in releasing}, "nothing of it was freed"

    pair.kea.start(4)
    pair.second.up()
    eventually(lambda: pair.given()[1] == active, "the other one back", 60.0)
    eventually(lambda: not pair.releasing(), "everything confirmed and free", 60.0)
    states = [row["host_map"]["state"] for row in api.get("reservations?limit=1000")]
    assert set(states) == {"applied"}
    assert pair.roles() == {"rack-a": "serving", "rack-b": "serving"}
    everything = {mac: {FIRST: address, SECOND: address} for address, mac in active.items()}
    assert pair.offered(machines, 2) == everything

    # Both go to another VRF with their subnet, and DHCP does not notice.
    region.ctl("vrfs", "add", "site-2")
    refused = api.request("PATCH", "clusters/rack-a", {"vrf": "site-2"})
    assert (refused.status, refused.body["type"], refused.body["subnets"]) == (409, "subnets-left-behind", [V4])
    processes = (pair.dnsmasq.identity, pair.kea.identity(4))
    moved = region.ctl("clusters", "set", "rack-a", "--vrf", "site-2", "--with-pairs")
    assert moved == f"rack-a is in VRF site-2 and serves {V4}\n"
    assert (pair.subnet, api.get(subnet)["vrf"]) == (subnet, "site-2")
    assert pair.roles() == {"rack-a": "serving", "rack-b": "serving"}
    assert pair.given() == (active, active) and processes == (pair.dnsmasq.identity, pair.kea.identity(4))

    # The way back: the one that goes forgets everything, and the other one serves on.
    assert re.search("rack-b .*(draining|former)", region.ctl("subnets", "unpair", V4, "rack-b"))
    eventually(lambda: pair.roles() == {"rack-a": "serving", "rack-b": "former"}, "the second one forgetting", 60.0)
    assert pair.given() == (active, {})
    assert pair.offered({mac_of(0)}, 1) == {mac_of(0): {FIRST: made["address"]}}
    refused = api.request("POST", f"{subnet}/clusters/rack-a/unpair")
    assert (refused.status, refused.body["type"]) == (409, "last-serving-cluster")
