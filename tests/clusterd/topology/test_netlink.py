"""Netlink: messages as kernels wrote them, messages that they could write, and garbage."""

import errno
import socket
import struct
from collections.abc import Callable, Sized
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IReactorFDSet
from twisted.python.failure import Failure

from clusterd.topology.interfaces import TopologySettings, interface_reports
from clusterd.topology.netlink import (
    GETLINK,
    InterfaceAddress,
    KernelFacts,
    Link,
    MalformedNetlink,
    Monitor,
    Neighbour,
    dump,
    is_change,
    parse_addresses,
    parse_gateways,
    parse_links,
    parse_neighbours,
)
from tests.clusterd.kernel_networks import DUMPS

LINKS = (DUMPS / "links.bin").read_bytes()
ADDRESSES = (DUMPS / "addresses.bin").read_bytes()
ROUTES = (DUMPS / "routes.bin").read_bytes()
BONDED_LINKS = (DUMPS / "bonded-links.bin").read_bytes()
BONDED_ADDRESSES = (DUMPS / "bonded-addresses.bin").read_bytes()
PARSERS: list[Callable[[bytes], object]] = [parse_links, parse_addresses, parse_gateways, parse_neighbours, is_change]

NEWLINK, DELLINK, NEWADDR, NEWROUTE, NEWNEIGH, DONE, ERROR = 16, 17, 20, 24, 28, 3, 2


def message(kind: int, body: bytes, *, flags: int = 2, sequence: int = 1) -> bytes:
    """One netlink message, padded."""
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0)
    return head + body + b"\0" * (-len(body) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def link_body(index: int, name: str, *attributes: bytes, flags: int = 0x11043, family: int = 0) -> bytes:
    """An ifinfomsg with a name; the flags are UP, BROADCAST, RUNNING, MULTICAST and LOWER_UP."""
    return (
        struct.pack("=BxHiII", family, 1, index, flags, 0) + attribute(3, name.encode() + b"\0") + b"".join(attributes)
    )


def address_body(family: int, length: int, index: int, *attributes: bytes, flags: int = 0) -> bytes:
    return struct.pack("=BBBBI", family, length, flags, 0, index) + b"".join(attributes)


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def test_links_of_a_recorded_host() -> None:
    links = {link.name: link for link in parse_links(LINKS)}
    assert links["lo"] == Link(index=1, name="lo", mac=bytes(6), loopback=True)
    assert links["eth0"] == Link(index=10, name="eth0", kind="veth", mac=bytes.fromhex("00163e000010"), parent=11)
    assert links["eth1"].master == links["br-lan"].index == 20
    assert links["br-lan"].kind == "bridge"
    assert (links["shim"].kind, links["shim"].parent, links["shim"].up) == ("macvlan", 10, False)
    assert links["tunnel"].kind == "vxlan"
    assert (links["ip-tunnel"].kind, links["ip-tunnel"].mac) == ("tun", None)
    assert len(links) == 9


def test_addresses_of_a_recorded_host() -> None:
    addresses = {address.address: address for address in parse_addresses(ADDRESSES)}
    assert addresses["192.0.2.2"] == InterfaceAddress(index=10, address="192.0.2.2", prefix_length=24)
    # The second address of a network is "secondary", the bit that in IPv6 says "temporary".
    assert addresses["192.0.2.3"] == InterfaceAddress(index=10, address="192.0.2.3", prefix_length=24)
    assert addresses["2001:db8:1::beef"] == InterfaceAddress(index=10, address="2001:db8:1::beef", prefix_length=128)
    assert addresses["10.9.9.1"].point_to_point
    assert [text for text in addresses if text.startswith("fe80")]
    assert not any(address.usable for text, address in addresses.items() if text.startswith("fe80"))


def test_gateways_of_a_recorded_host() -> None:
    assert parse_gateways(ROUTES) == {
        "192.0.2.1",
        "198.51.100.1",  # two next hops of one route
        "203.0.113.130",
        "192.0.2.254",  # of a table of its own
        "2001:db8:2::1",  # next hop of an IPv4 route
        "2001:db8:1::1",
    }


def test_a_recorded_host_with_a_bond_of_two_nics_and_vlans_on_it() -> None:
    links = {link.name: link for link in parse_links(BONDED_LINKS)}
    mac = bytes.fromhex("00163e000002")
    del links["lo"]
    assert links == {
        "eno1": Link(2, "eno1", None, mac, master=4),
        "eno2": Link(3, "eno2", None, mac, master=4),
        "bond0": Link(4, "bond0", "bond", mac),
        "bond0.7": Link(5, "bond0.7", "vlan", mac, vlan=7, parent=4),
        "bond0.4094": Link(6, "bond0.4094", "vlan", mac, vlan=4094, parent=4, master=9),
        "inner": Link(7, "inner", "vlan", mac, vlan=30, parent=5),
        "prio": Link(8, "prio", "vlan", mac, up=False, vlan=0, parent=4),
        "br-office": Link(9, "br-office", "bridge", mac),
    }
    facts = KernelFacts(tuple(links.values()), parse_addresses(BONDED_ADDRESSES))
    reports = interface_reports(facts, TopologySettings())
    assert [(each.nic, each.cidr, each.kind.value, each.vlan, each.up) for each in reports] == [
        ("bond0", "192.0.2.0/24", "bond", None, True),
        ("bond0.7", "198.51.100.0/25", "vlan", 7, True),
        ("bond0.7", "2001:db8:7::/64", "vlan", 7, True),
        ("br-office", "203.0.113.0/24", "bridge", None, True),
        ("inner", "10.30.0.0/24", "vlan", 30, True),
        ("prio", "10.9.0.0/24", "vlan", None, False),
    ]


@given(st.integers(0, len(BONDED_LINKS) - 1))
def test_a_dump_that_is_cut_short_is_refused_or_read_as_far_as_it_goes(end: int) -> None:
    if not refuses(parse_links, BONDED_LINKS[:end]):
        whole = parse_links(BONDED_LINKS)
        assert parse_links(BONDED_LINKS[:end]) == whole[: len(parse_links(BONDED_LINKS[:end]))]


@pytest.mark.parametrize(("flags", "up"), [(0x11043, True), (0x1003, False), (0x11042, False), (0x0, False)], ids=hex)
def test_up_is_switched_on_and_with_a_carrier(flags: int, up: bool) -> None:
    (link,) = parse_links(message(NEWLINK, link_body(1, "eth0", flags=flags)))
    assert link.up is up


@pytest.mark.parametrize(
    ("flags", "usable", "temporary"),
    [(0x80, True, False), (0x40, False, False), (0x48, False, False), (0x08, False, False), (0x01, True, True),
     (0x20, True, False), (0x300, True, False)],
)  # fmt: skip
def test_states_of_an_ipv6_address(flags: int, usable: bool, temporary: bool) -> None:
    body = address_body(
        socket.AF_INET6, 64, 7, attribute(1, packed("2001:db8::7")), attribute(8, struct.pack("=I", flags))
    )
    assert parse_addresses(message(NEWADDR, body)) == (
        InterfaceAddress(7, "2001:db8::7", 64, usable=usable, temporary=temporary),
    )


def test_flags_of_an_old_kernel_are_in_the_header() -> None:
    body = address_body(socket.AF_INET6, 64, 7, attribute(1, packed("2001:db8::7")), flags=0x40)
    assert not parse_addresses(message(NEWADDR, body))[0].usable


def test_names_that_are_no_text_are_kept_readable() -> None:
    body = struct.pack("=BxHiII", 0, 1, 9, 0, 0) + attribute(3, b"e\xff\0")
    assert parse_links(message(NEWLINK, body))[0].name == "e\ufffd"


def test_other_messages_and_families_are_passed_over() -> None:
    other = message(NEWNEIGH, b"\0" * 12) + message(NEWADDR, address_body(28, 8, 1)) + message(DONE, b"\0" * 4)
    assert parse_links(other) == ()
    assert parse_addresses(other) == ()
    assert parse_gateways(other + message(NEWROUTE, b"\x80" + b"\0" * 11)) == frozenset()
    assert parse_links(b"") == ()


def refuses(parse: Callable[[bytes], object], data: bytes) -> bool:
    """Whether the bytes are refused in the declared way; anything else that is raised fails the test."""
    try:
        parse(data)
    except MalformedNetlink:
        return True
    return False


# pytest-twisted wraps a property test anew for each parameter, so parsers are drawn, not parametrized.
@given(st.sampled_from(PARSERS), st.binary(max_size=300))
def test_garbage_is_refused_or_read(parse: Callable[[bytes], object], garbage: bytes) -> None:
    assert refuses(parse, garbage) or not garbage or parse is is_change or len(garbage) >= 16


@pytest.mark.parametrize(
    ("parse", "data"),
    [(parse_links, LINKS), (parse_links, BONDED_LINKS), (parse_addresses, ADDRESSES), (parse_gateways, ROUTES)],
)
def test_every_truncation_of_a_recorded_dump_is_refused_or_ends_between_messages(
    parse: Callable[[bytes], object], data: bytes
) -> None:
    boundaries, offset = {0}, 0
    while offset < len(data):
        length = struct.unpack_from("=I", data, offset)[0]
        # A message may come without the padding after it.
        boundaries |= {offset + length, offset + (length + 3 & ~3)}
        offset += (length + 3) & ~3
    for cut in range(len(data)):
        if cut in boundaries:
            parse(data[:cut])
        else:
            with pytest.raises(MalformedNetlink):
                parse(data[:cut])


@given(
    st.sampled_from([(parse_links, LINKS), (parse_addresses, ADDRESSES), (parse_gateways, ROUTES)]),
    st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_dump_is_refused_or_read(
    recorded: tuple[Callable[[bytes], Sized], bytes], flips: list[tuple[int, int]]
) -> None:
    parse, data = recorded
    damaged = bytearray(data)
    for position, value in flips:
        damaged[position % len(data)] = value
    assert refuses(parse, bytes(damaged)) or len(parse(bytes(damaged))) <= len(data) // 16


def damaged_body(kind: int) -> st.SearchStrategy[bytes]:
    """Well-framed messages with attributes of any content."""
    attributes = st.lists(st.tuples(st.integers(0, 60), st.binary(max_size=40)), max_size=6)
    return st.tuples(st.binary(min_size=16, max_size=16), attributes).map(
        lambda parts: message(kind, parts[0] + b"".join(attribute(*part) for part in parts[1]))
    )


@given(st.one_of(*map(damaged_body, (NEWLINK, NEWADDR, NEWROUTE))))
def test_strange_attributes_are_refused_or_read(data: bytes) -> None:
    refused = [parse for parse in PARSERS if refuses(parse, data)]
    assert len(refused) <= 1  # each parser reads only its own kind of message
    assert is_change not in refused


def test_a_port_of_a_bridge_is_no_change() -> None:
    port = link_body(3, "eth1", family=socket.AF_BRIDGE if hasattr(socket, "AF_BRIDGE") else 7)
    assert not is_change(message(NEWLINK, port) + message(DELLINK, port))
    assert is_change(message(NEWLINK, port) + message(NEWLINK, link_body(3, "eth1")))
    assert is_change(message(DELLINK, link_body(3, "eth1")))
    assert is_change(message(NEWADDR, address_body(2, 24, 3)))
    assert is_change(message(NEWROUTE, b"\x02" + b"\0" * 11))
    assert is_change(b"cut")
    assert not is_change(b"")


class ScriptedSocket:
    """Answers `recv` from a list; an exception in it is raised. Then there is nothing to read."""

    def __init__(self, *parts: bytes | OSError) -> None:
        self.parts = list(parts)
        self.sent: list[bytes] = []
        self.closed = False

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        part = self.parts.pop(0) if self.parts else BlockingIOError(errno.EAGAIN, "nothing")
        if isinstance(part, OSError):
            raise part
        return part

    def setblocking(self, flag: bool) -> None:
        assert flag is False

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.closed = True


def test_an_interrupted_dump_is_asked_for_again() -> None:
    opened = ScriptedSocket(
        message(NEWLINK, link_body(1, "old"), flags=0x12, sequence=1) + message(DONE, b"\0" * 4, sequence=1),
        message(NEWLINK, link_body(9, "late"), sequence=1),
        message(NEWLINK, link_body(2, "new"), sequence=2),
        message(DONE, b"\0" * 4, sequence=2),
    )
    answer = dump(cast(socket.socket, opened), GETLINK)
    assert [link.name for link in parse_links(answer)] == ["new"]
    assert len(opened.sent) == 2


def test_a_dump_that_is_always_interrupted_is_given_up() -> None:
    parts = [message(DONE, b"\0" * 4, flags=0x12, sequence=attempt) for attempt in range(1, 10)]
    with pytest.raises(OSError, match="changed during each"):
        dump(cast(socket.socket, ScriptedSocket(*parts)), GETLINK)


def test_the_kernels_refusal_is_an_os_error() -> None:
    opened = ScriptedSocket(message(ERROR, struct.pack("=i", -errno.EPERM)))
    with pytest.raises(OSError, match="EPERM") as caught:
        dump(cast(socket.socket, opened), GETLINK)
    assert caught.value.errno == errno.EPERM


class Readers:
    """The part of a reactor that a reader uses."""

    def __init__(self) -> None:
        self.readers: set[object] = set()

    def addReader(self, reader: object) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.discard(reader)


def watched(*parts: bytes | OSError) -> tuple[Monitor, ScriptedSocket, Readers, list[str]]:
    opened, reactor, changes = ScriptedSocket(*parts), Readers(), list[str]()
    monitor = Monitor(
        cast(IReactorFDSet, reactor), lambda: changes.append("changed"), lambda groups: cast(socket.socket, opened)
    )
    assert reactor.readers == {monitor}
    return monitor, opened, reactor, changes


def test_a_burst_is_one_change() -> None:
    monitor, opened, _, changes = watched(*[message(NEWLINK, link_body(1, "eth0"))] * 5)
    assert monitor.doRead() is None
    assert changes == ["changed"]
    assert not opened.parts


def test_bridge_ports_are_not_announced() -> None:
    monitor, _, _, changes = watched(message(DELLINK, link_body(1, "eth0", family=7)))
    assert monitor.doRead() is None
    assert changes == []


def test_lost_announcements_are_a_change() -> None:
    monitor, opened, reactor, changes = watched(OSError(errno.ENOBUFS, "No buffer space available"))
    assert monitor.doRead() is None
    assert changes == ["changed"]
    assert reactor.readers == {monitor}
    monitor.stop()
    monitor.stop()
    assert opened.closed
    assert not reactor.readers


def test_a_torrent_leaves_the_reactor_its_turn() -> None:
    monitor, opened, _, _ = watched(*[message(NEWLINK, link_body(1, "eth0"))] * 100)
    monitor.doRead()
    assert len(opened.parts) > 50


def test_a_broken_socket_is_given_back() -> None:
    monitor, opened, reactor, changes = watched(OSError(errno.EBADF, "Bad file descriptor"))
    reason = monitor.doRead()
    assert isinstance(reason, Failure)
    assert changes == ["changed"]
    monitor.connectionLost(reason)
    assert opened.closed
    assert not reactor.readers


def test_facts_are_values() -> None:
    assert KernelFacts((), (), frozenset()) == KernelFacts()


def neighbour(address: str, state: int, mac: bytes = b"\2\0\0\0\0\7", family: int | None = None) -> bytes:
    """A neighbour on link 3."""
    of = family if family is not None else socket.AF_INET6 if ":" in address else socket.AF_INET
    body = struct.pack("=BBHiHBB", of, 0, 0, 3, state, 0, 1) + attribute(1, packed(address))
    return message(NEWNEIGH, body + (attribute(2, mac) if mac else b""))


def test_neighbours_that_answered() -> None:
    mac = b"\2\0\0\0\0\7"
    reachable, stale, delayed, probed, permanent = 0x02, 0x04, 0x08, 0x10, 0x80
    there = b"".join(neighbour(f"192.0.2.{n}", n) for n in (reachable, stale, delayed, probed, permanent))
    assert parse_neighbours(there + neighbour("2001:db8::7", reachable)) == (
        *(Neighbour(3, f"192.0.2.{n}", mac) for n in (2, 4, 8, 16, 128)),
        Neighbour(3, "2001:db8::7", mac),
    )


def test_neighbours_that_did_not_and_what_is_no_neighbour() -> None:
    incomplete, failed, none_needed = 0x01, 0x20, 0x40
    nobody = b"".join(neighbour(f"192.0.2.{n}", n) for n in (incomplete, failed, none_needed))
    of_a_bridge, of_no_ethernet = neighbour("192.0.2.9", 2, family=7), neighbour("192.0.2.8", 2, mac=b"\1\2\3\4")
    assert parse_neighbours(nobody + of_a_bridge + of_no_ethernet + neighbour("192.0.2.7", 2, mac=b"")) == ()
    with pytest.raises(MalformedNetlink):
        parse_neighbours(neighbour("192.0.2.7", 2, family=socket.AF_INET6))
