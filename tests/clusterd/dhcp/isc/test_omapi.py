"""OMAPI against dhcpd's end in memory: signatures, matching, pieces, the window, deadlines, connecting again."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypureomapi import OmapiMessage, OmapiStartupMessage
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.isc.key import KeyUnusable, OmapiKey
from clusterd.dhcp.isc.omapi import MAX_MESSAGE_BYTES, OmapiObject, OmapiRefused, decode, encode, open_message
from clusterd.dhcp.isc.omapi_client import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    WINDOW,
    OmapiClient,
)
from tests.fakes.omapi import FakeOmapi, found, refusal

KEY = OmapiKey("hostmap", b"0123456789abcdef")


class Outcome:
    """What became of one call."""

    def __init__(self, client: OmapiClient, name: bytes = b"hostmap-x") -> None:
        self.results: list[OmapiObject | Failure] = []
        call = Deferred.fromCoroutine(client.call(open_message(b"host", {b"name": name})))
        call.addBoth(self.results.append)

    @property
    def value(self) -> OmapiObject:
        [result] = self.results
        assert isinstance(result, OmapiObject)
        return result

    @property
    def error(self) -> Exception:
        [result] = self.results
        assert isinstance(result, Failure)
        assert isinstance(result.value, Exception)
        return result.value


@pytest.fixture
def server() -> FakeOmapi:
    return FakeOmapi(KEY)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(server: FakeOmapi, clock: Clock) -> OmapiClient:
    return OmapiClient(server, "127.0.0.1:7911", lambda: KEY, clock)


def test_an_answer_finds_its_question(server: FakeOmapi, client: OmapiClient) -> None:
    first, second = Outcome(client), Outcome(client)
    one, two = server.held
    server.answer(two, found({b"name": b"two"}, 2))
    server.answer(one, refusal(0x17, b"no object matches specification"))
    assert second.value == OmapiObject(2, {b"name": b"two"})
    assert isinstance(first.error, OmapiRefused)
    assert (first.error.code, str(first.error)) == (0x17, "no object matches specification: not found")
    assert (server.attempts, client.connections) == (1, 1)


def test_no_more_than_the_window_is_on_its_way(server: FakeOmapi, client: OmapiClient) -> None:
    outcomes = [Outcome(client) for _ in range(3 * WINDOW)]
    seen = 0
    while server.held:
        assert len(server.held) <= WINDOW
        server.answer(server.held.pop(0), found({}))
        seen += 1
    assert seen == len(outcomes)
    assert all(outcome.value for outcome in outcomes)


@pytest.mark.parametrize("size", [1, 7, 16_384, 70_000])
def test_pieces_of_any_size(size: int, server: FakeOmapi, client: OmapiClient) -> None:
    """Also more at once than the longest message has octets."""
    outcomes = [Outcome(client) for _ in range(WINDOW)]
    stream = b"".join(server.encoded(one, found({b"x": bytes(30_000)})) for one in server.held)
    for start in range(0, len(stream), size):
        server.deliver(stream[start : start + size])
    assert all(outcome.value.values[b"x"] == bytes(30_000) for outcome in outcomes)


def test_an_answer_signed_with_another_secret_is_not_believed(server: FakeOmapi, client: OmapiClient) -> None:
    outcome, other = Outcome(client), Outcome(client)
    server.key = OmapiKey("hostmap", b"another secret..")
    server.answer(server.held[0], found({}))
    assert isinstance(outcome.error, BackendError)
    assert "not signed with our key" in str(outcome.error)
    assert isinstance(other.error, BackendError)
    assert server.open_connections == 0


def test_an_unsigned_answer_is_not_believed(server: FakeOmapi, client: OmapiClient) -> None:
    outcome = Outcome(client)
    server.answer(server.held[0], found({}), signed=False)
    assert "not signed with our key" in str(outcome.error)


def test_an_answer_to_nothing_ends_the_connection(server: FakeOmapi, client: OmapiClient) -> None:
    outcome = Outcome(client)
    question = server.held[0]
    question.tid ^= 1
    server.answer(question, found({}))
    assert str(outcome.error) == "dhcpd answered a question that was not asked"


@given(st.binary(min_size=1, max_size=300))
def test_whatever_comes_is_answered_or_ends_in_words(octets: bytes) -> None:
    server, clock = FakeOmapi(KEY), Clock()
    outcome = Outcome(OmapiClient(server, "here", lambda: KEY, clock))
    server.deliver(octets)
    clock.advance(ANSWER_SECONDS)
    assert isinstance(outcome.error, BackendError)


@pytest.mark.parametrize("greeting", [OmapiStartupMessage(101).as_string(), b"SSH-2.0-OpenSSH\r\n"])
def test_another_protocol_on_the_port_is_said(greeting: bytes, server: FakeOmapi, client: OmapiClient) -> None:
    server.greeting = greeting
    assert str(Outcome(client).error).startswith("dhcpd's OMAPI port sent what is not OMAPI")
    assert server.open_connections == 0


def test_no_greeting_is_a_deadline(server: FakeOmapi, client: OmapiClient, clock: Clock) -> None:
    server.greeting = b""
    outcome = Outcome(client)
    clock.advance(CONNECT_SECONDS)
    assert str(outcome.error) == f"dhcpd did not answer at 127.0.0.1:7911 within {CONNECT_SECONDS:g} s"
    assert server.open_connections == 0


def test_no_answer_is_a_deadline_and_the_next_call_connects_again(
    server: FakeOmapi, client: OmapiClient, clock: Clock
) -> None:
    outcome = Outcome(client)
    clock.advance(ANSWER_SECONDS)
    assert str(outcome.error) == f"dhcpd did not answer over OMAPI within {ANSWER_SECONDS:g} s"
    assert server.open_connections == 0
    server.held.clear()
    again = Outcome(client)
    server.answer(server.held[0], found({}))
    assert again.value
    assert client.connections == 2


def test_a_connection_that_ends_fails_what_is_on_its_way(server: FakeOmapi, client: OmapiClient) -> None:
    outcomes = [Outcome(client) for _ in range(WINDOW)]
    server.hang_up()
    for outcome in outcomes:
        assert str(outcome.error) == "dhcpd closed its OMAPI connection: was it stopped or restarted?"


def test_after_failures_there_are_longer_and_longer_pauses(
    server: FakeOmapi, client: OmapiClient, clock: Clock
) -> None:
    server.refuses = True
    pauses = []
    for _ in range(8):
        attempts, began = server.attempts, clock.seconds()
        while server.attempts == attempts:
            error = Outcome(client).error
            assert str(error).startswith("dhcpd cannot be reached over OMAPI at 127.0.0.1:7911 (Connection refused)")
            clock.advance(FIRST_PAUSE_SECONDS / 4)
        pauses.append(clock.seconds() - began)
    assert pauses[1] == pytest.approx(FIRST_PAUSE_SECONDS)
    assert pauses[2] == pytest.approx(2 * FIRST_PAUSE_SECONDS)
    assert max(pauses) == pytest.approx(LONGEST_PAUSE_SECONDS)
    server.refuses = False
    clock.advance(LONGEST_PAUSE_SECONDS)
    healed = Outcome(client)
    server.answer(server.held[0], found({}))
    assert healed.value


def test_an_unusable_key_is_said_and_nobody_is_called(server: FakeOmapi, clock: Clock) -> None:
    def no_key() -> OmapiKey:
        raise KeyUnusable("there is no /etc/hostmap/omapi-key")

    client = OmapiClient(server, "here", no_key, clock)
    assert str(Outcome(client).error) == "the OMAPI key cannot be used: there is no /etc/hostmap/omapi-key"
    assert server.attempts == 0


def test_closed_is_closed(server: FakeOmapi, client: OmapiClient) -> None:
    outcome = Outcome(client)
    closed: list[None] = []
    Deferred.fromCoroutine(client.close()).addCallback(closed.append)
    assert (closed, server.open_connections) == ([None], 0)
    assert isinstance(outcome.error, BackendError)
    assert str(Outcome(client).error) == "clusterd is stopping"


numbers = st.integers(0, 2**32 - 1)
values = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=300)), max_size=4)
messages = st.builds(OmapiMessage, numbers, numbers, numbers, numbers, numbers, values, values, st.binary(max_size=40))


@given(messages)
def test_messages_are_written_as_pypureomapi_writes_them(message: OmapiMessage) -> None:
    assert encode(message) == message.as_string()
    assert encode(message, for_signing=True) == message.as_string(forsigning=True)


@given(messages, st.binary(max_size=20), st.data())
def test_messages_are_read_as_pypureomapi_writes_them(message: OmapiMessage, more: bytes, data: st.DataObject) -> None:
    written = message.as_string()
    received = decode(written + more)
    assert received is not None
    assert (received.message.as_string(), received.length) == (written, len(written))
    assert received.signed == message.as_string(forsigning=True)
    cut = data.draw(st.integers(0, len(written) - 1))
    assert decode(written[:cut]) is None


@pytest.mark.parametrize("length", [MAX_MESSAGE_BYTES, 2**31])
def test_a_message_without_end_is_not_waited_for(length: int, server: FakeOmapi, client: OmapiClient) -> None:
    outcome = Outcome(client)
    head = server.encoded(server.held[0], found({}))[:24] + b"\0\1x" + length.to_bytes(4)
    for _ in range(MAX_MESSAGE_BYTES // 16_384 + 1):
        server.deliver(head)
        head = bytes(16_384)
    assert "more than 65536 octets" in str(outcome.error)
    assert server.open_connections == 0


def test_secrets_are_not_shown() -> None:
    shown: Callable[[object], str] = repr
    assert "0123456789abcdef" not in shown(KEY)
