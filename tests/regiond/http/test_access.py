"""Every route for everybody: who gets in, and with which status. A route without a row here is a failure."""

import re

import pytest
import pytest_twisted

from regiond.domain.ids import Prefix, format_id
from regiond.http.routes import ROUTES
from regiond.http.routing import Access
from tests.fakes.use_cases import Scripted
from tests.regiond.http.serving import serving

MAC = "00:16:3e:00:00:07"
RANGE = {"kind": "dynamic", "low": "192.0.2.100", "high": "192.0.2.150"}
DEVICE = {"interface": "rack-a:eth1", "mac": MAC}

# (method, path) → body, and the status for: no token, a wrong one, a user, an admin, their read-only tokens
TABLE: dict[tuple[str, str], tuple[object, tuple[int, int, int, int, int, int]]] = {
    ("POST", "/api/v1/devices"): (DEVICE, (401, 401, 403, 201, 403, 403)),
    ("GET", "/api/v1/devices"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/devices/{device}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/devices/{device}"): ({"macs": [MAC]}, (401, 401, 403, 200, 403, 403)),
    ("DELETE", "/api/v1/devices/{device}"): (None, (401, 401, 403, 204, 403, 403)),
    ("POST", "/api/v1/nodes"): ({"hostname": "n1"}, (401, 401, 403, 201, 403, 403)),
    ("GET", "/api/v1/nodes"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/nodes/{node}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/nodes/{node}"): ({"macs": [MAC]}, (401, 401, 403, 200, 403, 403)),
    ("DELETE", "/api/v1/nodes/{node}"): (None, (401, 401, 403, 204, 403, 403)),
    ("POST", "/api/v1/nodes/{node}/addresses"): (DEVICE, (401, 401, 201, 201, 403, 403)),
    ("GET", "/api/v1/nodes/{node}/addresses"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/nodes/{node}/addresses/{reservation}"): (None, (401, 401, 200, 200, 200, 200)),
    ("DELETE", "/api/v1/nodes/{node}/addresses/{reservation}"): (None, (401, 401, 204, 204, 403, 403)),
    ("POST", "/api/v1/reservations"): ({"interface": "rack-a:eth1"}, (401, 401, 201, 201, 403, 403)),
    ("GET", "/api/v1/reservations"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/reservations/{reservation}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/reservations/{reservation}"): ({"comment": "x"}, (401, 401, 200, 200, 403, 403)),
    ("DELETE", "/api/v1/reservations/{reservation}"): (None, (401, 401, 204, 204, 403, 403)),
    ("POST", "/api/v1/batch"): (
        {"members": [{"operation": "reserve", "interface": "rack-a:eth1"}]},
        (401, 401, 200, 200, 403, 403),
    ),
    ("POST", "/api/v1/imports"): (b"address\n192.0.2.7\n", (401, 401, 201, 201, 403, 403)),
    ("GET", "/api/v1/imports"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/imports/{import}"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/groups/{group}"): (None, (401, 401, 200, 200, 200, 200)),
    ("DELETE", "/api/v1/groups/{group}"): (None, (401, 401, 204, 204, 403, 403)),
    ("GET", "/api/v1/events"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/clusters"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/clusters/{cluster}"): (None, (401, 401, 200, 200, 200, 200)),
    ("DELETE", "/api/v1/clusters/{cluster}"): (None, (401, 401, 403, 204, 403, 403)),
    ("POST", "/api/v1/clusters/{cluster}/enrolment"): ({}, (401, 401, 403, 201, 403, 403)),
    ("DELETE", "/api/v1/clusters/{cluster}/enrolment"): (None, (401, 401, 403, 204, 403, 403)),
    ("POST", "/api/v1/clusters/{cluster}/revoke"): (None, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/clusters/{cluster}/dhcp-server"): (None, (401, 401, 403, 200, 403, 200)),
    ("GET", "/api/v1/clusters/{cluster}/static-entries"): (None, (401, 401, 403, 200, 403, 200)),
    ("POST", "/api/v1/clusters/{cluster}/adopt"): (
        {"entries": ["fe-000000000g"]},
        (401, 401, 403, 200, 403, 403),
    ),
    ("PATCH", "/api/v1/clusters/{cluster}"): ({"vrf": "blue"}, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/clusters/{cluster}/topology"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/clusters/{cluster}/topology/changes"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/vrfs"): (None, (401, 401, 200, 200, 200, 200)),
    ("POST", "/api/v1/vrfs"): ({"name": "blue"}, (401, 401, 403, 201, 403, 403)),
    ("GET", "/api/v1/vrfs/{vrf}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/vrfs/{vrf}"): ({"comment": None}, (401, 401, 403, 200, 403, 403)),
    ("DELETE", "/api/v1/vrfs/{vrf}"): (None, (401, 401, 403, 204, 403, 403)),
    ("POST", "/api/v1/subnets"): ({"cidr": "10.0.0.0/24"}, (401, 401, 403, 201, 403, 403)),
    ("DELETE", "/api/v1/subnets/{subnet}"): (None, (401, 401, 403, 204, 403, 403)),
    ("GET", "/api/v1/cluster-interfaces"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/cluster-interfaces/{interface}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/cluster-interfaces/{interface}"): ({"serve": False}, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/subnets"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/subnets/{subnet}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/subnets/{subnet}"): ({"release_hold_seconds": 60}, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/subnets/{subnet}/utilisation"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/subnets/{subnet}/available"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/metrics"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/subnets/{subnet}/leases"): (None, (401, 401, 403, 200, 403, 200)),
    ("GET", "/api/v1/subnets/{subnet}/clusters"): (None, (401, 401, 200, 200, 200, 200)),
    ("POST", "/api/v1/subnets/{subnet}/clusters/{cluster}/confirm-pair"): (None, (401, 401, 403, 200, 403, 403)),
    ("POST", "/api/v1/subnets/{subnet}/clusters/{cluster}/unpair"): (None, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/subnets/{subnet}/in-use"): (None, (401, 401, 200, 200, 200, 200)),
    ("DELETE", "/api/v1/subnets/{subnet}/in-use/{mark}"): (None, (401, 401, 403, 204, 403, 403)),
    ("GET", "/api/v1/subnets/{subnet}/ranges"): (None, (401, 401, 200, 200, 200, 200)),
    ("POST", "/api/v1/subnets/{subnet}/ranges"): (RANGE, (401, 401, 403, 201, 403, 403)),
    ("GET", "/api/v1/subnets/{subnet}/ranges/{range}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/subnets/{subnet}/ranges/{range}"): ({"comment": None}, (401, 401, 403, 200, 403, 403)),
    ("DELETE", "/api/v1/subnets/{subnet}/ranges/{range}"): (None, (401, 401, 403, 204, 403, 403)),
    ("GET", "/api/v1/subnets/{subnet}/check"): (None, (401, 401, 403, 200, 403, 200)),
    ("POST", "/api/v1/subnets/{subnet}/repair"): (None, (401, 401, 403, 200, 403, 403)),
    ("GET", "/api/v1/audit"): (None, (401, 401, 403, 200, 403, 200)),
    ("GET", "/api/v1/recovery"): (None, (401, 401, 403, 200, 403, 200)),
    ("POST", "/api/v1/recovery/begin"): ({"reason": "a backup"}, (401, 401, 403, 200, 403, 403)),
    ("POST", "/api/v1/recovery/end"): ({"force": True}, (401, 401, 403, 200, 403, 403)),
    ("POST", "/api/v1/users"): ({"name": "bob"}, (401, 401, 403, 201, 403, 403)),
    ("GET", "/api/v1/users"): (None, (401, 401, 403, 200, 403, 200)),
    ("GET", "/api/v1/users/{user}"): (None, (401, 401, 200, 200, 200, 200)),
    ("PATCH", "/api/v1/users/{user}"): ({"disabled": True}, (401, 401, 403, 200, 403, 403)),
    ("POST", "/api/v1/tokens"): ({"name": "laptop"}, (401, 401, 201, 201, 403, 403)),
    ("GET", "/api/v1/tokens"): (None, (401, 401, 200, 200, 200, 200)),
    ("GET", "/api/v1/tokens/{token}"): (None, (401, 401, 200, 200, 200, 200)),
    ("DELETE", "/api/v1/tokens/{token}"): (None, (401, 401, 204, 204, 403, 403)),
    ("GET", "/api/v1/openapi.json"): (None, (200, 200, 200, 200, 200, 200)),
    ("GET", "/api/v1/docs"): (None, (200, 200, 200, 200, 200, 200)),
    ("GET", "/healthz"): (None, (200, 200, 200, 200, 200, 200)),
    ("GET", "/readyz"): (None, (200, 200, 200, 200, 200, 200)),
}
TOKENS = (None, "wrong", "alice", "admin", "alice-reads", "admin-reads")


def url(template: str) -> str:
    return re.sub(r"\{[a-z]+\}", format_id(Prefix.RESERVATION, 7), template)


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert {(route.method, route.path) for route in ROUTES} == set(TABLE)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("method", "path"), list(TABLE), ids=lambda part: str(part))
async def test_who_gets_in(method: str, path: str) -> None:
    body, expected = TABLE[method, path]
    async with serving() as server:
        statuses = []
        for token in TOKENS:
            if isinstance(body, bytes):
                sent = {"Content-Type": "text/csv"}
                reply = await server.request(method, url(path), raw=body, headers=sent, token=token)
            else:
                reply = await server.request(method, url(path), body, token=token)
            statuses.append(reply.status)
            if reply.status == 401:
                assert reply.headers["www-authenticate"].startswith("Bearer")
                assert reply.json["type"] == "unauthenticated"
        assert tuple(statuses) == expected
        region = server.region
        scripted = [part for part in vars(region).values() if isinstance(part, Scripted)]
        acted = [call for part in scripted for call in part.calls]
        allowed = [status for status in statuses if status < 300]
        assert len(acted) == (len(allowed) if 401 in statuses else 0)


@pytest_twisted.ensureDeferred
async def test_a_request_without_a_token_is_the_local_account_on_the_socket_only(tmp_path: object) -> None:
    async with serving(path=f"{tmp_path}/api.sock") as server:
        assert (await server.request("POST", "/api/v1/users", {"name": "bob"}, token=None)).status == 201
        [(_, arguments)] = [call for call in server.region.accounts.calls if call[0] == "create_account"]
        assert arguments["context"].caller.name == "local"
        assert (await server.request("GET", "/api/v1/users", token="alice")).status == 403
        assert (await server.request("GET", "/api/v1/users", token="wrong")).status == 401
    async with serving() as server:
        reply = await server.request("GET", "/api/v1/users", token=None, headers={"X-Forwarded-For": "unix:"})
        assert reply.status == 401
        assert "local_caller" not in [name for name, _ in server.region.accounts.calls]


@pytest_twisted.ensureDeferred
async def test_force_is_an_admins() -> None:
    async with serving() as server:
        path = f"/api/v1/reservations/{format_id(Prefix.RESERVATION, 7)}?force=true"
        refused = await server.request("DELETE", path, token="alice")
        assert (refused.status, refused.json["type"]) == (403, "not-permitted")
        assert server.region.claims.calls == []
        assert (await server.request("DELETE", path)).status == 204
        [(_, arguments)] = server.region.claims.calls
        assert arguments["force"] is True


def test_only_health_and_the_documentation_are_open() -> None:
    open_to_all = {"/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/docs"}
    assert {route.path for route in ROUTES if route.access is Access.ANYBODY} == open_to_all
