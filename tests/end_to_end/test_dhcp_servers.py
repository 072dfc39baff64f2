"""What is claimed over HTTP is what real clients get from each of the DHCP servers, and nobody else does.

One region serves all tests; each server runs once, with a clusterd of its own.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Region, eventually, running_region
from tests.end_to_end.dhcp_sites import MAC, SERVERS, DhcpSite, dhcp_site, subnet_path
from tests.lab.clients import dhclient, duid_of_mac, udhcpc
from tests.lab.dhcp_messages import Answer, Kind
from tests.lab.raw_v4 import RawClient4
from tests.lab.running_client import running_client

pytestmark = pytest.mark.namespaces

OTHER_MAC = "00:16:3e:aa:00:02"
OTHER_DUID = duid_of_mac(OTHER_MAC)
OWN_ID = b"\x01" + bytes.fromhex(MAC.replace(":", ""))  # what most clients send as their client-id


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    with running_region(module_state_directory / "dhcp-servers") as running:
        yield running


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, region: Region) -> Iterator[DhcpSite]:
    with dhcp_site(request.param, region, region.config.parent) as made:
        yield made


@pytest.fixture(autouse=True)
def same_process(site: DhcpSite) -> Iterator[None]:
    """Whatever a test does to IPv4 host maps, the process that serves them stays."""
    before = site.identity()
    yield
    assert site.identity() == before


@pytest.fixture
def api(region: Region) -> Api:
    return region.api


@pytest.fixture
def v4(site: DhcpSite) -> Iterator[RawClient4]:
    with RawClient4(site.network) as client:
        yield client


def device(api: Api, interface: str, **values: Any) -> Any:
    """The reservation of a new device, in effect at the DHCP server."""
    made = api.post("devices?wait=20", {"interface": interface, **values})["reservations"][0]
    assert made["host_map"]["state"] == "applied", made["host_map"]
    return made


def release(api: Api, *held: Any) -> None:
    """Release devices' addresses, and return when they are free."""
    for each in held:
        api.delete(f"devices/{each['device']}", 202)
    free(api, *held)


def free(api: Api, *held: Any) -> None:
    """Return when the removal of each of these reservations was confirmed: there is no such reservation any more."""
    reservations = {each["id"] for each in held}
    eventually(
        lambda: not any(view["id"] in reservations for view in api.get("reservations?limit=1000")), "the confirmation"
    )


@contextmanager
def stopped(site: DhcpSite) -> Iterator[None]:
    """clusterd hears of nothing and confirms nothing."""
    site.cluster.send(SIGSTOP)
    try:
        yield
    finally:
        site.cluster.send(SIGCONT)


def at_once(*questions: Callable[[], str | None]) -> list[str | None]:
    """Silence takes its time: several clients wait for it together."""
    with ThreadPoolExecutor(len(questions)) as threads:
        return [answer.result() for answer in [threads.submit(question) for question in questions]]


def nobody_answers(site: DhcpSite) -> list[str | None]:
    """What each of the real clients is given."""
    return at_once(
        lambda: udhcpc(site.network, attempts=1),
        lambda: dhclient(site.network, 4, timeout=2.0),
        lambda: dhclient(site.network, 6, timeout=2.0),
    )


def acknowledged(answer: Answer | None) -> str | None:
    return answer.address if answer is not None and answer.kind is Kind.ACK else None


def obtains(client: RawClient4, mac: str, address: str) -> bool:
    return acknowledged(client.obtain(mac)) == address


def test_claim_and_release(site: DhcpSite, api: Api) -> None:
    assert udhcpc(site.network, attempts=1) is None
    held = device(api, site.v4, mac=MAC, hostname="web1")
    held6 = device(api, site.v6, mac=MAC)
    assert udhcpc(site.network) == held["address"]
    assert dhclient(site.network, 4) == held["address"]
    assert dhclient(site.network, 6) == held6["address"]

    with stopped(site):
        for each in (held, held6):
            assert api.delete(f"devices/{each['device']}", 202)["releasing"][0]["status"] == "releasing"
        # The machine still gets its address, and so nobody else may.
        assert udhcpc(site.network) == held["address"]
        for each, cidr in ((held, site.v4), (held6, site.v6)):
            view = api.get(f"reservations/{each['id']}")
            assert view["status"] == "releasing"
            assert view["waits_for"][0].startswith(f"cluster {site.cluster.name} to confirm the removal")
            wanted = {"interface": cidr, "mac": OTHER_MAC, "address": each["address"]}
            refused = api.request("POST", "devices?probe=false", wanted)  # who would probe is stopped
            assert (refused.status, refused.body["type"]) == (409, "address-taken")
            assert each["address"] not in api.get(f"{subnet_path(cidr)}/available")
    free(api, held, held6)
    assert nobody_answers(site) == [None] * 3

    # Confirmed, and so the next machine can have them.
    next4 = device(api, site.v4, mac=OTHER_MAC, address=held["address"])
    next6 = device(api, site.v6, duid=OTHER_DUID.hex(), address=held6["address"])
    assert dhclient(site.network, 6, duid=OTHER_DUID) == held6["address"]
    with RawClient4(site.network) as client:
        assert acknowledged(client.obtain(OTHER_MAC)) == held["address"]
        assert client.discover(MAC) is None
    release(api, next4, next6)


def test_an_address_moves_to_another_mac(site: DhcpSite, api: Api, v4: RawClient4) -> None:
    held = device(api, site.v4, mac=MAC)
    assert acknowledged(v4.obtain(MAC)) == held["address"]
    moved = api.patch(f"devices/{held['device']}?wait=20", {"macs": [OTHER_MAC]})["reservations"][0]
    assert (moved["id"], moved["address"], moved["macs"]) == (held["id"], held["address"], [OTHER_MAC])
    assert moved["host_map"]["state"] == "applied"
    assert acknowledged(v4.obtain(OTHER_MAC)) == held["address"]
    assert acknowledged(v4.renew(OTHER_MAC, held["address"])) == held["address"]
    assert v4.discover(MAC) is None
    assert acknowledged(v4.renew(MAC, held["address"])) is None
    release(api, held)


def test_addresses_move_from_one_machine_to_another(site: DhcpSite, api: Api) -> None:
    """As when a broken machine is replaced: real clients of either, IPv4 and IPv6."""
    held = [device(api, cidr, mac=MAC) for cidr in (site.v4, site.v6)]
    addresses = [each["address"] for each in held]
    assert [udhcpc(site.network), dhclient(site.network, 6)] == addresses
    for each in held:
        moved = api.patch(f"devices/{each['device']}?wait=20", {"macs": [OTHER_MAC]})["reservations"][0]
        assert (moved["address"], moved["host_map"]["state"]) == (each["address"], "applied")
    assert nobody_answers(site) == [None] * 3
    site.network.set_client_mac(OTHER_MAC)
    try:
        assert [udhcpc(site.network), dhclient(site.network, 6)] == addresses
        assert dhclient(site.network, 4) == addresses[0]
    finally:
        site.network.set_client_mac(MAC)
    release(api, *held)


def test_a_nic_alias_beside_its_primary(site: DhcpSite, api: Api, v4: RawClient4) -> None:
    node = api.post("nodes", {"hostname": f"lb-{site.v4.split('.')[2]}", "macs": [MAC]})["id"]
    primary = api.post(f"nodes/{node}/addresses?wait=20", {"interface": site.v4, "mac": MAC})
    alias = api.post(f"nodes/{node}/addresses?wait=20", {"interface": site.v4, "alias": "eth0:1"})
    assert [each["host_map"]["state"] for each in (primary, alias)] == ["applied", "applied"]
    alias_id = bytes.fromhex(alias["client_id"].replace(":", ""))
    # Two clients on one NIC, as long as they like.
    with running_client(site.network) as first, running_client(site.network, client_id=alias_id) as second:
        assert (first.address, second.address) == (primary["address"], alias["address"])
        for _ in range(2):
            assert first.renew() == f"renew {primary['address']}"
            assert second.renew() == f"renew {alias['address']}"
    for _ in range(2):
        for client_id, held in ((OWN_ID, primary), (alias_id, alias)):
            assert acknowledged(v4.obtain(MAC, client_id=client_id)) == held["address"]
        for client_id, held in ((OWN_ID, primary), (alias_id, alias)):
            assert acknowledged(v4.renew(MAC, held["address"], client_id=client_id)) == held["address"]
    api.delete(f"nodes/{node}/addresses/{alias['id']}", 202)
    free(api, alias)
    assert v4.discover("00:16:3e:aa:00:99", client_id=alias_id) is None
    assert acknowledged(v4.renew(MAC, primary["address"], client_id=OWN_ID)) == primary["address"]
    api.delete(f"nodes/{node}", 202)
    free(api, primary)


def test_client_ids_that_change_on_the_way_from_pxe_to_the_system(site: DhcpSite, api: Api, v4: RawClient4) -> None:
    held = device(api, site.v4, mac=MAC)
    for client_id in (b"\x00" + bytes(range(16)), None, OWN_ID, b"\xff\x12\x34\x56\x78\x00\x02", None):
        assert acknowledged(v4.obtain(MAC, client_id=client_id)) == held["address"]
    for client_id in (b"\x00" + bytes(range(16)), None, b"\xff\x12\x34\x56\x78\x00\x02"):
        assert udhcpc(site.network, client_id=client_id) == held["address"]
    assert dhclient(site.network, 4) == held["address"]
    release(api, held)


def test_one_mac_in_two_subnets(site: DhcpSite, api: Api) -> None:
    held, second = device(api, site.v4, mac=MAC), device(api, site.second, mac=MAC)
    assert udhcpc(site.network) == held["address"]
    assert udhcpc(site.network, "c1") == second["address"]
    release(api, held)
    assert udhcpc(site.network, "c1") == second["address"]
    assert udhcpc(site.network, attempts=1) is None
    release(api, second)


def test_our_host_maps_are_never_taken_for_the_servers_own(site: DhcpSite, api: Api) -> None:
    """clusterd comes to a server that has host maps of ours, and of its own nothing or one static entry."""
    node = api.post("nodes", {"hostname": f"own-{site.v4.split('.')[2]}", "macs": [MAC]})["id"]
    paths = f"nodes/{node}/addresses?wait=20"
    mapped = [
        api.post(paths, {"interface": site.v4, "mac": MAC}),
        api.post(paths, {"interface": site.v4, "alias": "eth0:1", "hostname": "own-alias"}),
        api.post(paths, {"interface": site.v6, "duid": duid_of_mac(MAC).hex()}),
    ]
    assert [each["host_map"]["state"] for each in mapped] == ["applied"] * 3
    site.cluster.stop()
    site.cluster.start("contact.reported")
    entries = api.get(f"clusters/{site.cluster.name}/static-entries")
    assert [entry["address"] for entry in entries] == site.static_entries
    assert udhcpc(site.network) == mapped[0]["address"]
    api.delete(f"nodes/{node}", 202)
    free(api, *mapped)


def test_a_bond_or_dock_has_one_address_for_several_macs(site: DhcpSite, api: Api, v4: RawClient4) -> None:
    """Whichever of them asks gets it; Kea gives it to the next one when the lease of the one before has ended."""
    held = device(api, site.v4, macs=[MAC, OTHER_MAC])
    former: str | None = None
    for mac in (MAC, OTHER_MAC, MAC, OTHER_MAC):
        if former is not None and site.one_lease_per_address:
            assert acknowledged(v4.obtain(mac)) is None
            v4.release(former, held["address"], site.server_address)
        eventually(partial(obtains, v4, mac, held["address"]), f"{mac} has the address")
        assert acknowledged(v4.renew(mac, held["address"])) == held["address"]
        former = mac
    assert v4.discover("00:16:3e:aa:00:99") is None

    # One of them leaves, the other one keeps the address.
    kept = api.patch(f"devices/{held['device']}?wait=20", {"macs": [MAC]})["reservations"][0]
    assert (kept["address"], kept["macs"], kept["host_map"]["state"]) == (held["address"], [MAC], "applied")
    assert acknowledged(v4.obtain(MAC)) == held["address"]
    assert v4.discover(OTHER_MAC) is None
    release(api, held)
