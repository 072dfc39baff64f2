"""Subnets, ranges, limits and the audit over HTTP: representations, what reaches the use cases, every mistake named."""

from dataclasses import replace
from typing import Any

import pytest
import pytest_twisted

from regiond.domain import errors
from regiond.domain.versions import of_range
from regiond.domain.views import Finding
from tests.fakes.use_cases import AUDIT_ENTRY, CHECK_REPORT, RANGE, RESERVATION, UTILISATION
from tests.regiond.http.serving import serving
from tests.regiond.http.test_mistakes import check_problem

SUBNET = "/api/v1/subnets/sn-0000000005"
RANGES = f"{SUBNET}/ranges"
NEW = {"kind": "dynamic", "low": "192.0.2.100", "high": "192.0.2.150"}
SHOWN = {
    "id": "rg-000000000d",
    "subnet": "sn-0000000005",
    "kind": "dynamic",
    "low": "192.0.2.100",
    "high": "192.0.2.150",
    "comment": "leases",
    "reported_by": None,
    "created": "2026-01-31T12:00:00.123Z",
    "etag": of_range(RANGE),
}


@pytest_twisted.ensureDeferred
async def test_a_range() -> None:
    async with serving() as server:
        made = await server.request("POST", f"{RANGES}?force=true", {**NEW, "low": "192.0.2.100", "comment": "leases"})
        assert (made.status, made.json, made.headers["location"]) == (201, SHOWN, f"{RANGES}/rg-000000000d")
        [(_, call)] = server.region.subnets.calls
        assert (call["kind"], call["comment"], call["force"]) == ("dynamic", "leases", True)
        assert (await server.request("GET", RANGES)).json == [SHOWN]
        assert (await server.request("GET", f"{RANGES}/rg-000000000d")).json == SHOWN
        changed = await server.request("PATCH", f"{RANGES}/rg-000000000d", {"comment": None, "low": "192.0.2.99"})
        assert (changed.status, changed.json) == (200, SHOWN)
        assert server.region.subnets.calls[-1][1]["changes"] == {"low": "192.0.2.99", "comment": None}
        assert server.region.subnets.calls[-1][1]["force"] is False
        assert (await server.request("DELETE", f"{RANGES}/rg-000000000d")).status == 204


@pytest_twisted.ensureDeferred
async def test_values_reach_the_use_cases_in_one_spelling() -> None:
    async with serving() as server:
        await server.request("POST", RANGES, {"kind": "reserved", "low": "2001:DB8::0", "high": "2001:db8:0::ff"})
        [(_, call)] = server.region.subnets.calls
        assert (call["low"], call["high"]) == ("2001:db8::", "2001:db8::ff")


@pytest_twisted.ensureDeferred
async def test_a_subnet_by_selector() -> None:
    async with serving() as server:
        for named, seen in (("192.0.2.0%2F24", "192.0.2.0/24"), ("rack-a:eth1", "rack-a:eth1")):
            reply = await server.request("GET", f"/api/v1/subnets/{named}/ranges?limit=1")
            assert reply.status == 200
            assert server.region.subnets.calls[-1][1]["subnet"] == seen


@pytest_twisted.ensureDeferred
async def test_a_refused_range_names_what_is_in_its_way() -> None:
    async with serving() as server:
        server.region.subnets.answers["add_range"] = errors.RangeOverlap("it overlaps", range=RANGE)
        problem = check_problem(await server.request("POST", RANGES, NEW), 409, "range-overlap")
        assert problem["range"] == SHOWN
        server.region.subnets.answers["add_range"] = errors.RangeOverReservations(
            "reserved", count=113, reservations=[RESERVATION]
        )
        problem = check_problem(await server.request("POST", RANGES, NEW), 409, "range-over-reservations")
        assert problem["count"] == 113
        assert [held["id"] for held in problem["reservations"]] == ["rs-0000000007"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("method", "path", "content", "pointers"),
    [
        ("POST", RANGES, {}, ["/kind", "/low", "/high"]),
        ("POST", RANGES, {**NEW, "kind": "static"}, ["/kind"]),
        ("POST", RANGES, {**NEW, "low": "192.0.2"}, ["/low"]),
        ("POST", RANGES, {**NEW, "high": None}, ["/high"]),
        ("POST", RANGES, {**NEW, "force": True}, ["/force"]),
        ("POST", RANGES, {**NEW, "comment": "x" * 501}, ["/comment"]),
        ("PATCH", f"{RANGES}/rg-000000000d", {}, [""]),
        ("PATCH", f"{RANGES}/rg-000000000d", {"low": None}, [""]),
        ("PATCH", f"{RANGES}/rg-000000000d", {"kind": None}, [""]),
        ("PATCH", f"{RANGES}/rg-000000000d", {"subnet": "sn-0000000006"}, ["/subnet"]),
        ("PATCH", SUBNET, {}, [""]),
        ("PATCH", SUBNET, {"release_hold_seconds": -1}, ["/release_hold_seconds"]),
        ("PATCH", SUBNET, {"release_hold_seconds": 30 * 86400 + 1}, ["/release_hold_seconds"]),
        ("PATCH", SUBNET, {"release_hold_seconds": "60"}, ["/release_hold_seconds"]),
        ("PATCH", SUBNET, {"release_hold_seconds": None}, [""]),
        ("PATCH", SUBNET, {"cidr": "192.0.2.0/25"}, ["/cidr"]),
        ("PATCH", "/api/v1/users/alice", {}, [""]),
        ("PATCH", "/api/v1/users/alice", {"disabled": None}, [""]),
        ("PATCH", "/api/v1/users/alice", {"max_reservations": -1}, ["/max_reservations"]),
        ("PATCH", "/api/v1/users/alice", {"max_reservations": 2**31}, ["/max_reservations"]),
        ("PATCH", "/api/v1/users/alice", {"max_reservations_per_subnet": True}, ["/max_reservations_per_subnet"]),
        ("PATCH", "/api/v1/users/alice", {"role": "admin"}, ["/role"]),
    ],
)
async def test_every_mistake_is_named(method: str, path: str, content: Any, pointers: list[str]) -> None:
    async with serving() as server:
        problem = check_problem(await server.request(method, path, content), 400, "invalid-request")
        assert [entry["pointer"] for entry in problem["errors"]] == pointers
        assert server.region.subnets.calls == [] and server.region.accounts.calls == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("target", "pointer"),
    [
        (f"{SUBNET}/available?limit=0", "?limit"),
        (f"{SUBNET}/available?limit=1001", "?limit"),
        (f"{SUBNET}/available?after=rs-0000000001", "?after"),
        (f"{SUBNET}/utilisation?limit=1", "?limit"),
        (f"{SUBNET}/check?repair=true", "?repair"),
        (f"{RANGES}?after=sn-0000000001", "?after"),
        ("/api/v1/audit?account=x", "?account"),
        ("/api/v1/audit?after=rs-0000000001", "?after"),
    ],
)
async def test_mistakes_in_a_query(target: str, pointer: str) -> None:
    async with serving() as server:
        problem = check_problem(await server.request("GET", target), 400, "invalid-request")
        assert [entry["pointer"] for entry in problem["errors"]] == [pointer]
        assert server.region.subnets.calls == [] and server.region.audit.calls == []


@pytest_twisted.ensureDeferred
async def test_a_forced_range_is_an_admins() -> None:
    async with serving() as server:
        for method, path in (("POST", RANGES), ("PATCH", f"{RANGES}/rg-000000000d")):
            reply = await server.request(method, f"{path}?force=true", NEW, token="alice")
            check_problem(reply, 403, "not-permitted")
        assert server.region.subnets.calls == []


@pytest_twisted.ensureDeferred
async def test_how_full_a_subnet_is() -> None:
    async with serving() as server:
        reply = await server.request("GET", f"{SUBNET}/utilisation", token="alice")
        assert reply.json == {
            "subnet": {"id": "sn-0000000005", "cidr": "192.0.2.0/24"},
            "usable": 254,
            "reserved": {"device": 1, "node": 0, "user": 1, "total": 2},
            "releasing": 1,
            "in_ranges": {"dynamic": 51, "reserved": 0},
            "infrastructure": 1,
            "static_entries": 0,
            "in_use": 0,
            "free": 199,
        }
        server.region.subnets.answers["utilisation"] = replace(UTILISATION, usable=2**64 - 1, free=2**64 - 9)
        assert (await server.request("GET", f"{SUBNET}/utilisation")).json["free"] == 2**64 - 9
        assert (await server.request("GET", f"{SUBNET}/available")).json == ["192.0.2.2", "192.0.2.3"]
        assert server.region.subnets.calls[-1][1]["limit"] == 10
        await server.request("GET", f"{SUBNET}/available?limit=1000")
        assert server.region.subnets.calls[-1][1]["limit"] == 1000


@pytest_twisted.ensureDeferred
async def test_the_release_hold_is_set() -> None:
    async with serving() as server:
        reply = await server.request("PATCH", SUBNET, {"release_hold_seconds": 0})
        assert (reply.status, reply.json["cidr"]) == (200, "192.0.2.0/24")
        [(_, call)] = server.region.subnets.calls
        assert (call["subnet"], call["release_hold_seconds"]) == ("sn-0000000005", 0)


@pytest_twisted.ensureDeferred
async def test_a_check_and_a_repair() -> None:
    async with serving() as server:
        sound = {
            "subnet": {"id": "sn-0000000005", "cidr": "192.0.2.0/24", "vrf": "default"},
            "checked": {"reservations": 3, "host_maps": 2, "free_ranges": 2},
            "sound": True,
            "findings": [],
        }
        assert (await server.request("GET", f"{SUBNET}/check")).json == sound
        found = replace(CHECK_REPORT, findings=(Finding("digest-wrong", "it is"),))
        server.region.subnets.answers["repair"] = found
        reply = await server.request("POST", f"{SUBNET}/repair", headers={"Idempotency-Key": "k"})
        assert reply.json == {
            **sound,
            "sound": False,
            "findings": [{"kind": "digest-wrong", "detail": "it is"}],
        }
        assert server.region.subnets.calls[-1][1]["context"].idempotency_key == "k"


@pytest_twisted.ensureDeferred
async def test_the_audit_in_pages() -> None:
    async with serving() as server:
        server.region.audit.answers["entries"] = [replace(AUDIT_ENTRY, id=n) for n in (9, 8, 7)]
        target = "/api/v1/audit?limit=2&object=rg-000000000d&actor=root&actor=bob&request_id=deploy-7"
        target += "&since=2026-01-31T12:00:00%2B20:00"  # more than PostgreSQL takes
        reply = await server.request("GET", target)
        assert [each["id"] for each in reply.json] == ["au-0000000009", "au-0000000008"]
        assert reply.json[0] == {
            "id": "au-0000000009",
            "at": "2026-01-31T12:00:00.123Z",
            "account": "ac-0000000001",
            "actor": "root",
            "action": "range.add",
            "object": "rg-000000000d",
            "before": None,
            "after": {"kind": "dynamic"},
            "request_id": "deploy-7",
        }
        await server.request("GET", reply.headers["link"][1:].partition(">")[0])
        for (_, call), after in zip(server.region.audit.calls, (None, "au-0000000008"), strict=True):
            assert (call["limit"], call["after"]) == (3, after)
            assert str(call["since"]) == "2026-01-30 16:00:00+00:00"
            assert call["filters"] == {
                "object": ["rg-000000000d"],
                "actor": ["root", "bob"],
                "request_id": ["deploy-7"],
            }


@pytest_twisted.ensureDeferred
async def test_limits_of_an_account() -> None:
    async with serving() as server:
        body = {"max_reservations": 10, "max_reservations_per_subnet": None}
        reply = await server.request("PATCH", "/api/v1/users/alice", body)
        assert reply.json == {
            "id": "ac-0000000002",
            "name": "alice",
            "role": "user",
            "disabled": False,
            "reservations": 0,
            "max_reservations": None,
            "max_reservations_per_subnet": None,
            "created": "2026-01-31T12:00:00.123Z",
            "etag": reply.headers["etag"],
        }
        [(_, call)] = server.region.accounts.calls
        assert call["changes"] == body


@pytest_twisted.ensureDeferred
async def test_an_exceeded_quota_tells_its_numbers() -> None:
    async with serving() as server:
        refusal = errors.QuotaExceeded("too many", scope="subnet", limit=3, used=2, wanted=2)
        server.region.claims.answers["reserve"] = refusal
        reply = await server.request("POST", "/api/v1/reservations", {"interface": "a:b", "count": 2}, token="alice")
        problem = check_problem(reply, 409, "quota-exceeded")
        assert {name: problem[name] for name in ("scope", "limit", "used", "wanted")} == refusal.members
