"""`regionctl recover`: what an operator reads while the region's database is not what it was."""

from dataclasses import replace

import pytest_twisted

from regiond.domain import errors
from regiond.domain.recovery import FindingKind, FindingView
from tests.fakes.use_cases import NOW, RECOVERY_VIEW
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving


def finding(number: int, kind: FindingKind) -> FindingView:
    return FindingView(
        number, NOW, kind.value, 5, "192.0.2.0/24", f"192.0.2.{number}", number, f"the words of {number}"
    )


@pytest_twisted.ensureDeferred
async def test_what_goes_on_and_who_is_waited_for() -> None:
    async with serving() as server:
        shown = (await run("recover", env=over_tcp(server))).stdout
        lines = shown.splitlines()
        assert lines[0] == "state     recovering since 2026-01-31T12:00:00.123Z"
        assert lines[1:4] == ["reason    a backup was restored", "history   5d2e", "findings  1 recovered"]
        (cluster,) = [line for line in lines if line.startswith("cl-")]
        assert cluster.split()[1:] == ["rack-a", "no", "yes", "2026-01-31T12:00:00.123Z", "0.1.0"]
        (subnet,) = [line for line in lines if line.startswith("sn-")]
        assert subnet.split()[1:] == ["192.0.2.0/24", "default", "rack-a"]
        advice = lines[lines.index("Not heard yet:") + 1 :]
        assert advice[0].startswith("  rack-a: it is asked again and again")
        assert "--without NAME" in advice[1] and "--end --force" in advice[1]
        assert lines[-1] == "Reserved again: 1, see regionctl reservations list --kind recovered"
        assert "Worth a look" not in shown


@pytest_twisted.ensureDeferred
async def test_what_somebody_has_to_look_at_is_not_lost_among_what_is_reserved_again() -> None:
    async with serving() as server:
        doubtful = [finding(number, FindingKind.POSSIBLY_RELEASED) for number in (1, 2)]
        again = [finding(number, FindingKind.RECOVERED) for number in range(3, 100)]
        server.region.recovery.answers["recovery"] = replace(
            RECOVERY_VIEW,
            since=None,
            clusters=(),
            subnets=(),
            counts={"possibly-released": 5, "recovered": 900},
            findings=(*doubtful, *again),
        )
        lines = (await run("recover", env=over_tcp(server))).stdout.splitlines()
        assert lines[0] == "state     not recovering"
        listed = [line for line in lines if "the words of" in line]
        assert [line.split()[:2] for line in listed] == [["possibly-released", f"192.0.2.{n}"] for n in (1, 2)]
        assert "and 3 more, the earliest ones" in lines
        assert lines[-1].startswith("Reserved again: 900,")


@pytest_twisted.ensureDeferred
async def test_beginning_and_ending() -> None:
    async with serving() as server:
        env = over_tcp(server)
        assert "a backup was restored" in (await run("recover", "--begin", "the disk of db1 died", env=env)).stdout
        await run("recover", "--end", env=env)
        await run("recover", "--end", "--force", env=env)
        asked = [(name, call.get("reason", call.get("force"))) for name, call in server.region.recovery.calls]
        assert asked == [("begin", "the disk of db1 died"), ("end", False), ("end", True)]
        await run("recover", "--without", "rack-8", "--without", "rack-9", env=env)
        assert server.region.recovery.calls[-1][1]["without"] == ["rack-8", "rack-9"]
        check_one_line(await run("recover", "--begin", "x", "--end", env=env), 2, "--begin excludes")
        check_one_line(await run("recover", "--begin", "x", "--without", "y", env=env), 2, "--begin excludes")
        check_one_line(await run("recover", "--end", "--without", "y", env=env), 2, "leave out --without")
        check_one_line(await run("recover", "--force", env=env), 2, "--force goes with --end")
        server.region.recovery.answers["end"] = errors.NotAllHeard("were not heard: rack-a", clusters=["rack-a"])
        check_one_line(await run("recover", "--end", env=env), 1, "clusters-not-heard: were not heard: rack-a")
        server.region.recovery.answers["begin"] = errors.AlreadyRecovering("a recovery goes on already")
        check_one_line(await run("recover", "--begin", "x", env=env), 1, "already-recovering")


@pytest_twisted.ensureDeferred
async def test_what_is_reserved_again_can_be_listed() -> None:
    async with serving() as server:
        listed = await run("reservations", "list", "--kind", "recovered", env=over_tcp(server))
        assert listed.exit_code == 0, listed.stderr
        name, call = server.region.claims.calls[-1]
        assert (name, call["filters"]) == ("list_reservations", {"kind": ["recovered"]})
