"""The demonstration server and its client, against each other on loopback."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from clusterd.dhcp.file.backend import FileBackend
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.lab.dhcp_messages import Answer, Kind, Message, Option, decode
from tests.lab.relay_client import RelayClient

MAC = "00:16:3e:00:00:01"
PLAIN = HostMap(Identifier.mac(MAC), "192.0.2.11", "web1.example.org")
ALIAS = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"\xff\x01\x02"), "192.0.2.12")
OTHER_NETWORK = HostMap(Identifier.mac(MAC), "198.51.100.11")


@pytest.fixture
def hosts_file(tmp_path: Path) -> Path:
    return tmp_path / "maps"


@pytest.fixture
def server_port(hosts_file: Path) -> Iterator[int]:
    """The server as it is started for a demonstration: a process of its own."""
    networks = ["--network", "192.0.2.0/24", "--network", "198.51.100.0/24"]
    command = [sys.executable, "-m", "tests.lab.responder", "--hosts-file", str(hosts_file), "--port", "0", *networks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, _, port = process.stdout.readline().strip().rpartition(":")
            assert ready == "ready 127.0.0.1"
            yield int(port)
        finally:
            process.terminate()


@pytest_twisted.async_yield_fixture
async def client(server_port: int) -> AsyncIterator[RelayClient]:
    client = RelayClient(reactor, server_port, "192.0.2.1")
    client.start()
    yield client
    await client.stop()


@pytest_twisted.ensureDeferred
async def test_serves_what_the_file_says_and_follows_it(client: RelayClient, hosts_file: Path) -> None:
    assert await client.obtain(MAC) is None
    backend = FileBackend(hosts_file)
    await backend.apply((), {PLAIN})
    assert await client.obtain(MAC) == Answer(Kind.ACK, "192.0.2.11", "127.0.0.1", "web1", 600)
    await backend.apply({PLAIN}, {ALIAS})
    assert await client.discover(MAC) is None
    hosts_file.unlink()
    assert await client.discover("00:16:3e:00:00:02", client_id=ALIAS.identifier.value) is None


@pytest_twisted.ensureDeferred
async def test_a_client_id_says_more_than_a_mac(client: RelayClient, hosts_file: Path) -> None:
    await FileBackend(hosts_file).apply((), {PLAIN, ALIAS})
    by_alias = await client.obtain(MAC, client_id=ALIAS.identifier.value)
    assert by_alias is not None and by_alias.address == ALIAS.address
    by_unknown_id = await client.obtain(MAC, client_id=b"\x01unknown")
    assert by_unknown_id is not None and by_unknown_id.address == PLAIN.address


@pytest_twisted.ensureDeferred
async def test_refuses_another_address_than_the_one_it_has_for_the_client(
    client: RelayClient, hosts_file: Path
) -> None:
    await FileBackend(hosts_file).apply((), {PLAIN})
    refused = await client.request(MAC, "192.0.2.99")
    assert refused is not None and refused.kind is Kind.NAK
    assert await client.request(MAC, PLAIN.address, "192.0.2.250") is None


@pytest_twisted.ensureDeferred
async def test_the_relays_address_tells_the_network(client: RelayClient, server_port: int, hosts_file: Path) -> None:
    await FileBackend(hosts_file).apply((), {PLAIN, OTHER_NETWORK})
    here = await client.obtain(MAC)
    assert here is not None and here.address == PLAIN.address
    for relay_address, expected in (("198.51.100.1", OTHER_NETWORK.address), ("203.0.113.1", None)):
        elsewhere = RelayClient(reactor, server_port, relay_address)
        elsewhere.start()
        answer = await elsewhere.obtain(MAC)
        await elsewhere.stop()
        assert (None if answer is None else answer.address) == expected


option_values = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code != Option.MESSAGE_KIND), st.binary(max_size=255), max_size=5
)


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(min_size=6, max_size=6), option_values)
def test_what_is_encoded_is_decoded(kind: Kind, transaction: int, mac: bytes, options: dict[int, bytes]) -> None:
    message = Message(kind, transaction, mac, "192.0.2.1", "192.0.2.2", "192.0.2.3", True, options)
    assert decode(message.encode()) == message


option_octets = st.binary(max_size=100).map(lambda tail: Message(Kind.ACK, 1, b"abcdef").encode()[:240] + tail)


@given(st.binary(max_size=400) | option_octets)
def test_other_octets_are_a_message_or_a_value_error(octets: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(decode(octets), Message)
