"""As test_foreign_leases, of an IPv6 network: who has a lease is known by its DUID, in the list and in the refusal."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.end_to_end.daemons import Cluster, Region, eventually
from tests.end_to_end.dhcp_sites import kea_table
from tests.lab import namespaces
from tests.lab.kea import KeaServers, kea, missing_programs
from tests.lab.namespaces import Network, Wire
from tests.lab.raw_v6 import RawClient6
from tests.requirements import need

pytestmark = pytest.mark.namespaces

NET = "2001:db8:0:6::/64"
LOW, HIGH = "2001:db8:0:6::100", "2001:db8:0:6::110"
HOLDER, OWNER = (bytes.fromhex(f"0003000100163eaa00{number:02x}") for number in (1, 2))  # DUID-LL (RFC 8415, 11.4)
PATH = f"subnets/{quote(NET, safe='')}"


@dataclass
class Site:
    """A region, a network with a machine on it, and Kea, which has leased an address to HOLDER from a pool."""

    region: Region
    network: Network
    leased: str

    def leases(self, query: str = "") -> Any:
        found = self.region.api.get(f"{PATH}/leases{query}")
        assert found["complete"], found
        return found["leases"]


@pytest.fixture
def site(state_directory: Path) -> Iterator[Site]:
    need(not missing_programs(), f"not installed: {', '.join(missing_programs())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    region = Region(state_directory)
    kept = {"lease-database": {"type": "memfile", "persist": True, "name": f"{state_directory}/leases6.csv"}}
    with namespaces.network((Wire(("2001:db8:0:6::1/64",)),)) as network:
        pools = {NET: f"{LOW} - {HIGH}"}
        with kea(KeaServers(network, state_directory, changes={6: kept}, families=(6,), pools=pools)) as servers:
            with RawClient6(network) as client:
                leased = client.obtain(HOLDER)
            assert leased is not None and len(leased.addresses) == 1
            servers.stop(6)
            servers.pools.clear()  # the address can be claimed then, and is leased all the same
            servers.configure(6, kept)
            servers.start(6)
            cluster = Cluster(state_directory, region.link, namespace=network.server, dhcp=kea_table(servers))
            try:
                region.up()
                cluster.up()
                eventually(lambda: region.api.request("GET", PATH).status == 200, "the subnet at the region")
                eventually(lambda: region.api.get(PATH)["claimable"], "addresses can be claimed")
                yield Site(region, network, leased.addresses[0])
            finally:
                cluster.stop()
                region.stop()


def test_a_foreign_lease(site: Site) -> None:
    region, api = site.region, site.region.api
    (lease,) = site.leases()
    assert (lease["address"], lease["duid"], lease["reservation"]) == (site.leased, HOLDER.hex(":"), None)
    assert "00:16:3e:aa:00:01" in region.ctl("leases", NET), "as its DUID was made of"
    assert site.leases(f"?address={quote(site.leased)}") == [lease] and site.leases(f"?address={LOW[:-1]}f") == []

    wanted = {"interface": NET, "duid": OWNER.hex(":"), "address": site.leased}
    refused = api.request("POST", "devices", wanted)
    assert (refused.status, refused.body["type"]) == (409, "leased-to-another")
    assert [each["duid"] for each in refused.body["leases"]] == [HOLDER.hex(":")]
    assert site.leases() == [lease]
    held = api.post("devices?force=true&wait=20", wanted)["reservations"][0]
    assert held["host_map"]["state"] == "applied"
    assert site.leases() == [], "it was ended at the server"

    with RawClient6(site.network) as client:
        given = client.obtain(OWNER)
        assert given is not None and given.addresses == (site.leased,)
    (own,) = site.leases()
    assert (own["address"], own["duid"], own["reservation"]) == (site.leased, OWNER.hex(":"), held["id"])
