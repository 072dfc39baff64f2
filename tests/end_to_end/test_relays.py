"""Machines behind a router whose DHCP relay is a program that people run: both families, and each DHCP server.

One region serves all tests; each server is at a site of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually, running_region
from tests.end_to_end.dhcp_sites import dnsmasq_table, isc_table, kea_table, subnet_path
from tests.lab import namespaces
from tests.lab.dhcp_messages import Kind
from tests.lab.dhcpd import dhcpd
from tests.lab.kea import KeaServers, kea, missing_programs
from tests.lab.namespaces import Wire
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6
from tests.lab.routed_site import RoutedSite, routed_site
from tests.lab.servers import dnsmasq
from tests.requirements import need

pytestmark = pytest.mark.namespaces

T = TypeVar("T")

ATTEMPTS = 10
SERVERS = ("dnsmasq", "isc", "kea")
MAC, DUID = "00:16:3e:aa:00:01", bytes.fromhex("0003000100163eaa0001")


@dataclass(frozen=True)
class Site:
    """`keeps_leases`: of host maps, which dhcpd does not."""

    api: Api
    wires: RoutedSite
    keeps_leases: bool


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    with running_region(module_state_directory / "relays") as running:
        yield running


@pytest.fixture(params=SERVERS)
def site(request: pytest.FixtureRequest, region: Region) -> Iterator[Site]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    name, number = request.param, SERVERS.index(request.param) + 1
    place = region.config.parent / name
    place.mkdir()
    near = Wire((f"10.30.{number}.1/24", f"2001:db8:30:{number}::1/64"))
    router = (f"10.30.{number}.254/24", f"2001:db8:30:{number}::fe/64")
    far = Wire((f"10.31.{number}.1/24", f"2001:db8:31:{number}::1/64"))
    with ExitStack() as stack:
        wires = stack.enter_context(routed_site(near, router, far, place))
        dhcp = stack.enter_context(served(name, wires, place))
        cluster = Cluster(region.config.parent, region.link, f"rack-{name}", namespace=wires.near.server, dhcp=dhcp)
        relays = [
            f'[[relay]]\ncidr = "{cidr}"\nvia = "s0"\ngateways = ["{own.partition("/")[0]}"]\n'
            for cidr, own in zip(far.networks, far.server_addresses, strict=True)
        ]
        cluster.config.write_text("\n".join([cluster.config.read_text(), *relays]))
        stack.callback(cluster.stop)
        cluster.up()
        yield Site(region.api, wires, keeps_leases=name != "isc")


@contextmanager
def served(name: str, wires: RoutedSite, directory: Path) -> Iterator[str]:
    """The server, and clusterd's [dhcp] table for it."""
    near, relayed = wires.near, wires.far.wires[0].networks
    match name:
        case "dnsmasq":
            with dnsmasq(near, directory, relayed=relayed) as one:
                yield dnsmasq_table(one)
        case "isc":
            need(shutil.which("dhcpd"), "dhcpd is not installed")
            with dhcpd(near, directory, relayed=relayed) as two:
                yield isc_table(two)
        case _:
            need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
            # Kea hears what a relay sends to its own address only where it is told to listen there.
            own = near.wires[0].server_addresses[1].partition("/")[0]
            listening = {"interfaces-config": {"interfaces": ["s0", f"s0/{own}"]}}
            with kea(KeaServers(near, directory, changes={6: listening}, relayed=relayed)) as servers:
                yield kea_table(servers)


def answered(ask: Callable[[], T | None]) -> T:
    """A machine asks again until somebody answers: no relay promises that nothing is lost."""
    for _ in range(ATTEMPTS):
        if (answer := ask()) is not None:
            return answer
    raise AssertionError(f"no answer to {ATTEMPTS} questions")


def test_a_machine_behind_a_relay_gets_its_addresses_of_both_families(site: Site) -> None:
    api, (v4, v6) = site.api, site.wires.far.wires[0].networks
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
        found = [each["address"] for each in leases["leases"]]
        assert leases["complete"] and found == ([address] if site.keeps_leases else []), leases
    # Who is behind a router cannot be asked from here, and is not said to be free.
    unprobed = api.request("POST", "reservations?probe=true", {"interface": v6})
    assert (unprobed.status, unprobed.body["type"]) == (503, "not-probed")
