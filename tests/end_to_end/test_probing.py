"""A squatter on the wire of a site: whoever claims with a probe never gets its address, whatever clusterd may do."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, eventually, running_region
from tests.lab import namespaces
from tests.lab.namespaces import Network, run_tool
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4, V6 = "192.0.2.0/24", "2001:db8:0:1::/64"
SQUATTER = "00:16:3e:00:00:66"
SQUATTED = {V4: "192.0.2.2", V6: "2001:db8:0:1::2"}  # the lowest that are free: the controller has the first
NEXT = {V4: "192.0.2.3", V6: "2001:db8:0:1::3"}
UNPRIVILEGED = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", "--")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    need(shutil.which("setpriv"), "setpriv is not installed")
    with namespaces.network((namespaces.Wire(),)) as made:
        made.set_client_mac(SQUATTER)
        for cidr, address in SQUATTED.items():
            run_tool("ip", "-n", made.client, "addr", "add", f"{address}/{cidr.partition('/')[2]}", "dev", "c0")
        yield made


@pytest.fixture(scope="module")
def region(module_state_directory: Path) -> Iterator[Region]:
    with running_region(module_state_directory / "probing") as running:
        yield running


def claim(api: Api, interface: str, query: str = "probe=true", expected: int = 201, **values: Any) -> Any:
    return api.post(f"reservations?{query}", {"interface": interface, **values}, expected)


def is_claimable(api: Api, cidr: str) -> bool:
    return bool(api.get(path(cidr))["claimable"])


def path(cidr: str) -> str:
    return f"subnets/{cidr.replace('/', '%2F')}"


@pytest.mark.parametrize("enter", [(), UNPRIVILEGED], ids=["by packets", "by way of the kernel"])
def test_a_squatters_address_is_never_given_to_who_probes(
    region: Region, network: Network, state_directory: Path, enter: tuple[str, ...]
) -> None:
    api = region.api
    run_tool("ip", "-n", network.server, "neigh", "flush", "dev", "s0")
    cluster = Cluster(
        state_directory,
        region.link,
        namespace=network.server,
        dhcp=f'backend = "file"\nhosts_file = "{state_directory}/hosts"',
    )
    cluster.enter = enter
    try:
        cluster.up()
        eventually(lambda: len(api.get("subnets")) == 2, "the subnets")
        for cidr in (V4, V6):
            eventually(partial(is_claimable, api, cidr), "the subnet claimable")
            # First of all nobody asks, and the squatter's address is given away: which is what a probe is for.
            given = claim(api, cidr, "probe=false")
            assert (given["address"], given["probed"]) == (SQUATTED[cidr], None)
            api.delete(f"reservations/{given['id']}")

            probed = claim(api, cidr)
            assert (probed["address"], probed["probed"]) == (NEXT[cidr], True)
            refused = claim(api, cidr, expected=409, address=SQUATTED[cidr])
            assert refused["type"] == "address-in-use"
            (mark,) = api.get(f"{path(cidr)}/in-use")
            assert (mark["address"], mark["mac"], mark["cluster"]) == (SQUATTED[cidr], SQUATTER, "rack-a")
            assert api.get(f"{path(cidr)}/utilisation")["in_use"] == 1
            assert SQUATTER in region.ctl("in-use", "list", cidr)
            # Whoever does not ask is kept off it, too, until the mark is cleared.
            plain = claim(api, cidr, "probe=false")
            assert plain["address"] not in SQUATTED.values()
            assert region.ctl("in-use", "clear", cidr, SQUATTED[cidr]).endswith("can be handed out again\n")
            assert api.get(f"{path(cidr)}/available?limit=1") == [SQUATTED[cidr]]

            region.ctl("subnets", "set", cidr, "--probe")
            by_default = claim(api, cidr, "wait=0")
            assert by_default["probed"] is True and by_default["address"] not in SQUATTED.values()
            members = [{"operation": "reserve", "interface": cidr}] * 2
            batch = [each["reservations"][0] for each in api.post("batch?wait=0", {"members": members}, 200)["results"]]
            assert {each["probed"] for each in batch} == {True}
            assert not {each["address"] for each in batch} & set(SQUATTED.values())
            region.ctl("subnets", "set", cidr, "--no-probe")
            region.ctl("in-use", "clear", cidr, "--all")
            for held in (probed, plain, by_default, *batch):
                api.delete(f"reservations/{held['id']}")
        unprivileged = [line for line in cluster.lines() if line.get("event") == "probing.unprivileged"]
        assert len(unprivileged) == (1 if enter else 0)
    finally:
        cluster.stop()

    refused = claim(api, V4, expected=503)
    assert refused["type"] == "not-probed" and "not connected" in refused["reasons"][0]
    region.ctl("subnets", "set", V4, "--probe")
    unprobed = claim(api, V4, "wait=0")
    assert unprobed["probed"] is False, "a cluster that is away never fails a claim"
    api.delete(f"reservations/{unprobed['id']}")
    region.ctl("subnets", "set", V4, "--no-probe")
