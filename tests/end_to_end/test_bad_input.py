"""Bad input over real HTTP: the documented status, a problem that tells what to do, and nothing changed."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.daemons import Api, Cluster, Region, Reply, eventually
from tests.lab import namespaces
from tests.lab.namespaces import Network
from tests.requirements import need

pytestmark = pytest.mark.namespaces

V4 = "192.0.2.0/24"
V6 = "2001:db8:0:1::/64"
MAC = "00:16:3e:aa:00:01"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        yield made


@pytest.fixture(scope="module")
def region(network: Network, module_state_directory: Path) -> Iterator[Region]:
    """One region with a cluster on three networks; reached over TCP by an admin and by a user."""
    directory = module_state_directory / "bad-input"
    directory.mkdir(mode=0o711)
    running = Region(directory, listen=["tcp:127.0.0.1:0"])
    cluster = Cluster(directory, running.link, namespace=network.server)
    try:
        running.up()
        cluster.up()
        cluster.wait_for("contact.reported")  # before, nothing can be claimed there
        eventually(lambda: len(running.api.get("cluster-interfaces")) == 3, "the topology at the region")
        yield running
    finally:
        cluster.stop()
        running.stop()


@pytest.fixture(scope="module")
def admin(region: Region) -> Api:
    return account(region, "root", "admin")


@pytest.fixture(scope="module")
def user(region: Region) -> Api:
    return account(region, "alice", "user")


def account(region: Region, name: str, role: str) -> Api:
    region.api.post("users", {"name": name, "role": role})
    token = region.api.post("tokens", {"account": name, "name": "test"})["token"]
    port = int(region.wait_for("regiond.started")["http"][0].rpartition(":")[2])
    return Api(port, token)


def everything(region: Region) -> Any:
    return [region.api.get(path) for path in ("reservations", "devices", "nodes", "subnets")]


DEVICE: dict[str, Any] = {"macs": [MAC], "interface": V4}

REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "unknown field": ("devices", {**DEVICE, "colour": "red"}, 400, "invalid-request"),
    "bad MAC": ("devices", {**DEVICE, "macs": ["00:16:3e:zz:00:01"]}, 400, "invalid-request"),
    "multicast MAC": ("devices", {**DEVICE, "macs": ["01:00:5e:00:00:01"]}, 400, "invalid-request"),
    "no MAC": ("devices", {"interface": V4}, 400, "invalid-request"),
    "bad host name": ("devices", {**DEVICE, "hostname": "a b"}, 400, "invalid-request"),
    "address outside the subnet": ("devices", {**DEVICE, "address": "198.51.100.7"}, 409, "address-outside-subnet"),
    "network address": ("devices", {**DEVICE, "address": "192.0.2.0"}, 409, "address-not-usable"),
    "broadcast address": ("devices", {**DEVICE, "address": "192.0.2.255"}, 409, "address-not-usable"),
    "router anycast": ("reservations", {"interface": V6, "address": "2001:db8:0:1::"}, 409, "address-not-usable"),
    "the controller's own": ("devices", {**DEVICE, "address": "192.0.2.1"}, 409, "address-of-infrastructure"),
    "not an address": ("devices", {**DEVICE, "address": "192.0.2.300"}, 400, "invalid-request"),
    "unknown network": ("devices", {**DEVICE, "interface": "203.0.113.0/24"}, 404, "no-such-cluster-interface"),
    "unknown cluster": ("devices", {**DEVICE, "interface": "nowhere:s0"}, 404, "no-such-cluster-interface"),
    "unreadable selector": ("devices", {**DEVICE, "interface": "vlan:many"}, 400, "bad-selector"),
    "ambiguous selector": ("devices", {**DEVICE, "interface": "rack-a:s0"}, 409, "ambiguous-selector"),
    "too many": ("reservations", {"interface": V4, "count": 257}, 400, "invalid-request"),
    "more than there are": ("reservations", {"interface": V4, "count": 256}, 409, "subnet-exhausted"),
    "unknown owner": ("devices", {**DEVICE, "owner": "nobody-here"}, 404, "not-found"),
    "unknown node": ("nodes/nd-0000000000/addresses", {"interface": V4, "mac": MAC}, 404, "not-found"),
}


def check_problem(reply: Reply, status: int, slug: str) -> None:
    assert (reply.status, reply.body["type"]) == (status, slug), reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.body["status"] == status
    assert reply.body["detail"]
    assert reply.body["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_and_changes_nothing(region: Region, admin: Api, name: str) -> None:
    path, body, status, slug = REFUSED[name]
    before = everything(region)
    check_problem(admin.request("POST", path, body), status, slug)
    assert everything(region) == before


def test_several_mistakes_are_told_together_with_their_places(admin: Api) -> None:
    reply = admin.request("POST", "devices", {"macs": ["x"], "hostname": "-", "colour": 1})
    check_problem(reply, 400, "invalid-request")
    assert {mistake["pointer"] for mistake in reply.body["errors"]} >= {"/macs/0", "/hostname", "/colour", "/interface"}


def test_an_ambiguous_selector_lists_the_candidates(admin: Api) -> None:
    reply = admin.request("POST", "devices", {**DEVICE, "interface": "rack-a:s0"})
    assert {candidate["cidr"] for candidate in reply.body["candidates"]} == {V4, V6}
    for candidate in reply.body["candidates"]:
        again = admin.request("POST", "devices", {**DEVICE, "interface": candidate["id"]})
        assert again.status == 201
        assert admin.request("DELETE", f"devices/{again.body['id']}?force=true").status == 204


def test_a_bad_selector_says_where(admin: Api) -> None:
    reply = admin.request("POST", "reservations", {"interface": "cluster:rack-a,vlan:many"})
    check_problem(reply, 400, "bad-selector")
    assert reply.body["position"] == len("cluster:rack-a,vlan:")


def test_bodies_that_are_none(region: Region, admin: Api) -> None:
    before = everything(region)
    check_problem(admin.request("POST", "devices", raw=b"{"), 400, "malformed-json")
    check_problem(admin.request("POST", "devices", raw=b"\xff"), 400, "malformed-json")
    wrong_type = admin.request("POST", "devices", raw=b"a=b", headers={"Content-Type": "text/plain"})
    check_problem(wrong_type, 415, "unsupported-media-type")
    check_problem(admin.request("POST", "devices", raw=b" " * 2_000_000), 413, "body-too-large")
    assert everything(region) == before


def test_who_may_not(region: Region, user: Api) -> None:
    before = everything(region)
    nobody = Api(user.where)
    check_problem(nobody.request("POST", "devices", DEVICE), 401, "unauthenticated")
    check_problem(Api(user.where, "hm_wrong").request("GET", "reservations"), 401, "unauthenticated")
    check_problem(user.request("POST", "devices", DEVICE), 403, "not-permitted")
    check_problem(user.request("POST", "nodes", {"hostname": "n1", "macs": [MAC]}), 403, "not-permitted")
    other = {"interface": V4, "user": "root"}
    check_problem(user.request("POST", "reservations", other), 403, "not-permitted")
    assert everything(region) == before


def test_a_user_sees_and_releases_only_its_own(region: Region, admin: Api, user: Api) -> None:
    mine = user.post("reservations", {"interface": V4})
    foreign = admin.post("reservations", {"interface": V4})
    assert [row["id"] for row in user.get("reservations")] == [mine["id"]]
    check_problem(user.request("GET", f"reservations/{foreign['id']}"), 404, "not-found")
    check_problem(user.request("DELETE", f"reservations/{foreign['id']}"), 404, "not-found")
    check_problem(user.request("DELETE", f"reservations/{mine['id']}?force=true"), 403, "not-permitted")
    user.delete(f"reservations/{mine['id']}")
    admin.delete(f"reservations/{foreign['id']}")
    check_problem(user.request("DELETE", f"reservations/{mine['id']}"), 404, "not-found")


def test_a_conflict_names_the_holder_to_those_who_may_know(region: Region, admin: Api, user: Api) -> None:
    held = admin.post("reservations", {"interface": V4, "address": "192.0.2.99"})
    told = admin.request("POST", "reservations", {"interface": V4, "address": "192.0.2.99"})
    check_problem(told, 409, "address-taken")
    assert told.body["holder"]["id"] == held["id"]
    hidden = user.request("POST", "reservations", {"address": "192.0.2.99"})
    check_problem(hidden, 409, "address-taken")
    assert hidden.body["holder"] == {"kind": "user"}
    admin.delete(f"reservations/{held['id']}")


def test_a_key_answers_the_first_answer_and_refuses_another_request(admin: Api) -> None:
    key = {"Idempotency-Key": "order-4711"}
    first = admin.request("POST", "reservations", {"interface": V4}, key)
    again = admin.request("POST", "reservations", {"interface": V4}, key)
    assert (first.status, again.status) == (201, 201)
    assert again.body["id"] == first.body["id"]
    check_problem(admin.request("POST", "reservations", {"interface": V6}, key), 422, "idempotency-key-reused")
    gone = admin.request("DELETE", f"reservations/{first.body['id']}", headers={"Idempotency-Key": "away"})
    assert gone.status == 204
    again = admin.request("DELETE", f"reservations/{first.body['id']}", headers={"Idempotency-Key": "away"})
    assert again.status == 204


def test_a_slow_body_does_not_hold_others_up(admin: Api) -> None:
    assert isinstance(admin.where, int)
    slow = http.client.HTTPConnection("127.0.0.1", admin.where, timeout=10)
    slow.putrequest("POST", "/api/v1/devices")
    slow.putheader("Content-Length", "100")
    slow.endheaders()
    try:
        assert admin.request("GET", "subnets").status == 200
    finally:
        slow.close()
