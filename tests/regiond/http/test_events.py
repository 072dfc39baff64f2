"""Events over HTTP: what a stream looks like, what is asked of the feed, and who sees what."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
import pytest_twisted

from regiond.domain import errors
from regiond.domain.events import ChangedMap, Event, EventId, EventKind
from regiond.domain.ids import Prefix, format_id
from regiond.http.shapes.events import EVENTS
from regiond.use_cases.events import Told
from tests.fakes.use_cases import ALICE, EVENT, NOW
from tests.regiond.http.promises import described
from tests.regiond.http.serving import Server, serving
from tests.regiond.http.test_mistakes import check_problem

PATH = "/api/v1/events"
AT = EventId("5d2e0000-aaaa", 7)
HOST_MAP = Event(
    position=8,
    at=NOW,
    kind=EventKind.HOST_MAP,
    action="failed",
    subnet=5,
    cidr="192.0.2.0/24",
    vrf="default",
    cluster=9,
    cluster_name="rack-a",
    generation=5,
    error="00:16:3e:00:00:09 is refused",
    maps=(ChangedMap(1, ALICE.account, False), ChangedMap(2, 99, True), ChangedMap(3, None, False)),
)
CLUSTER = Event(9, NOW, EventKind.CLUSTER, "connected", cluster=9, cluster_name="rack-a")


def parsed(body: bytes) -> list[dict[str, str]]:
    """The blocks of a stream, by field; comments are fields without a name."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    return [dict(line.split(": ", 1) for line in block.replace("\n: ", "\n:: ").split("\n")) for block in blocks]


def telling(server: Server, *told: Told) -> None:
    async def follow(**arguments: Any) -> AsyncGenerator[Told, None]:
        async def news() -> AsyncGenerator[Told, None]:
            for each in told:
                yield each

        return news()

    server.region.events.answers["follow"] = follow


def data_of(block: dict[str, str]) -> Any:
    """The data, which has to be what is documented."""
    data = json.loads(block["data"])
    schema = {"$ref": f"#/components/schemas/{EVENTS[block['event']].__name__}"}
    jsonschema_rs.validate({**schema, "components": described()["components"]}, data)
    return data


@pytest_twisted.ensureDeferred
async def test_a_stream_of_events() -> None:
    async with serving() as server:
        telling(
            server,
            Told(AT),
            Told(replace(AT, position=12), [EVENT, HOST_MAP, CLUSTER]),
            Told(replace(AT, position=12), ends="stopping"),
        )
        reply = await server.request("GET", PATH)
        assert reply.headers["content-type"] == "text/event-stream"
        assert reply.headers["cache-control"] == "no-store"
        retry, start, *events, checkpoint, last, end = parsed(reply.body)
        assert retry == {"retry": "2000"}
        assert start["id"] == "5d2e0000-7"
        assert [(event["event"], event["id"]) for event in events] == [
            ("reservation", "5d2e0000-7"),
            ("host-map", "5d2e0000-8"),
            ("cluster", "5d2e0000-9"),
        ]
        assert checkpoint["id"] == last["id"] == "5d2e0000-12" and "event" not in checkpoint
        reservation, host_map, cluster = map(data_of, events)
        assert reservation["action"] == "claimed" and reservation["owner"] == ALICE.name
        assert host_map["cluster"]["name"] == "rack-a" and host_map["error"] is not None
        assert len(host_map["reservations"]) == 3 and len(host_map["refused"]) == 1 and host_map["complete"]
        assert cluster["action"] == "connected" and cluster["subnet"] is None
        assert data_of(end) == {"reason": "stopping", "list_again": False}


@pytest_twisted.ensureDeferred
async def test_a_user_sees_its_own_host_maps_and_no_words_about_others() -> None:
    async with serving() as server:
        telling(server, Told(AT, [HOST_MAP]))
        blocks = parsed((await server.request("GET", PATH, token="alice")).body)
        [host_map] = [data_of(block) for block in blocks if "event" in block]
        assert host_map["reservations"] == [format_id(Prefix.RESERVATION, 1)]
        assert (host_map["refused"], host_map["error"]) == ([], None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("query", "header", "asked"),
    [
        ("", None, {"after": None, "kinds": [], "subnets": [], "wait": None}),
        ("?after=5d2e0000-3", None, {"after": "5d2e0000-3", "kinds": [], "subnets": [], "wait": None}),
        ("", "", {"after": None, "kinds": [], "subnets": [], "wait": None}),
        ("?after=5d2e0000-3", "5d2e0000-4", {"after": "5d2e0000-4", "kinds": [], "subnets": [], "wait": None}),
        (
            "?kind=cluster&kind=host-map&subnet=192.0.2.0/24&wait=2.5",
            None,
            {
                "after": None,
                "kinds": [EventKind.CLUSTER, EventKind.HOST_MAP],
                "subnets": ["192.0.2.0/24"],
                "wait": 2.5,
            },
        ),
    ],
)
async def test_what_is_asked_of_the_feed(query: str, header: str | None, asked: dict[str, Any]) -> None:
    async with serving() as server:
        headers = {} if header is None else {"Last-Event-ID": header}
        assert (await server.request("GET", PATH + query, headers=headers)).status == 200
        ((_, arguments),) = server.region.events.calls
        assert {name: value for name, value in arguments.items() if name != "context"} == asked


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_followed() -> None:
    async with serving() as server:
        for query in ("?kind=weather", "?after=1&after=2", "?limit=3", "?wait=31", "?after=foo", "?after="):
            check_problem(await server.request("GET", PATH + query), 400, "invalid-request")
        for nonsense in ("foo", "5d2e0000-", "5d2e0000-x"):
            reply = await server.request("GET", PATH, headers={"Last-Event-ID": nonsense})
            [mistake] = check_problem(reply, 400, "invalid-request")["errors"]
            assert mistake["pointer"] == "Last-Event-ID" and "as it came" in mistake["detail"]
        assert server.region.events.calls == []
        refused = [(errors.EventsGone("list again"), 410), (errors.TooManyFollowers("500 follow"), 503)]
        for error, status in refused:
            server.region.events.answers["follow"] = error
            reply = await server.request("GET", PATH)
            check_problem(reply, status, error.slug)
        assert reply.headers["retry-after"] == "2"
