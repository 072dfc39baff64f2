"""What the region may ask, in which way it is asked, and what is said where it cannot be."""

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from clusterd.probing.prober import MAX_ASKED_AT_ONCE, Prober
from clusterd.probing.wire import Wire
from clusterd.protocol.errors import MalformedArgument, NotProbed
from clusterd.protocol.values import AddressInUse, InterfaceReport
from tests.clusterd.links import Outcome

NET, NET6 = "192.0.2.0/24", "2001:db8::/64"
MAC, SQUATTER = "00:16:3e:00:00:01", "00:16:3e:00:00:66"
REPORTS = (
    InterfaceReport("eth0", NET, ("192.0.2.1",), mac=MAC),
    InterfaceReport("eth0", NET6, ("2001:db8::1",), mac=MAC),
    InterfaceReport("eth1", "198.51.100.0/24", ("198.51.100.1",), mac=MAC, up=False),
    InterfaceReport("eth2", "203.0.113.0/24", (), mac=MAC, relayed=True),
    InterfaceReport("ib0", "10.0.0.0/8", ("10.0.0.1",)),
)


class Way:
    """A way to ask that a test has in its hand."""

    def __init__(self) -> None:
        self.asked: list[tuple[Wire, tuple[str, ...], float]] = []
        self.squatters: dict[str, str] = {}
        self.error: Exception | None = None
        self.held: Deferred[None] | None = None
        self.closed = False

    async def in_use(self, wire: Wire, addresses: Sequence[str], seconds: float) -> dict[str, str]:
        self.asked.append((wire, tuple(addresses), seconds))
        if self.held is not None:
            await self.held
        if self.error is not None:
            raise self.error
        return {address: mac for address, mac in self.squatters.items() if address in addresses}

    def close(self) -> None:
        self.closed = True


class Host:
    """A prober of a host with REPORTS."""

    def __init__(self) -> None:
        self.packets, self.kernel = Way(), Way()
        self.prober = Prober(self.look, self.packets, self.kernel)

    async def look(self) -> Sequence[InterfaceReport]:
        return REPORTS

    def ask(self, *addresses: str, nic: str = "eth0", cidr: str = NET, seconds: float = 1.0) -> Any:
        outcome = Outcome(self.prober.probe(nic, cidr, addresses, seconds))
        assert outcome.done()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


def test_each_address_is_asked_for_once_and_the_answer_is_in_their_order() -> None:
    host = Host()
    host.packets.squatters = {"192.0.2.7": SQUATTER, "192.0.2.5": SQUATTER}
    found = host.ask("192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.6")
    assert found == [AddressInUse("192.0.2.5", SQUATTER), AddressInUse("192.0.2.7", SQUATTER)]
    mac = bytes.fromhex(MAC.replace(":", ""))
    assert host.packets.asked == [(Wire("eth0", mac), ("192.0.2.5", "192.0.2.6", "192.0.2.7"), 1.0)]
    assert host.ask("2001:db8::5", cidr=NET6) == []
    assert not host.kernel.asked and host.ask() == []


@pytest.mark.parametrize(
    ("nic", "cidr", "words"),
    [
        ("eth0", "198.51.100.0/24", "not on"),
        ("eth7", NET, "not on"),
        ("eth1", "198.51.100.0/24", "down"),
        ("eth2", "203.0.113.0/24", "relayed"),
    ],
)
def test_only_a_nic_that_is_up_and_on_the_network_is_asked_at(nic: str, cidr: str, words: str) -> None:
    host = Host()
    with pytest.raises(NotProbed, match=words):
        host.ask(cidr.replace("0/24", "9"), nic=nic, cidr=cidr)
    assert not host.packets.asked and not host.kernel.asked


@pytest.mark.parametrize("address", ["192.0.3.1", "2001:db8::1", "127.0.0.1"])
def test_only_addresses_of_the_network_are_asked_for(address: str) -> None:
    host = Host()
    with pytest.raises(MalformedArgument):
        host.ask("192.0.2.5", address)
    with pytest.raises(NotProbed):
        host.ask(address, cidr="not a network")
    assert not host.packets.asked


def test_without_the_privilege_it_goes_by_the_kernel_from_then_on() -> None:
    host = Host()
    host.packets.error = PermissionError(1, "Operation not permitted")
    host.kernel.squatters = {"192.0.2.5": SQUATTER}
    for _ in range(2):
        assert host.ask("192.0.2.5") == [AddressInUse("192.0.2.5", SQUATTER)]
    assert (len(host.packets.asked), len(host.kernel.asked)) == (1, 2)


def test_a_nic_without_a_mac_address_goes_by_the_kernel() -> None:
    host = Host()
    assert host.ask("10.0.0.5", nic="ib0", cidr="10.0.0.0/8") == []
    assert len(host.kernel.asked) == 1 and not host.packets.asked


def test_a_nic_that_refuses_is_told_and_does_not_count_as_asked() -> None:
    host = Host()
    host.packets.error = OSError(100, "Network is down")
    for _ in range(3):
        with pytest.raises(NotProbed, match="Network is down"):
            host.ask(*(f"192.0.2.{n}" for n in range(1, 255)))
    host.packets.error = None
    assert host.ask("192.0.2.5", seconds=0.0) == []
    assert host.packets.asked[-1][2] == 0.1, "nobody can answer in no time"


def test_there_is_a_limit_to_what_is_asked_at_a_time() -> None:
    host = Host()
    host.packets.held = Deferred()
    many = [f"2001:db8::{n:x}" for n in range(1, MAX_ASKED_AT_ONCE + 1)]
    waiting = Outcome(host.prober.probe("eth0", NET6, many, 1.0))
    with pytest.raises(NotProbed, match="1024 addresses"):
        host.ask("192.0.2.5")
    held, host.packets.held = host.packets.held, None
    held.callback(None)
    assert waiting.value == [] and host.ask("192.0.2.5") == []
    host.prober.close()
    assert host.packets.closed and host.kernel.closed
