"""regionctl about addresses that somebody uses, and about probing."""

import pytest_twisted

from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving

NET = "192.0.2.0/24"


@pytest_twisted.ensureDeferred
async def test_marks() -> None:
    async with serving() as server:
        env = over_tcp(server)
        listed = await run("in-use", "list", NET, env=env)
        assert [line.split() for line in listed.stdout.splitlines()] == [
            ["ID", "ADDRESS", "MAC", "SEEN", "BY", "SINCE", "LAST", "SEEN", "EXPIRES"],
            ["iu-000000000h", "192.0.2.66", "00:16:3e:00:00:66", "rack-a", *["2026-01-31T12:00:00.123Z"] * 3],
        ]
        for arguments in (["192.0.2.66"], ["--all"]):
            cleared = await run("in-use", "clear", NET, *arguments, env=env)
            assert cleared.stdout == "192.0.2.66 can be handed out again\n"
            name, call = server.region.in_use.calls[-1]
            assert (name, call["mark"]) == ("clear", "iu-000000000h")
        check_one_line(await run("in-use", "clear", NET, "192.0.2.67", env=env), 2, "not marked", "192.0.2.67")
        check_one_line(await run("in-use", "clear", NET, "here", env=env), 2, "not an IP address")
        check_one_line(await run("in-use", "clear", NET, env=env), 2, "--all")
        check_one_line(await run("in-use", "clear", NET, "192.0.2.66", "--all", env=env), 2, "--all")


@pytest_twisted.ensureDeferred
async def test_probing() -> None:
    async with serving() as server:
        env = over_tcp(server)
        for option, said in (("--probe", True), ("--no-probe", False)):
            await run("subnets", "set", NET, option, env=env)
            assert server.region.subnets.calls[-1][1]["probe"] is said
            await run("reservations", "claim", "--interface", NET, option, env=env)
            assert server.region.claims.calls[-1][1]["context"].probe is said
        await run("reservations", "claim", "--interface", NET, env=env)
        assert server.region.claims.calls[-1][1]["context"].probe is None
        shown = (await run("reservations", "show", "rs-0000000007", env=env)).stdout
        assert "probed" not in shown
