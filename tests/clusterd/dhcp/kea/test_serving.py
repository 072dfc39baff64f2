"""What real clients get from a real Kea for host maps of every kind, whichever way Kea was given them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.kea.backend import KeaBackend, kea_backend
from clusterd.dhcp.kea.settings import Way
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.dhcp.kea.laboratory import CLIENT_MAC, OTHER_MAC, SERVER_ID, V4, V6, HostsDatabase, in_thread
from tests.database import run_in_reactor
from tests.lab.clients import dhclient, udhcpc
from tests.lab.dhcp_messages import Kind
from tests.lab.kea import KeaServers, kea
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.raw_v6 import RawClient6

pytestmark = pytest.mark.namespaces

ALIAS_ID = b"\x00a\nb,c#d\x00\xff"  # octets that are no text, a newline among them
ALIAS = HostMap(Identifier(IdentifierKind.CLIENT_ID, ALIAS_ID), "192.0.2.52", "bench-1-alias")


@pytest.fixture(params=[Way.HOSTS_DATABASE, Way.INCLUDE_FILES])
def servers(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> Iterator[KeaServers]:
    parameters = None
    if request.param is Way.HOSTS_DATABASE:
        database: HostsDatabase = request.getfixturevalue("hosts_database")
        parameters = database.parameters
    with kea(KeaServers(network, tmp_path, hosts_database=parameters)) as running:
        yield running


@pytest.fixture
def backend(servers: KeaServers) -> Iterator[KeaBackend]:
    made = kea_backend(servers.settings, reactor)
    yield made
    run_in_reactor(made.close)


@pytest_twisted.ensureDeferred
async def test_real_clients_get_the_address_and_after_a_removal_nobody_does(
    backend: KeaBackend, servers: KeaServers, network: Network, v4: RawClient4, v6: RawClient6
) -> None:
    before = [servers.identity(4), servers.identity(6)]
    assert await backend.read() == frozenset()
    assert await backend.apply((), {V4, V6}) == ()
    assert await in_thread(udhcpc, network) == V4.address
    assert await in_thread(dhclient, network, 4) == V4.address
    assert await in_thread(dhclient, network, 6) == V6.address
    assert await backend.apply({V4, V6}, ()) == ()
    await backend.release({V4, V6})
    refused = await in_thread(v4.request, CLIENT_MAC, V4.address)
    assert refused is not None and refused.kind is Kind.NAK
    assert await in_thread(v4.discover, CLIENT_MAC) is None
    solicited = await in_thread(v6.solicit, V6.identifier.value)
    assert solicited is None or solicited.addresses == ()
    assert [servers.identity(4), servers.identity(6)] == before


@pytest_twisted.ensureDeferred
async def test_an_address_moves_to_another_machine_although_its_lease_runs(
    backend: KeaBackend, v4: RawClient4, v6: RawClient6
) -> None:
    other_duid = Identifier(IdentifierKind.DUID, b"\x00\x02\x00\x00\x01\x02other")
    moved, moved6 = HostMap(Identifier.mac(OTHER_MAC), V4.address), HostMap(other_duid, V6.address)
    await backend.apply((), {V4, V6})
    first, first6 = await in_thread(v4.obtain, CLIENT_MAC), await in_thread(v6.obtain, V6.identifier.value)
    assert first is not None and first.address == V4.address
    assert first6 is not None and first6.addresses == (V6.address,)
    await backend.apply({V4, V6}, {moved, moved6})
    await backend.release({V4, V6})
    second, second6 = await in_thread(v4.obtain, OTHER_MAC), await in_thread(v6.obtain, other_duid.value)
    assert second is not None and (second.kind, second.address) == (Kind.ACK, V4.address)
    assert second6 is not None and second6.addresses == (V6.address,)
    refused = await in_thread(v4.renew, CLIENT_MAC, V4.address)
    assert refused is None or refused.kind is Kind.NAK
    await backend.release({V4, V6})  # the leases belong to the new owners now
    renewed = await in_thread(v4.renew, OTHER_MAC, V4.address)
    assert renewed is not None and renewed.kind is Kind.ACK
    renewed6 = await in_thread(v6.renew, other_duid.value, second6)
    assert renewed6 is not None and all(renewed6.lifetimes)


@pytest_twisted.ensureDeferred
async def test_a_machine_moves_to_another_address(backend: KeaBackend, v4: RawClient4) -> None:
    moved = HostMap(V4.identifier, "192.0.2.51", V4.hostname)
    await backend.apply((), {V4})
    await in_thread(v4.obtain, CLIENT_MAC)
    await backend.apply({V4}, {moved})
    await backend.release({V4})
    answer = await in_thread(v4.obtain, CLIENT_MAC)
    assert answer is not None and (answer.kind, answer.address, answer.host_name) == (
        Kind.ACK,
        moved.address,
        "bench-1",
    )


@pytest_twisted.ensureDeferred
async def test_a_nic_alias_lives_beside_the_primary_also_when_both_renew(backend: KeaBackend, v4: RawClient4) -> None:
    await backend.apply((), {V4, ALIAS})
    for own_id in (None, b"\x01" + V4.identifier.value):
        primary = await in_thread(v4.obtain, CLIENT_MAC, client_id=own_id)
        alias = await in_thread(v4.obtain, CLIENT_MAC, client_id=ALIAS_ID)
        assert primary is not None and primary.address == V4.address
        assert alias is not None and alias.address == ALIAS.address
        renewed = await in_thread(v4.renew, CLIENT_MAC, V4.address, client_id=own_id)
        renewed_alias = await in_thread(v4.renew, CLIENT_MAC, ALIAS.address, client_id=ALIAS_ID)
        assert renewed is not None and (renewed.kind, renewed.address) == (Kind.ACK, V4.address)
        assert renewed_alias is not None and (renewed_alias.kind, renewed_alias.address) == (Kind.ACK, ALIAS.address)
        await in_thread(v4.release, CLIENT_MAC, V4.address, SERVER_ID)


@pytest_twisted.ensureDeferred
async def test_changing_client_ids_on_the_way_from_pxe_to_the_system_change_nothing(
    backend: KeaBackend, v4: RawClient4
) -> None:
    await backend.apply((), {V4})
    for client_id in (b"\x00" + bytes(range(16)), None, b"\x01" + V4.identifier.value, b"\xff\x12\x34\x56\x78\x00\x02"):
        answer = await in_thread(v4.obtain, CLIENT_MAC, client_id=client_id)
        assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, V4.address)


@pytest_twisted.ensureDeferred
async def test_every_identifier_reaches_its_client(
    backend: KeaBackend, network: Network, v4: RawClient4, v6: RawClient6
) -> None:
    v6_by_mac = HostMap(Identifier.mac(CLIENT_MAC), "2001:db8:0:1::51", "bench-1.example.org")
    dock = HostMap(Identifier.mac(OTHER_MAC), V4.address, V4.hostname)
    other_subnet = HostMap(Identifier.mac(CLIENT_MAC), "198.51.100.50")
    longest_duid = HostMap(Identifier(IdentifierKind.DUID, b"\0\2" + bytes(range(126))), "2001:db8:0:1::52")
    longest_id = HostMap(Identifier(IdentifierKind.CLIENT_ID, bytes(range(128))), "192.0.2.53", "a" * 63 + ".b")
    everything = {V4, ALIAS, v6_by_mac, dock, other_subnet, longest_duid, longest_id}
    assert await backend.apply((), everything) == ()
    assert await backend.read() == everything

    async def offered(mac: str, client_id: bytes | None = None) -> str | None:
        answer = await in_thread(v4.discover, mac, client_id=client_id)
        return None if answer is None else answer.address

    assert await offered(CLIENT_MAC) == V4.address
    assert await offered(CLIENT_MAC, ALIAS_ID) == ALIAS.address
    assert await offered("00:16:3e:aa:00:99", ALIAS_ID) == ALIAS.address
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
        answer4 = await in_thread(second_wire.obtain, CLIENT_MAC)
    assert answer4 is not None and answer4.address == other_subnet.address


@pytest_twisted.ensureDeferred
async def test_what_the_server_would_not_serve_is_rejected_and_the_rest_is_served(
    backend: KeaBackend, v4: RawClient4
) -> None:
    local_mac = HostMap(Identifier.mac("52:54:00:00:00:01"), "2001:db8:0:1::60")
    elsewhere = HostMap(Identifier.mac(CLIENT_MAC), "203.0.113.9")
    too_long = HostMap(Identifier(IdentifierKind.CLIENT_ID, bytes(range(129))), "192.0.2.61")
    rejections = {one.host_map: one.reason for one in await backend.apply((), {V4, local_mac, elsewhere, too_long})}
    assert rejections == {
        local_mac: "Kea knows the MAC address of a DHCPv6 client only when it is universally administered, and "
        "52:54:00:00:00:01 is not: use the machine's DUID",
        elsewhere: "kea-dhcp4 has no subnet with 203.0.113.9 in its configuration",
        too_long: "Kea takes identifiers of at most 128 octets, and this client-id has 129",
    }
    assert await backend.read() == {V4}
    answer = await in_thread(v4.discover, CLIENT_MAC)
    assert answer is not None and answer.address == V4.address
