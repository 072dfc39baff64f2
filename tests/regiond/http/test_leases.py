"""Leases over HTTP: the page, the link to the next one, and what a claim in their way answers to whom."""

from typing import Any

import pytest
import pytest_twisted

from regiond.domain.leases import leased_to_another
from tests.fakes.use_cases import FOUND_LEASE
from tests.regiond.http.serving import serving

LEASES = "/api/v1/subnets/192.0.2.0%2F24/leases"
SHOWN = {
    "address": "192.0.2.101",
    "cluster": {"id": "cl-0000000009", "name": "rack-a"},
    "mac": "00:16:3e:00:00:77",
    "client_id": None,
    "duid": None,
    "hostname": "guest",
    "expires_at": "2027-01-15T08:00:00.000Z",
}


@pytest_twisted.ensureDeferred
async def test_a_page() -> None:
    async with serving() as server:
        query = "?limit=7&address=192.0.2.101&address=192.0.2.102&mac=00-16-3E-00-00-77&after=192.0.2.5"
        reply = await server.request("GET", LEASES + query)
        assert reply.status == 200
        assert reply.json == {
            "subnet": "sn-0000000005",
            "complete": False,
            "clusters": [
                {"id": "cl-0000000009", "name": "rack-a", "complete": True, "error": None},
                {
                    "id": "cl-000000000a",
                    "name": "rack-b",
                    "complete": False,
                    "error": "it is not connected",
                },
            ],
            "leases": [{**SHOWN, "reservation": "rs-0000000008"}],
        }
        assert reply.headers["link"].endswith('&after=192.0.2.101>; rel="next"')
        [(_, asked)] = server.region.leases.calls
        assert (asked["subnet"], asked["limit"], asked["after"]) == ("192.0.2.0/24", 7, "192.0.2.5")
        assert asked["addresses"] == ["192.0.2.101", "192.0.2.102"]


@pytest.mark.parametrize("query", ["limit=0", "kind=x", "address=" + "&address=".join(["192.0.2.1"] * 101)])
@pytest_twisted.ensureDeferred
async def test_bad_questions(query: str) -> None:
    async with serving() as server:
        reply = await server.request("GET", f"{LEASES}?{query}")
        assert (reply.status, reply.json["type"]) == (400, "invalid-request")


CLAIMS: list[tuple[str, str, Any]] = [
    ("reserve", "/api/v1/reservations", {"address": "192.0.2.101"}),
    (
        "claim_node_address",
        "/api/v1/nodes/nd-0000000004/addresses",
        {"interface": "192.0.2.0/24", "alias": "x", "address": "192.0.2.101"},
    ),
    (
        "create_device",
        "/api/v1/devices",
        {"interface": "192.0.2.0/24", "mac": "00:16:3e:00:00:01", "address": "192.0.2.101"},
    ),
]


@pytest.mark.parametrize(("use_case", "path", "body"), CLAIMS)
@pytest_twisted.ensureDeferred
async def test_a_claim_says_who_has_the_lease_and_an_admin_may_force_it(use_case: str, path: str, body: Any) -> None:
    async with serving() as server:
        claims = server.region.claims
        answer = claims.answers[use_case]
        claims.answers[use_case] = leased_to_another([FOUND_LEASE])
        reply = await server.request("POST", path, body)
        assert (reply.status, reply.json["type"], reply.json["leases"]) == (409, "leased-to-another", [SHOWN])
        claims.answers[use_case] = answer
        assert (await server.request("POST", f"{path}?force=true", body)).status == 201
        assert [call["force"] for _, call in claims.calls] == [False, True]


@pytest.mark.parametrize(("use_case", "path", "body"), CLAIMS[:2])
@pytest_twisted.ensureDeferred
async def test_a_user_is_not_told_who_and_may_not_force(use_case: str, path: str, body: Any) -> None:
    async with serving() as server:
        claims = server.region.claims
        claims.answers[use_case] = leased_to_another([FOUND_LEASE])
        reply = await server.request("POST", path, body, token="alice")
        assert reply.json["leases"] == [{"address": "192.0.2.101", "expires_at": "2027-01-15T08:00:00.000Z"}]
        refused = await server.request("POST", f"{path}?force=true", body, token="alice")
        assert (refused.status, refused.json["type"]) == (403, "not-permitted")
        assert len(claims.calls) == 1
