"""regionctl about subnets, ranges, checks, the audit, limits, and what a release waits for."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted

from regiond.ctl import check
from regiond.ctl.check import PROGRESS_SECONDS
from regiond.domain import errors
from regiond.domain.views import Finding
from tests.fakes.use_cases import (
    AUDIT_ENTRY,
    CHECK_REPORT,
    MAPPED_VIEW,
    RANGE,
    RELEASING_VIEW,
    RESERVATION,
    SUBNET_VIEW,
)
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
async def test_ranges() -> None:
    async with serving() as server:
        env = over_tcp(server)
        listed = await run("ranges", "list", "192.0.2.0/24", env=env)
        assert listed.stdout.splitlines() == [
            "ID             KIND     LOW          HIGH         REPORTED BY  COMMENT",
            "rg-000000000d  dynamic  192.0.2.100  192.0.2.150  -            leases",
        ]
        arguments = ["192.0.2.0/24", "192.0.2.100", "192.0.2.150", "--kind", "dynamic", "--comment", "leases"]
        added = await run("ranges", "add", *arguments, "--force", env=env)
        assert added.stdout == listed.stdout
        name, call = server.region.subnets.calls[-1]
        assert (name, call["subnet"], call["kind"], call["force"]) == ("add_range", "192.0.2.0/24", "dynamic", True)
        assert (call["low"], call["high"], call["comment"]) == ("192.0.2.100", "192.0.2.150", "leases")
        await run("ranges", "change", "sn-0000000005", "rg-000000000d", "--high", "192.0.2.9", "--comment", "", env=env)
        name, call = server.region.subnets.calls[-1]
        assert (name, call["changes"], call["force"]) == (
            "change_range",
            {"high": "192.0.2.9", "comment": None},
            False,
        )
        removed = await run("ranges", "remove", "sn-0000000005", "rg-000000000d", "rg-000000000e", env=env)
        assert removed.stdout == "rg-000000000d is removed\nrg-000000000e is removed\n"
        check_one_line(await run("ranges", "change", "sn-0000000005", "rg-000000000d", env=env), 2, "what to change")
        check_one_line(await run("ranges", "add", *arguments[:3], env=env), 2, "--kind")


@pytest_twisted.ensureDeferred
async def test_a_refused_range_tells_who_has_its_addresses() -> None:
    async with serving() as server:
        held = [replace(RESERVATION, id=n, address=f"192.0.2.{n}") for n in range(1, 101)]
        refusal = errors.RangeOverReservations("113 addresses are reserved", count=113, reservations=held)
        server.region.subnets.answers["add_range"] = refusal
        arguments = ["192.0.2.0/24", "192.0.2.1", "192.0.2.150", "--kind", "dynamic"]
        refused = await run("ranges", "add", *arguments, env=over_tcp(server))
        check_one_line(refused, 1, "range-over-reservations: 113 addresses", "192.0.2.1 (rs-0000000001 of alice)")
        assert refused.stderr.endswith("192.0.2.10 (rs-000000000a of alice), …\n")
        server.region.subnets.answers["add_range"] = errors.RangeOverlap("it overlaps another", range=RANGE)
        check_one_line(await run("ranges", "add", *arguments, env=over_tcp(server)), 1, "range-overlap: it overlaps")


@pytest_twisted.ensureDeferred
async def test_subnets() -> None:
    async with serving() as server:
        env = over_tcp(server)
        listed = await run("subnets", "list", env=env)
        assert listed.stdout.splitlines()[1].split() == [
            *("sn-0000000005", "192.0.2.0/24", "default", "rack-a", "3", "1", "5")
        ]
        shown = (await run("subnets", "show", "192.0.2.0/24", env=env)).stdout.splitlines()
        assert [line.split("  ")[0] for line in shown] == [
            *("id", "network", "vrf", "served by", "generation", "release hold", "claimants", "probed", "claimable"),
            "not serving",
            *("usable", "reserved", "releasing", "in ranges", "infrastructure", "static entries", "in use", "free"),
            *("dynamic range", "lowest free"),
        ]
        assert "reserved        2 (1 device, 0 node, 1 user)" in shown
        assert "dynamic range   192.0.2.100 to 192.0.2.150 (rg-000000000d)" in shown
        assert shown[-1] == "lowest free     192.0.2.2"
        as_json = json.loads((await run("subnets", "show", "192.0.2.0/24", "--json", env=env)).stdout)
        assert (as_json["cidr"], as_json["utilisation"]["free"]) == ("192.0.2.0/24", 199)
        for text, seconds in (("15m", 900), ("0", 0)):
            changed = await run("subnets", "set", "192.0.2.0/24", "--release-hold", text, env=env)
            assert "release hold  600 s" in changed.stdout
            assert server.region.subnets.calls[-1][1]["release_hold_seconds"] == seconds
        check_one_line(await run("subnets", "set", "x", "--release-hold", "soon", env=env), 2, "no duration")
        check_one_line(await run("subnets", "set", "x", env=env), 2, "say what to set")
        for option, said in (("--claimable-anyway", True), ("--claimable-when-reported", False)):
            await run("subnets", "set", "192.0.2.0/24", option, env=env)
            assert server.region.subnets.calls[-1][1]["claimable_anyway"] is said
        for text, who in (("everyone", "everyone"), ("admins", "admins"), ("alice,bob", ["alice", "bob"])):
            await run("subnets", "set", "192.0.2.0/24", "--claimants", text, env=env)
            assert server.region.subnets.calls[-1][1]["claimants"] == who
        server.region.inventory.answers["subnet"] = replace(SUBNET_VIEW, claimants=("alice", "bob"), recovering=True)
        shown = (await run("subnets", "show", "sn-0000000005", env=env)).stdout.splitlines()
        assert "claimants       admins, alice, bob" in shown
        assert "claimable       not before its clusters were heard: regionctl recover" in shown


@pytest_twisted.ensureDeferred
async def test_a_check_is_a_line_for_each_finding_and_1() -> None:
    async with serving() as server:
        env = over_tcp(server)
        sound = await run("check", env=env)
        assert (sound.exit_code, sound.stdout, sound.stderr) == (0, "", "1 subnets checked, 0 findings\n")
        findings = (Finding("digest-wrong", "bad \x1b[31m"), Finding("never-allocated", "192.0.2.7 would never be"))
        server.region.subnets.answers["check"] = replace(CHECK_REPORT, findings=findings)
        damaged = await run("check", "192.0.2.0/24", "10.0.0.0/8", env=env)
        assert damaged.exit_code == 1
        assert (
            damaged.stdout.splitlines()
            == [
                r"192.0.2.0/24 in default: digest-wrong: bad \x1b[31m",
                "192.0.2.0/24 in default: never-allocated: 192.0.2.7 would never be",
            ]
            * 2
        )
        assert damaged.stderr == "2 subnets checked, 4 findings\n"
        assert [call["subnet"] for _, call in server.region.subnets.calls[1:]] == ["192.0.2.0/24", "10.0.0.0/8"]
        as_json = await run("check", "--json", env=env)
        assert as_json.exit_code == 1 and json.loads(as_json.stdout)[0]["sound"] is False


@pytest_twisted.ensureDeferred
async def test_a_repair_is_followed_by_a_check_of_that_subnet_only() -> None:
    async with serving() as server:
        repaired = await run("check", "--repair", "192.0.2.0/24", env=over_tcp(server))
        assert (repaired.exit_code, repaired.stderr) == (0, "1 subnets checked, 0 findings\n")
        [(name, call)] = server.region.subnets.calls
        assert (name, call["subnet"]) == ("repair", "192.0.2.0/24")
        assert call["context"].idempotency_key


@pytest_twisted.ensureDeferred
async def test_a_long_check_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    began = [0.0]
    checks = [part * PROGRESS_SECONDS for part in (0.0, 0.6, 1.2, 1.2)]  # the last twice: looked at, and remembered
    monkeypatch.setattr(check, "time", SimpleNamespace(monotonic=iter(began + checks).__next__))
    async with serving() as server:
        server.region.inventory.answers["subnets"] = [replace(SUBNET_VIEW, id=n) for n in range(3)]
        server.region.subnets.answers["check"] = CHECK_REPORT
        result = await run("check", env=over_tcp(server))
        assert result.stderr == "2 of 3 subnets checked\n3 subnets checked, 0 findings\n"


@pytest_twisted.ensureDeferred
async def test_the_audit() -> None:
    async with serving() as server:
        env = over_tcp(server)
        changed = replace(
            AUDIT_ENTRY,
            action="range.change",
            before={"low": "192.0.2.1", "high": "192.0.2.9"},
            after={"low": "192.0.2.1", "high": "192.0.2.5", "comment": "x"},
        )
        gone = replace(AUDIT_ENTRY, action="token.revoke", before={"name": "laptop"}, after=None)
        bare = replace(AUDIT_ENTRY, action="device.delete", after=None)
        server.region.audit.answers["entries"] = [AUDIT_ENTRY, changed, gone, bare]
        filters = ["--object", "rg-000000000d", "--actor", "root", "--actor", "bob", "--request-id", "deploy-7"]
        times = ["--since", "2026-01-31T12:00:00Z", "--until", "2026-02-01T00:00:00+01:00"]
        result = await run("audit", "list", *filters, *times, "--limit", "7", env=env)
        header, *lines = result.stdout.splitlines()
        assert header.split() == ["AT", "ACTOR", "ACTION", "OBJECT", "REQUEST", "CHANGE"]
        assert lines[0].split() == [
            *("2026-01-31T12:00:00.123Z", "root", "range.add", "rg-000000000d", "deploy-7", "kind=dynamic")
        ]
        assert lines[1].endswith("  comment: null to x, high: 192.0.2.9 to 192.0.2.5")
        assert lines[2].endswith("  name=laptop") and lines[3].endswith("  -")
        [(_, call)] = server.region.audit.calls
        assert call["filters"] == {
            "object": ["rg-000000000d"],
            "actor": ["root", "bob"],
            "request_id": ["deploy-7"],
        }
        assert call["limit"] == 8
        assert [call[name].isoformat() for name in ("since", "until")] == [
            "2026-01-31T12:00:00+00:00",
            "2026-01-31T23:00:00+00:00",
        ]
        check_one_line(await run("audit", "list", "--since", "yesterday", env=env), 1, "?since", "2026-01-31T12:00:00Z")
        check_one_line(await run("audit", "list", env=over_tcp(server, "alice")), 1, "not-permitted")


@pytest_twisted.ensureDeferred
async def test_the_audit_is_read_no_further_than_asked_for() -> None:
    async def listed(*, limit: int, after: str | None, **_: Any) -> Any:
        return [replace(AUDIT_ENTRY, id=n) for n in range(5000, 5000 - limit, -1)]

    async with serving() as server:
        server.region.audit.answers["entries"] = listed
        result = await run("audit", "list", "--limit", "1500", "--json", env=over_tcp(server))
        assert len(json.loads(result.stdout)) == 1500
        assert [call["limit"] for _, call in server.region.audit.calls] == [1001, 1001]


@pytest_twisted.ensureDeferred
async def test_limits_of_an_account() -> None:
    async with serving() as server:
        env = over_tcp(server)
        result = await run(
            "accounts", "set", "alice", "--max-reservations", "10", "--max-reservations-per-subnet", "none", env=env
        )
        assert result.exit_code == 0, result.output
        name, call = server.region.accounts.calls[-1]
        assert (name, call["account_id"]) == ("change_account", "alice")
        assert call["changes"] == {"max_reservations": 10, "max_reservations_per_subnet": None}
        check_one_line(await run("accounts", "set", "alice", env=env), 2, "which limit")
        check_one_line(await run("accounts", "set", "alice", "--max-reservations", "-1", env=env), 2, "no limit")


@pytest_twisted.ensureDeferred
async def test_a_reservation_is_shown_with_what_its_release_waits_for() -> None:
    async with serving() as server:
        env = over_tcp(server)
        shown = (await run("reservations", "show", "rs-0000000007", env=env)).stdout.splitlines()
        assert shown[:6] == [
            "id        rs-0000000007",
            "address   192.0.2.7",
            "subnet    192.0.2.0/24 in default (sn-0000000005)",
            "kind      user",
            "status    active",
            "owner     alice",
        ]
        server.region.claims.answers["reservation"] = MAPPED_VIEW
        shown = (await run("reservations", "show", "rs-0000000008", env=env)).stdout.splitlines()
        assert "on rack-a  pending at generation 4 since 2026-01-31T12:00:00.123Z" in shown
        server.region.claims.answers["reservation"] = RELEASING_VIEW
        shown = (await run("reservations", "show", "rs-0000000008", env=env)).stdout.splitlines()
        assert shown[-1].split("  ") == ["waits for", "cluster rack-a has to confirm"]
        as_json = await run("reservations", "show", "rs-0000000008", "--json", env=env)
        assert json.loads(as_json.stdout)["waits_for"] == ["cluster rack-a has to confirm"]


@pytest.mark.parametrize("command", ["list", "add", "change", "remove"])
def test_help_says_how_to_name_a_subnet(command: str) -> None:
    from click.testing import CliRunner

    from regiond.ctl.main import cli

    assert "any selector" in CliRunner().invoke(cli, ["ranges", command, "--help"]).stdout
