"""What happens, as server-sent events."""

from collections.abc import AsyncGenerator

from regiond.domain.events import EventKind, parse_event_id
from regiond.http.bodies.events import Following
from regiond.http.fields import NO_EVENT_ID
from regiond.http.problems import invalid
from regiond.http.representations import events as show
from regiond.http.routing import BASE, SELECTING, Access, Answer, Call, Route, Streamed
from regiond.http.shapes.events import EVENTS
from regiond.http.use_cases import UseCases
from regiond.use_cases.events import Told
from regiond.use_cases.requests import Caller

MEDIA_TYPE = "text/event-stream"


async def follow(use: UseCases, call: Call[None, Following]) -> Answer:
    """A `text/event-stream` (HTML Living Standard, 9.2): changes of reservations, of host maps on clusters, and of
    clusters, each as it is committed, in an order that is the same everywhere. The data of an event is the JSON object
    `ReservationEvent`, `HostMapEvent` or `ClusterEvent`; that of an `end` is an `EndEvent`.

    Whoever connects again with the last `id` in `Last-Event-ID`, to any regiond, gets what it missed: nothing is lost
    and nothing comes twice. Events are kept for 24 hours, at most a million: after that the answer is 410, and what one
    wants to know has to be listed again. To know everything from the start, connect first, then list. A user is told of
    its own reservations only.

    Nobody waits for who reads slowly. What was left unread for 30 seconds is followed by an `end` that says so; who
    reads nothing at all is hung up on after 60 seconds. Either connects again with its last `id` and misses nothing.
    """
    query = call.query
    known = {kind.value: kind for kind in EventKind}
    for text in query.kind:
        if text not in known:
            raise invalid("?kind", f"there is no kind {text[:64]!r}; there are {', '.join(known)}")
    last = call.headers.get("last-event-id")
    if last and parse_event_id(last) is None:
        raise invalid("Last-Event-ID", NO_EVENT_ID)
    following = await use.events.follow(
        call.context,
        after=last or query.after,
        kinds=[known[text] for text in query.kind],
        subnets=query.subnet,
        wait=query.wait,
    )
    return Answer(200, Streamed(MEDIA_TYPE, _stream(following, call.caller)), [("X-Accel-Buffering", "no")])


async def _stream(following: AsyncGenerator[Told, None], caller: Caller) -> AsyncGenerator[bytes, None]:
    try:
        yield show.beginning()
        async for news in following:
            yield show.told(news, caller)
    finally:
        await following.aclose()


ROUTES = [
    Route(
        "GET",
        f"{BASE}/events",
        follow,
        Access.USER,
        "Follow what happens",
        query=Following,
        shows=Streamed(MEDIA_TYPE),
        pieces=EVENTS,
        headers=("Last-Event-ID",),
        refusals=(*SELECTING, "events-gone", "too-many-followers"),
    )
]
