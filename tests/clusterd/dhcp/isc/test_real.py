"""The backend `isc` with real dhcpd and real clients, in network namespaces."""

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from clusterd.dhcp.isc.backend import IscBackend
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.dhcp.contract import SCENARIOS, Scenario, numbered
from tests.lab.clients import dhclient, duid_of_mac, udhcpc
from tests.lab.dhcp_messages import Kind
from tests.lab.dhcpd import DhcpdServer
from tests.lab.isc_fixtures import CLIENT_MAC, backend, in_thread, network, server, v4
from tests.lab.namespaces import Network
from tests.lab.raw_v4 import RawClient4
from tests.lab.site import DrivenSite

__all__ = ["backend", "network", "server", "v4"]

pytestmark = pytest.mark.namespaces

OTHER_MAC = "00:16:3e:aa:00:02"
NET4, NET6 = "192.0.2.0/24", "2001:db8:0:1::/64"
V4 = HostMap(Identifier.mac(CLIENT_MAC), "192.0.2.50", "bench-1")
V6 = HostMap(Identifier(IdentifierKind.DUID, duid_of_mac(CLIENT_MAC)), "2001:db8:0:1::50", "bench-1")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest_twisted.ensureDeferred
async def test_contract(scenario: Scenario, backend: IscBackend, server: DhcpdServer) -> None:
    before = server.identity
    await scenario(backend)
    assert server.identity == before


@pytest_twisted.ensureDeferred
async def test_from_acceptance_to_real_clients_and_back(
    network: Network, backend: IscBackend, server: DhcpdServer, tmp_path: Path
) -> None:
    """Claim: the clients get exactly these addresses. Release: they no longer do. IPv4 is never restarted."""
    await backend.replace(numbered(1000))
    before = server.identity
    site = DrivenSite(tmp_path, backend, reactor)
    await site.start()
    try:
        assert await in_thread(udhcpc, network, attempts=1) is None
        await site.change(NET4, [V4])
        assert await in_thread(udhcpc, network) == V4.address
        assert await in_thread(dhclient, network, 4) == V4.address
        await site.change(NET6, [V6])
        assert await in_thread(dhclient, network, 6) == V6.address
        assert backend.pause({V4}, ()) == 0.0

        await site.change(NET4, removals=[V4.identifier])
        await site.change(NET6, removals=[V6.identifier])
        assert await in_thread(udhcpc, network, attempts=1) is None
        assert await in_thread(dhclient, network, 6, timeout=2.0) is None
    finally:
        await site.stop()
    assert server.identity == before
    assert await backend.read() == numbered(1000)


@pytest_twisted.ensureDeferred
async def test_an_address_moves_to_another_machine(backend: IscBackend, v4: RawClient4) -> None:
    """At no moment is it given to both; the former one's renewals are not answered."""
    moved = HostMap(Identifier.mac(OTHER_MAC), V4.address, "bench-1")
    await backend.apply((), {V4})
    first = await in_thread(v4.obtain, CLIENT_MAC)
    assert first is not None and (first.kind, first.address, first.host_name) == (Kind.ACK, V4.address, "bench-1")
    await backend.apply({V4}, {moved})
    await backend.release({V4})
    second = await in_thread(v4.obtain, OTHER_MAC)
    assert second is not None and (second.kind, second.address) == (Kind.ACK, V4.address)
    assert await in_thread(v4.discover, CLIENT_MAC) is None
    assert await in_thread(v4.renew, CLIENT_MAC, V4.address) is None


@pytest_twisted.ensureDeferred
async def test_two_machines_swap_their_addresses(backend: IscBackend, v4: RawClient4) -> None:
    other = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.51", "bench-2")
    swapped = {HostMap(V4.identifier, other.address, "bench-1"), HostMap(other.identifier, V4.address, "bench-2")}
    await backend.apply((), {V4, other})
    assert await backend.apply({V4, other}, swapped) == ()
    assert await backend.verify(swapped | {V4, other}) == swapped
    for mac, expected in ((CLIENT_MAC, other.address), (OTHER_MAC, V4.address)):
        answer = await in_thread(v4.obtain, mac)
        assert answer is not None and (answer.kind, answer.address) == (Kind.ACK, expected)


@pytest_twisted.ensureDeferred
async def test_a_nic_alias_lives_beside_its_primary(backend: IscBackend, v4: RawClient4) -> None:
    """Two leases for one MAC address, each renewed; a primary without client-id, with one, and with changing ones."""
    alias_id = b'\x00alias\n"1'
    alias = HostMap(Identifier(IdentifierKind.CLIENT_ID, alias_id), "192.0.2.52", "bench-1-alias")
    await backend.apply((), {V4, alias})
    second = await in_thread(v4.obtain, CLIENT_MAC, client_id=alias_id)
    assert second is not None and (second.kind, second.address, second.host_name) == (
        Kind.ACK,
        alias.address,
        "bench-1-alias",
    )
    for client_id in (
        None,
        b"\x01" + bytes.fromhex(CLIENT_MAC.replace(":", "")),
        b"\x00PXE",
        b"\xff\x01\x02\x03\x04os",
    ):
        first = await in_thread(v4.obtain, CLIENT_MAC, client_id=client_id)
        assert first is not None and (first.kind, first.address) == (Kind.ACK, V4.address)
        renewed = await in_thread(v4.renew, CLIENT_MAC, V4.address, client_id=client_id)
        assert renewed is not None and (renewed.kind, renewed.address) == (Kind.ACK, V4.address)
    renewed = await in_thread(v4.renew, CLIENT_MAC, alias.address, client_id=alias_id)
    assert renewed is not None and (renewed.kind, renewed.address) == (Kind.ACK, alias.address)


@pytest_twisted.ensureDeferred
async def test_one_mac_in_two_subnets_with_a_name_for_each(
    network: Network, backend: IscBackend, server: DhcpdServer, v4: RawClient4
) -> None:
    """Added one after the other and taken away again; dhcpd's own rewrite of its leases file changes nothing."""
    second = HostMap(V4.identifier, "198.51.100.50", "bench-1.storage.example")
    unnamed = HostMap(Identifier.mac(OTHER_MAC), "198.51.100.51")
    named = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.51", "bench-2")
    with RawClient4(network, "c1") as other_wire:
        await backend.apply((), {V4, unnamed})
        await backend.apply((), {second, named})
        for _ in range(2):
            assert await backend.read() == {V4, second, unnamed, named}
            for client, expected in ((v4, V4), (other_wire, second), (v4, named), (other_wire, unnamed)):
                answer = await in_thread(client.obtain, expected.identifier.text)
                assert answer is not None
                assert (answer.kind, answer.address, answer.host_name) == (
                    Kind.ACK,
                    expected.address,
                    expected.hostname,
                )
            await in_thread(server.stop)
            await in_thread(server.start)
        await backend.read()
        await backend.apply({V4}, ())
        assert await backend.verify({V4, second}) == {second}
        assert await in_thread(v4.discover, CLIENT_MAC) is None
        answer = await in_thread(other_wire.discover, CLIENT_MAC)
        assert answer is not None and answer.address == second.address


@pytest_twisted.ensureDeferred
async def test_an_address_of_a_pool_is_refused_and_said(
    network: Network, backend: IscBackend, server: DhcpdServer
) -> None:
    """dhcpd would give it to two clients. What else the same client was to get, it gets."""
    with RawClient4(network, "c1") as client:
        leased = await in_thread(client.obtain, "00:16:3e:aa:00:77", timeout=2.0)
        assert leased is not None and leased.kind is Kind.ACK
    free = ({"198.51.100.200", "198.51.100.201"} - {leased.address}).pop()
    in_pool = HostMap(Identifier.mac(OTHER_MAC), free)
    in_use = HostMap(V4.identifier, leased.address)
    rejections = {one.host_map: one.reason for one in await backend.apply((), {in_pool, in_use, V4})}
    assert rejections == {
        in_pool: f"{free} lies in a pool of dhcpd, so that dhcpd would give it to two clients: "
        "take it out of the pool's range",
        in_use: f"{leased.address} lies in a pool of dhcpd, leased to 00:16:3e:aa:00:77, so that dhcpd would give it "
        "to two clients: take it out of the pool's range",
    }
    assert await backend.read() == {V4}


@pytest_twisted.ensureDeferred
async def test_a_stale_lease_from_a_pool_is_ended_and_nobody_elses(network: Network, backend: IscBackend) -> None:
    with RawClient4(network, "c1") as client:
        first = await in_thread(client.obtain, "00:16:3e:aa:00:71", timeout=2.0)
        second = await in_thread(client.obtain, "00:16:3e:aa:00:72", timeout=2.0)
        assert first is not None and second is not None
        assert await in_thread(client.discover, "00:16:3e:aa:00:73", timeout=1.0) is None
        await backend.release({HostMap(Identifier.mac("00:16:3e:aa:00:71"), second.address)})
        assert await in_thread(client.discover, "00:16:3e:aa:00:73", timeout=1.0) is None
        await backend.release({HostMap(Identifier.mac("00:16:3e:aa:00:71"), first.address)})
        third = await in_thread(client.obtain, "00:16:3e:aa:00:73", timeout=2.0)
        assert third is not None and (third.kind, third.address) == (Kind.ACK, first.address)


@pytest_twisted.ensureDeferred
async def test_every_identifier_survives_the_leases_file(
    backend: IscBackend, server: DhcpdServer, v4: RawClient4
) -> None:
    """Client-ids are octets of anybody's choosing: quotes, brackets, newlines, the longest one."""
    awkward = [b"ab;} host x {", b"\x00a\nb,c#d\x00\xff", bytes(range(255)), b'"\\"', b"id", b"}\n}\nhost y {\n"]
    aliases = {
        HostMap(Identifier(IdentifierKind.CLIENT_ID, octets), f"192.0.2.{60 + n}") for n, octets in enumerate(awkward)
    }
    longest_name = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.53", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 60}")
    assert await backend.apply((), aliases | {longest_name}) == ()
    await in_thread(server.stop)
    await in_thread(server.start)
    assert await backend.read() == aliases | {longest_name}
    for alias in aliases:
        answer = await in_thread(v4.discover, "00:16:3e:aa:00:99", client_id=alias.identifier.value)
        assert answer is not None and answer.address == alias.address


@pytest_twisted.ensureDeferred
async def test_hosts_of_others_stay(server: DhcpdServer, v4: RawClient4) -> None:
    """Those of the configuration; a client that has one of them is rejected, in words that name it."""
    server.stop()
    with server.configuration_file.open("a") as file:
        file.write(f"host theirs {{ hardware ethernet {OTHER_MAC}; fixed-address 192.0.2.90; }}\n")
    server.start()
    backend = server.backend(reactor)
    try:
        ours = HostMap(Identifier.mac(OTHER_MAC), "192.0.2.91")
        [rejection] = await backend.apply((), {V4, ours})
        assert rejection.host_map == ours
        assert "its host 'theirs', which is not ours, is for the same client" in rejection.reason
        await backend.apply({ours}, ())
        assert await backend.replace(()) == ()
        assert await backend.read() == frozenset()
        answer = await in_thread(v4.discover, OTHER_MAC)
        assert answer is not None and answer.address == "192.0.2.90"
    finally:
        await backend.close()
