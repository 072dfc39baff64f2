"""PATCH and If-Match over HTTP: what reaches the use cases, and which mistakes are named."""

from datetime import timedelta
from typing import Any

import pytest
import pytest_twisted

from regiond.domain import errors
from regiond.http.routes import ROUTES
from tests.fakes.use_cases import NOW
from tests.regiond.http.serving import serving
from tests.regiond.http.test_mistakes import check_problem

RESERVATION = "/api/v1/reservations/rs-0000000007"
DEVICE = "/api/v1/devices/dv-0000000006"
NODE = "/api/v1/nodes/nd-0000000004"
MAC, NEW_MAC = "00:16:3e:00:00:07", "00:16:3e:00:00:08"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("path", "use_case", "body", "changes"),
    [
        (RESERVATION, "change_reservation", {"comment": "x"}, {"comment": "x"}),
        (RESERVATION, "change_reservation", {"hostname": None}, {"hostname": None}),
        (RESERVATION, "change_reservation", {"expires_in": 60}, {"expires_at": NOW + timedelta(seconds=60)}),
        (RESERVATION, "change_reservation", {"expires_in": None}, {"expires_at": None}),
        (DEVICE, "change_device", {"macs": ["0016.3e00.0008"]}, {"macs": [NEW_MAC]}),
        (DEVICE, "change_device", {"owner": "alice", "comment": None}, {"owner": "alice", "comment": None}),
        (NODE, "change_node", {"hostname": "N2"}, {"hostname": "n2"}),
        (NODE, "change_node", {"replaced_macs": [{"old": MAC, "new": NEW_MAC}]}, {"replaced_macs": {MAC: NEW_MAC}}),
    ],
)
async def test_what_a_patch_changes(path: str, use_case: str, body: Any, changes: Any) -> None:
    async with serving() as server:
        reply = await server.request("PATCH", f"{path}?wait=1", body, headers={"If-Match": '"a", W/"b", "c"'})
        assert reply.status == 200
        assert reply.headers["etag"] == reply.json["etag"]
        [(name, arguments)] = server.region.edits.calls
        assert name == use_case
        assert arguments["changes"] == changes
        context = arguments["context"]
        assert (context.if_match, context.wait_seconds) == ({'"a"', '"c"'}, 1.0)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        (RESERVATION, {}, ""),
        (RESERVATION, {"address": "192.0.2.9"}, "/address"),
        (RESERVATION, {"expires_in": 0}, "/expires_in"),
        (DEVICE, {"macs": [MAC, MAC.upper()]}, ""),
        (DEVICE, {"macs": None}, ""),
        (DEVICE, {"interface": "rack-a:eth1"}, "/interface"),
        (NODE, {"hostname": None}, ""),
        (NODE, {"macs": [MAC], "replaced_macs": [{"old": MAC, "new": NEW_MAC}]}, ""),
        (NODE, {"replaced_macs": []}, "/replaced_macs"),
        (NODE, {"replaced_macs": [{"old": MAC}]}, "/replaced_macs/0/new"),
        (NODE, {"replaced_macs": [{"old": MAC, "new": NEW_MAC}, {"old": MAC, "new": MAC}]}, ""),
    ],
)
async def test_mistakes_in_a_patch(path: str, body: Any, pointer: str) -> None:
    async with serving() as server:
        problem = check_problem(await server.request("PATCH", path, body), 400, "invalid-request")
        assert [entry["pointer"] for entry in problem["errors"]] == [pointer]
        assert server.region.edits.calls == []


@pytest_twisted.ensureDeferred
async def test_a_stale_version_is_refused_with_the_one_of_now() -> None:
    async with serving() as server:
        server.region.edits.answers["change_node"] = errors.StaleVersion("read it again", etag='"00000000000000ff"')
        reply = await server.request("PATCH", NODE, {"comment": "x"}, headers={"If-Match": '"then"'})
        assert check_problem(reply, 412, "stale-version")["etag"] == '"00000000000000ff"'


@pytest_twisted.ensureDeferred
async def test_a_star_is_no_condition_and_a_weak_tag_fits_nothing() -> None:
    async with serving() as server:
        nothing: frozenset[str] = frozenset()
        for sent, expected in (("*", None), ('W/"a"', nothing), ("a, b", nothing), ('x,"b"', {'"b"'})):
            await server.request("DELETE", DEVICE, headers={"If-Match": sent})
            assert server.region.claims.calls[-1][1]["context"].if_match == expected


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "path",
    [
        RESERVATION,
        DEVICE,
        NODE,
        f"{NODE}/addresses/rs-0000000008",
        "/api/v1/subnets/sn-0000000005",
        "/api/v1/subnets/sn-0000000005/ranges/rg-000000000d",
        "/api/v1/users/alice",
        "/api/v1/tokens/tk-000000000c",
        "/api/v1/clusters/rack-a",
        "/api/v1/vrfs/site-2",
    ],
)
async def test_whatever_can_be_changed_or_deleted_has_a_version(path: str) -> None:
    async with serving() as server:
        reply = await server.request("GET", path)
        assert reply.headers["etag"] == reply.json["etag"]


def test_whatever_is_read_with_a_version_is_changed_and_deleted_under_it() -> None:
    versioned = {route.path for route in ROUTES if route.method == "GET" and _has_version(route.shows)}
    changing = [route for route in ROUTES if route.path in versioned and route.method in ("PATCH", "DELETE")]
    assert len(changing) > 10
    assert [(route.method, route.path) for route in changing if not route.conditional] == []


def _has_version(shape: Any) -> bool:
    return "etag" in getattr(shape, "__annotations__", {})
