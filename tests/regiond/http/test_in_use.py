"""Addresses that somebody uses over HTTP, and what is said of probing in requests and answers."""

from dataclasses import replace

import pytest
import pytest_twisted

from regiond.domain import errors
from tests.fakes.use_cases import RESERVATION, RESERVATION_VIEW
from tests.regiond.http.serving import serving
from tests.regiond.http.test_mistakes import check_problem

PATH = "/api/v1/subnets/sn-0000000005/in-use"
SHOWN = {
    "id": "iu-000000000h",
    "subnet": "sn-0000000005",
    "address": "192.0.2.66",
    "mac": "00:16:3e:00:00:66",
    "cluster": "rack-a",
    "since": "2026-01-31T12:00:00.123Z",
    "seen_at": "2026-01-31T12:00:00.123Z",
    "expires_at": "2026-01-31T12:00:00.123Z",
}


@pytest_twisted.ensureDeferred
async def test_marks_are_listed_and_cleared() -> None:
    async with serving() as server:
        assert (await server.request("GET", PATH)).json == [SHOWN]
        assert (await server.request("GET", PATH, token="alice")).json == [{**SHOWN, "mac": None}]
        assert (await server.request("DELETE", f"{PATH}/iu-000000000h")).status == 204
        name, call = server.region.in_use.calls[-1]
        assert (name, call["subnet"], call["mark"]) == ("clear", "sn-0000000005", "iu-000000000h")
        server.region.in_use.answers["clear"] = errors.NotFound("no such mark")
        check_problem(await server.request("DELETE", f"{PATH}/iu-000000000h"), 404, "not-found")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("query", "said"), [("", None), ("?probe=true", True), ("?probe=false&wait=1", False)])
async def test_a_claim_says_whether_it_is_probed(query: str, said: bool | None) -> None:
    device = {"interface": "192.0.2.0/24", "mac": "00:16:3e:00:00:01"}
    async with serving() as server:
        for path, body in (
            ("reservations", {"interface": "192.0.2.0/24"}),
            ("devices", device),
            ("nodes/nd-0000000004/addresses", device),
        ):
            assert (await server.request("POST", f"/api/v1/{path}{query}", body)).status == 201
            assert server.region.claims.calls[-1][1]["context"].probe is said
        members = {"members": [{"operation": "claim-device", **device}]}
        assert (await server.request("POST", f"/api/v1/batch{query}", members)).status == 200
        assert server.region.batches.calls[-1][1]["context"].probe is said


@pytest_twisted.ensureDeferred
async def test_what_is_answered_of_probing() -> None:
    async with serving() as server:
        for probed in (True, False, None):
            view = replace(RESERVATION_VIEW, reservation=replace(RESERVATION, probed=probed))
            server.region.claims.answers["reserve"] = ([view], True)
            reply = await server.request("POST", "/api/v1/reservations", {"interface": "192.0.2.0/24"})
            assert reply.json["probed"] is probed
        refusal = errors.NotProbed(
            "nobody can be asked", reasons=["cluster rack-a cannot be asked: it is not connected"]
        )
        server.region.claims.answers["reserve"] = refusal
        reply = await server.request("POST", "/api/v1/reservations?probe=true", {"interface": "192.0.2.0/24"})
        problem = check_problem(reply, 503, "not-probed")
        assert problem["reasons"] == refusal.members["reasons"] and "retry-after" in reply.headers
        bad = await server.request("POST", "/api/v1/reservations?probe=perhaps", {"interface": "192.0.2.0/24"})
        check_problem(bad, 400, "invalid-request")
        changed = await server.request("PATCH", "/api/v1/subnets/sn-0000000005", {"probe": True})
        assert (changed.status, changed.json["probe"]) == (200, False)
        assert server.region.subnets.calls[-1][1]["probe"] is True
