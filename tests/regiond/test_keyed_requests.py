"""Each request that changes something, under an Idempotency-Key: it happens once, and the key is no other's."""

from pathlib import Path
from typing import Any

import pytest_twisted

from clusterd.protocol.values import AddressInUse, Identifier, ServerEntry
from regiond.domain.first_contact import DhcpServerReport
from regiond.domain.ids import Prefix, parse_id
from regiond.http.routes import ROUTES
from regiond.http.routing import BASE
from regiond.storage.addresses_in_use import InUseStore
from regiond.storage.first_contact import FirstContactStore
from tests.regiond.storage.region import new_id
from tests.regiond.whole import Whole, whole_region

NET, OTHER, THIRD = "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"
LOW = "192.0.2.200"
CHANGING = {(route.method, route.path.removeprefix(BASE)) for route in ROUTES if route.method != "GET"}


def mac(number: int) -> str:
    return f"00:16:3e:00:00:{number:02x}"


async def requests(whole: Whole) -> dict[tuple[str, str], tuple[str, Any]]:
    """For each route a request that succeeds, on things of its own; in an order in which none is in another's way."""
    rack_a, _ = await whole.cluster("rack-a", NET), await whole.cluster("rack-b", NET)
    for name in ("rack-c", "rack-d"):
        await whole.cluster(name, OTHER)
    for name in ("rack-e", "rack-f", "rack-g"):
        await whole.cluster(name)
    await whole.done("POST", f"/subnets/{OTHER.replace('/', '%2F')}/clusters/rack-d/confirm-pair")
    subnets = {each["cidr"]: each["id"] for each in await whole.done("GET", "/subnets")}
    subnet, other = subnets[NET], subnets[OTHER]
    third = (await whole.done("POST", "/subnets", {"cidr": THIRD}))["id"]

    async def device(number: int) -> str:
        made = await whole.done("POST", "/devices", {"interface": NET, "mac": mac(number)})
        return f"/devices/{made['id']}"

    async def node(name: str) -> str:
        return f"/nodes/{(await whole.done('POST', '/nodes', {'hostname': name}))['id']}"

    async def reservation(**more: Any) -> Any:
        return await whole.done("POST", "/reservations", {"interface": NET, **more})

    async def a_range(low: str) -> str:
        made = await whole.done("POST", f"/subnets/{third}/ranges", {"kind": "reserved", "low": low, "high": low})
        return f"/subnets/{third}/ranges/{made['id']}"

    owner = await node("n1")
    held = (await whole.done("POST", f"{owner}/addresses", {"interface": NET, "mac": mac(11)}))["id"]
    await whole.done("POST", "/vrfs", {"name": "blue"})
    await whole.done("POST", "/vrfs", {"name": "green"})
    await whole.done("POST", "/clusters/rack-y/enrolment", {})
    await whole.done("POST", "/users", {"name": "alice"})
    token = (await whole.done("POST", "/tokens", {"name": "old", "account": "alice"}))["id"]
    marks = InUseStore(whole.pool, new_id)
    await marks.mark("test", parse(subnet), rack_a, [AddressInUse("192.0.2.99", mac(99))])
    [mark] = await whole.done("GET", f"/subnets/{subnet}/in-use")
    entry = ServerEntry("192.0.2.77", (Identifier.mac(mac(77)),), None, "dhcpd.conf:1")
    await FirstContactStore(whole.pool, new_id).report(rack_a, "rack-a", DhcpServerReport((), (entry,), (), None))
    await whole.cluster("rack-i", "10.1.0.0/24")
    [nic] = await whole.done("GET", "/cluster-interfaces?selector=rack-i:eth0")
    [foreign] = await whole.done("GET", "/clusters/rack-a/static-entries")
    return {
        ("POST", "/devices"): ("/devices", {"interface": NET, "mac": mac(1)}),
        ("PATCH", "/devices/{device}"): (await device(2), {"comment": "c"}),
        ("DELETE", "/devices/{device}"): (await device(3), None),
        ("POST", "/nodes"): ("/nodes", {"hostname": "n2"}),
        ("PATCH", "/nodes/{node}"): (await node("n3"), {"comment": "c"}),
        ("DELETE", "/nodes/{node}"): (await node("n4"), None),
        ("POST", "/nodes/{node}/addresses"): (f"{owner}/addresses", {"interface": NET, "mac": mac(12)}),
        ("DELETE", "/nodes/{node}/addresses/{reservation}"): (f"{owner}/addresses/{held}", None),
        ("POST", "/reservations"): ("/reservations", {"interface": NET}),
        ("PATCH", "/reservations/{reservation}"): (f"/reservations/{(await reservation())['id']}", {"comment": "c"}),
        ("DELETE", "/reservations/{reservation}"): (f"/reservations/{(await reservation())['id']}", None),
        ("DELETE", "/groups/{group}"): (f"/groups/{(await reservation(count=2))['group']}", None),
        ("POST", "/batch"): ("/batch", {"members": [{"operation": "reserve", "interface": NET}]}),
        ("POST", "/imports"): ("/imports?dry_run=false&wait=30", b"address\n192.0.2.55\n"),
        ("POST", "/clusters/{cluster}/enrolment"): ("/clusters/rack-x/enrolment", {}),
        ("DELETE", "/clusters/{cluster}/enrolment"): ("/clusters/rack-y/enrolment", None),
        ("POST", "/clusters/{cluster}/revoke"): ("/clusters/rack-e/revoke", None),
        ("DELETE", "/clusters/{cluster}"): ("/clusters/rack-f", None),
        ("PATCH", "/clusters/{cluster}"): ("/clusters/rack-g", {"vrf": "blue", "name": "rack-h"}),
        ("PATCH", "/cluster-interfaces/{interface}"): (
            f"/cluster-interfaces/{nic['id']}?force=true",
            {"serve": False},
        ),
        ("PATCH", "/subnets/{subnet}"): (f"/subnets/{subnet}", {"release_hold_seconds": 60}),
        ("POST", "/subnets/{subnet}/ranges"): (
            f"/subnets/{third}/ranges",
            {"kind": "reserved", "low": "203.0.113.3", "high": "203.0.113.3"},
        ),
        ("PATCH", "/subnets/{subnet}/ranges/{range}"): (await a_range("203.0.113.4"), {"comment": "c"}),
        ("DELETE", "/subnets/{subnet}/ranges/{range}"): (await a_range("203.0.113.5"), None),
        ("POST", "/subnets/{subnet}/repair"): (f"/subnets/{subnet}/repair", None),
        ("POST", "/subnets/{subnet}/clusters/{cluster}/confirm-pair"): (
            f"/subnets/{subnet}/clusters/rack-b/confirm-pair",
            None,
        ),
        ("POST", "/subnets/{subnet}/clusters/{cluster}/unpair"): (f"/subnets/{other}/clusters/rack-d/unpair", None),
        ("POST", "/vrfs"): ("/vrfs", {"name": "red"}),
        ("PATCH", "/vrfs/{vrf}"): ("/vrfs/blue", {"comment": "c"}),
        ("DELETE", "/vrfs/{vrf}"): ("/vrfs/green", None),
        ("POST", "/subnets"): ("/subnets", {"cidr": "10.0.0.0/24"}),
        ("DELETE", "/subnets/{subnet}"): (f"/subnets/{third}", None),
        ("DELETE", "/subnets/{subnet}/in-use/{mark}"): (f"/subnets/{subnet}/in-use/{mark['id']}", None),
        ("POST", "/clusters/{cluster}/adopt"): ("/clusters/rack-a/adopt", {"entries": [foreign["id"]]}),
        ("POST", "/users"): ("/users", {"name": "bob"}),
        ("PATCH", "/users/{user}"): ("/users/alice", {"max_reservations": 3}),
        ("POST", "/tokens"): ("/tokens", {"name": "new", "account": "alice"}),
        ("DELETE", "/tokens/{token}"): (f"/tokens/{token}", None),
        ("POST", "/recovery/begin"): ("/recovery/begin", {"reason": "a test"}),
        ("POST", "/recovery/end"): ("/recovery/end", {"force": True}),
    }


def parse(subnet: str) -> int:
    number = parse_id(Prefix.SUBNET, subnet)
    assert number is not None
    return number


@pytest_twisted.ensureDeferred
async def test_each_change_happens_once_under_its_key_and_never_under_another_requests(
    database: str, tmp_path: Path
) -> None:
    async with whole_region(database, tmp_path) as whole:

        async def changes() -> int:
            return int((await whole.pool.query("SELECT count(*) FROM audit"))[0][0])

        asked = await requests(whole)
        assert set(asked) == CHANGING, "a row for each route that changes something"
        await whole.done("POST", "/reservations", {"interface": NET, "purpose": "of the key"}, key="used")
        for number, ((method, route), (path, body)) in enumerate(asked.items()):
            before = await changes()
            reused = await whole.ask(method, path, body, key="used")
            assert (reused.status, reused.json["type"]) == (422, "idempotency-key-reused"), (method, route)
            assert await changes() == before, (method, route)
            first = await whole.ask(method, path, body, key=f"k{number}")
            assert 200 <= first.status < 300, (method, route, first)
            after = await changes()
            assert after > before, (method, route)
            again = await whole.ask(method, path, body, key=f"k{number}")
            assert again.status == first.status, (method, route, again)
            assert await changes() == after, (method, route)
            if first.body and "id" in (told := first.json):
                assert again.json["id"] == told["id"], (method, route)
        for thing, path, body in (
            ("node", "/nodes", {"hostname": "gone"}),
            ("token", "/tokens", {"name": "gone", "account": "alice"}),
            ("VRF", "/vrfs", {"name": "gone"}),
            ("subnet", "/subnets", {"cidr": "10.9.0.0/24"}),
            ("range", f"/subnets/{NET.replace('/', '%2F')}/ranges", {"kind": "reserved", "low": LOW, "high": LOW}),
        ):
            made = await whole.done("POST", path, body, key=f"gone-{thing}")
            await whole.done("DELETE", f"{path}/{made['id']}")
            before = await changes()
            again = await whole.ask("POST", path, body, key=f"gone-{thing}")
            assert (again.status, again.json["type"]) == (404, "not-found")
            assert again.json["detail"] == f"the {thing} that this request made is gone since"
            assert await changes() == before, "nothing is made again"
