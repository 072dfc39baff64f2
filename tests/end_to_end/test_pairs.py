"""An HA pair of real daemons on one wire: one of them is killed under claims and releases, and comes back."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.namespaces import Network, Wire, run_tool
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4 = "192.0.2.0/24"
SUBNET = "subnets/192.0.2.0%2F24"
CLAIMS = 200
KILLED_AFTER = 60
CONNECTIONS = 4


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """One cable, with a cluster controller at each end."""
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network((Wire(("192.0.2.1/24",)),)) as made:
        run_tool("ip", "-n", made.client, "addr", "add", "192.0.2.2/24", "dev", "c0")
        yield made


@dataclass
class Pair:
    """A region and two clusters on one wire, each with its own DHCP server's hosts file."""

    region: Region
    first: Cluster
    second: Cluster
    first_file: Path
    second_file: Path

    @property
    def api(self) -> Api:
        return self.region.api

    def roles(self) -> dict[str, str]:
        return {each["name"]: each["role"] for each in self.api.get(f"{SUBNET}/clusters")}

    def releasing(self) -> list[Any]:
        return list(self.api.get("reservations?status=releasing&limit=1000"))

    def active(self) -> dict[str, str]:
        """Which MAC address has which address, as the region says."""
        rows = self.api.get("reservations?status=active&limit=1000")
        return {row["address"]: row["mac"] for row in rows}


def served(hosts: Path) -> dict[str, str]:
    """The same as a DHCP server that reads this file would say."""
    text = hosts.read_text() if hosts.exists() else ""
    found = {}
    for line in text.splitlines():
        mac, address = re.search(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", line), re.search(r"192\.0\.2\.\d+", line)
        if mac is not None and address is not None:
            found[address[0]] = mac[0]
    return found


@pytest.fixture
def pair(network: Network, state_directory: Path) -> Iterator[Pair]:
    region = Region(state_directory)
    files = [state_directory / f"{name}-hosts" for name in ("rack-a", "rack-b")]
    dhcp = [f'backend = "file"\nhosts_file = "{file}"' for file in files]
    first = Cluster(state_directory, region.link, "rack-a", namespace=network.server, dhcp=dhcp[0])
    second = Cluster(state_directory, region.link, "rack-b", namespace=network.client, nics=("c*",), dhcp=dhcp[1])
    made = Pair(region, first, second, files[0], files[1])
    try:
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


def mac_of(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def test_one_of_two_is_killed_comes_back_and_is_let_go(pair: Pair) -> None:
    api, region = pair.api, pair.region
    api.patch(SUBNET, {"release_hold_seconds": 0})
    assert f"subnets confirm-pair {api.get(SUBNET)['id']} rack-b" in region.ctl("subnets", "show", V4)
    assert "serving" in region.ctl("subnets", "confirm-pair", V4, "rack-b")
    # What the DHCP servers have of their own is read before anything is claimed.
    eventually(lambda: api.get(SUBNET)["claimable"], "the subnet claimable")
    made = api.post("devices?wait=20", {"mac": mac_of(0), "interface": V4})["reservations"][0]
    assert made["host_map"]["state"] == "applied"
    assert {each["name"] for each in made["host_map"]["clusters"]} == {"rack-a", "rack-b"}
    assert served(pair.first_file) == served(pair.second_file) == {made["address"]: mac_of(0)}

    def claim_and_release(number: int) -> None:
        if number == KILLED_AFTER:
            pair.second.kill()
        mac = mac_of(number)
        held = api.post("devices?wait=0", {"mac": mac, "interface": V4})["reservations"][0]
        # Whoever is given an address gets it from no DHCP server that still gives it to somebody else.
        for hosts in (pair.first_file, pair.second_file):
            assert served(hosts).get(held["address"], mac) == mac
        if number % 4:
            api.request("DELETE", f"devices/{held['device']}")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(claim_and_release, range(1, CLAIMS + 1)))

    active = pair.active()
    assert len(active) == 1 + CLAIMS // 4
    eventually(lambda: served(pair.first_file) == active, "the survivor serving everything")
    releasing = pair.releasing()
    assert releasing, "what was released since then waits"
    for row in releasing:
        assert any(reason.startswith("cluster rack-b to confirm") for reason in row["waits_for"]), row
    left_behind = served(pair.second_file)
    assert left_behind.keys() <= active.keys() | {row["address"] for row in releasing}, "nothing of it was freed"

    pair.second.up()
    eventually(lambda: served(pair.second_file) == active, "the other one back", 60.0)
    eventually(lambda: not pair.releasing(), "everything confirmed and free", 60.0)
    states = [row["host_map"]["state"] for row in api.get("reservations?limit=1000")]
    assert set(states) == {"applied"}
    assert pair.roles() == {"rack-a": "serving", "rack-b": "serving"}

    # The way back: the one that goes forgets everything, and the other one serves on.
    assert re.search("rack-b .*(draining|former)", region.ctl("subnets", "unpair", V4, "rack-b"))
    eventually(lambda: pair.roles() == {"rack-a": "serving", "rack-b": "former"}, "the second one forgetting", 60.0)
    assert served(pair.second_file) == {}
    assert served(pair.first_file) == active
    refused = api.request("POST", f"{SUBNET}/clusters/rack-a/unpair")
    assert (refused.status, refused.body["type"]) == (409, "last-serving-cluster")
