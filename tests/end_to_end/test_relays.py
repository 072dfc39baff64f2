"""Machines behind a router whose DHCP relay is a program that people run, of both families: real daemons and a Kea."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.end_to_end.dhcp_sites import kea_table, subnet_path
from tests.lab import namespaces
from tests.lab.dhcp_messages import Kind
from tests.lab.kea import KeaServers, kea, missing_programs
from tests.lab.namespaces import Wire
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6
from tests.lab.routed_site import RoutedSite, routed_site
from tests.requirements import need

pytestmark = pytest.mark.namespaces

T = TypeVar("T")

SERVER_6 = "2001:db8:0:1::1"
NEAR = Wire(("192.0.2.1/24", f"{SERVER_6}/64"))
ROUTER = ("192.0.2.254/24", "2001:db8:0:1::fe/64")
FAR = Wire(("198.51.100.1/24", "2001:db8:0:7::1/64"))
ATTEMPTS = 10
MAC, DUID = "00:16:3e:aa:00:01", bytes.fromhex("0003000100163eaa0001")


@dataclass
class Site:
    region: Region
    cluster: Cluster
    wires: RoutedSite


@pytest.fixture
def site(state_directory: Path) -> Iterator[Site]:
    need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    region = Region(state_directory)
    with ExitStack() as stack:
        wires = stack.enter_context(routed_site(NEAR, ROUTER, FAR, state_directory))
        # Kea hears what a relay sends to its own address only where it is told to listen there.
        listening = {"interfaces-config": {"interfaces": ["s0", f"s0/{SERVER_6}"]}}
        servers = KeaServers(wires.near, state_directory, changes={6: listening}, relayed=FAR.networks)
        stack.enter_context(kea(servers))
        cluster = Cluster(state_directory, region.link, namespace=wires.near.server, dhcp=kea_table(servers))
        relays = [
            f'[[relay]]\ncidr = "{cidr}"\nvia = "s0"\ngateways = ["{own.partition("/")[0]}"]\n'
            for cidr, own in zip(FAR.networks, FAR.server_addresses, strict=True)
        ]
        cluster.config.write_text("\n".join([cluster.config.read_text(), *relays]))
        stack.callback(region.stop)
        stack.callback(cluster.stop)
        region.up()
        cluster.up()
        yield Site(region, cluster, wires)


def answered(ask: Callable[[], T | None]) -> T:
    """A machine asks again until somebody answers: no relay promises that nothing is lost."""
    for _ in range(ATTEMPTS):
        if (answer := ask()) is not None:
            return answer
    raise AssertionError(f"no answer to {ATTEMPTS} questions")


def test_a_machine_behind_a_relay_gets_its_addresses_of_both_families(site: Site) -> None:
    api, (v4, v6) = site.region.api, FAR.networks
    for cidr in (v4, v6):
        path = subnet_path(cidr)
        eventually(lambda path=path: api.request("GET", path).status == 200, "the subnet")  # type: ignore[misc]
        eventually(lambda path=path: api.get(path)["claimable"], "addresses can be claimed")  # type: ignore[misc]
    made = [
        api.post("devices?wait=20", {"interface": cidr, **who})["reservations"][0]
        for cidr, who in ((v4, {"mac": MAC}), (v6, {"duid": DUID.hex(":")}))
    ]
    assert [held["host_map"]["state"] for held in made] == ["applied", "applied"]
    four, six = (held["address"] for held in made)
    with RawClient4(site.wires.far) as client:
        answer = answered(lambda: client.obtain(MAC, timeout=2.0))
        assert (answer.kind, answer.address) == (Kind.ACK, four)
    with RawClient6(site.wires.far) as other:
        assert answered(lambda: other.obtain(DUID, timeout=2.0)).addresses == (six,)
    for cidr, address in ((v4, four), (v6, six)):
        leases = api.get(f"{subnet_path(cidr)}/leases")
        assert leases["complete"] and [each["address"] for each in leases["leases"]] == [address]
    # Who is behind a router cannot be asked from here, and is not said to be free.
    unprobed = api.request("POST", "reservations?probe=true", {"interface": v6})
    assert (unprobed.status, unprobed.body["type"]) == (503, "not-probed")
