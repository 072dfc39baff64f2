"""`regionctl events`: what it prints, that it goes on where it was cut, and when it ends."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from regiond.client.event_stream import EventStream, ServerEvent
from regiond.domain import errors
from regiond.domain.events import EventId
from regiond.use_cases.events import Told
from tests.fakes.use_cases import EVENT
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import Server, serving
from tests.regiond.http.test_events import AT, CLUSTER, HOST_MAP

STREAM = (
    b"retry: 2000\n\n: nothing\nid: 3\n\nid: 4\nevent: a\ndata: 1\ndata: 2\n\nevent: b\r\ndata: {}\r\n\r\nid: 5\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_means_the_same_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    stream = EventStream("2")
    ends = [*sorted(cuts), len(STREAM)]
    starts = [0, *sorted(cuts)]
    found = [event for low, high in zip(starts, ends, strict=True) for event in stream.feed(STREAM[low:high])]
    assert found == [ServerEvent("a", "1\n2", "4"), ServerEvent("b", "{}", "4")]
    assert stream.last_id == "5"


def telling(server: Server, *turns: list[Told]) -> list[Any]:
    """What each connection is told; what they ask to go on from."""
    asked: list[Any] = []

    async def follow(**arguments: Any) -> AsyncGenerator[Told, None]:
        asked.append(arguments["after"])

        async def news() -> AsyncGenerator[Told, None]:
            for each in turns[len(asked) - 1]:
                yield each

        return news()

    server.region.events.answers["follow"] = follow
    return asked


@pytest_twisted.ensureDeferred
async def test_what_is_printed() -> None:
    async with serving() as server:
        telling(server, [Told(AT), Told(EventId(AT.history, 9), [EVENT, HOST_MAP, CLUSTER]), Told(AT, ends="quiet")])
        options = ("events", "--wait", "2", "--kind", "cluster", "--subnet", "192.0.2.0/24")
        shown = await run(*options, env=over_tcp(server))
        assert shown.exit_code == 0, shown.output
        reservation, host_map, cluster = shown.stdout.splitlines()
        assert "claimed  192.0.2.7 (rs-0000000007 of alice) on 192.0.2.0/24  5d2e0000-7" in reservation
        assert "failed  generation 5 at rack-a on 192.0.2.0/24 rs-0000000001,rs-0000000002" in host_map
        assert "connected  rack-a  5d2e0000-9" in cluster
        ((_, arguments),) = server.region.events.calls
        assert (arguments["wait"], arguments["subnets"], arguments["kinds"]) == (2.0, ["192.0.2.0/24"], ["cluster"])


@pytest_twisted.ensureDeferred
async def test_a_connection_that_ends_is_made_again_where_it_ended() -> None:
    async with serving() as server:
        asked = telling(
            server,
            [Told(AT, [EVENT]), Told(EventId(AT.history, 8), ends="the region is stopping")],
            [Told(EventId(AT.history, 9), [CLUSTER])],  # cut without a word
            [Told(EventId(AT.history, 9), ends="went back in time", lost=True)],
        )
        shown = await run("events", "--json", "--after", "5d2e0000-6", env=over_tcp(server))
        assert asked == ["5d2e0000-6", "5d2e0000-8", "5d2e0000-9"]
        lines = [json.loads(line) for line in shown.stdout.splitlines()]
        assert [(line["event"], line["id"]) for line in lines] == [
            ("reservation", "5d2e0000-7"),
            ("cluster", "5d2e0000-9"),
        ]
        assert shown.exit_code == 2 and "list again" in shown.stderr


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("options", [(), ("--wait", "1")])
async def test_what_is_not_known_any_more_is_one_line(options: tuple[str, ...]) -> None:
    async with serving() as server:
        server.region.events.answers["follow"] = errors.EventsGone("what followed is not known: list again")
        check_one_line(await run("events", *options, env=over_tcp(server)), 1, "events-gone", "list again")
