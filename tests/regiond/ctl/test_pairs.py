"""regionctl about the clusters on a subnet."""

from dataclasses import replace

import pytest_twisted

from regiond.domain import errors
from tests.fakes.use_cases import CLUSTER_ON_SUBNET
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_the_clusters_on_a_subnet() -> None:
    async with serving() as server:
        env = over_tcp(server)
        listed = await run("subnets", "clusters", "192.0.2.0/24", env=env)
        assert [line.split() for line in listed.stdout.splitlines()] == [
            ["ID", "CLUSTER", "CONNECTED", "NICS", "ROLE", "APPLIED", "ERROR"],
            ["cl-000000000a", "rack-b", "yes", "eth2", "shared-subnet", "0/5", "-"],
        ]
        for command, called in (("confirm-pair", "confirm"), ("unpair", "end")):
            assert (await run("subnets", command, "192.0.2.0/24", "rack-b", env=env)).stdout == listed.stdout
            name, call = server.region.pairs.calls[-1]
            assert (name, call["subnet"], call["cluster"]) == (called, "192.0.2.0/24", "rack-b")
        refusal = errors.LastServing("rack-b is the only one that serves this subnet")
        server.region.pairs.answers["end"] = refusal
        refused = await run("subnets", "unpair", "192.0.2.0/24", "rack-b", env=env)
        check_one_line(refused, 1, "last-serving-cluster: rack-b is the only one")
        shown = (await run("subnets", "show", "192.0.2.0/24", env=env)).stdout
        assert "rack-b (eth2) is on this network, too" in shown
        assert "regionctl subnets confirm-pair sn-0000000005 rack-b" in shown
        split = replace(CLUSTER_ON_SUBNET, nics=(), other_vrfs=("blue",), role="serving")
        server.region.pairs.answers["clusters_on"] = [split]
        shown = (await run("subnets", "show", "192.0.2.0/24", env=env)).stdout
        assert "rack-b has this network in VRF blue, and shares no host maps with this subnet" in shown
