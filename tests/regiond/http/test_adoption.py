"""What clusters' DHCP servers have of their own over HTTP: representations, what reaches the use cases, mistakes."""

from dataclasses import replace

import pytest_twisted

from regiond.domain import errors
from regiond.domain.first_contact import Adoption, AdoptionResult
from tests.fakes.use_cases import FOREIGN_ENTRY, MAPPED_VIEW
from tests.regiond.http.serving import serving
from tests.regiond.http.test_mistakes import check_problem

CLUSTER = "/api/v1/clusters/rack-a"
SHOWN = {
    "id": "fe-000000000g",
    "address": "192.0.2.20",
    "identifiers": ["mac:00:16:3e:00:00:20"],
    "hostname": "old",
    "source": "/etc/dnsmasq.conf:8",
    "subnet": "sn-0000000005",
    "cidr": "192.0.2.0/24",
    "adoption": "possible",
    "reason": None,
    "reservation": None,
    "what_to_delete": None,
}


@pytest_twisted.ensureDeferred
async def test_what_a_server_has() -> None:
    async with serving() as server:
        assert (await server.request("GET", f"{CLUSTER}/dhcp-server")).json == {
            "cluster": {"id": "cl-0000000009", "name": "rack-a"},
            "backend": "dnsmasq",
            "contact": "reported",
            "read_at": "2026-01-31T12:00:00.123Z",
            "error": None,
            "remarks": [],
            "pools": [
                {
                    "low": "192.0.2.100",
                    "high": "192.0.2.150",
                    "source": "/etc/dnsmasq.conf:7",
                    "cidr": "192.0.2.0/24",
                    "reservations": 1,
                }
            ],
            "static_entries": 1,
        }


@pytest_twisted.ensureDeferred
async def test_entries_come_in_pages() -> None:
    async with serving() as server:
        server.region.adoptions.answers["entries"] = [FOREIGN_ENTRY, replace(FOREIGN_ENTRY, id=17)]
        reply = await server.request("GET", f"{CLUSTER}/static-entries?limit=1&subnet=192.0.2.0%2F24")
        assert reply.json == [SHOWN]
        assert "after=fe-000000000g" in reply.headers["link"]
        [(_, call)] = server.region.adoptions.calls
        assert (call["cluster"], call["subnet"], call["limit"]) == ("rack-a", "192.0.2.0/24", 2)


@pytest_twisted.ensureDeferred
async def test_an_adopted_entry_tells_what_to_delete() -> None:
    async with serving() as server:
        holder = replace(MAPPED_VIEW.reservation, macs=("00:16:3e:00:00:20",), client_id=None)
        server.region.adoptions.answers["entries"] = [replace(FOREIGN_ENTRY, holder=holder)]
        [shown] = (await server.request("GET", f"{CLUSTER}/static-entries")).json
        assert (shown["adoption"], shown["reservation"]) == ("adopted", "rs-0000000008")
        assert "restart dnsmasq" in shown["what_to_delete"]


@pytest_twisted.ensureDeferred
async def test_each_entry_has_its_result() -> None:
    async with serving() as server:
        refused = AdoptionResult(17, Adoption.CONFLICT, "taken", None)
        server.region.adoptions.answers["adopt"] = [AdoptionResult(16, Adoption.DONE, None, 8), refused]
        reply = await server.request("POST", f"{CLUSTER}/adopt", {"entries": ["fe-000000000g"], "owner": "alice"})
        assert (reply.status, reply.json) == (
            200,
            [
                {"entry": "fe-000000000g", "adoption": "adopted", "reason": None, "reservation": "rs-0000000008"},
                {"entry": "fe-000000000h", "adoption": "conflict", "reason": "taken", "reservation": None},
            ],
        )
        [(_, call)] = server.region.adoptions.calls
        assert (call["entries"], call["owner"]) == (["fe-000000000g"], "alice")


@pytest_twisted.ensureDeferred
async def test_mistakes() -> None:
    async with serving() as server:
        for entries in ([], ["x"] * 501, "fe-000000000g", [1]):
            reply = await server.request("POST", f"{CLUSTER}/adopt", {"entries": entries})
            check_problem(reply, 400, "invalid-request")
        assert server.region.adoptions.calls == []
        server.region.claims.answers["reserve"] = errors.SubnetNotReady("not yet")
        reply = await server.request("POST", "/api/v1/reservations", {"interface": "rack-a:eth1"})
        check_problem(reply, 503, "subnet-not-ready")
        assert reply.headers["retry-after"] == "2"
