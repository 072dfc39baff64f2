"""regionctl about what a cluster sees."""

import json
from dataclasses import replace

import pytest_twisted

from regiond.use_cases.topologies import Topology
from tests.fakes.use_cases import CLUSTER_VIEW, INTERFACE_VIEW
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_the_interfaces_of_a_cluster_and_what_to_do_about_them() -> None:
    interfaces = [
        INTERFACE_VIEW,
        replace(INTERFACE_VIEW, id=21, nic="eth2", serving="shared-subnet", vlan=7, kind="vlan", up=False),
        replace(INTERFACE_VIEW, id=22, nic="eth3", serving="unserved", relayed=True),
        replace(INTERFACE_VIEW, id=23, nic="eth4", serving="conflict", subnet=None, conflict="there is no VRF blue"),
        replace(INTERFACE_VIEW, id=24, nic="eth5", present=False, serving="shared-subnet"),
        replace(INTERFACE_VIEW, id=25, nic="eth6", serving="declined"),
    ]
    async with serving() as server:
        env = over_tcp(server)
        server.region.topologies.answers["topology"] = Topology(CLUSTER_VIEW, interfaces)
        shown = (await run("clusters", "topology", "rack-a", env=env)).stdout
        table = shown.split("\n\n")[1].splitlines()
        assert [line.split()[1] for line in table] == ["NIC", "eth1", "eth2", "eth3", "eth4", "eth5", "eth6"]
        assert table[2].split()[4:8] == ["vlan", "7", "down", "shared-subnet"]
        assert "relayed via" in table[3]
        assert "absent" in table[5]
        notes = shown.split("\n\n")[2].splitlines()
        assert len(notes) == 4
        assert "regionctl subnets confirm-pair sn-0000000005 rack-a" in notes[0]
        assert "regionctl clusters set rack-a --vrf NAME" in notes[0]
        assert "until somebody says so" in notes[1]
        assert notes[2].endswith("is not served: there is no VRF blue")
        assert notes[3].endswith("as an admin wants it; the way back: regionctl clusters serve ci-000000000s")
        as_json = json.loads((await run("clusters", "topology", "rack-a", "--json", env=env)).stdout)
        assert (as_json["present"], as_json["absent"], as_json["conflicts"], as_json["waiting"]) == (5, 1, 1, 2)


@pytest_twisted.ensureDeferred
async def test_what_happened_to_them() -> None:
    async with serving() as server:
        env = over_tcp(server)
        shown = await run("clusters", "topology", "rack-a", "--history", "--nic", "eth1", "--change", "moved", env=env)
        assert shown.stdout.splitlines()[1].split(maxsplit=7) == [
            *("2026-01-31T12:00:00.123Z", "moved", "eth1", "192.0.2.0/24", "default", "serving", "ci-0000000008"),
            "from 198.51.100.0/24 (ci-0000000007)",
        ]
        _, call = server.region.topologies.calls[-1]
        assert (call["cluster"], call["filters"]) == ("rack-a", {"nic": ["eth1"], "change": ["moved"]})
        (listed,) = json.loads((await run("clusters", "topology", "rack-a", "--history", "--json", env=env)).stdout)
        assert (listed["id"], listed["after"]["interface"]) == ("ic-000000000f", "ci-0000000008")
        check_one_line(await run("clusters", "topology", "rack-a", "--nic", "eth1", env=env), 2, "go with --history")
