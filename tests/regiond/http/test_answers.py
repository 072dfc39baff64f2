"""What well-formed requests get: representations, pages, headers, and what reaches the use cases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_twisted

from regiond.domain.accounts import NewToken
from regiond.domain.ids import Prefix, format_id
from regiond.domain.readiness import ReplicationState
from regiond.domain.versions import of_reservation
from tests.fakes.use_cases import (
    CLUSTER_VIEW,
    DEVICE_VIEW,
    MAPPED_VIEW,
    NOW,
    RELEASING_VIEW,
    RESERVATION,
    RESERVATION_VIEW,
    TOKEN_VIEW,
)
from tests.regiond.http.serving import serving

MAC = "00:16:3e:00:00:07"
WHERE = {"interface": "rack-a:eth1"}


@pytest_twisted.ensureDeferred
async def test_a_reservation_as_documented() -> None:
    async with serving() as server:
        reply = await server.request("GET", "/api/v1/reservations/rs-0000000007")
        assert reply.json == {
            "id": "rs-0000000007",
            "kind": "user",
            "status": "active",
            "address": "192.0.2.7",
            "subnet": {"id": "sn-0000000005", "cidr": "192.0.2.0/24", "vrf": "default"},
            "mac": MAC,
            "macs": [MAC],
            "client_id": None,
            "duid": None,
            "alias": None,
            "hostname": "web1",
            "owner": "alice",
            "device": None,
            "node": None,
            "group": None,
            "purpose": "a test",
            "comment": None,
            "created": "2026-01-31T12:00:00.123Z",
            "expires_at": None,
            "free_at": None,
            "probed": None,
            "etag": reply.headers["etag"],
            "waits_for": [],
            "host_map": None,
        }
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["cache-control"] == "no-store"


def test_an_etag_is_over_what_a_client_can_write() -> None:
    assert of_reservation(RESERVATION) == of_reservation(replace(RESERVATION, map_generation=99))
    for written in ({"comment": "x"}, {"hostname": "x"}, {"expires_at": NOW}, {"id": 8}):
        assert of_reservation(RESERVATION) != of_reservation(replace(RESERVATION, **written))


@pytest_twisted.ensureDeferred
async def test_a_device_with_the_state_of_its_host_map() -> None:
    async with serving() as server:
        reply = await server.request("POST", "/api/v1/devices?wait=1.5", {**WHERE, "mac": "0016.3e00.0007"})
        assert (reply.status, reply.headers["location"]) == (201, "/api/v1/devices/dv-0000000006")
        [held] = reply.json["reservations"]
        assert held["device"] == "dv-0000000006"
        assert held["host_map"] == {
            "state": "pending",
            "clusters": [
                {
                    "id": "cl-0000000009",
                    "name": "rack-a",
                    "state": "pending",
                    "generation": 4,
                    "since": "2026-01-31T12:00:00.123Z",
                    "error": None,
                }
            ],
        }
        [(_, arguments)] = server.region.claims.calls
        assert (arguments["macs"], arguments["context"].wait_seconds) == ((MAC,), 1.5)
        server.region.claims.answers["create_device"] = (DEVICE_VIEW, False)
        again = await server.request("POST", "/api/v1/devices", {**WHERE, "macs": [MAC, "00:16:3e:00:00:08"]})
        assert (again.status, again.json) == (200, reply.json)
        assert server.region.claims.calls[1][1]["macs"] == (MAC, "00:16:3e:00:00:08")
        assert server.region.claims.calls[1][1]["context"].wait_seconds is None


@pytest_twisted.ensureDeferred
async def test_values_reach_the_use_cases_in_one_spelling() -> None:
    async with serving() as server:
        await server.request(
            "POST",
            "/api/v1/nodes/nd-0000000004/addresses",
            {"interface": "2001:db8::/64", "duid": "00-01-AA", "address": "2001:DB8::0:7", "hostname": "Web1."},
        )
        await server.request(
            "POST", "/api/v1/reservations", {**WHERE, "expires_in": 60, "user": "Bob", "purpose": "ü", "count": 1}
        )
        (_, node), (_, user) = server.region.claims.calls
        assert (node["duid"], node["address"], node["hostname"]) == ("00:01:aa", "2001:db8::7", "web1")
        assert node["node_id"] == "nd-0000000004"
        assert (user["expires_at"], user["user"], user["purpose"]) == (NOW + timedelta(seconds=60), "bob", "ü")


@pytest_twisted.ensureDeferred
async def test_a_group_is_given_back_with_one_request() -> None:
    async with serving() as server:
        path = "/api/v1/groups/gr-0000000003"
        in_group = replace(RESERVATION_VIEW, reservation=replace(RESERVATION, group=3))
        server.region.claims.answers["group"] = [in_group]
        read = (await server.request("GET", path)).json
        assert read["group"] == "gr-0000000003" and len(read["reservations"]) == 1
        assert (await server.request("DELETE", path)).status == 204
        assert [(name, each["group_id"]) for name, each in server.region.claims.calls] == [
            ("group", "gr-0000000003"),
            ("release_group", "gr-0000000003"),
        ]


@pytest_twisted.ensureDeferred
async def test_several_reservations_are_a_group() -> None:
    async with serving() as server:
        views = [replace(RESERVATION_VIEW, reservation=replace(RESERVATION, id=n, group=3)) for n in (1, 2)]
        server.region.claims.answers["reserve"] = (views, True)
        reply = await server.request("POST", "/api/v1/reservations", {**WHERE, "count": 2})
        assert (reply.status, reply.headers["location"]) == (201, "/api/v1/groups/gr-0000000003")
        assert reply.json["group"] == "gr-0000000003"
        assert [each["id"] for each in reply.json["reservations"]] == ["rs-0000000001", "rs-0000000002"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("path", "method", "several"),
    [
        ("/api/v1/devices/dv-0000000006", "delete_device", True),
        ("/api/v1/nodes/nd-0000000004", "delete_node", True),
        ("/api/v1/nodes/nd-0000000004/addresses/rs-0000000008", "release_node_address", False),
        ("/api/v1/reservations/rs-0000000008", "release_reservation", False),
    ],
)
async def test_a_release_says_what_it_waits_for(path: str, method: str, several: bool) -> None:
    async with serving() as server:
        free = await server.request("DELETE", path)
        assert (free.status, free.body) == (204, b"")
        assert "content-type" not in free.headers
        server.region.claims.answers[method] = [RELEASING_VIEW]
        waiting = await server.request("DELETE", path)
        assert waiting.status == 202
        held = waiting.json["releasing"][0] if several else waiting.json
        assert (held["status"], held["waits_for"]) == ("releasing", ["cluster rack-a has to confirm"])


@pytest_twisted.ensureDeferred
async def test_a_list_goes_on_where_its_page_ended() -> None:
    views = [replace(RESERVATION_VIEW, reservation=replace(RESERVATION, id=n)) for n in range(1, 6)]

    async def listed(*, limit: int, after: str | None, **_: Any) -> Any:
        later = [v for v in views if after is None or format_id(Prefix.RESERVATION, v.reservation.id) > after]
        return later[:limit]

    async with serving() as server:
        server.region.claims.answers["list_reservations"] = listed
        target: str | None = "/api/v1/reservations?limit=2&kind=user&kind=node&mac=00%3A16"
        pages = []
        while target is not None:
            reply = await server.request("GET", target)
            pages.append([each["id"] for each in reply.json])
            link = reply.headers.get("link")
            target = None
            if link is not None:
                assert link.endswith('>; rel="next"')
                target = link[1:].partition(">")[0]
        assert pages == [["rs-0000000001", "rs-0000000002"], ["rs-0000000003", "rs-0000000004"], ["rs-0000000005"]]
        assert all(
            call["filters"] == {"kind": ["user", "node"], "mac": ["00:16"]} for _, call in server.region.claims.calls
        )


@pytest_twisted.ensureDeferred
async def test_a_list_that_is_read_as_a_whole_has_pages_too() -> None:
    async with serving() as server:
        server.region.inventory.answers["clusters"] = [replace(CLUSTER_VIEW, id=n, name=f"c{n}") for n in (3, 1, 2)]
        first = await server.request("GET", "/api/v1/clusters?limit=2")
        assert [each["name"] for each in first.json] == ["c1", "c2"]
        second = await server.request("GET", first.headers["link"][1:].partition(">")[0])
        assert [each["name"] for each in second.json] == ["c3"] and "link" not in second.headers


@pytest_twisted.ensureDeferred
async def test_clusters_interfaces_and_subnets() -> None:
    async with serving() as server:
        [cluster] = (await server.request("GET", "/api/v1/clusters")).json
        assert cluster["subnets"][0]["pending"] == 1
        [interface] = (await server.request("GET", "/api/v1/cluster-interfaces?selector=rack-a:eth1")).json
        assert interface["subnet"] == "sn-0000000005" and interface["mac"] == "00:16:3e:00:00:02"
        assert server.region.inventory.calls[1] == ("interfaces", {"selector": "rack-a:eth1"})
        [seen] = (await server.request("GET", "/api/v1/cluster-interfaces", token="alice")).json
        assert seen["mac"] is None
        subnet = (await server.request("GET", "/api/v1/subnets/sn-0000000005")).json
        assert (subnet["cidr"], subnet["reservations"], subnet["releasing"]) == ("192.0.2.0/24", 3, 1)


@pytest_twisted.ensureDeferred
async def test_a_secret_is_in_one_answer_only() -> None:
    async with serving() as server:
        made = await server.request("POST", "/api/v1/tokens", {"name": "laptop", "expires_in": 5})
        assert made.json["token"] == "hm_the-secret"
        assert made.headers["location"] == "/api/v1/tokens/tk-000000000c"
        for path in ("/api/v1/tokens", "/api/v1/tokens/tk-000000000c"):
            assert b"hm_" not in (await server.request("GET", path)).body
        server.region.accounts.answers["create_token"] = NewToken(TOKEN_VIEW, None)
        assert (await server.request("POST", "/api/v1/tokens", {"name": "laptop"})).json["token"] is None


@pytest_twisted.ensureDeferred
async def test_an_idempotency_key_stands_for_method_path_query_and_body() -> None:
    async with serving() as server:
        path = "/api/v1/reservations"
        for target, body, key in (
            (path, {**WHERE, "mac": MAC}, "k1"),
            (f"{path}?wait=3", {**WHERE, "mac": MAC}, "k1"),
            (path, {**WHERE, "mac": "00:16:3e:00:00:08"}, "k1"),
            ("/api/v1/devices", {**WHERE, "mac": MAC}, "k1"),
            (path, {**WHERE, "mac": MAC}, None),
        ):
            headers = {} if key is None else {"Idempotency-Key": key}
            await server.request("POST", target, body, headers=headers)
        first, waiting, other_body, other_path, without = (c["context"] for _, c in server.region.claims.calls)
        assert first.idempotency_key == "k1" and len(first.fingerprint) == 64
        assert waiting.idempotency == first.idempotency
        assert len({first.fingerprint, other_body.fingerprint, other_path.fingerprint}) == 3
        assert without.idempotency is None


@pytest_twisted.ensureDeferred
async def test_a_query_that_means_something_else_is_another_request_however_it_is_written() -> None:
    async with serving() as server:
        queries = (
            *("", "?force=false", "?wait=3"),
            *("?force=true", "?wait=1&force=true", "?force=true&wait=2"),
            *("?probe=true", "?probe=false", "?force=true&probe=true", "?probe=true&force=true"),
        )
        for query in queries:
            path = f"/api/v1/devices{query}"
            await server.request("POST", path, {**WHERE, "mac": MAC}, headers={"Idempotency-Key": "k"})
        told = [call["context"].fingerprint for _, call in server.region.claims.calls]
        assert [told.index(each) for each in told] == [0, 0, 0, 3, 3, 3, 6, 7, 8, 8]
        server.region.claims.calls.clear()
        for query in ("", "?force=true"):
            await server.request("DELETE", f"/api/v1/devices/dv-000000000a{query}", headers={"Idempotency-Key": "k"})
        kept, forced = (call["context"].fingerprint for _, call in server.region.claims.calls)
        assert kept != forced


@pytest_twisted.ensureDeferred
async def test_a_request_id_is_taken_or_made_and_logged(caught_logs: list[dict[str, Any]]) -> None:
    async with serving() as server:
        taken = await server.request("GET", "/api/v1/clusters", headers={"X-Request-ID": "deploy-7/a"})
        assert taken.headers["x-request-id"] == "deploy-7/a"
        made = [
            (await server.request("GET", "/api/v1/clusters", token="alice", headers=headers)).headers["x-request-id"]
            for headers in ({}, {"X-Request-ID": "two words"}, {"X-Request-ID": "x" * 129})
        ]
        assert len(set(made)) == 3 and all(len(each) == 16 for each in made)
        lines = [event for event in caught_logs if event.get("event") == "http.request"]
        assert [line["request_id"] for line in lines] == ["deploy-7/a", *made]
        assert [line["account"] for line in lines] == ["root", "alice", "alice", "alice"]
        assert all(line["status"] == 200 and line["duration_ms"] >= 0 for line in lines)


@pytest_twisted.ensureDeferred
async def test_no_token_is_in_the_log(caught_logs: list[dict[str, Any]]) -> None:
    async with serving() as server:
        await server.request("GET", "/api/v1/clusters", token="hm_0000000001_verysecret")
        await server.request("GET", "/api/v1/clusters?token=hm_0000000001_verysecret")
        assert [event for event in caught_logs if event.get("event") == "http.request"]
        assert not [event for event in caught_logs if "verysecret" in repr(event)]


@pytest_twisted.ensureDeferred
async def test_head_and_options() -> None:
    async with serving() as server:
        got = await server.request("GET", "/api/v1/reservations/rs-0000000007")
        head = await server.request("HEAD", "/api/v1/reservations/rs-0000000007")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(got.body))
        assert (await server.request("HEAD", "/api/v1/devices", token="admin-reads")).status == 200
        options = await server.request("OPTIONS", "/api/v1/devices/dv-0000000006", token=None)
        assert (options.status, options.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PATCH")


@pytest_twisted.ensureDeferred
async def test_an_account_is_disabled() -> None:
    async with serving() as server:
        assert (await server.request("PATCH", "/api/v1/users/alice", {"disabled": True})).json["name"] == "alice"
        [(_, arguments)] = server.region.accounts.calls
        assert (arguments["account_id"], arguments["changes"]) == ("alice", {"disabled": True})


@pytest_twisted.ensureDeferred
async def test_a_node_address_is_at_its_own_place() -> None:
    async with serving() as server:
        path = "/api/v1/nodes/nd-0000000004/addresses"
        reply = await server.request("POST", path, {**WHERE, "alias": "eth0:1"})
        assert reply.headers["location"] == f"{path}/{format_id(Prefix.RESERVATION, MAPPED_VIEW.reservation.id)}"
        assert [each["id"] for each in (await server.request("GET", path)).json] == ["rs-0000000008"]


@pytest_twisted.ensureDeferred
async def test_who_is_ready_tells_how_its_database_is() -> None:
    async with serving() as server:
        server.region.health.replication = ReplicationState(True, 2, 2, 1, 4096)
        reply = await server.request("GET", "/readyz", token=None)
        assert (reply.status, reply.json) == (
            200,
            {
                "status": "ready",
                "database": {"reachable": True, "role": "primary", "schema": "current"},
                "replication": {
                    "synchronous": True,
                    "standbys": 2,
                    "streaming": 2,
                    "synchronous_streaming": 1,
                    "lag_bytes": 4096,
                },
            },
        )
