"""regionctl about what an admin changes of clusters and their interfaces."""

from dataclasses import replace

import pytest_twisted

from regiond.domain import errors
from tests.fakes.use_cases import CLUSTER_VIEW, INTERFACE_VIEW
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_another_name() -> None:
    async with serving() as server:
        env, edits = over_tcp(server), server.region.cluster_edits
        edits.answers["change_cluster"] = replace(CLUSTER_VIEW, name="rack-b")
        renamed = await run("clusters", "set", "rack-a", "--name", "rack-b", env=env)
        assert renamed.stdout == "rack-b is in VRF default and serves 192.0.2.0/24\n"
        _, call = edits.calls[-1]
        assert (call["cluster"], call["name"], call["vrf"]) == ("rack-a", "rack-b", None)
        check_one_line(await run("clusters", "set", "rack-a", env=env), 2, "give --name, --vrf or both")
        edits.answers["change_cluster"] = errors.NameTaken("another cluster is called rack-b")
        refused = await run("clusters", "set", "rack-a", "--name", "rack-b", env=env)
        check_one_line(refused, 1, "name-taken: another cluster is called rack-b")


@pytest_twisted.ensureDeferred
async def test_whether_a_network_is_served() -> None:
    async with serving() as server:
        env, edits = over_tcp(server), server.region.cluster_edits
        served = await run("clusters", "serve", "ci-0000000008", env=env)
        assert served.stdout == "rack-a serves 192.0.2.0/24 by eth1\n"
        edits.answers["change_interface"] = replace(INTERFACE_VIEW, serving="declined")
        declined = await run("clusters", "serve", "ci-0000000008", "--no", "--force", env=env)
        assert declined.stdout == "rack-a does not serve 192.0.2.0/24 by eth1\n"
        told = [(call["interface"], call["serve"], call["force"]) for _, call in edits.calls]
        assert told == [("ci-0000000008", True, False), ("ci-0000000008", False, True)]
        edits.answers["change_interface"] = errors.LastServing("rack-a is the only one")
        refused = await run("clusters", "serve", "ci-0000000008", "--no", env=env)
        check_one_line(refused, 1, "last-serving-cluster: rack-a is the only one")
