"""regionctl about devices, nodes and the nodes' addresses."""

import json
from dataclasses import replace

import pytest
import pytest_twisted

from regiond.domain.reservations import Kind
from tests.fakes.use_cases import DEVICE_VIEW, MAPPED_VIEW, RELEASING_VIEW
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving

NET = "192.0.2.0/24"
DEVICE = "dv-0000000006"
NODE = "nd-0000000004"
MAC = "00:16:3e:00:00:07"
ALIAS_VIEW = replace(
    MAPPED_VIEW,
    reservation=replace(MAPPED_VIEW.reservation, kind=Kind.NODE, device=None, node=4, alias="eth0:1", macs=()),
)


@pytest_twisted.ensureDeferred
async def test_devices() -> None:
    async with serving() as server:
        env, claims = over_tcp(server), server.region.claims
        listed = await run("devices", "list", env=env)
        row = [DEVICE, "192.0.2.7", "active", "pending", MAC, "web1", "root", NET, "rs-0000000008"]
        assert [line.split() for line in listed.stdout.splitlines()] == [
            ["ID", "ADDRESS", "STATUS", "HOST", "MAP", "CLIENT", "HOSTNAME", "OWNER", "SUBNET", "RESERVATION"],
            row,
        ]
        arguments = ["--interface", NET, "--mac", MAC, "--mac", "00163e000008", "--hostname", "web1", "--owner", "bob"]
        made = await run("devices", "claim", *arguments, "--wait", "1.5", "--force", "--no-probe", env=env)
        assert made.stdout == listed.stdout
        name, call = claims.calls[-1]
        assert (name, call["interface"], call["macs"]) == ("create_device", NET, (MAC, "00:16:3e:00:00:08"))
        assert (call["hostname"], call["owner"], call["address"], call["force"]) == ("web1", "bob", None, True)
        assert (call["context"].wait_seconds, call["context"].probe) == (1.5, False)
        shown = (await run("devices", "show", DEVICE, env=env)).stdout.splitlines()
        assert "address    192.0.2.7 on 192.0.2.0/24 in default (rs-0000000008), active" in shown
        assert shown[-1] == "on rack-a  pending at generation 4 since 2026-01-31T12:00:00.123Z"
        await run("devices", "set", DEVICE, "--mac", MAC, "--hostname", "", "--owner", "bob", env=env)
        name, call = server.region.edits.calls[-1]
        assert (name, call["device_id"]) == ("change_device", DEVICE)
        assert call["changes"] == {"macs": [MAC], "hostname": None, "owner": "bob"}
        gone = await run("devices", "release", DEVICE, "dv-0000000007", env=env)
        assert gone.stdout.splitlines()[1] == "dv-0000000007 is gone, and its addresses are free"
        claims.answers["delete_device"] = [RELEASING_VIEW, RELEASING_VIEW]
        waiting = await run("devices", "release", DEVICE, "--force", env=env)
        assert waiting.stdout == "rs-0000000008 (192.0.2.7) is releasing: cluster rack-a has to confirm\n" * 2
        assert claims.calls[-1][1]["force"] is True
        as_json = await run("devices", "release", DEVICE, "--json", env=env)
        assert [each["status"] for each in json.loads(as_json.stdout)["releasing"]] == ["releasing"] * 2
        claims.answers["list_devices"] = ([replace(DEVICE_VIEW, reservations=())], False)
        assert (await run("devices", "list", env=env)).stdout.splitlines()[1].split() == [
            *(DEVICE, "-", "-", "-", "-", "web1", "root", "-", "-")
        ]
        for command in (["list"], ["show", DEVICE], ["claim", *arguments], ["set", DEVICE, "--comment", "x"]):
            assert DEVICE in str(json.loads((await run("devices", *command, "--json", env=env)).stdout))


@pytest_twisted.ensureDeferred
async def test_nodes() -> None:
    async with serving() as server:
        env, claims = over_tcp(server), server.region.claims
        listed = await run("nodes", "list", env=env)
        assert [line.split() for line in listed.stdout.splitlines()] == [
            ["ID", "HOSTNAME", "MACS", "OWNER", "CREATED", "COMMENT"],
            [NODE, "node1", "00:16:3e:00:00:01", "alice", "2026-01-31T12:00:00.123Z", "-"],
        ]
        made = await run("nodes", "add", "node1", "--mac", MAC, "--owner", "alice", "--comment", "rack 7", env=env)
        assert made.stdout == listed.stdout
        name, call = claims.calls[-1]
        assert (name, call["hostname"], call["macs"]) == ("create_node", "node1", (MAC,))
        assert (call["owner"], call["comment"]) == ("alice", "rack 7")
        shown = (await run("nodes", "show", NODE, env=env)).stdout.splitlines()
        assert shown[0].split() == ["id", NODE] and shown[-1].split()[:2] == ["rs-0000000008", "192.0.2.7"]
        as_json = json.loads((await run("nodes", "show", NODE, "--json", env=env)).stdout)
        assert (as_json["hostname"], as_json["addresses"][0]["address"]) == ("node1", "192.0.2.7")
        arguments = ["--replaced-mac", MAC, "00:16:3e:00:00:09", "--comment", ""]
        await run("nodes", "set", NODE, *arguments, env=env)
        assert server.region.edits.calls[-1][1]["changes"] == {
            "replaced_macs": {MAC: "00:16:3e:00:00:09"},
            "comment": None,
        }
        assert (await run("nodes", "remove", NODE, env=env)).stdout == f"{NODE} is gone, and its addresses are free\n"
        claims.answers["delete_node"] = [RELEASING_VIEW]
        waiting = await run("nodes", "remove", NODE, "--force", env=env)
        assert waiting.stdout == "rs-0000000008 (192.0.2.7) is releasing: cluster rack-a has to confirm\n"
        assert claims.calls[-1][1]["force"] is True


@pytest_twisted.ensureDeferred
async def test_addresses_of_nodes() -> None:
    async with serving() as server:
        env, claims = over_tcp(server), server.region.claims
        for view in (ALIAS_VIEW, MAPPED_VIEW):
            claims.answers.update(claim_node_address=(view, True), list_node_addresses=[view])
            listed = await run("nodes", "addresses", "list", NODE, env=env)
            made = await run("nodes", "addresses", "claim", NODE, "--interface", NET, "--alias", "eth0:1", env=env)
            assert made.stdout == listed.stdout and listed.stdout.splitlines()[1].split()[:6] == [
                *("rs-0000000008", "192.0.2.7", "active", "pending", "web1", NET)
            ]
        name, call = claims.calls[-1]
        assert (name, call["node_id"], call["interface"], call["alias"]) == ("claim_node_address", NODE, NET, "eth0:1")
        options = ["--mac", MAC, "--address", "192.0.2.9", "--hostname", "n1b", "--wait", "0", "--force", "--probe"]
        as_json = await run("nodes", "addresses", "claim", NODE, "--interface", NET, *options, "--json", env=env)
        assert json.loads(as_json.stdout)["id"] == "rs-0000000008"
        _, call = claims.calls[-1]
        assert (call["mac"], call["address"], call["hostname"], call["force"]) == (MAC, "192.0.2.9", "n1b", True)
        assert (call["context"].wait_seconds, call["context"].probe) == (0.0, True)
        free = await run("nodes", "addresses", "release", NODE, "rs-0000000008", "rs-0000000009", env=env)
        assert free.stdout == "rs-0000000008 is free\nrs-0000000009 is free\n"
        assert (claims.calls[-1][1]["node_id"], claims.calls[-1][1]["force"]) == (NODE, False)
        claims.answers["release_node_address"] = [RELEASING_VIEW]
        waiting = await run("nodes", "addresses", "release", NODE, "rs-0000000008", "--force", env=env)
        assert waiting.stdout == "rs-0000000008 (192.0.2.7) is releasing: cluster rack-a has to confirm\n"
        assert claims.calls[-1][1]["force"] is True


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["devices", "claim", "--interface", NET], "say who it is, with --mac or --duid"),
        (["devices", "claim", "--mac", MAC], "--interface"),
        (["devices", "set", DEVICE], "say what to change"),
        (["nodes", "set", NODE], "say what to change"),
        (["nodes", "set", NODE, "--replaced-mac", MAC], "--replaced-mac"),
        (["nodes", "addresses", "claim", NODE, "--interface", NET], "say whom it is for"),
    ],
)
async def test_what_is_not_even_sent(arguments: list[str], says: str) -> None:
    check_one_line(await run(*arguments), 2, says)
