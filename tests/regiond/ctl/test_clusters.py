"""regionctl about clusters: who may be one, and who not any more."""

import json
from dataclasses import replace

import pytest_twisted

from regiond.domain import errors
from tests.fakes.use_cases import CLUSTER_VIEW, NOW, OFFER
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_the_command_for_a_new_cluster_is_alone_on_stdout() -> None:
    async with serving() as server:
        env = over_tcp(server)
        made = await run("clusters", "enrol", "rack-b", "--expires-in", "2d", env=env)
        assert made.stdout == f"{OFFER.command}\n"
        assert made.stderr.startswith("To be run on the controller of cluster rack-b, once, until 2026-01-31T12:00:00")
        name, call = server.region.enrolment.calls[-1]
        assert (name, call["name"], call["seconds"]) == ("offer", "rack-b", 2 * 86400)
        told = json.loads((await run("clusters", "enrol", "rack-b", "--json", env=env)).stdout)
        assert (told["command"], told["fingerprint"]) == (OFFER.command, OFFER.fingerprint)
        assert server.region.enrolment.calls[-1][1]["seconds"] is None
        withdrawn = await run("clusters", "enrol", "rack-b", "--withdraw", env=env)
        assert withdrawn.stdout == "the command that was printed for rack-b is worthless now\n"
        assert server.region.enrolment.calls[-1][0] == "withdraw"
        check_one_line(await run("clusters", "enrol", "rack-b", "--expires-in", "8d", env=env), 1, "expires_in")
        server.region.enrolment.answers["offer"] = errors.NoClusterListener("set [clusters] listen")
        check_one_line(
            await run("clusters", "enrol", "rack-b", env=env), 1, "no-cluster-listener: set [clusters] listen"
        )


@pytest_twisted.ensureDeferred
async def test_a_cluster_is_shown_with_its_certificate() -> None:
    async with serving() as server:
        env = over_tcp(server)
        server.region.inventory.answers["cluster"] = replace(CLUSTER_VIEW, certificate_expires=NOW, turns_seen=NOW)
        shown = (await run("clusters", "show", "rack-a", env=env)).stdout.splitlines()
        assert "certificate expires  2026-01-31T12:00:00.123Z" in shown
        assert "two hosts seen       2026-01-31T12:00:00.123Z" in shown
        assert "revoked              -" in shown
        assert shown[-1].split()[:6] == ["192.0.2.0/24", "serving", "5", "5", "4", "-"]
        assert shown[-1].endswith("3 put right 2026-01-31T12:00:00.123Z")
        server.region.inventory.answers["clusters"] = [replace(CLUSTER_VIEW, revoked=NOW)]
        assert " revoked " in (await run("clusters", "list", env=env)).stdout


@pytest_twisted.ensureDeferred
async def test_revoking_and_forgetting() -> None:
    async with serving() as server:
        env = over_tcp(server)
        revoked = await run("clusters", "revoke", "rack-a", env=env)
        assert revoked.stdout == "rack-a is revoked; regionctl clusters enrol rack-a lets it in again\n"
        assert (await run("clusters", "forget", "rack-a", env=env)).stdout == "rack-a is forgotten\n"
        await run("clusters", "forget", "rack-a", "--dhcp-is-off", env=env)
        said = [call["dhcp_is_off"] for name, call in server.region.enrolment.calls if name == "forget"]
        assert said == [False, True]
        server.region.enrolment.answers["forget"] = errors.ClusterHoldsHostMaps("it may still serve", subnets=["x"])
        check_one_line(await run("clusters", "forget", "rack-a", env=env), 1, "cluster-holds-host-maps: it may still")
