"""The demonstration step by step. Each step says in plain words what it does, does it, and checks what came of it."""

import getpass
import json
import textwrap
import time
from pathlib import Path
from typing import Any, Final

from clusterd.dhcp.host_lines import parse
from tests.demo.api import Api
from tests.demo.processes import DemoFailed, output_of
from tests.demo.site import CLUSTER
from tests.demo.stage import Region, Site, Stage
from tests.lab.clients import duid_of_mac
from tests.lab.namespaces import DEFAULT_WIRES

NETWORK: Final = "192.0.2.0/24"
NETWORK_V6: Final = "2001:db8:0:1::/64"
SECOND_NETWORK: Final = "198.51.100.0/24"
CONTROLLER: Final = "192.0.2.1"

DEVICE_MAC: Final = "00:16:3e:00:00:01"
NODE_MAC: Final = "00:16:3e:00:00:02"
OTHER_MAC: Final = "00:16:3e:00:00:99"
DEVICE: Final = {"macs": [DEVICE_MAC], "interface": NETWORK, "hostname": "web1"}

WAIT_SECONDS: Final = 15


class Story:
    """Runs once. Raises DemoFailed at the first step that does not hold."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._step = 0

    def run(self) -> dict[str, Any]:
        """What the last line of output tells, except for the time it took."""
        region, api = self._start_region()
        site = self._start_site(region, api)
        self._nobody_answers_yet(site)
        device = self._claim_device(api)
        node = self._claim_node_address(api)
        user = self._claim_for_user(api)
        device_v6 = self._claim_ipv6(api)
        mapped = [device, node, device_v6]
        host_maps = self._show_host_maps(site, mapped, user)
        self._claim_again(api, device)
        self._refuse_conflict(api, device)
        reservations = self._list_reservations(region, api, [*mapped, user])
        served = self._deliver(site, device, device_v6)
        return {"reservations": reservations, "host_maps": host_maps, "dhcp": site.kind.dhcp, "served": served}

    # ---- the stage ----

    def _start_region(self) -> tuple[Region, Api]:
        self._begin("The region starts: regiond, with the PostgreSQL that it brings along.")
        began = time.monotonic()
        region = self._stage.start_region()
        region.ready()
        self._say(
            f"Ready after {time.monotonic() - began:.1f} s. Its HTTP API listens on {region.url}, its state is in "
            f"{self._stage.state}."
        )
        token = region.new_token("demo")
        self._say(
            f"{getpass.getuser()}, who can open its UNIX socket, makes an admin account and a token for programs: "
            f"{token[:10]}…"
        )
        return region, region.api(token)

    def _start_site(self, region: Region, api: Api) -> Site:
        self._begin(f'A site starts: the cluster controller "{CLUSTER}" with its clusterd and a DHCP server.')
        command = self._stage.enrol(region)
        assert command is not None, "a new state directory"
        self._say(
            "`regionctl clusters enrol` prints the one command that makes a host this cluster; it is run as printed, "
            "and from then on the two prove to each other who they are (mutual TLS):"
        )
        self._quote(command)
        site = self._stage.start_site(
            region, lambda why: self._say(f"(A better kind of site cannot be made here: {why}.)")
        )
        if site.kind.network == "namespaces":
            self._say("The controller and the machines of the site are network namespaces, joined by two cables.")
        else:
            self._say(
                "There is no network here to play with, so clusterd is told of two NICs instead of asking the "
                "kernel; everything else about it is real."
            )
        if site.kind.dhcp == "dnsmasq":
            self._say("Its DHCP server is a real dnsmasq, the machines run udhcpc.")
        else:
            self._say(
                "Its DHCP server is a small one of our own on the loopback interface, and the machines ask it "
                "through a relay."
            )
        expected = sum(len(wire.server_addresses) for wire in DEFAULT_WIRES)
        interfaces = self._stage.wait_for_interfaces(api, region, site, expected)
        self._say("clusterd has found the region and reported its topology; the region knows these cluster interfaces:")
        for one in interfaces:
            self._quote(
                f"{one['id']}  {one['cluster']['name']}:{one['nic']}  {one['cidr']:<18}  own address "
                f"{', '.join(one['addresses'])}  {one['serving']}"
            )
        self._check({one["cidr"] for one in interfaces} == {NETWORK, NETWORK_V6, SECOND_NETWORK}, "three networks")
        return site

    # ---- claims ----

    def _nobody_answers_yet(self, site: Site) -> None:
        self._begin(f"A machine with the MAC address {DEVICE_MAC} comes up on {NETWORK} and asks for an address.")
        address = site.obtain(DEVICE_MAC, 4, CONTROLLER)
        self._check(address is None, f"nobody knows the machine, but it was given {address}")
        self._say("Nobody answers: nobody has claimed one for it yet.")

    def _claim_device(self, api: Api) -> dict[str, Any]:
        self._begin("A program claims an address for that machine: an unmanaged device.")
        return self._created(api, "/devices", DEVICE, mapped=True)["reservations"][0]  # type: ignore[no-any-return]

    def _claim_node_address(self, api: Api) -> dict[str, Any]:
        self._begin("An extra address for a node, on the second network, named by cluster and NIC.")
        node = api.post("/nodes", {"hostname": "compute1", "macs": ["00:16:3e:00:01:01"]}).expect(201).content
        self._say(f"The node is {node['id']}, {node['hostname']}.")
        body = {"interface": f"{CLUSTER}:s1", "mac": NODE_MAC, "hostname": "compute1-storage"}
        return self._created(api, f"/nodes/{node['id']}/addresses", body, mapped=True)

    def _claim_for_user(self, api: Api) -> dict[str, Any]:
        self._begin("An address reserved for a user, named by terms: the region just never hands it out again.")
        body = {"interface": f"cluster:{CLUSTER},nic:s0,family:4", "purpose": "virtual address of a load balancer"}
        return self._created(api, "/reservations", body, mapped=False)

    def _claim_ipv6(self, api: Api) -> dict[str, Any]:
        self._begin("And an IPv6 address, for a device that is known by its DUID.")
        body = {"duid": duid_of_mac(DEVICE_MAC).hex(":"), "interface": NETWORK_V6, "hostname": "web1-v6"}
        return self._created(api, "/devices", body, mapped=True)["reservations"][0]  # type: ignore[no-any-return]

    def _created(self, api: Api, path: str, body: dict[str, Any], *, mapped: bool) -> dict[str, Any]:
        content: dict[str, Any] = api.post(f"{path}?wait={WAIT_SECONDS}", body).expect(201).content
        reservation = content["reservations"][0] if "reservations" in content else content
        host_map = reservation["host_map"]
        state = "none, by its nature" if host_map is None else host_map["state"]
        self._quote(f"POST {path} {json.dumps(body)}")
        self._quote(f"201: {reservation['id']}, {reservation['kind']}, {reservation['address']}; host map: {state}")
        expected = "applied" if mapped else None
        self._check((host_map and host_map["state"]) == expected, f"host map {expected}, but it is {host_map}")
        return content

    # ---- what came of it ----

    def _show_host_maps(self, site: Site, mapped: list[dict[str, Any]], user: dict[str, Any]) -> int:
        self._begin(f"What clusterd wrote for the DHCP server, {site.hosts_file}:")
        text = Path(site.hosts_file).read_text()
        for line in text.splitlines():
            self._quote(line)
        found = sorted(host_map.address for host_map in parse(text).host_maps)
        self._check(found == sorted(one["address"] for one in mapped), f"the three host maps, but it has {found}")
        self._check(user["address"] not in text, "no host map for the user's reservation")
        self._say(f"Three host maps. {user['address']}, the user's, has none: no DHCP server hands it out.")
        return len(found)

    def _claim_again(self, api: Api, device: dict[str, Any]) -> None:
        self._begin("The program repeats its claim, as after a lost answer.")
        again = api.post("/devices", DEVICE).expect(200).content["reservations"]
        self._check([one["id"] for one in again] == [device["id"]], f"the same reservation, but it has {again}")
        self._quote(f"200: {again[0]['id']}, {again[0]['address']}: the same as before")

    def _refuse_conflict(self, api: Api, device: dict[str, Any]) -> None:
        self._begin(f"Another machine wants just {device['address']}.")
        body = {"macs": [OTHER_MAC], "interface": NETWORK, "address": device["address"]}
        problem = api.post("/devices", body).expect(409).content
        self._quote(f"409 {problem['type']}: {problem['detail']}")
        self._check(problem["type"] == "address-taken", "the problem address-taken")
        self._check(problem["holder"]["id"] == device["id"], "the holder in the answer")

    def _list_reservations(self, region: Region, api: Api, expected: list[dict[str, Any]]) -> int:
        self._begin("All reservations that the region has, as an operator asks for them:")
        command = ["regionctl", "--socket", str(region.socket), "reservations", "list"]
        self._quote(f"$ {' '.join(command)}")
        for line in output_of(command).splitlines():
            self._quote(line)
        held = api.get("/reservations")
        self._check(
            sorted(one["id"] for one in held) == sorted(one["id"] for one in expected), "these four and no more"
        )
        return len(held)

    def _deliver(self, site: Site, device: dict[str, Any], device_v6: dict[str, Any]) -> str:
        self._begin(f"The machine with the MAC address {DEVICE_MAC} asks once more.")
        served = site.obtain(DEVICE_MAC, 4, CONTROLLER)
        self._check(served == device["address"], f"{device['address']}, but it was given {served}")
        assert served is not None
        self._say(f"It is given {served} by {site.kind.dhcp}.")
        if site.can_ask_for_ipv6:
            served_v6 = site.obtain(DEVICE_MAC, 6, CONTROLLER)
            self._check(served_v6 == device_v6["address"], f"{device_v6['address']}, but it was given {served_v6}")
            self._say(f"Over DHCPv6 it is given {served_v6}.")
        return served

    # ---- telling ----

    def _begin(self, what: str) -> None:
        self._step += 1
        print(textwrap.fill(what, 100, initial_indent=f"\n{self._step:>2}  ", subsequent_indent="    "), flush=True)

    def _say(self, text: str) -> None:
        lines = textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
        print(lines, flush=True)

    def _quote(self, text: str) -> None:
        print(f"      {text}", flush=True)

    def _check(self, holds: object, expectation: str) -> None:
        if not holds:
            raise DemoFailed(f"step {self._step}: expected {expectation}")
