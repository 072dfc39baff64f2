"""`regionctl adopt` and `regionctl clusters dhcp-server`: what they print, what they ask, exit codes."""

import json
from dataclasses import replace
from typing import Any

import pytest_twisted

from clusterd.protocol.values import ServerEntry
from regiond.domain.first_contact import Adoption, AdoptionResult, Contact
from tests.fakes.use_cases import CONTACT_VIEW, FOREIGN_ENTRY, MAPPED_VIEW
from tests.regiond.ctl.test_regionctl import over_tcp, run
from tests.regiond.http.serving import serving

HOLDER = replace(MAPPED_VIEW.reservation, macs=("00:16:3e:00:00:20",), client_id=None)
NAMELESS = replace(FOREIGN_ENTRY, id=17, entry=ServerEntry("192.0.2.21", (), "by-name", "/etc/dnsmasq.conf:9"))


@pytest_twisted.ensureDeferred
async def test_without_yes_nothing_is_changed() -> None:
    async with serving() as server:
        server.region.adoptions.answers["entries"] = [FOREIGN_ENTRY]
        shown = await run("adopt", "rack-a", env=over_tcp(server))
        assert shown.exit_code == 0
        assert shown.stdout.splitlines()[1].split("  ")[0] == "192.0.2.20"
        assert "would be adopted" in shown.stdout and "/etc/dnsmasq.conf:8" in shown.stdout
        assert shown.stdout.splitlines()[-1] == (
            "0 adopted, 1 can be adopted, 0 in conflict; nothing was changed: add --yes to do it"
        )
        assert [name for name, _ in server.region.adoptions.calls] == ["entries"]


@pytest_twisted.ensureDeferred
async def test_with_yes_what_is_possible_is_done_and_every_conflict_is_listed() -> None:
    async with serving() as server:
        region = server.region.adoptions

        async def adopt(**asked: Any) -> list[AdoptionResult]:
            assert (asked["entries"], asked["owner"]) == (["fe-000000000g"], "alice")
            region.answers["entries"] = [replace(FOREIGN_ENTRY, holder=HOLDER), NAMELESS]
            return [AdoptionResult(16, Adoption.DONE, None, 8)]

        region.answers.update(entries=[FOREIGN_ENTRY, NAMELESS], adopt=adopt)
        options = ["--subnet", "192.0.2.0/24", "--owner", "alice", "--yes"]
        done = await run("adopt", "rack-a", *options, env=over_tcp(server))
        assert done.exit_code == 1
        lines = done.stdout.splitlines()
        assert "CONFLICT  the entry names no MAC address" in lines[2]
        assert lines[-2] == "1 adopted, 0 can be adopted, 1 in conflict"
        assert lines[-1].startswith("What is adopted is still in the server's own configuration: delete it and restart")
        assert region.calls[0][1]["subnet"] == "192.0.2.0/24"


@pytest_twisted.ensureDeferred
async def test_a_conflict_that_came_meanwhile_is_listed_too() -> None:
    async with serving() as server:
        region = server.region.adoptions
        region.answers.update(
            entries=[FOREIGN_ENTRY], adopt=[AdoptionResult(16, Adoption.CONFLICT, "taken a moment ago", None)]
        )
        done = await run("adopt", "rack-a", "--yes", "--json", env=over_tcp(server))
        [entry] = json.loads(done.stdout)
        assert (done.exit_code, entry["adoption"], entry["reason"]) == (1, "conflict", "taken a moment ago")


@pytest_twisted.ensureDeferred
async def test_what_a_server_has() -> None:
    async with serving() as server:
        shown = (await run("clusters", "dhcp-server", "rack-a", env=over_tcp(server))).stdout
        assert "192.0.2.100 to 192.0.2.150 (/etc/dnsmasq.conf:7), CONFLICT: 1 reserved addresses are in it" in shown
        server.region.adoptions.answers["contact"] = replace(
            CONTACT_VIEW, contact=Contact.AWAITED, error="no permission", remarks=("line 7 is odd",), pools=()
        )
        shown = (await run("clusters", "dhcp-server", "rack-a", env=over_tcp(server))).stdout
        assert "nothing is claimed on its subnets" in shown
        assert "no permission" in shown and "line 7 is odd" in shown
