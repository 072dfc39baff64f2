"""Reservations as a file, over HTTP."""

import pytest
import pytest_twisted

from regiond.domain.ids import Prefix, format_id
from regiond.domain.lines import LineFormat
from regiond.storage.errors import DatabaseUnavailable
from tests.regiond.http.serving import serving


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("form", list(LineFormat))
async def test_a_file_has_its_name_and_its_filters(form: LineFormat) -> None:
    async with serving() as server:
        reply = await server.request("GET", f"/api/v1/reservations?format={form}&kind=user&kind=device")
        assert (reply.status, reply.body) == (200, b"address\r\n192.0.2.7\r\n")
        assert reply.headers["content-type"] == f"{form.media_type}; charset=utf-8"
        assert reply.headers["content-disposition"] == f'attachment; filename="reservations-2026-01-31.{form}"'
        [(_, arguments)] = server.region.exports.calls
        assert (arguments["form"], arguments["filters"]) == (form, {"kind": ["user", "device"]})
        assert (await server.request("HEAD", f"/api/v1/reservations?format={form}")).body == b""


@pytest_twisted.ensureDeferred
async def test_what_is_wrong_with_the_request_is_a_problem() -> None:
    async with serving() as server:
        for query, pointer in (
            ("format=xml", "?format"),
            ("format=csv&limit=3", "?limit"),
            ("format=csv&sort=x", "?sort"),
        ):
            reply = await server.request("GET", f"/api/v1/reservations?{query}")
            assert (reply.status, reply.json["errors"][0]["pointer"]) == (400, pointer)
        after = format_id(Prefix.RESERVATION, 7)
        assert (await server.request("GET", f"/api/v1/reservations?format=csv&after={after}")).status == 200
        assert server.region.exports.calls[-1][1]["after"] == after
        server.region.exports.answers["export"] = DatabaseUnavailable("the server is gone")
        reply = await server.request("GET", "/api/v1/reservations?format=csv")
        assert (reply.status, reply.json["type"]) == (503, "database-unavailable")
