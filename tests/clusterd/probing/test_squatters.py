"""Real hosts on a real wire: who has an address is found, by packets and by way of the kernel, in IPv4 and IPv6."""

import select
import socket
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from clusterd.probing.by_neighbour_table import NeighbourTableProbe, open_datagram_socket
from clusterd.probing.by_packets import PacketProbe
from clusterd.probing.packet_sockets import open_packet_socket
from clusterd.probing.wire import Wire
from clusterd.topology.netlink import open_netlink
from tests.lab import namespaces
from tests.lab.namespaces import Network, in_namespace, run_tool
from tests.requirements import need
from tests.turns import longest_stall, longest_turn_during
from tests.waiting import until

pytestmark = pytest.mark.namespaces

reactor: Any = global_reactor

SQUATTER = "00:16:3e:00:00:66"
V4, V6 = "192.0.2.66", "2001:db8:0:1::66"
FREE = {4: ["192.0.2.67", "192.0.2.68"], 6: ["2001:db8:0:1::67", "2001:db8:0:1::68"]}
OWN = {4: "192.0.2.1", 6: "2001:db8:0:1::1"}
TAKEN = {4: V4, 6: V6}
LONG = 30.0  # of what ends as soon as everybody has answered


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A cable with a cluster controller (s0) and a squatter (c0) at its ends."""
    obstacle = namespaces.obstacle()
    need(obstacle is None, str(obstacle))
    with namespaces.network((namespaces.Wire(),)) as made:
        made.set_client_mac(SQUATTER)
        for address in (f"{V4}/24", f"{V6}/64"):
            run_tool("ip", "-n", made.client, "addr", "add", address, "dev", "c0")
        yield made


def mac_of(made: Network) -> bytes:
    text = run_tool("ip", "-n", made.server, "-br", "link", "show", "dev", "s0").split()[2]
    return bytes.fromhex(text.replace(":", ""))


class Ways:
    """Both ways to ask, at the controller."""

    def __init__(self, made: Network) -> None:
        self.made = made
        self.wire = Wire("s0", mac_of(made))
        self.sockets: list[socket.socket] = []
        self.packets = PacketProbe(reactor, self._open_packets)
        self.kernel = NeighbourTableProbe(
            reactor,
            lambda family: in_namespace(made.server, partial(open_datagram_socket, family)),
            lambda groups: in_namespace(made.server, partial(open_netlink, groups)),
        )

    def _open_packets(self, ethertype: int) -> socket.socket:
        self.sockets.append(in_namespace(self.made.server, partial(open_packet_socket, ethertype)))
        return self.sockets[-1]

    def forget_neighbours(self) -> None:
        """As if the controller had never spoken to anybody."""
        run_tool("ip", "-n", self.made.server, "neigh", "flush", "dev", "s0")


@pytest_twisted.async_yield_fixture
async def ways(network: Network) -> AsyncIterator[Ways]:
    made = Ways(network)
    made.forget_neighbours()
    yield made
    made.packets.close()


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("way", ["packets", "kernel"])
@pytest.mark.parametrize("family", [4, 6])
async def test_a_squatter_is_found_at_once(ways: Ways, family: int, way: str) -> None:
    probe = getattr(ways, way)
    begun = time.monotonic()
    # By packets it is over with the last answer; the kernel's table is looked at early, and then at the end.
    found = await probe.in_use(ways.wire, [TAKEN[family]], LONG if way == "packets" else 10.0)
    assert found == {TAKEN[family]: SQUATTER}
    assert time.monotonic() - begun < LONG / 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("way", ["packets", "kernel"])
@pytest.mark.parametrize("family", [4, 6])
async def test_only_the_squatter_is_found_among_many(ways: Ways, family: int, way: str) -> None:
    wanted = [FREE[family][0], TAKEN[family], *FREE[family][1:]]
    assert await getattr(ways, way).in_use(ways.wire, wanted, 1.0) == {TAKEN[family]: SQUATTER}


@pytest_twisted.ensureDeferred
async def test_probing_by_packets_leaves_nothing_in_anybodys_cache(ways: Ways) -> None:
    run_tool("ip", "-n", ways.made.client, "neigh", "flush", "dev", "c0")
    for family in (4, 6):
        assert await ways.packets.in_use(ways.wire, [TAKEN[family]], LONG)
    for host, nic in ((ways.made.server, "s0"), (ways.made.client, "c0")):
        assert not any(OWN[4] in line or V4 in line for line in _neighbours(host, nic))


def _neighbours(host: str, nic: str) -> list[str]:
    return run_tool("ip", "-n", host, "-4", "neigh", "show", "dev", nic).splitlines()


@pytest_twisted.ensureDeferred
async def test_many_questions_at_once_share_one_socket_and_do_not_hold_up_the_reactor(ways: Ways) -> None:
    await ways.packets.in_use(ways.wire, [V4], LONG)  # opens the socket, which in another namespace takes its time
    asked = [[f"192.0.2.{n}" for n in range(start, start + 25)] for start in range(2, 227, 25)]
    answers: list[dict[str, str]] = []
    asking = gatherResults([Deferred.fromCoroutine(ways.packets.in_use(ways.wire, some, 1.0)) for some in asked])
    turn = await longest_turn_during(asking.addCallback(answers.extend))
    found: dict[str, str] = {}
    for answer in answers:
        found.update(answer)
    assert found == {V4: SQUATTER}
    assert len(ways.sockets) == 1
    assert turn < longest_stall()


@pytest_twisted.ensureDeferred
async def test_a_socket_that_nobody_asks_by_hears_nothing(ways: Ways) -> None:
    await ways.packets.in_use(ways.wire, [V4], LONG)
    run_tool(*namespaces.within(ways.made.client), "ip", "neigh", "flush", "dev", "c0")
    asked = in_namespace(ways.made.client, partial(open_datagram_socket, socket.AF_INET))
    with asked:
        # The squatter looks for the controller: an ARP request and its answer pass by the socket.
        asked.sendto(b"", (OWN[4], 9))
        await until(lambda: any(OWN[4] in line and "REACHABLE" in line for line in _neighbours(ways.made.client, "c0")))
    with pytest.raises(BlockingIOError):
        ways.sockets[0].recv(2048)


@pytest_twisted.ensureDeferred
async def test_what_came_after_the_last_question_answers_no_later_one(ways: Ways) -> None:
    leaving = "192.0.2.99"
    run_tool("ip", "-n", ways.made.client, "addr", "add", f"{leaving}/24", "dev", "c0")
    try:
        asking = Deferred.fromCoroutine(ways.packets.in_use(ways.wire, [leaving], LONG))
        # The answer is there, and the question is given up before the reactor comes to it.
        assert select.select(ways.sockets[:1], (), (), 10.0)[0]
        asking.cancel()
        with pytest.raises(CancelledError):
            await asking
    finally:
        run_tool("ip", "-n", ways.made.client, "addr", "del", f"{leaving}/24", "dev", "c0")
    assert await ways.packets.in_use(ways.wire, [leaving], 0.5) == {}


@pytest_twisted.ensureDeferred
async def test_a_nic_that_is_not_there_is_an_error(ways: Ways) -> None:
    for probe in (ways.packets, ways.kernel):
        for family in (4, 6):
            with pytest.raises(OSError, match="No such device"):
                await probe.in_use(Wire("gone0", ways.wire.mac), [TAKEN[family]], 1.0)
