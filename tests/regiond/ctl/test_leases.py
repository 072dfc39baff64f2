"""`regionctl leases`: what it prints and asks, and that a list which is not complete says so."""

import json
from dataclasses import replace

import pytest_twisted

from regiond.domain.leases import LeaseListing, LeaseSource, leased_to_another
from tests.fakes.use_cases import FOUND_LEASE, LEASE_LISTING, RESERVATION_VIEW
from tests.regiond.ctl.test_regionctl import over_tcp, run
from tests.regiond.http.serving import serving

COMPLETE = replace(LEASE_LISTING, sources=LEASE_LISTING.sources[:1], following=None)


@pytest_twisted.ensureDeferred
async def test_a_line_for_each_lease() -> None:
    async with serving() as server:
        server.region.leases.answers["on_subnet"] = COMPLETE
        done = await run("leases", "192.0.2.0/24", "--mac", "00:16:3e:00:00:77", env=over_tcp(server))
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1].split() == [
            "192.0.2.101",
            "00:16:3e:00:00:77",
            "guest",
            "2027-01-15T08:00:00.000Z",
            "rs-0000000008",
            "rack-a",
        ]
        [(_, asked)] = server.region.leases.calls
        assert (asked["subnet"], asked["macs"], asked["limit"]) == ("192.0.2.0/24", ["00:16:3e:00:00:77"], 1000)


@pytest_twisted.ensureDeferred
async def test_all_pages_and_who_is_missing() -> None:
    async with serving() as server:
        missing = (LEASE_LISTING.sources[0], LeaseSource(10, "rack-b", "no\nanswer"))

        async def on_subnet(**asked: object) -> LeaseListing:
            return LEASE_LISTING if asked["after"] is None else replace(COMPLETE, sources=missing)

        server.region.leases.answers["on_subnet"] = on_subnet
        done = await run("leases", "192.0.2.0/24", "--json", env=over_tcp(server))
        found = json.loads(done.stdout)
        assert (done.exit_code, len(found["leases"]), found["complete"]) == (1, 2, False)
        assert done.stderr == "not from cluster rack-b: no\\nanswer\n"
        assert [call["after"] for _, call in server.region.leases.calls] == [None, "192.0.2.101"]


@pytest_twisted.ensureDeferred
async def test_a_refused_claim_names_the_client_and_can_be_forced() -> None:
    async with serving() as server:
        claims = server.region.claims
        claims.answers["reserve"] = leased_to_another([FOUND_LEASE])
        arguments = ("reservations", "claim", "--address", "192.0.2.101")
        refused = await run(*arguments, env=over_tcp(server))
        assert refused.exit_code == 1
        assert "leased-to-another: another client has a lease on 192.0.2.101" in refused.stderr
        assert "leased to: 00:16:3e:00:00:77 until 2027-01-15T08:00:00.000Z" in refused.stderr
        claims.answers["reserve"] = ([RESERVATION_VIEW], True)
        assert (await run(*arguments, "--force", env=over_tcp(server))).exit_code == 0
        assert [call["force"] for _, call in claims.calls] == [False, True]
