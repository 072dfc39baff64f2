"""regionctl about routing domains, and what is in them."""

import json

import pytest_twisted

from regiond.domain import errors
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_vrfs() -> None:
    async with serving() as server:
        env, vrfs = over_tcp(server), server.region.vrfs
        listed = await run("vrfs", "list", env=env)
        assert [line.split("  ")[0] for line in listed.stdout.splitlines()] == ["ID", "vr-000000000e"]
        assert listed.stdout.splitlines()[1].split(maxsplit=4) == [
            *("vr-000000000e", "blue", "1", "1", "the other site")
        ]
        assert (await run("vrfs", "add", "blue", "--comment", "new", env=env)).stdout == listed.stdout
        assert (vrfs.calls[-1][1]["name"], vrfs.calls[-1][1]["comment"]) == ("blue", "new")
        await run("vrfs", "set", "blue", "--comment", "", env=env)
        assert (vrfs.calls[-1][0], vrfs.calls[-1][1]["comment"]) == ("change_vrf", None)
        assert (await run("vrfs", "remove", "blue", env=env)).stdout == "blue is removed\n"
        vrfs.answers["remove_vrf"] = errors.VrfInUse("VRF blue has 1 subnets", subnets=1, clusters=0)
        check_one_line(await run("vrfs", "remove", "blue", env=env), 1, "vrf-in-use: VRF blue has 1 subnets")
        check_one_line(await run("vrfs", "add", "no name", env=env), 1, "not a name")


@pytest_twisted.ensureDeferred
async def test_what_is_in_them() -> None:
    async with serving() as server:
        env, vrfs, edits = over_tcp(server), server.region.vrfs, server.region.cluster_edits
        changed = await run("clusters", "set", "rack-a", "--vrf", "blue", env=env)
        assert changed.stdout == "rack-a is in VRF default and serves 192.0.2.0/24\n"
        name, call = edits.calls[-1]
        assert (name, call["cluster"], call["vrf"], call["force"]) == ("change_cluster", "rack-a", "blue", False)
        await run("clusters", "set", "rack-a", "--vrf", "blue", "--force", env=env)
        assert (edits.calls[-1][1]["force"], edits.calls[-1][1]["pairs"]) == (True, False)
        await run("clusters", "set", "rack-a", "--vrf", "blue", "--with-pairs", env=env)
        assert (edits.calls[-1][1]["force"], edits.calls[-1][1]["pairs"]) == (False, True)
        edits.answers["change_cluster"] = errors.SubnetsLeftBehind("it would stop serving", subnets=["192.0.2.0/24"])
        refused = await run("clusters", "set", "rack-a", "--vrf", "blue", env=env)
        check_one_line(refused, 1, "subnets-left-behind: it would stop serving")
        added = await run("subnets", "add", "10.0.0.0/24", "--vrf", "blue", "--release-hold", "5m", env=env)
        assert added.stdout.split() == ["id", "sn-0000000005", "network", "192.0.2.0/24", "vrf", "default"]
        _, call = vrfs.calls[-1]
        assert (call["cidr"], call["vrf"], call["release_hold_seconds"]) == ("10.0.0.0/24", "blue", 300)
        check_one_line(await run("subnets", "add", "10.0.0.1/24", env=env), 1, "the network is 10.0.0.0/24")
        assert (await run("subnets", "remove", "10.0.0.0/24", env=env)).stdout == "10.0.0.0/24 is removed\n"
        assert (await run("subnets", "list", "--vrf", "blue", env=env)).stdout.count("\n") == 1
        assert len(json.loads((await run("subnets", "list", "--vrf", "default", "--json", env=env)).stdout)) == 1
