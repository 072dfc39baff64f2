"""The backend `dnsmasq` with a real dnsmasq and real clients, in network namespaces."""

import re
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.dnsmasq.backend import DnsmasqBackend, dnsmasq_backend
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.host_lines import HEADER
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.dhcp.contract import SCENARIOS, Scenario, numbered
from tests.lab import namespaces
from tests.lab.clients import dhclient, duid_of_mac, missing_clients, udhcpc
from tests.lab.dhcp_messages import Kind
from tests.lab.namespaces import Network, in_namespace
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6
from tests.lab.servers import DnsmasqServer, dnsmasq
from tests.requirements import need
from tests.waiting import until

pytestmark = pytest.mark.namespaces

P = ParamSpec("P")
T = TypeVar("T")

CLIENT_MAC = "00:16:3e:aa:00:01"  # of the clients' NIC
OTHER_MAC = "00:16:3e:aa:00:02"
SERVER_ID = "192.0.2.1"
V4 = HostMap(Identifier.mac(CLIENT_MAC), "192.0.2.50", "bench-1")
V6 = HostMap(Identifier(IdentifierKind.DUID, duid_of_mac(CLIENT_MAC)), "2001:db8:0:1::50", "bench-1")


def in_thread(work: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> Awaitable[T]:
    """Clients block; the backend's reactor must not."""
    return deferToThread(work, *args, **keywords)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    need(shutil.which("dnsmasq"), "dnsmasq is not installed")
    need(not missing_clients(), f"not installed: {', '.join(missing_clients())}")
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network() as made:
        made.set_client_mac(CLIENT_MAC)
        yield made


@pytest.fixture
def server(network: Network, tmp_path: Path) -> Iterator[DnsmasqServer]:
    with dnsmasq(network, tmp_path) as running:
        yield running


@pytest.fixture
def v4(network: Network) -> Iterator[RawClient4]:
    with RawClient4(network) as client:
        yield client


@pytest.fixture
def v6(network: Network) -> Iterator[RawClient6]:
    with RawClient6(network) as client:
        yield client


@pytest.fixture
def backend(server: DnsmasqServer, network: Network) -> DnsmasqBackend:
    return backend_of(server, network)


def backend_of(server: DnsmasqServer, network: Network, **more: Any) -> DnsmasqBackend:
    """A backend of a process beside this dnsmasq; its packets start in the server's namespace."""

    def in_its_network(work: Callable[[], T]) -> Awaitable[T]:
        return deferToThread(in_namespace, network.server, work)

    paths = (server.hosts_file, server.hosts_directory, server.pid_file)
    return dnsmasq_backend(*paths, reactor, in_its_network=in_its_network, **more)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_contract(scenario: Scenario, backend: DnsmasqBackend, server: DnsmasqServer) -> None:
    await scenario(backend)
    # A file that comes while dnsmasq goes through the directory is read twice, and its lines are known the second time.
    known = f" at line [0-9]+ of {re.escape(str(server.hosts_directory))}/"
    complaints = [line for line in server.log.splitlines() if " at line " in line]
    assert [line for line in complaints if "duplicate" not in line or not re.search(known, line)] == []


@pytest_twisted.ensureDeferred
async def test_beside_a_thousand_maps_an_added_one_is_served_and_a_removed_one_is_not(
    network: Network, backend: DnsmasqBackend, server: DnsmasqServer
) -> None:
    await backend.replace(numbered(1000))
    before = server.identity
    assert await in_thread(udhcpc, network, attempts=1) is None

    await backend.apply((), {V4, V6})
    assert await in_thread(udhcpc, network) == V4.address
    assert await in_thread(dhclient, network, 6) == V6.address
    assert await in_thread(dhclient, network, 4) == V4.address

    await backend.apply({V4, V6}, ())
    assert await in_thread(udhcpc, network, attempts=1) is None
    assert await in_thread(dhclient, network, 6, timeout=3.0) is None
    assert server.identity == before
    assert await backend.read() == numbered(1000)


@pytest_twisted.ensureDeferred
async def test_on_return_of_apply_the_change_is_in_effect(
    backend: DnsmasqBackend, v4: RawClient4, v6: RawClient6
) -> None:
    """Asked at once and only once, each time."""
    await backend.replace(numbered(5000))
    for number in range(60, 66):
        added4 = HostMap(Identifier.mac(f"00:16:3e:aa:01:{number}"), f"192.0.2.{number}")
        added6 = HostMap(Identifier(IdentifierKind.DUID, bytes([0, 3, 0, 1, number])), f"2001:db8:0:1::{number}")
        await backend.apply((), {added4, added6})
        answer = await in_thread(v4.discover, added4.identifier.text)
        assert answer is not None and (answer.kind, answer.address) == (Kind.OFFER, added4.address)
        answer6 = await in_thread(v6.solicit, added6.identifier.value)
        assert answer6 is not None and answer6.addresses == (added6.address,)
        await backend.apply({added4, added6}, ())
        assert await in_thread(v4.discover, added4.identifier.text) is None
        answer6 = await in_thread(v6.solicit, added6.identifier.value)
        assert answer6 is not None and answer6.addresses == ()


@pytest_twisted.ensureDeferred
async def test_a_removed_address_is_refused_to_the_client_that_has_a_lease_on_it(
    backend: DnsmasqBackend, v4: RawClient4, v6: RawClient6
) -> None:
    await backend.apply((), {V4, V6})
    lease = await in_thread(v4.obtain, CLIENT_MAC)
    assert lease is not None and (lease.kind, lease.address, lease.host_name) == (Kind.ACK, V4.address, "bench-1")
    lease6 = await in_thread(v6.obtain, V6.identifier.value)
    assert lease6 is not None and lease6.addresses == (V6.address,)
    renewed = await in_thread(v4.renew, CLIENT_MAC, V4.address)
    assert renewed is not None and renewed.kind is Kind.ACK
    renewed6 = await in_thread(v6.renew, V6.identifier.value, lease6)
    assert renewed6 is not None and all(renewed6.lifetimes)

    await backend.apply({V4, V6}, ())
    refused = await in_thread(v4.renew, CLIENT_MAC, V4.address)
    assert refused is not None and refused.kind is Kind.NAK
    rebooted = await in_thread(v4.request, CLIENT_MAC, V4.address)
    assert rebooted is not None and rebooted.kind is Kind.NAK
    assert await in_thread(v4.discover, CLIENT_MAC) is None
    solicited = await in_thread(v6.solicit, V6.identifier.value)
    assert solicited is not None and solicited.addresses == ()


@pytest.mark.parametrize("client_id", [None, b"\xff\x00\nsome id"])
@pytest_twisted.ensureDeferred
async def test_an_address_moves_to_another_machine_while_the_first_has_a_lease(
    backend: DnsmasqBackend, server: DnsmasqServer, v4: RawClient4, client_id: bytes | None
) -> None:
    moved = HostMap(Identifier.mac(OTHER_MAC), V4.address, "bench-1")
    await backend.apply((), {V4})
    first = await in_thread(v4.obtain, CLIENT_MAC, client_id=client_id)
    assert first is not None and first.address == V4.address
    await backend.apply({V4}, {moved})
    assert await in_thread(v4.discover, OTHER_MAC) is None
    await backend.release({V4})
    second = await in_thread(v4.obtain, OTHER_MAC)
    assert second is not None and (second.kind, second.address) == (Kind.ACK, V4.address)
    assert await in_thread(v4.discover, CLIENT_MAC, client_id=client_id) is None
    await backend.release({V4})  # the new owner's lease is not the old one's
    assert f"{OTHER_MAC} {V4.address} " in server.lease_file.read_text()


@pytest_twisted.ensureDeferred
async def test_an_ipv6_address_moves_to_another_machine_while_the_first_has_a_lease(
    backend: DnsmasqBackend, v6: RawClient6
) -> None:
    moved = HostMap(Identifier(IdentifierKind.DUID, duid_of_mac(OTHER_MAC)), V6.address, V6.hostname)
    await backend.apply((), {V6})
    first = await in_thread(v6.obtain, V6.identifier.value, association=0xFFFFFFFF)
    assert first is not None and first.addresses == (V6.address,)
    await backend.apply({V6}, {moved})
    blocked = await in_thread(v6.obtain, moved.identifier.value)
    assert blocked is not None and blocked.addresses == ()
    await backend.release({V6})
    second = await in_thread(v6.obtain, moved.identifier.value)
    assert second is not None and second.addresses == (V6.address,)


@pytest_twisted.ensureDeferred
async def test_a_lease_that_a_killed_predecessor_left_in_the_way_is_ended(
    backend: DnsmasqBackend, server: DnsmasqServer, network: Network, v4: RawClient4
) -> None:
    moved = HostMap(Identifier.mac(OTHER_MAC), V4.address, "bench-1")
    await backend.apply((), {V4})
    await in_thread(v4.obtain, CLIENT_MAC)
    await backend.apply({V4}, {moved})  # and killed here
    successor = backend_of(server, network)
    assert await successor.read() == {moved}
    await successor.release(())
    answer = await in_thread(v4.discover, OTHER_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_an_alias_beside_a_primary_on_one_nic_renewals_included(backend: DnsmasqBackend, v4: RawClient4) -> None:
    """A primary that sends no client-id would be refused its renewal once the alias has a lease: see clusterd/dhcp."""
    alias = HostMap(Identifier(IdentifierKind.CLIENT_ID, b"\xff\x00\x01alias"), "192.0.2.52", "bench-1-alias")
    primary_id = b"\x01" + V4.identifier.value
    await backend.apply((), {V4, alias})
    for client_id, address in ((primary_id, V4.address), (alias.identifier.value, alias.address)):
        answer = await in_thread(v4.obtain, CLIENT_MAC, client_id=client_id)
        assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, address)
    for client_id, address in ((primary_id, V4.address), (alias.identifier.value, alias.address)):
        renewed = await in_thread(v4.renew, CLIENT_MAC, address, client_id=client_id)
        assert renewed is not None and (renewed.kind, renewed.address) == (Kind.ACK, address)


@pytest_twisted.ensureDeferred
async def test_additions_need_no_sighup(backend: DnsmasqBackend, server: DnsmasqServer, v4: RawClient4) -> None:
    await backend.replace(numbered(100))
    reads = server.log.count(f"read {server.hosts_file}\n")
    await backend.apply((), {V4})
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
    assert server.log.count(f"read {server.hosts_file}\n") == reads
    assert list(server.hosts_directory.iterdir()) == []
    server.kill()
    server.start()
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
    assert "duplicate" not in server.log


@pytest_twisted.ensureDeferred
async def test_a_machine_moves_to_another_address(backend: DnsmasqBackend, v4: RawClient4) -> None:
    moved = HostMap(V4.identifier, "192.0.2.51", V4.hostname)
    await backend.apply((), {V4})
    await in_thread(v4.obtain, CLIENT_MAC)
    await backend.apply({V4}, {moved})
    refused = await in_thread(v4.renew, CLIENT_MAC, V4.address)
    assert refused is not None and refused.kind is Kind.NAK
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, moved.address)


@pytest_twisted.ensureDeferred
async def test_every_identifier_reaches_its_client(
    backend: DnsmasqBackend, server: DnsmasqServer, network: Network, v4: RawClient4, v6: RawClient6
) -> None:
    """One MAC address with an IPv4 and an IPv6 address, a NIC alias beside it, a second MAC address on one address."""
    newline_id = b"\x00a\nb,c#d\x00\xff"
    alias = HostMap(Identifier(IdentifierKind.CLIENT_ID, newline_id), "192.0.2.52", "bench-1-alias")
    v6_by_mac = HostMap(Identifier.mac(CLIENT_MAC), "2001:db8:0:1::51", "bench-1.example.org")
    dock = HostMap(Identifier.mac(OTHER_MAC), V4.address, V4.hostname)
    other_subnet = HostMap(Identifier.mac(CLIENT_MAC), "198.51.100.50")
    longest_duid = HostMap(Identifier(IdentifierKind.DUID, bytes(range(130))), "2001:db8:0:1::52")
    longest_id = HostMap(Identifier(IdentifierKind.CLIENT_ID, bytes(range(255))), "192.0.2.53", "a" * 63 + ".b")
    everything = {V4, alias, v6_by_mac, dock, other_subnet, longest_duid, longest_id}
    assert await backend.apply((), everything) == ()
    assert " at line " not in server.log

    async def offered(mac: str, client_id: bytes | None = None) -> str | None:
        answer = await in_thread(v4.discover, mac, client_id=client_id)
        return None if answer is None else answer.address

    assert await offered(CLIENT_MAC) == V4.address
    assert await offered(CLIENT_MAC, b"\x01some other client-id") == V4.address
    assert await offered(CLIENT_MAC, newline_id) == alias.address
    assert await offered("00:16:3e:aa:00:99", newline_id) == alias.address
    assert await offered(OTHER_MAC) == dock.address
    assert await offered("00:16:3e:aa:00:99", longest_id.identifier.value) == longest_id.address
    assert await offered("00:16:3e:aa:00:99") is None
    for duid, expected in (
        (b"\0\2\0\0\1\2any", v6_by_mac.address),
        (longest_duid.identifier.value, "2001:db8:0:1::52"),
    ):
        answer = await in_thread(v6.obtain, duid)
        assert answer is not None and answer.addresses == (expected,)
        await in_thread(v6.release, duid, answer)
    with RawClient4(network, "c1") as second_wire:
        answer4 = await in_thread(second_wire.discover, CLIENT_MAC)
    assert answer4 is not None and answer4.address == other_subnet.address


@pytest_twisted.ensureDeferred
async def test_a_killed_server_is_an_error_and_its_successor_serves_what_was_written(
    backend: DnsmasqBackend, server: DnsmasqServer, v4: RawClient4
) -> None:
    await backend.apply((), numbered(10))
    server.kill()
    for call in (lambda: backend.apply((), {V4}), backend.read):
        with pytest.raises(BackendError, match=r"dnsmasq is not running: .*/dnsmasq\.pid names process \d+"):
            await call()
    [sentence] = await backend.check()
    assert sentence.startswith("dnsmasq is not running")
    server.start()
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
    assert await backend.read() == numbered(10) | {V4}
    assert await backend.check() == []


@pytest_twisted.ensureDeferred
async def test_a_stopped_server_is_an_error(backend: DnsmasqBackend, server: DnsmasqServer) -> None:
    server.stop()
    with pytest.raises(BackendError, match="dnsmasq is not running"):
        await backend.apply((), {V4})


@pytest_twisted.ensureDeferred
async def test_an_edit_by_hand_is_seen_and_can_be_undone(
    backend: DnsmasqBackend, server: DnsmasqServer, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    by_hand = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.99")
    server.hosts_file.write_text(f"{HEADER}{OTHER_MAC},192.0.2.99\n")
    assert await backend.read() == {by_hand}
    answer = await in_thread(v4.discover, OTHER_MAC)
    assert answer is not None and answer.address == by_hand.address
    await backend.apply({by_hand}, {V4})
    assert await in_thread(v4.discover, OTHER_MAC) is None
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_what_a_predecessor_wrote_and_did_not_signal_is_served_after_the_first_read(
    backend: DnsmasqBackend, server: DnsmasqServer, v4: RawClient4
) -> None:
    await FileBackend(server.hosts_file).apply((), {V4})
    assert await in_thread(v4.discover, CLIENT_MAC) is None
    assert await backend.read() == {V4}
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address


@pytest_twisted.ensureDeferred
async def test_a_server_that_reads_another_file_is_found_out(server: DnsmasqServer, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    mistaken = dnsmasq_backend(elsewhere, server.hosts_directory, server.pid_file, reactor, read_timeout=0.5)
    with pytest.raises(BackendError, match=rf"did not read {elsewhere} within 0\.5 s of SIGHUP: it has to be the file"):
        await mistaken.apply((), {V4})
    first, second = await mistaken.check()
    assert first == f"dnsmasq does not read {elsewhere}: add dhcp-hostsfile={elsewhere} and restart it."
    assert "within 0.5 s of SIGHUP: it has to be the file that its configuration names" in second


@pytest_twisted.ensureDeferred
async def test_a_frozen_server_is_an_error_until_it_thaws(server: DnsmasqServer, network: Network) -> None:
    backend = backend_of(server, network, read_timeout=0.5)
    server.freeze()
    try:
        with pytest.raises(BackendError, match=r"did not read .* within 0\.5 s"):
            await backend.apply((), {V4})
    finally:
        server.thaw()

    async def has_read() -> bool:
        with suppress(BackendError):  # it may not be there again within the half second
            return await backend.read() == {V4}
        return False

    await until(has_read)
