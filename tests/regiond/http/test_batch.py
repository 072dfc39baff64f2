"""Batches over HTTP: what a member becomes, where a mistake in one is, and what is said of refused ones."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_twisted

from regiond.domain import errors
from regiond.use_cases.batches import MAX_MEMBERS, MemberResult
from regiond.use_cases.steps import (
    DeviceClaim,
    DeviceRelease,
    NodeAddressClaim,
    NodeAddressRelease,
    ReservationRelease,
    UserClaim,
)
from tests.fakes.use_cases import ALICE, NOW, RELEASING_VIEW, RESERVATION, RESERVATION_VIEW
from tests.regiond.http.serving import serving
from tests.regiond.http.test_mistakes import check_problem

BATCH = "/api/v1/batch"
MAC = "00:16:3e:00:00:01"
NET = "192.0.2.0/24"


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("member", "understood"),
    [
        (
            {"operation": "claim-device", "interface": NET, "mac": "00-16-3E-00-00-01", "hostname": "Web1"},
            DeviceClaim(NET, (MAC,), hostname="web1"),
        ),
        (
            {"operation": "claim-node-address", "node": "nd-1", "interface": NET, "alias": "eth0:1"},
            NodeAddressClaim("nd-1", NET, alias="eth0:1"),
        ),
        (
            {"operation": "reserve", "interface": NET, "count": 3, "expires_in": 60, "purpose": "a test"},
            UserClaim(NET, count=3, purpose="a test", expires_at=NOW + timedelta(seconds=60)),
        ),
        ({"operation": "release-device", "device": "dv-1", "force": True}, DeviceRelease("dv-1", True)),
        (
            {"operation": "release-node-address", "node": "nd-1", "reservation": "rs-1"},
            NodeAddressRelease("nd-1", "rs-1"),
        ),
        ({"operation": "release-reservation", "reservation": "rs-1"}, ReservationRelease("rs-1")),
    ],
    ids=lambda value: value["operation"] if isinstance(value, dict) else "",
)
async def test_a_member_means_what_the_request_of_its_own_means(member: dict[str, Any], understood: Any) -> None:
    async with serving() as server:
        reply = await server.request("POST", f"{BATCH}?wait=3", {"members": [member]})
        assert reply.status == 200
        assert [result["operation"] for result in reply.json["results"]] == [member["operation"]]
        ((name, arguments),) = server.region.batches.calls
        assert (name, arguments["members"]) == ("run", [understood])
        assert arguments["context"].wait_seconds == 3.0


@pytest_twisted.ensureDeferred
async def test_a_result_tells_what_was_claimed_and_what_is_not_free_yet() -> None:
    async with serving() as server:
        in_group = replace(RESERVATION_VIEW, reservation=replace(RESERVATION, group=77))
        results = [MemberResult(True, (in_group,)), MemberResult(True, (RELEASING_VIEW,)), MemberResult(True, ())]
        server.region.batches.answers["run"] = results
        members = [
            {"operation": "reserve", "interface": NET},
            {"operation": "release-device", "device": "dv-1"},
            {"operation": "release-reservation", "reservation": "rs-1"},
        ]
        reserved, device, user = (await server.request("POST", BATCH, {"members": members})).json["results"]
        assert reserved["new"] and reserved["group"].startswith("gr-") and reserved["device"] is None
        assert [one["address"] for one in reserved["reservations"]] == ["192.0.2.7"]
        assert [one["status"] for one in device["reservations"]] == ["releasing"]
        assert user["reservations"] == []


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("members", "pointers"),
    [
        ([], ["/members"]),
        ([{"operation": "release-reservation", "reservation": "rs-1"}] * (MAX_MEMBERS + 1), ["/members"]),
        ([{}], ["/members/0"]),
        ([{"operation": "claim"}], ["/members/0"]),
        ([{"operation": "reserve", "address": "192.0.2.7"}, {"operation": "claim-device"}], ["/members/1/interface"]),
        ([{"operation": "claim-device", "interface": NET}], ["/members/0"]),
        ([{"operation": "claim-device", "interface": NET, "mac": "x"}], ["/members/0/mac"]),
        ([{"operation": "claim-device", "interface": NET, "mac": MAC, "mca": MAC}], ["/members/0/mca"]),
        (
            [{"operation": "release-device", "device": ""}, {"operation": "reserve", "address": "x", "count": 0}],
            ["/members/0/device", "/members/1/address", "/members/1/count"],
        ),
    ],
)
async def test_a_mistake_is_found_where_it_is(members: list[Any], pointers: list[str]) -> None:
    async with serving() as server:
        reply = await server.request("POST", BATCH, {"members": members})
        problem = check_problem(reply, 400, "invalid-request")
        assert [mistake["pointer"] for mistake in problem["errors"]] == pointers
        assert server.region.batches.calls == []


@pytest_twisted.ensureDeferred
async def test_refused_members_are_told_by_position_with_all_that_is_known_of_them() -> None:
    async with serving() as server:
        server.region.batches.answers["run"] = errors.BatchRefused(
            [
                (1, errors.AddressTaken("192.0.2.7 is taken", holder=RESERVATION)),
                (4, errors.BadSelector("a cluster has no colon", position=7)),
                (9, errors.SubnetNotReady("try again")),
            ]
        )
        body = {"members": [{"operation": "reserve", "interface": NET}]}
        problem = check_problem(await server.request("POST", BATCH, body, token="alice"), 409, "batch-refused")
        assert problem["detail"].startswith("nothing was changed: member 1: 192.0.2.7 is taken, and 2 more are")
        taken, selector, unready = problem["refused"]
        assert (taken["member"], taken["status"], taken["type"]) == (1, 409, "address-taken")
        assert taken["holder"]["owner"] == ALICE.name
        assert (selector["member"], selector["status"], selector["position"]) == (4, 400, 7)
        assert (unready["member"], unready["status"], unready["type"]) == (9, 503, "subnet-not-ready")
        server.region.batches.answers["run"] = errors.BatchRefused(
            [(0, errors.AddressTaken("taken", holder=replace(RESERVATION, owner=99)))]
        )
        problem = check_problem(await server.request("POST", BATCH, body, token="alice"), 409, "batch-refused")
        assert problem["refused"][0]["holder"] == {"kind": "user"}
