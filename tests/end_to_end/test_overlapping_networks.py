"""The same network at two sites, and networks that no NIC of a controller is on: real daemons and DHCP servers."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually, running_region
from tests.end_to_end.dhcp_sites import isc_table
from tests.lab import namespaces
from tests.lab.dhcp_messages import Kind
from tests.lab.dhcpd import dhcpd
from tests.lab.kea import KeaServers, kea
from tests.lab.kea import missing_programs as missing_kea
from tests.lab.namespaces import Network, Wire, network, run_tool
from tests.lab.relay_agent import RelayAgent
from tests.lab.servers import dnsmasq
from tests.requirements import need

pytestmark = pytest.mark.namespaces

NET = "10.0.0.0/24"
MAC = "00:16:3e:aa:00:01"
RELAYED = "10.64.0.0/10"  # which the laboratory's servers have a subnet for, without a NIC
RELAY, ROUTER = "10.64.0.1", "192.0.2.254"


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with running_region(module_state_directory / "overlapping") as running:
        yield running


# ---- one network at two sites ----


@dataclass
class Sites:
    """Two clusters, each alone on a wire of its own with the same network, and the hosts files of their servers."""

    region: Region
    first: Path
    second: Path

    def refusal(self, selector: str) -> Any:
        """What a claim by this selector is refused with."""
        reply = self.region.api.request("POST", "reservations", {"interface": selector})
        return reply.status, reply.body["type"], {each["vrf"] for each in reply.body.get("candidates", ())}

    def claim(self, selector: str, mac: str) -> Any:
        """The reservation of a new device, when its host map is applied."""
        (held,) = self.region.api.post("devices?wait=20", {"interface": selector, "mac": mac})["reservations"]
        assert held["host_map"]["state"] == "applied", held
        return held


@pytest.fixture
def sites(region: Region) -> Iterator[Sites]:
    directory = region.config.parent
    with ExitStack() as stack:
        files = []
        for name in ("rack-a", "rack-b"):
            wire = stack.enter_context(network((Wire(("10.0.0.1/24",)),)))
            files.append(directory / f"{name}-hosts")
            dhcp = f'backend = "file"\nhosts_file = "{files[-1]}"'
            cluster = Cluster(directory, region.link, name, namespace=wire.server, dhcp=dhcp)
            stack.callback(cluster.stop)
            cluster.up()
            interfaces = f"cluster-interfaces?selector=cluster:{name}"
            eventually(lambda path=interfaces: region.api.get(path), f"the network of {name}")  # type: ignore[misc]
        yield Sites(region, *files)


def test_the_same_network_at_two_sites_in_two_vrfs(sites: Sites) -> None:
    region, api = sites.region, sites.region.api
    (second,) = api.get("cluster-interfaces?selector=rack-b:s0")
    assert second["serving"] == "shared-subnet"
    note = region.ctl("clusters", "topology", "rack-b")
    assert "regionctl clusters set rack-b --vrf NAME" in note
    region.ctl("vrfs", "add", "site-2", "--comment", "the other one")
    assert region.ctl("clusters", "set", "rack-b", "--vrf", "site-2") == f"rack-b is in VRF site-2 and serves {NET}\n"
    listed = [line.split()[1:4] for line in region.ctl("subnets", "list").splitlines()[1:]]
    assert listed == [[NET, "default", "rack-a"], [NET, "site-2", "rack-b"]]

    # Each form of a selector tells the sites apart, or says what is missing.
    (other,) = api.get("cluster-interfaces?selector=rack-b:s0")
    assert other["id"] != second["id"], "what named the first site's subnet does not name another one now"
    assert api.request("GET", f"cluster-interfaces/{second['id']}").status == 404
    both = {"default", "site-2"}
    for selector in (NET, "ip:10.0.0.77", "nic:s0", "family:4"):
        assert sites.refusal(selector) == (409, "ambiguous-selector", both), selector
    assert sites.refusal("rack-b:s0,vrf:default")[:2] == (404, "no-such-cluster-interface")
    for number, selector in enumerate(
        (
            "rack-b:s0",
            f"{NET},vrf:site-2",
            "vrf:site-2",
            "ip:10.0.0.77,vrf:site-2",
            other["id"],
            f"subnet:{other['subnet']}",
        )
    ):
        held = sites.claim(selector, f"00:16:3e:bb:00:{number:02x}")
        assert held["subnet"]["vrf"] == "site-2", selector

    # The same client, the same address: at each site its own, and only there.
    one = sites.claim(f"{NET},vrf:default", MAC)
    wanted = {"interface": "rack-b:s0", "mac": MAC, "address": "10.0.0.99"}
    (two,) = api.post("devices?wait=20", wanted)["reservations"]
    assert (one["subnet"]["vrf"], two["subnet"]["vrf"]) == ("default", "site-2")
    assert f"{MAC},{one['address']}" in sites.first.read_text()
    assert f"{MAC},10.0.0.99" in sites.second.read_text()
    assert "10.0.0.99" not in sites.first.read_text()
    assert "00:16:3e:bb" not in sites.first.read_text()
    api.delete(f"devices/{two['device']}?force=true")
    eventually(lambda: MAC not in sites.second.read_text(), "the second site has forgotten it")
    assert f"{MAC},{one['address']}" in sites.first.read_text()


# ---- a network that the controller is not on ----


@contextmanager
def _dnsmasq(wire: Network, directory: Path) -> Iterator[str]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    with dnsmasq(wire, directory) as server:
        yield f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"'


@contextmanager
def _dhcpd(wire: Network, directory: Path) -> Iterator[str]:
    need(shutil.which("dhcpd"), "dhcpd is not installed")
    with dhcpd(wire, directory, more=["subnet 10.64.0.0 netmask 255.192.0.0 { }"]) as server:
        yield isc_table(server)


@contextmanager
def _kea(wire: Network, directory: Path) -> Iterator[str]:
    need(not missing_kea(), f"not installed: {', '.join(missing_kea())}")
    with kea(KeaServers(wire, directory, families=(4,))) as servers:
        yield f"""backend = "kea"
dhcp4_socket = "{servers.socket(4)}"
dhcp6_socket = ""
include_directory = "{servers.include_directory}"
dhcp4_config = "{servers.config_file(4)}\""""


SERVERS: dict[str, Callable[[Network, Path], Any]] = {"dnsmasq": _dnsmasq, "isc": _dhcpd, "kea": _kea}


@pytest.mark.parametrize("name", SERVERS)
def test_a_machine_behind_a_relay_gets_its_address(name: str, region: Region) -> None:
    directory = region.config.parent / name
    directory.mkdir()
    api = region.api
    region.ctl("vrfs", "add", name)
    with network((Wire(("192.0.2.1/24", "2001:db8::1/64")),)) as wire:
        run_tool("ip", "-n", wire.client, "addr", "add", f"{ROUTER}/24", "dev", "c0")
        run_tool("ip", "-n", wire.client, "addr", "add", f"{RELAY}/32", "dev", "lo")
        run_tool("ip", "-n", wire.server, "route", "add", RELAYED, "via", ROUTER)
        with SERVERS[name](wire, directory) as dhcp:
            cluster = Cluster(directory, region.link, f"rack-{name}", namespace=wire.server, dhcp=dhcp)
            cluster.config.write_text(
                f'{cluster.config.read_text()}\n[topology.vrf]\n"s0" = "{name}"\n'
                f'[[relay]]\ncidr = "{RELAYED}"\nvia = "s0"\ngateways = ["{RELAY}"]\n'
            )
            try:
                cluster.up()
                selector = f"cluster:rack-{name},nic:s0,cidr:{RELAYED}"
                eventually(lambda: api.get(f"cluster-interfaces?selector={selector}"), "the relayed network")
                (found,) = api.get(f"cluster-interfaces?selector={selector}")
                assert (found["relayed"], found["up"], found["vrf"]) == (True, True, name)
                assert (found["gateways"], found["serving"]) == ([RELAY], "serving")
                subnet = f"subnets/{found['subnet']}"
                eventually(lambda: api.get(subnet)["claimable"], "addresses can be claimed")
                (held,) = api.post("devices?wait=20", {"interface": selector, "mac": MAC})["reservations"]
                assert held["host_map"]["state"] == "applied", held
                assert held["address"] == "10.64.0.2", "the relay's own address is nobody's to claim"
                with RelayAgent(wire, RELAY, "192.0.2.1") as relay:
                    answer = relay.obtain(MAC)
                    assert answer is not None
                    assert (answer.kind, answer.address) == (Kind.ACK, held["address"])
            finally:
                cluster.stop()
