"""Everything a request can get wrong: the documented status, a problem that tells what to do, and nothing done."""

import json
from dataclasses import replace
from time import process_time
from typing import Any

import pytest
import pytest_twisted
from psycopg2 import OperationalError

from regiond.domain import errors
from regiond.domain.errors import Candidate, DomainError
from regiond.domain.leases import leased_to_another
from regiond.domain.readiness import DatabaseState
from regiond.http.bodies.devices import NewDevice
from regiond.http.problems import PROBLEMS, Problem, of_domain_error
from regiond.http.reading import read_body
from regiond.storage.errors import DatabaseUnavailable
from tests.fakes.use_cases import ALICE, FOUND_LEASE, RANGE, RESERVATION
from tests.regiond.http.serving import Reply, serving
from tests.slowness import slowness

DEVICES = "/api/v1/devices"
RESERVATIONS = "/api/v1/reservations"
MAC = "00:16:3e:00:00:07"
WHERE = {"interface": "rack-a:eth1"}


def check_problem(reply: Reply, status: int, slug: str) -> dict[str, Any]:
    problem: dict[str, Any] = reply.json
    assert (reply.status, problem["type"]) == (status, slug), problem
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status == PROBLEMS[slug][0]
    assert problem["title"] == PROBLEMS[slug][1]
    assert problem["detail"]
    assert problem["request_id"] == reply.headers["x-request-id"]
    return problem


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "expected"),
        (b"{", "line 1, column 2"),
        (b"{'mac': 1}", "column 2"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff\xfe{}", "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
async def test_not_json(raw: bytes, says: str) -> None:
    async with serving() as server:
        problem = check_problem(await server.request("POST", DEVICES, raw=raw), 400, "malformed-json")
        assert says in problem["detail"]
        assert server.region.claims.calls == []


def test_a_name_that_is_there_twice_is_found_in_one_pass_over_the_names() -> None:
    """Comparing each name of a body with all others held up the reactor for a minute."""
    names = [*map(str, range(80_000)), "79999"]
    body = json.dumps(names)[1:-1].replace(",", ":0,").encode()
    start = process_time()
    with pytest.raises(Problem, match="'79999' is there twice"):
        read_body(NewDevice, "application/json", b"{" + body + b":0}")
    assert process_time() - start < 3.0 * slowness()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""]
)
async def test_another_media_type(content_type: str) -> None:
    async with serving() as server:
        reply = await server.request("POST", DEVICES, raw=b"{}", headers={"Content-Type": content_type})
        check_problem(reply, 415, "unsupported-media-type")
        assert server.region.claims.calls == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; Charset=UTF-8"])
async def test_json_by_other_spellings(content_type: str) -> None:
    async with serving() as server:
        body = json.dumps({**WHERE, "mac": MAC}).encode()
        assert (await server.request("POST", DEVICES, raw=body, headers={"Content-Type": content_type})).status == 201


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("path", "content", "pointers"),
    [
        (DEVICES, [], [""]),
        (DEVICES, "text", [""]),
        (DEVICES, {}, ["/interface"]),
        (DEVICES, WHERE, [""]),
        (DEVICES, {**WHERE, "mac": "00:16:3e"}, ["/mac"]),
        (DEVICES, {**WHERE, "mac": "01:00:5e:00:00:01"}, ["/mac"]),
        (DEVICES, {**WHERE, "mac": 7}, ["/mac"]),
        (DEVICES, {**WHERE, "mac": MAC, "macs": [MAC]}, [""]),
        (DEVICES, {**WHERE, "macs": [MAC, "x"]}, ["/macs/1"]),
        (DEVICES, {**WHERE, "macs": [MAC, MAC.upper()]}, [""]),
        (DEVICES, {**WHERE, "macs": [f"00:16:3e:00:00:{n:02x}" for n in range(17)]}, ["/macs"]),
        (DEVICES, {**WHERE, "duid": "zz"}, ["/duid"]),
        (DEVICES, {**WHERE, "duid": "00"}, ["/duid"]),
        (DEVICES, {**WHERE, "mac": MAC, "address": "192.0.2"}, ["/address"]),
        (DEVICES, {**WHERE, "mac": MAC, "hostname": "no_underscore"}, ["/hostname"]),
        (DEVICES, {**WHERE, "mac": MAC, "owner": "no such name!"}, ["/owner"]),
        (DEVICES, {**WHERE, "mac": MAC, "comment": "x" * 501}, ["/comment"]),
        (DEVICES, {**WHERE, "mac": MAC, "comment": "a\x00b"}, ["/comment"]),
        (DEVICES, {**WHERE, "mac": MAC, "comment": "\ud800"}, ["/comment"]),
        (DEVICES, {"interface": "x" * 513, "mac": MAC}, ["/interface"]),
        (DEVICES, {**WHERE, "mac": MAC, "a/b~c": 1}, ["/a~1b~0c"]),
        (DEVICES, {"mac": "x", "address": "y", "colour": "red"}, ["/interface", "/mac", "/address", "/colour"]),
        ("/api/v1/nodes", {"hostname": ""}, ["/hostname"]),
        ("/api/v1/nodes", {"hostname": "n1", "macs": "x"}, ["/macs"]),
        ("/api/v1/nodes/nd-0000000004/addresses", WHERE, [""]),
        ("/api/v1/nodes/nd-0000000004/addresses", {**WHERE, "mac": MAC, "duid": "00:01:02"}, [""]),
        ("/api/v1/nodes/nd-0000000004/addresses", {**WHERE, "alias": " eth0:1"}, ["/alias"]),
        ("/api/v1/nodes/nd-0000000004/addresses", {**WHERE, "client_id": "00"}, ["/client_id"]),
        (RESERVATIONS, {}, [""]),
        (RESERVATIONS, {**WHERE, "count": 0}, ["/count"]),
        (RESERVATIONS, {**WHERE, "count": 257}, ["/count"]),
        (RESERVATIONS, {**WHERE, "count": "3"}, ["/count"]),
        (RESERVATIONS, {**WHERE, "count": 1.5}, ["/count"]),
        (RESERVATIONS, {**WHERE, "count": True}, ["/count"]),
        (RESERVATIONS, {"address": "192.0.2.7", "count": 2}, [""]),
        (RESERVATIONS, {**WHERE, "expires_in": 0}, ["/expires_in"]),
        (RESERVATIONS, {**WHERE, "expires_in": 10**12}, ["/expires_in"]),
        (RESERVATIONS, {**WHERE, "expires_in": "12h"}, ["/expires_in"]),
        ("/api/v1/clusters/cl-0000000001/enrolment", {"expires_in": 59}, ["/expires_in"]),
        ("/api/v1/users", {"name": "bob", "role": "king"}, ["/role"]),
        ("/api/v1/users", {"name": "Bob Smith"}, ["/name"]),
        ("/api/v1/tokens", {"name": ""}, ["/name"]),
        ("/api/v1/tokens", {"name": "a\nb"}, ["/name"]),
        ("/api/v1/tokens", {"name": "a", "read_only": "yes"}, ["/read_only"]),
    ],
)
async def test_every_mistake_in_a_body_is_named(path: str, content: Any, pointers: list[str]) -> None:
    async with serving() as server:
        reply = await server.request("POST", path, raw=json.dumps(content).encode())
        problem = check_problem(reply, 400, "invalid-request")
        assert [entry["pointer"] for entry in problem["errors"]] == pointers
        assert all(entry["detail"] and not entry["detail"].startswith("Value error") for entry in problem["errors"])
        assert "/expires_in" not in pointers or "seconds from now" in problem["detail"]
        assert isinstance(content, dict) or problem["detail"] == "the body: a JSON object is expected"
        assert server.region.claims.calls == [] and server.region.accounts.calls == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("claimants", "pointers"),
    [
        ("nobody", ["/claimants"]),
        (["no name!"], ["/claimants", "/claimants/0"]),
        ([], ["/claimants"]),
        ([["alice"]], ["/claimants", "/claimants/0"]),
        ({"everyone": 1}, ["/claimants"]),
        (None, [""]),
    ],
)
async def test_a_mistake_in_one_of_several_forms_is_named_by_its_place(claimants: Any, pointers: list[str]) -> None:
    async with serving() as server:
        reply = await server.request("PATCH", "/api/v1/subnets/sn-0000000003", {"claimants": claimants})
        problem = check_problem(reply, 400, "invalid-request")
        assert sorted({entry["pointer"] for entry in problem["errors"]}) == pointers


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("method", "target", "pointer"),
    [
        ("GET", f"{RESERVATIONS}?colour=red", "?colour"),
        ("GET", f"{RESERVATIONS}?limit=0", "?limit"),
        ("GET", f"{RESERVATIONS}?limit=1001", "?limit"),
        ("GET", f"{RESERVATIONS}?limit=ten", "?limit"),
        ("GET", f"{RESERVATIONS}?limit=1_0", "?limit"),
        ("GET", f"{RESERVATIONS}?limit=1&limit=2", "?limit"),
        ("GET", f"{RESERVATIONS}?after=x", "?after"),
        ("GET", f"{RESERVATIONS}?after=sn-0000000001", "?after"),
        ("GET", f"{RESERVATIONS}?after=", "?after"),
        ("GET", f"{RESERVATIONS}?limit", "?"),
        ("GET", f"{RESERVATIONS}?mac=%00", "?"),
        ("GET", f"{RESERVATIONS}?mac=%ff", "?"),
        ("GET", f"{RESERVATIONS}?" + "&".join(["mac=x"] * 201), "?"),
        ("GET", f"{RESERVATIONS}/rs-0000000007?limit=1", "?limit"),
        ("GET", "/api/v1/clusters?after=zz", "?after"),
        ("GET", "/healthz?verbose=1", "?verbose"),
        ("GET", "/api/v1/audit?since=yesterday", "?since"),
        ("GET", "/api/v1/audit?since=1769860800", "?since"),
        ("GET", "/api/v1/audit?until=2026-01-31T12:00:00", "?until"),
        ("GET", "/api/v1/audit?until=2026-01-31T12:00:00+01:00", "?until"),
        ("GET", "/api/v1/audit?until=0001-01-01T00:00:00%2B20:00", "?until"),
        ("POST", f"{DEVICES}?wait=31", "?wait"),
        ("POST", f"{DEVICES}?wait=-1", "?wait"),
        ("POST", f"{DEVICES}?wait=nan", "?wait"),
        ("POST", f"{DEVICES}?wait=", "?wait"),
        ("DELETE", f"{RESERVATIONS}/rs-0000000007?force=yes", "?force"),
        ("DELETE", f"{RESERVATIONS}/rs-0000000007?wait=1", "?wait"),
    ],
)
async def test_mistakes_in_a_query(method: str, target: str, pointer: str) -> None:
    async with serving() as server:
        body = {**WHERE, "mac": MAC} if method == "POST" else None
        problem = check_problem(await server.request(method, target, body), 400, "invalid-request")
        assert [entry["pointer"] for entry in problem["errors"]] == [pointer]
        assert server.region.claims.calls == []


@pytest_twisted.ensureDeferred
async def test_mistakes_in_headers() -> None:
    async with serving() as server:
        body = {**WHERE, "mac": MAC}
        for key in ("x" * 201, "two words", "é"):
            reply = await server.request("POST", DEVICES, body, headers={"Idempotency-Key": key})
            assert check_problem(reply, 400, "invalid-request")["errors"][0]["pointer"] == "Idempotency-Key"
        reply = await server.request("POST", DEVICES, body, headers={"If-Match": '"x"'})
        assert check_problem(reply, 400, "invalid-request")["errors"][0]["pointer"] == "If-Match"
        reply = await server.request("DELETE", f"{DEVICES}/dv-0000000006", {"a": 1})
        check_problem(reply, 400, "invalid-request")
        assert server.region.claims.calls == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/devices",
        "/api/v1/devices/",
        "/api/v1//devices",
        "/api/v1/Devices",
        "/api/v1/devices/a/b",
        "/api/v1/devices/%00",
        "/api/v1/devices/%ff",
        "/api/v1/%64evices",
        "//api/v1/devices",
    ],
)
async def test_nothing_is_there(path: str) -> None:
    async with serving() as server:
        problem = check_problem(await server.request("GET", path), 404, "not-found")
        assert problem["detail"].endswith(": see /api/v1/docs")
        assert (await server.request("OPTIONS", path)).status == 404


@pytest_twisted.ensureDeferred
async def test_another_method() -> None:
    async with serving() as server:
        for method in ("PUT", "PATCH", "DELETE", "TRACE"):
            reply = await server.request(method, DEVICES)
            check_problem(reply, 405, "method-not-allowed")
            assert reply.headers["allow"] == "GET, HEAD, OPTIONS, POST"


REFUSALS: list[tuple[DomainError, int]] = [
    (errors.BadSelector("cannot", position=3), 400),
    (errors.InvalidRequest("/mac", "no"), 400),
    (errors.NoSuchClusterInterface("none"), 404),
    (errors.AmbiguousSelector("two", [Candidate("ci-1", "rack-a", "eth1", "192.0.2.0/24", "default")]), 409),
    (errors.NotFound("none"), 404),
    (errors.NotPermitted("no"), 403),
    (errors.NodeFull("full", limit=256), 409),
    (errors.AddressTaken("taken", holder=RESERVATION), 409),
    (errors.IdentifierTaken("taken", holder=RESERVATION), 409),
    (errors.AddressOutsideSubnet("no"), 409),
    (errors.AddressNotUsable("no"), 409),
    (errors.AddressInDynamicRange("no"), 409),
    (errors.AddressInReservedRange("no"), 409),
    (errors.AddressOfInfrastructure("no"), 409),
    (errors.SubnetExhausted("no"), 409),
    (errors.WrongFamily("no"), 409),
    (errors.IdempotencyKeyReused("no"), 422),
    (errors.HeldByOwner("elsewhere", location="/api/v1/devices/dv-1"), 409),
    (errors.ChangedUnderOwner("elsewhere", location="/api/v1/devices/dv-1"), 409),
    (errors.BeingReleased("no"), 409),
    (errors.StaleVersion("old", etag='"9f86d081884c7d65"'), 412),
    (errors.NameTaken("taken"), 409),
    (errors.RangeOverlap("overlaps", range=RANGE), 409),
    (errors.RangeReported("of a server"), 409),
    (errors.AddressOfStaticEntry("of a server"), 409),
    (leased_to_another([FOUND_LEASE]), 409),
    (errors.SubnetNotReady("not yet"), 503),
    (errors.RangeOverReservations("reserved", count=1, reservations=[RESERVATION]), 409),
    (errors.NoClusterListener("nowhere"), 409),
    (errors.NotOnSubnet("not there"), 409),
    (errors.VrfInUse("something is in it", subnet_count=1, cluster_count=0), 409),
    (errors.SubnetsLeftBehind("it would not serve it", subnets=["192.0.2.0/24"]), 409),
    (errors.SubnetInUse("a reservation", count=1, clusters=[]), 409),
    (errors.SubnetOverlap("another one", subnet="sn-0000000005"), 409),
    (errors.AddressInUse("somebody is there"), 409),
    (errors.NotProbed("nobody can", reasons=["it is away"]), 503),
    (errors.LastServing("the last one"), 409),
    (errors.ClusterHoldsHostMaps("it may", subnets=["192.0.2.0/24"]), 409),
    (errors.SubnetRecovering("not heard", clusters=["rack-a"]), 503),
    (errors.NotRecovering("no recovery"), 409),
    (errors.AlreadyRecovering("one goes on"), 409),
    (errors.NotAllHeard("not heard", clusters=["rack-a"]), 409),
    (errors.QuotaExceeded("too many", scope="account", limit=3, used=3, wanted=1), 409),
    (errors.EventsGone("list again"), 410),
    (errors.TooManyFollowers("500 follow"), 503),
    (errors.BatchRefused([(0, errors.SubnetExhausted("no"))]), 409),
    (errors.TooManyImports("four are not finished"), 429),
]


def test_every_domain_error_has_a_status_and_a_row_here() -> None:
    def kinds(of: type[DomainError]) -> set[type[DomainError]]:
        return {of, *(kind for below in of.__subclasses__() for kind in kinds(below))}

    every = kinds(DomainError) - {DomainError, errors.ChangedMeanwhile, errors.Unvetted}  # the latter are never answers
    assert {type(error) for error, _ in REFUSALS} == every
    assert {kind.slug for kind in every} <= set(PROBLEMS)


@pytest.mark.parametrize(("error", "status"), REFUSALS, ids=[error.slug for error, _ in REFUSALS])
def test_what_the_region_refuses(error: DomainError, status: int) -> None:
    problem = of_domain_error(error, ALICE)
    assert (problem.slug, problem.status, problem.title) == (error.slug, *PROBLEMS[error.slug])
    assert problem.detail == error.detail and problem.status == status
    assert set(error.members) <= set(problem.members)


@pytest_twisted.ensureDeferred
async def test_a_holder_is_shown_to_admins_and_its_owner_only() -> None:
    async with serving() as server:
        for token, owner, shown in (
            ("admin", ALICE.account, True),
            ("alice", ALICE.account, True),
            ("alice", 99, False),
        ):
            held = replace(RESERVATION, owner=owner)
            server.region.claims.answers["reserve"] = errors.AddressTaken("taken", holder=held)
            holder = (await server.request("POST", RESERVATIONS, WHERE, token=token)).json["holder"]
            if shown:
                assert (holder["id"], holder["mac"], holder["owner"]) == ("rs-0000000007", MAC, "alice")
            else:
                assert holder == {"kind": "user"}


@pytest_twisted.ensureDeferred
async def test_candidates_are_told() -> None:
    async with serving() as server:
        candidate = Candidate("ci-1", "rack-a", "eth1", "192.0.2.0/24", "default")
        server.region.claims.answers["reserve"] = errors.AmbiguousSelector("two", [candidate])
        problem = (await server.request("POST", RESERVATIONS, WHERE)).json
        assert problem["candidates"] == [
            {"id": "ci-1", "cluster": "rack-a", "nic": "eth1", "cidr": "192.0.2.0/24", "vrf": "default"}
        ]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("unknown", [False, True])
async def test_the_database_is_away(unknown: bool) -> None:
    async with serving() as server:
        server.region.claims.answers["reserve"] = DatabaseUnavailable("gone", outcome_unknown=unknown)
        reply = await server.request("POST", RESERVATIONS, WHERE)
        problem = check_problem(reply, 503, "database-unavailable")
        assert reply.headers["retry-after"] == "1"
        assert problem["outcome_unknown"] is unknown
        assert ("same Idempotency-Key" in problem["detail"]) is unknown


@pytest_twisted.ensureDeferred
async def test_not_ready() -> None:
    async with serving() as server:
        server.region.health.reasons = ["no connection to the database"]
        server.region.health.database = DatabaseState(False)
        server.region.health.replication = None
        reply = await server.request("GET", "/readyz", token=None)
        problem = check_problem(reply, 503, "not-ready")
        assert problem["shortcomings"] == ["no connection to the database"]
        assert problem["database"] == {"reachable": False, "role": None, "schema": None}
        assert problem["replication"] is None
        assert reply.headers["retry-after"] == "1"
        assert (await server.request("GET", "/healthz", token=None)).status == 200


@pytest_twisted.ensureDeferred
async def test_a_bug_is_answered_with_a_reference_and_nothing_else(caught_logs: Any) -> None:
    async with serving() as server:
        server.region.claims.answers["reserve"] = OperationalError("secret internals")
        reply = await server.request("POST", RESERVATIONS, WHERE)
        problem = check_problem(reply, 500, "internal-error")
        assert b"secret internals" not in reply.body
        [failure] = [event for event in caught_logs if event.get("event") == "http.internal-error"]
        assert failure["reference"] == problem["reference"]
        assert failure["request_id"] == problem["request_id"]
        assert "secret internals" in failure["log_failure"].getErrorMessage()
