"""Files over HTTP: what they are sent as, how large they may be, and what is answered."""

from dataclasses import replace

import pytest
import pytest_twisted

from regiond.domain.errors import TooManyImports
from regiond.domain.ids import Prefix, format_id
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.http.application import MAX_BODY_BYTES
from regiond.http.connection import MAX_LARGE_BODIES
from regiond.http.imports import MAX_BYTES
from tests.fakes.use_cases import IMPORT_VIEW
from tests.regiond.http.serving import serving
from tests.regiond.http.test_site import connected, until

PATH = "/api/v1/imports"
CSV = {"Content-Type": "text/csv; charset=UTF-8; header=present"}


@pytest_twisted.ensureDeferred
async def test_a_file_and_what_came_of_it() -> None:
    async with serving() as server:
        reply = await server.request("POST", f"{PATH}?ignore=Rack&ignore=Unit", raw=b"address\n", headers=CSV)
        assert reply.status == 201
        assert reply.headers["location"] == f"{PATH}/{format_id(Prefix.IMPORT, 17)}"
        assert reply.json["mistakes"] == [
            {"line": 3, "column": "address", "type": "address-taken", "detail": "192.0.2.7 is taken"}
        ]
        [(_, arguments)] = server.region.imports.calls
        assert (arguments["form"], arguments["content"]) == (LineFormat.CSV, b"address\n")
        assert (arguments["dry_run"], arguments["ignored"]) == (True, ["Rack", "Unit"])
        server.region.imports.answers["create"] = replace(IMPORT_VIEW, state=ImportState.APPLYING, finished=None)
        for media_type in ("application/jsonl", "application/x-ndjson"):
            reply = await server.request(
                "POST", f"{PATH}?dry_run=false&wait=0", raw=b"{}", headers={"Content-Type": media_type}
            )
            assert (reply.status, reply.json["state"]) == (202, "applying")
            arguments = server.region.imports.calls[-1][1]
            assert (arguments["form"], arguments["dry_run"]) == (LineFormat.JSONL, False)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("media_type", "body", "expected"),
    [
        ("application/json", b"{}", (415, "unsupported-media-type")),
        ("text/csv; charset=latin-1", b"address\n", (415, "unsupported-media-type")),
        ("text/csv", b"", (400, "invalid-request")),
    ],
)
async def test_what_is_no_file(media_type: str, body: bytes, expected: tuple[int, str]) -> None:
    async with serving() as server:
        reply = await server.request("POST", PATH, raw=body, headers={"Content-Type": media_type})
        assert (reply.status, reply.json["type"]) == expected
        assert server.region.imports.calls == []


@pytest_twisted.ensureDeferred
async def test_the_same_file_is_another_request_where_something_else_is_to_become_of_it() -> None:
    async with serving() as server:
        for query, media_type in (
            *(("", "text/csv"), ("?dry_run=true", "text/csv; charset=utf-8"), ("?dry_run=false", "text/csv")),
            *(("?ignore=a&ignore=b", "text/csv"), ("?ignore=b&wait=3&ignore=a", "text/csv"), ("", "application/jsonl")),
        ):
            headers = {"Content-Type": media_type, "Idempotency-Key": "k"}
            await server.request("POST", f"{PATH}{query}", raw=b"{}", headers=headers)
        told = [call["context"].fingerprint for _, call in server.region.imports.calls]
        assert [told.index(each) for each in told] == [0, 0, 2, 3, 3, 5]


@pytest_twisted.ensureDeferred
async def test_a_file_may_be_larger_than_other_bodies() -> None:
    async with serving() as server:
        large = b"x" * (MAX_BODY_BYTES + 1)
        assert (await server.request("POST", PATH, raw=large, headers=CSV)).status == 201
        assert (await server.request("POST", PATH, raw=b"x" * MAX_BYTES, headers=CSV)).status == 201
        reply = await server.request("POST", PATH, raw=b"x" * (MAX_BYTES + 1), headers=CSV)
        assert (reply.status, reply.json["max_bytes"]) == (413, MAX_BYTES)
        reply = await server.request("POST", "/api/v1/reservations", raw=large)
        assert (reply.status, reply.json["max_bytes"]) == (413, MAX_BODY_BYTES)


@pytest_twisted.ensureDeferred
async def test_only_some_large_files_are_in_memory_at_a_time() -> None:
    head = b"POST /api/v1/imports HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin\r\nContent-Type: text/csv\r\n"
    piece = b"x" * (MAX_BODY_BYTES + 1)
    async with serving() as server:
        wires = [await connected(server) for _ in range(MAX_LARGE_BODIES)]
        for wire in wires:
            wire.send(head + b"Content-Length: %d\r\n\r\n" % (2 * len(piece)) + piece)
        await until(lambda: sum(each.kept_bytes for each in server.site.connections) == MAX_LARGE_BODIES * len(piece))
        reply = await server.request("POST", PATH, raw=piece, headers=CSV)
        assert (reply.status, reply.json["type"]) == (429, "too-many-imports")
        assert int(reply.headers["retry-after"]) > 0
        assert (await server.request("POST", PATH, raw=b"small\n", headers=CSV)).status == 201
        wires[0].hang_up()
        wires[1].send(piece)
        await until(lambda: wires[1].received.startswith(b"HTTP/1.1 201 "))
        await until(lambda: len(server.site.connections) <= MAX_LARGE_BODIES)
        again = [await server.request("POST", PATH, raw=piece, headers=CSV) for _ in range(3)]
        assert [each.status for each in again] == [201, 201, 201]
        for wire in wires[1:]:
            wire.hang_up()
        await until(lambda: not server.site.connections)


@pytest_twisted.ensureDeferred
async def test_too_many_at_a_time_may_come_again_later() -> None:
    async with serving() as server:
        server.region.imports.answers["create"] = TooManyImports("4 are not finished")
        reply = await server.request("POST", PATH, raw=b"address\n", headers=CSV)
        assert (reply.status, reply.json["type"], reply.headers["retry-after"]) == (429, "too-many-imports", "2")
