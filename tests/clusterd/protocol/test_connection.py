"""The link's manners: it outlives mistakes of either side, and notices a peer that is not there."""

from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.protocols import amp

from clusterd.protocol import commands
from clusterd.protocol.arguments import MAX_VALUE_BYTES, Text
from clusterd.protocol.connection import (
    CALL_DEADLINE_SECONDS,
    MAX_BOX_KEYS,
    MAX_BYTES_IN_FLIGHT,
    MAX_COMMANDS_IN_FLIGHT,
    PING_DEADLINE_SECONDS,
    PING_INTERVAL_SECONDS,
    CallTimedOut,
    Link,
    LinkLost,
    Responders,
)
from clusterd.protocol.errors import MALFORMED_ARGUMENT_CODE, MalformedArgument, UnknownCommand, UnknownTransfer
from tests.clusterd.links import Outcome, Wire, linked, settled, wire
from tests.clusterd.log_events import logged


class Echo(commands.Command):
    """A command of these tests: answers what it was sent, in the ways that a test asks for."""

    arguments: ClassVar = [(b"text", Text(70_000))]
    response: ClassVar = [(b"text", Text(70_000))]
    errors: ClassVar[dict[type[Exception], bytes]] = {UnknownTransfer: b"UNKNOWN_TRANSFER"}


class EchoResponders(Responders):
    def __init__(self) -> None:
        super().__init__()
        self.unanswered: list[Deferred[dict[str, Any]]] = []

    @Echo.responder
    async def echo(self, text: str) -> dict[str, Any]:
        if text == "wait":
            answer: Deferred[dict[str, Any]] = Deferred()
            self.unanswered.append(answer)
            return await answer
        if text == "bug":
            raise KeyError("a bug of this side")
        if text == "declared":
            raise UnknownTransfer("said so")
        if text == "wordy":
            raise UnknownTransfer("w" * 100_000)
        if text == "unserialisable":
            return {"text": 5}
        if text == "long":
            return {"text": "x" * (MAX_VALUE_BYTES + 1)}
        return {"text": text}


def echo(there: Wire, text: str) -> Any:
    return settled(Outcome(there.client.call(Echo, text=text)), there.flush)


def pair() -> tuple[Clock, Wire]:
    clock = Clock()
    return clock, linked(clock, server=EchoResponders())


@pytest.mark.parametrize("mood", ["bug", "unserialisable", "long"])
def test_an_undeclared_error_is_answered_and_the_connection_lives(mood: str) -> None:
    _, there = pair()
    with logged() as events, pytest.raises(amp.RemoteAmpError) as caught:
        echo(there, mood)
    assert caught.value.errorCode == amp.UNKNOWN_ERROR_CODE
    reference = events[-1]["reference"]
    assert events[-1]["event"] == "link.responder-failed" and "log_failure" in events[-1]
    assert reference in str(caught.value.description)
    assert echo(there, "still there") == {"text": "still there"}


def test_a_declared_error_arrives_as_itself() -> None:
    _, there = pair()
    with pytest.raises(UnknownTransfer, match="said so"):
        echo(there, "declared")


def test_an_error_with_too_many_words_is_shortened() -> None:
    _, there = pair()
    with pytest.raises(UnknownTransfer) as caught:
        echo(there, "wordy")
    assert set(str(caught.value)) == {"w"} and len(str(caught.value)) <= 2000
    assert echo(there, "still there") == {"text": "still there"}


@pytest.mark.parametrize("size", [0, 1, 65_534, 65_535])
def test_values_up_to_the_limit_come_back(size: int) -> None:
    _, there = pair()
    assert echo(there, "x" * size) == {"text": "x" * size}


def test_a_value_above_the_limit_is_not_sent() -> None:
    _, there = pair()
    with pytest.raises(MalformedArgument):
        echo(there, "x" * 65_536)
    assert echo(there, "still there") == {"text": "still there"}
    there.cut()  # and nothing of the refused call is left to fail


@pytest.mark.parametrize("box", [{}, {b"text": b"\xff"}])
def test_malformed_arguments_are_answered_as_such_and_name_the_peer(box: dict[bytes, bytes]) -> None:
    _, there = pair()
    request = amp.AmpBox({**box, amp.COMMAND: b"Echo", amp.ASK: b"77"})
    answers: list[amp.AmpBox] = []
    there.client.ampBoxReceived = answers.append
    with logged() as events:
        there.client.sendBox(request)
        there.flush()
    assert answers[0][amp.ERROR_CODE] == MALFORMED_ARGUMENT_CODE
    assert [(event["event"], event["peer"], event["command"]) for event in events] == [
        ("link.malformed", there.server.peer, "Echo")
    ]
    assert there.server.connected_now


@pytest.mark.parametrize("command", [b"NoSuchCommand", b"StartTLS", b"\xff\xfe"])
def test_what_this_side_does_not_answer_is_unhandled(command: bytes) -> None:
    clock = Clock()
    there = linked(clock)
    answers: list[amp.AmpBox] = []
    there.client.ampBoxReceived = answers.append
    there.client.sendBox(amp.AmpBox({amp.COMMAND: command, amp.ASK: b"1"}))
    there.flush()
    assert answers[0][amp.ERROR_CODE] == amp.UNHANDLED_ERROR_CODE
    assert there.server.connected_now


def test_what_an_older_peer_does_not_know_is_an_error_of_the_protocol() -> None:
    there = linked(Clock())
    with pytest.raises(UnknownCommand, match="older version, which does not know Echo"):
        settled(Outcome(there.client.call(Echo, text="x")), there.flush)
    assert there.client.connected_now and there.server.connected_now


def test_a_call_has_a_deadline_and_a_late_answer_is_ignored() -> None:
    clock = Clock()
    responders = EchoResponders()
    there = linked(clock, server=responders)
    waiting = Outcome(there.client.call(Echo, text="wait"))
    there.flush()
    clock.advance(CALL_DEADLINE_SECONDS - 0.01)
    assert not waiting.done()
    clock.advance(0.01)
    assert isinstance(waiting.error, CallTimedOut)
    responders.unanswered[0].callback({"text": "late"})
    there.flush()
    assert echo(there, "in time") == {"text": "in time"}


def test_an_answered_call_leaves_no_timer() -> None:
    clock, there = pair()
    before = len(clock.getDelayedCalls())
    echo(there, "x")
    assert len(clock.getDelayedCalls()) == before


def test_pending_calls_fail_with_link_lost() -> None:
    _, there = pair()
    waiting = [Outcome(there.client.call(Echo, text="wait")) for _ in range(3)]
    there.flush()
    lost = Outcome(there.client.lost)
    there.cut()
    assert [type(one.error) for one in waiting] == [LinkLost] * 3
    assert lost.done() and not there.client.connected_now
    assert isinstance(Outcome(there.client.call(Echo, text="x")).error, LinkLost)


def test_a_call_before_the_connection_fails() -> None:
    assert isinstance(Outcome(Link(Clock()).call(Echo, text="x")).error, LinkLost)


def test_both_sides_ping_and_a_living_peer_is_left_alone() -> None:
    clock, there = pair()
    for _ in range(10):
        clock.advance(PING_INTERVAL_SECONDS)
        there.flush()
    assert there.client.connected_now and there.server.connected_now


def test_a_silent_peer_is_cut_within_45_seconds() -> None:
    clock, there = pair()
    waiting = Outcome(there.client.call(Echo, text="wait", deadline=3600))
    with logged() as events:
        clock.pump([PING_INTERVAL_SECONDS, PING_DEADLINE_SECONDS])
        there.client.transport.reportDisconnect()
    assert next(event["event"] for event in events if event["peer"] == there.client.peer) == "link.silent"
    assert isinstance(waiting.error, LinkLost)
    assert PING_INTERVAL_SECONDS + PING_DEADLINE_SECONDS <= 45


def test_a_peer_that_does_not_know_ping_is_alive_all_the_same() -> None:
    clock = Clock()
    there = wire(amp.AMP(), Link(clock))
    for _ in range(4):
        clock.advance(PING_INTERVAL_SECONDS)
        there.flush()
    assert there.client.connected_now


def test_nothing_is_left_after_the_end() -> None:
    clock, there = pair()
    there.cut()
    assert not there.server.connected_now
    assert clock.getDelayedCalls() == []


def alone(responders: Responders | None = None) -> tuple[Link, StringTransportWithDisconnection]:
    link = Link(Clock(), responders)
    transport = StringTransportWithDisconnection()
    transport.protocol = link
    link.makeConnection(transport)
    return link, transport


@settings(max_examples=400)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=5))
def test_random_bytes_end_in_a_log_line_at_worst(chunks: list[bytes]) -> None:
    link, _ = alone(EchoResponders())
    with logged() as events:
        for chunk in chunks:
            if link.connected_now:
                link.dataReceived(chunk)
    assert {event.get("event") for event in events} <= {"link.broken", "link.malformed"}
    assert not any("log_failure" in event for event in events)


box_keys = st.sampled_from(
    [b"_command", b"_ask", b"_answer", b"_error", b"_error_code", b"_error_description", b"text"]
)


@settings(max_examples=400)
@given(
    st.lists(
        st.dictionaries(
            st.one_of(box_keys, st.binary(min_size=1, max_size=12)),
            st.one_of(st.sampled_from([b"Echo", b"Ping", b"ApplyHostMaps", b"1"]), st.binary(max_size=30)),
            min_size=1,
            max_size=6,
        ),
        max_size=6,
    )
)
def test_random_boxes_end_in_a_log_line_at_worst(boxes: list[dict[bytes, bytes]]) -> None:
    link, _ = alone(Responders())
    with logged() as events:
        for box in boxes:
            if link.connected_now:
                link.dataReceived(amp.AmpBox(box).serialize())
    assert {event.get("event") for event in events} <= {"link.broken", "link.malformed"}
    assert not any("log_failure" in event for event in events)


def test_a_box_without_end_is_cut() -> None:
    link, _ = alone()
    with logged() as events:
        for number in range(MAX_BOX_KEYS + 1):
            key = b"%d" % number
            if link.connected_now:
                link.dataReceived(bytes([0, len(key)]) + key + b"\xff\xff" + bytes(0xFFFF))
    assert not link.connected_now
    assert [event["event"] for event in events] == ["link.broken"]


def test_a_box_that_is_too_large_is_cut_before_it_is_whole() -> None:
    link = Link(Clock(), max_box_bytes=1000)
    link.makeConnection(StringTransport())
    fits = amp.AmpBox({amp.COMMAND: b"Ping", amp.ASK: b"1", b"more": bytes(1000 - len(b"Ping1"))})
    with logged() as events:
        link.dataReceived(fits.serialize())
        assert events == []
        link.dataReceived(amp.AmpBox({b"a": bytes(500), b"b": bytes(501)}).serialize()[:-2])
    assert [(event["event"], event["reason"]) for event in events] == [("link.broken", "a box of more than 1000 bytes")]


def test_many_malformed_commands_are_told_less_and_less_often() -> None:
    link, _ = alone(EchoResponders())
    request = amp.AmpBox({amp.COMMAND: b"Echo", amp.ASK: b"1"}).serialize()
    with logged() as events:
        link.dataReceived(request * 1000)
    assert [event["times"] for event in events] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert {(event["event"], event["peer"]) for event in events} == {("link.malformed", link.peer)}


class FullTransport(StringTransportWithDisconnection):
    """Its peer reads nothing until a test says so."""

    producer: Any

    def write(self, data: bytes) -> None:
        super().write(data)
        if len(self.value()) > 1 << 16:
            self.producer.pauseProducing()

    def read(self) -> None:
        self.clear()
        self.producer.resumeProducing()


def flooded() -> tuple[Clock, Link, FullTransport]:
    """A link whose peer sends commands without end and reads no answers, as long as it is read from."""
    clock = Clock()
    link = Link(clock, EchoResponders())
    transport = FullTransport()
    transport.protocol = link
    link.makeConnection(transport)
    asked = amp.AmpBox({amp.COMMAND: b"Echo", amp.ASK: b"1", b"text": b"x" * 1000}).serialize()
    with logged() as events:
        for _ in range(10 * MAX_COMMANDS_IN_FLIGHT):
            if transport.producerState == "producing":
                link.dataReceived(asked)
    assert [event["event"] for event in events] == ["link.crowded"]
    return clock, link, transport


def test_answers_that_the_peer_does_not_read_are_bounded() -> None:
    clock, link, transport = flooded()
    assert (1 << 16) < len(transport.value()) < (1 << 16) + 1100 * (MAX_COMMANDS_IN_FLIGHT + 1)
    for _ in range(3):
        transport.read()
        clock.advance(0)
        assert transport.producerState == "producing"
        link.dataReceived(amp.AmpBox({amp.COMMAND: b"Ping", amp.ASK: b"2"}).serialize())
        assert transport.value() == amp.AmpBox({amp.ANSWER: b"2"}).serialize()


def test_a_peer_that_goes_on_not_reading_is_cut() -> None:
    clock, link, _ = flooded()
    with logged() as events:
        clock.pump([PING_INTERVAL_SECONDS, PING_DEADLINE_SECONDS])
    assert [event["event"] for event in events] == ["link.silent"]
    assert not link.connected_now and clock.getDelayedCalls() == []


def test_a_key_that_is_too_long_is_cut() -> None:
    link, _ = alone()
    with logged() as events:
        link.dataReceived(b"\x01\x00" + b"k" * 256)
    assert not link.connected_now and events[0]["event"] == "link.broken"


def test_an_answer_that_cannot_be_read_fails_its_call_only() -> None:
    link, _ = alone()
    waiting = Outcome(link.call(Echo, text="x"))
    link.dataReceived(amp.AmpBox({amp.ANSWER: b"1", b"other": b""}).serialize())
    assert isinstance(waiting.error, MalformedArgument) and link.connected_now


def in_flight(text: str, count: int) -> tuple[Clock, Wire, EchoResponders, list[Outcome]]:
    """So many commands that are not answered, as far as they are taken."""
    clock, responders = Clock(), EchoResponders()
    there = linked(clock, responders, EchoResponders())
    waiting = [Outcome(there.client.call(Echo, text=text)) for _ in range(count)]
    with logged() as events:
        there.flush()
    assert [event["event"] for event in events] == ["link.crowded"] and events[0]["peer"] == there.server.peer
    return clock, there, responders, waiting


def test_a_peer_that_waits_for_too_many_answers_is_read_no_further_until_it_has_some() -> None:
    clock, there, responders, waiting = in_flight("wait", 3 * MAX_COMMANDS_IN_FLIGHT)
    assert len(responders.unanswered) == MAX_COMMANDS_IN_FLIGHT
    while responders.unanswered:
        for answer in responders.unanswered[:100]:
            responders.unanswered.remove(answer)
            answer.callback({"text": "late"})
        clock.advance(0)
        there.flush()
        assert len(responders.unanswered) <= MAX_COMMANDS_IN_FLIGHT
    assert [outcome.value for outcome in waiting] == [{"text": "late"}] * len(waiting)
    there.cut()
    assert clock.getDelayedCalls() == []


def test_what_unanswered_commands_take_of_memory_is_bounded() -> None:
    keys = {b"%d" % number: bytes(MAX_VALUE_BYTES) for number in range(7)}
    responders = EchoResponders()
    link, _ = alone(responders)
    with logged() as events:
        for number in range(60):
            box = amp.AmpBox({amp.ASK: b"%d" % number, amp.COMMAND: b"Echo", b"text": b"wait", **keys})
            link.dataReceived(box.serialize())
    assert len(responders.unanswered) == MAX_BYTES_IN_FLIGHT // (MAX_VALUE_BYTES * len(keys)) + 1
    assert [event["event"] for event in events] == ["link.crowded"]


def test_a_connection_that_is_cut_takes_nothing_more_of_what_has_come() -> None:
    responders = EchoResponders()
    link, _ = alone(responders)
    nonsense = amp.AmpBox({amp.ANSWER: b"never asked"}).serialize()
    command = amp.AmpBox({amp.COMMAND: b"Echo", b"text": b"wait"}).serialize()
    with logged() as events:
        link.dataReceived(nonsense + nonsense + command)
    assert [event["event"] for event in events] == ["link.broken"]
    assert responders.unanswered == []


def test_a_crowded_connection_that_ends_leaves_nothing() -> None:
    clock, there, responders, waiting = in_flight("wait", MAX_COMMANDS_IN_FLIGHT + 1)
    responders.unanswered.pop().callback({"text": "late"})
    there.cut()
    assert clock.getDelayedCalls() == []
    assert all(outcome.done() for outcome in waiting)
    for answer in responders.unanswered:
        answer.callback({"text": "too late"})
