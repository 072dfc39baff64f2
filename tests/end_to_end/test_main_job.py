"""The main job on real parts: an address is claimed over HTTP and a real DHCP client gets exactly that one."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually
from tests.lab import namespaces
from tests.lab.clients import dhclient, missing_clients, udhcpc
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.servers import DnsmasqServer, dnsmasq
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4 = "192.0.2.0/24"
V6 = "2001:db8:0:1::/64"
MAC = "00:16:3e:aa:00:01"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(MAC)
        yield made


@pytest.fixture
def region(state_directory: Path) -> Iterator[Region]:
    running = Region(state_directory)
    try:
        running.up()
        yield running
    finally:
        running.stop()


@pytest.fixture
def server(network: Network, state_directory: Path) -> Iterator[DnsmasqServer]:
    directory = state_directory / "dnsmasq"
    directory.mkdir()
    with dnsmasq(network, directory) as running:
        yield running


@pytest.fixture
def cluster(region: Region, network: Network, server: DnsmasqServer, state_directory: Path) -> Iterator[Cluster]:
    running = Cluster(
        state_directory,
        region.link,
        namespace=network.server,
        dhcp=f'backend = "dnsmasq"\nhosts_file = "{server.hosts_file}"\npid_file = "{server.pid_file}"',
    )
    try:
        running.up()
        running.wait_for("contact.reported")  # before, nothing can be claimed there
        eventually(lambda: len(region.api.get("cluster-interfaces")) == 3, "the topology at the region")
        yield running
    finally:
        running.stop()


def device(api: Api, mac: str, interface: str = V4, expected: int = 201, wait: float = 10, **values: Any) -> Any:
    return api.post(f"devices?wait={wait}", {"macs": [mac], "interface": interface, **values}, expected)


def state_of(api: Api, reservation: str) -> str:
    return str(api.get(f"reservations/{reservation}")["host_map"]["state"])


def mac_number(number: int) -> str:
    return f"00:16:3e:00:{number >> 8:02x}:{number & 255:02x}"


def test_claim_and_release_with_a_thousand_maps_served(
    region: Region, cluster: Cluster, server: DnsmasqServer, network: Network
) -> None:
    api = region.api
    # 240 of IPv4 fill most of the /24; the others are IPv6 on the same server.
    for number in range(1000):
        device(api, mac_number(number), V4 if number < 240 else V6, wait=0)
    last = device(api, mac_number(1000), V6, wait=30)["reservations"][0]
    assert last["host_map"]["state"] == "applied"
    before = server.identity

    v4 = device(api, MAC)["reservations"][0]
    v6 = device(api, MAC, V6)["reservations"][0]
    assert (v4["host_map"]["state"], v6["host_map"]["state"]) == ("applied", "applied")
    assert udhcpc(network) == v4["address"]
    assert dhclient(network) == v6["address"]

    for device_id in (v4["device"], v6["device"]):
        (releasing,) = api.delete(f"devices/{device_id}", 202)["releasing"]
        assert releasing["status"] == "releasing"
    eventually(
        lambda: all(
            view["waits_for"][0].startswith("the release hold") for view in api.get("reservations?status=releasing")
        ),
        "the removals confirmed",
    )
    with RawClient4(network) as client:
        assert client.discover(MAC, timeout=1.0) is None
    assert dhclient(network, timeout=4.0) is None
    assert server.identity == before


def test_a_request_can_be_followed_through_both_logs(region: Region, cluster: Cluster) -> None:
    body = {"macs": [MAC], "interface": V4}
    reply = region.api.request("POST", "devices?wait=10", body, {"X-Request-ID": "ticket-4711"})
    assert reply.status == 201
    assert reply.headers["x-request-id"] == "ticket-4711"
    address = reply.body["reservations"][0]["address"]
    assert region.wait_for("reservation.claim", request_id="ticket-4711")["address"] == address
    applied = cluster.wait_for("host-map.applied", address=address)
    assert applied["request_ids"] == ["ticket-4711"]


def test_a_cluster_that_is_away_leaves_claims_pending_and_gets_them_at_its_return(
    region: Region, cluster: Cluster, network: Network
) -> None:
    cluster.stop()
    eventually(lambda: not region.api.get("clusters")[0]["connected"], "the cluster seen as away")
    held = region.api.post("devices", {"macs": [MAC], "interface": V4})["reservations"][0]
    assert held["host_map"]["state"] == "pending"
    cluster.up()
    eventually(lambda: state_of(region.api, held["id"]) == "applied", "the delivery at the cluster's return")
    assert udhcpc(network) == held["address"]


def test_the_cluster_serves_on_while_the_region_is_away(
    region: Region, cluster: Cluster, server: DnsmasqServer, network: Network
) -> None:
    held = device(region.api, MAC)["reservations"][0]
    region.stop()
    cluster.wait_for("region.lost")
    cluster.stop()
    cluster.start("clusterd.started")
    assert udhcpc(network) == held["address"]
    region.up()
    eventually(lambda: region.api.get("clusters")[0]["connected"], "the cluster back at the region")
    assert state_of(region.api, held["id"]) == "applied"


def test_a_region_killed_between_commit_and_delivery_delivers_after_its_restart(
    region: Region, cluster: Cluster, network: Network
) -> None:
    device(region.api, mac_number(1))
    cluster.send(signal.SIGSTOP)
    held = device(region.api, MAC, wait=0)["reservations"][0]
    assert held["host_map"]["state"] == "pending"
    region.kill()
    cluster.send(signal.SIGCONT)
    region.up()
    eventually(lambda: state_of(region.api, held["id"]) == "applied", "the delivery after the restart", 90)
    assert udhcpc(network) == held["address"]


def test_a_cluster_killed_between_accept_and_apply_applies_after_its_restart(
    region: Region, cluster: Cluster, server: DnsmasqServer, network: Network
) -> None:
    device(region.api, mac_number(1))
    server.freeze()
    held = device(region.api, MAC, wait=0)["reservations"][0]

    def accepted() -> bool:
        (view,) = [row for row in region.api.get("clusters")[0]["subnets"] if row["cidr"] == V4]
        return bool(view["accepted_generation"] == 2 and view["applied_generation"] == 1)

    eventually(accepted, "accepted and not applied")
    assert state_of(region.api, held["id"]) == "pending"
    cluster.kill()
    server.kill()
    server.start()
    cluster.up()
    eventually(lambda: state_of(region.api, held["id"]) == "applied", "the map applied after the restart")
    assert udhcpc(network) == held["address"]


def test_a_dhcp_server_that_is_down_is_shown_in_its_own_words_and_repaired(
    region: Region, cluster: Cluster, server: DnsmasqServer, network: Network
) -> None:
    server.kill()
    held = device(region.api, MAC, wait=5)["reservations"][0]
    assert held["host_map"]["state"] == "failed"
    assert "dnsmasq" in held["host_map"]["clusters"][0]["error"]
    server.start()
    eventually(lambda: state_of(region.api, held["id"]) == "applied", "the repair", 90)
    assert udhcpc(network) == held["address"]


def test_two_clients_get_every_claimable_address_exactly_once(region: Region, cluster: Cluster) -> None:
    network = "198.51.100.0/24"
    got: list[list[str]] = [[], []]
    last: list[Any] = [None, None]

    def claim(client: int) -> None:
        while True:
            reply = region.api.request("POST", "reservations", {"interface": network})
            if reply.status != 201:
                last[client] = reply
                return
            got[client].append(reply.body["address"])

    threads = [Thread(target=claim, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(got[0] + got[1], key=lambda text: int(text.rsplit(".", 1)[1])) == [
        f"198.51.100.{number}" for number in range(2, 255)
    ]
    assert [(reply.status, reply.body["type"]) for reply in last] == [(409, "subnet-exhausted")] * 2


def test_every_line_of_both_logs_is_json(region: Region, cluster: Cluster) -> None:
    device(region.api, MAC)
    for daemon in (region, cluster):
        for line in daemon.lines():
            assert {"time", "level", "event", "message"} <= set(line)
