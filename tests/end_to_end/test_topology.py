"""What a site's network becomes in the region: real interfaces, a real clusterd, a real regiond, over HTTP."""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clusterd.kernel_networks import ip, namespace
from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.lab.namespaces import obstacle
from tests.requirements import need
from tests.slowness import slowness

pytestmark = pytest.mark.namespaces

RIGHT_WITHIN_SECONDS = 2.0
MANY_NICS = 400
STORM_CHANGES = 200


@dataclass
class Site:
    """A region, and a cluster on a host with two NICs whose cables end in it, too."""

    region: Region
    cluster: Cluster
    host: str

    def topology(self) -> Any:
        return self.region.api.get(f"clusters/{self.cluster.name}/topology")

    def interfaces(self) -> dict[tuple[str, str], Any]:
        """What is present, by NIC and network."""
        found = self.topology()["interfaces"]
        return {(each["nic"], each["cidr"]): each for each in found if each["present"]}

    def becomes(self, expected: Callable[[dict[tuple[str, str], Any]], object], seconds: float = 60.0) -> float:
        """How many seconds from now the region has the right picture."""
        begun = time.monotonic()
        while True:
            asked = time.monotonic()
            if expected(self.interfaces()):
                return asked - begun
            if asked - begun >= seconds:
                assert asked - begun < seconds * slowness(), self.interfaces().keys()
            time.sleep(0.01)  # between two looks at a condition, bounded

    def changes(self, **filters: str) -> list[tuple[str, str, str]]:
        """What happened, the oldest first: change, NIC, network."""
        query = "&".join(f"{name}={value}" for name, value in {"limit": "1000", **filters}.items())
        found = self.region.api.get(f"clusters/{self.cluster.name}/topology/changes?{query}")
        return [(each["change"], each["nic"], each["cidr"]) for each in reversed(found)]


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    hindrance = obstacle()
    need(hindrance is None, str(hindrance))
    directory = module_state_directory / "topology"
    directory.mkdir(mode=0o711)
    running = Region(directory)
    try:
        running.up()
        yield running
    finally:
        running.stop()


@pytest.fixture
def site(region: Region) -> Iterator[Site]:
    """By its configuration all NICs of the host are in a VRF of their own."""
    name = f"rack-{len(region.api.get('vrfs'))}"
    region.ctl("vrfs", "add", name)
    with namespace() as host:
        ip(host, "".join(f"link add nic{n} type veth peer name far{n}\n" for n in range(2)))
        ip(host, "".join(f"link set {end}{n} up\n" for n in range(2) for end in ("nic", "far")))
        cluster = Cluster(region.config.parent, region.link, name, namespace=host, nics=("nic*", "lan*"))
        cluster.config.write_text(f'{cluster.config.read_text()}\n[topology.vrf]\n"*" = "{name}"\n')
        try:
            cluster.up()
            yield Site(region, cluster, host)
        finally:
            cluster.stop()


def test_what_comes_goes_moves_and_is_renamed(site: Site) -> None:
    host = site.host
    ip(host, "addr add 192.0.2.2/24 dev nic0\naddr add 2001:db8::2/64 dev nic0 nodad\n")
    v4, v6 = ("nic0", "192.0.2.0/24"), ("nic0", "2001:db8::/64")
    site.becomes(lambda found: set(found) == {v4, v6})
    id_ = site.interfaces()[v4]["id"]
    held = site.region.api.post("reservations", {"interface": id_})
    ip(host, "link set far0 down\n")
    site.becomes(lambda found: v4 in found and not found[v4]["up"])
    ip(host, "link set far0 up\n")
    site.becomes(lambda found: v4 in found and v6 in found and found[v4]["up"])
    ip(host, "link set nic0 down\nlink set nic0 name lan0\nlink set lan0 up\n")
    site.becomes(lambda found: ("lan0", v4[1]) in found)
    assert site.interfaces()["lan0", v4[1]]["id"] == id_, "by its MAC address"
    ip(host, "addr del 192.0.2.2/24 dev lan0\naddr add 198.51.100.2/24 dev lan0\n")
    site.becomes(lambda found: ("lan0", "198.51.100.0/24") in found and ("lan0", v4[1]) not in found)
    assert site.interfaces()["lan0", "198.51.100.0/24"]["id"] != id_
    ip(host, "link del lan0\n")
    site.becomes(lambda found: not found)
    topology = site.topology()
    assert (topology["present"], topology["absent"]) == (0, 3)
    assert site.region.api.get(f"reservations/{held['id']}")["address"] == held["address"], "its reservations stay"
    assert site.changes(cidr="192.0.2.0%2F24", change="appeared") == [("appeared", *v4)]
    assert ("renamed", "lan0", v4[1]) in site.changes()
    # One change where clusterd saw both at once, as it does unless the host was busy between the two.
    came = {change for change, nic, cidr in site.changes() if (nic, cidr) == ("lan0", "198.51.100.0/24")}
    assert came & {"moved", "appeared"}
    assert {nic for _, nic, _ in site.changes(change="vanished")} <= {"nic0", "lan0"}
    cluster = topology["cluster"]["name"]
    lines = [each for each in site.region.lines() if each.get("cluster") == cluster]
    logged = [each["event"] for each in lines if each["event"].startswith("interface.")]
    assert logged == [f"interface.{change}" for change, _, _ in site.changes()], "one line for each"
    shown = site.region.ctl("clusters", "topology", site.cluster.name, "--history", "--change", "renamed")
    assert "nic: nic0 to lan0" in shown


def test_five_networks_on_one_nic(site: Site) -> None:
    own = ("192.0.2.2/24", "198.51.100.2/25", "2001:db8:1::2/64", "2001:db8:2::2/64", "2001:db8:3::2/64")
    ip(site.host, "".join(f"addr add {each} dev nic0{' nodad' if ':' in each else ''}\n" for each in own))
    site.becomes(lambda found: len(found) == 5)
    api, nic = site.region.api, f"{site.cluster.name}:nic0"
    refused = api.request("POST", "reservations", {"interface": nic})
    assert (refused.status, refused.body["type"]) == (409, "ambiguous-selector")
    cidrs = {each["cidr"] for each in site.interfaces().values()}
    assert len(refused.body["candidates"]) == 5
    assert {each["cidr"] for each in refused.body["candidates"]} == cidrs
    for candidate in refused.body["candidates"]:
        for selector in (candidate["id"], f"{nic},cidr:{candidate['cidr']}"):
            held = api.post("reservations", {"interface": selector})
            assert held["subnet"]["cidr"] == candidate["cidr"]


def test_a_storm_of_200_changes_in_a_second(site: Site) -> None:
    process = subprocess.Popen(["ip", "-n", site.host, "-batch", "-"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    begun = time.monotonic()
    for number in range(STORM_CHANGES // 2):
        verb, part = ("del", number - 1) if number % 4 == 3 else ("add", number)
        process.stdin.write(f"addr {verb} 10.0.{part}.1/24 dev nic0\n".encode())
        process.stdin.write(f"link set nic1 {'down' if number % 2 else 'up'}\n".encode())
        process.stdin.flush()
        time.sleep(max(0.0, begun + (number + 1) * 2 / STORM_CHANGES - time.monotonic()))  # the pace of the storm
    process.stdin.close()
    assert process.wait(30) == 0
    left = {("nic0", f"10.0.{number}.0/24") for number in range(STORM_CHANGES // 2) if number % 4 in (0, 1)}
    seconds = site.becomes(lambda found: set(found) == left, RIGHT_WITHIN_SECONDS)
    print(f"{STORM_CHANGES} changes in a second; right {seconds:.2f} s later")


def test_400_nics(site: Site) -> None:
    commands = (
        f"link add nicv{n} type veth peer name nicw{n}\nlink set nicv{n} up\nlink set nicw{n} up\n"
        f"addr add 10.{n // 200}.{n % 200}.1/24 dev nicv{n}\naddr add 2001:db8:{n:x}::1/64 dev nicv{n} nodad\n"
        for n in range(MANY_NICS // 2)
    )
    ip(site.host, "".join(commands))
    seconds = site.becomes(lambda found: len(found) == MANY_NICS)
    print(f"{MANY_NICS} NICs, {MANY_NICS} cluster interfaces: right after {seconds:.2f} s")
    served = [each for each in site.region.api.get("subnets?limit=1000") if each["clusters"] == [site.cluster.name]]
    assert len(served) == MANY_NICS
    ip(site.host, "".join(f"link del nicv{n}\n" for n in range(MANY_NICS // 2)))
    seconds = site.becomes(lambda found: not found)
    print(f"and gone after {seconds:.2f} s")


def test_clusterd_that_was_away_tells_the_whole_picture_again(site: Site) -> None:
    ip(site.host, "addr add 192.0.2.2/24 dev nic0\n")
    site.becomes(lambda found: len(found) == 1)
    site.cluster.kill()
    ip(site.host, "addr del 192.0.2.2/24 dev nic0\naddr add 192.0.2.9/24 dev nic1\n")
    site.cluster.up()
    eventually(lambda: set(site.interfaces()) == {("nic1", "192.0.2.0/24")}, "the picture of now")
    assert site.interfaces()["nic1", "192.0.2.0/24"]["serving"] == "serving", "the same cluster, by another NIC"
