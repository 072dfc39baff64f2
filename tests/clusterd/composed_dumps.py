"""A dump of RTM_GETLINK and RTM_GETADDR of a host with a bond and VLANs, which the recorder's kernel does not have.

It is composed, not recorded: no capture of a whole such host was to be had. The attributes and their order follow the
functions of the kernel that are named below, and for VLANs, bonds and their slaves they are those of the captures that
the tests of netlink-packet-route (rust-netlink) publish. What differs from host to host, such as counters, is made up.
"""

import socket
import struct

NEWLINK, NEWADDR, DONE = 16, 20, 3
_MULTI = 2
_UP = 0x11043  # UP, BROADCAST, RUNNING, MULTICAST, LOWER_UP
_MASTER, _SLAVE = 0x400, 0x800
_NESTED = 0x8000


def message(kind: int, body: bytes) -> bytes:
    """One message of a dump, padded."""
    return struct.pack("=IHHII", 16 + len(body), kind, _MULTI, 7, 4242) + body + b"\0" * (-len(body) % 4)


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """One attribute, padded; an integer is a u32, text ends with a NUL."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def u8(value: int) -> bytes:
    return struct.pack("=B", value)


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def link(index: int, name: str, mac: str, info: bytes, *, parent: int = 0, master: int = 0, flags: int = _UP) -> bytes:
    """A device as rtnl_fill_ifinfo tells it."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    body = struct.pack("=BxHiII", 0, 1, index, flags, 0)
    body += attribute(3, name) + attribute(13, 1000) + attribute(16, u8(6)) + attribute(17, u8(0))
    body += attribute(4, 1500) + attribute(50, 68) + attribute(51, 65535) + attribute(27, 0) + attribute(30, 0)
    body += attribute(61, 0) + attribute(31, 16) + attribute(40, 65535) + attribute(41, 65536) + attribute(32, 16)
    body += attribute(5, parent) if parent else b""
    body += attribute(10, master) if master else b""
    body += attribute(33, u8(1)) + attribute(6, "noqueue") + attribute(35, 2) + attribute(47, 1) + attribute(48, 1)
    body += attribute(39, u8(0)) + attribute(14, bytes(32)) + attribute(1, hardware) + attribute(2, b"\xff" * 6)
    body += attribute(43, attribute(1, u8(0)))  # IFLA_XDP
    body += info
    body += attribute(26 | _NESTED, attribute(2, attribute(1, bytes(136))) + attribute(10, attribute(5, 0)))
    return message(NEWLINK, body)


def vlan(number: int) -> bytes:
    """What a VLAN tells of itself: vlan_fill_info."""
    data = (
        attribute(5, struct.pack("!H", 0x8100))
        + attribute(1, u16(number))
        + attribute(2, struct.pack("=II", 1, 0xFFFFFFFF))
    )
    return attribute(18, attribute(1, "vlan") + attribute(2, data))


def bond() -> bytes:
    """What a bond tells of itself, 802.3ad: bond_fill_info."""
    data = attribute(1, u8(4)) + b"".join(attribute(kind, 0) for kind in (3, 4, 5, 28)) + attribute(6, u8(1))
    data += b"".join(attribute(kind, 0) for kind in (7, 9, 10)) + b"".join(
        attribute(kind, u8(0)) for kind in (12, 13, 14)
    )
    data += attribute(15, 1) + attribute(16, u8(1)) + attribute(17, u8(0)) + attribute(18, 0) + attribute(19, 1)
    data += attribute(20, 1) + attribute(29, u8(1)) + attribute(21, u8(0)) + attribute(22, u8(0))
    data += attribute(23, b"".join(attribute(kind, u16(9)) for kind in (1, 2, 3, 4)) + attribute(5, bytes(6)))
    data += attribute(27, u8(1)) + attribute(30, u8(2))
    return attribute(18, attribute(1, "bond") + attribute(2, data))


def slave(permanent_mac: str) -> bytes:
    """What hardware in a bond tells of it: bond_fill_slave_info. Hardware has no kind of its own."""
    hardware = bytes.fromhex(permanent_mac.replace(":", ""))
    data = attribute(1, u8(0)) + attribute(2, u8(0)) + attribute(3, 0) + attribute(4, hardware) + attribute(5, u16(0))
    return attribute(18, attribute(4, "bond") + attribute(5, data))


def bridge() -> bytes:
    """The beginning of what a bridge tells of itself: br_fill_info."""
    data = attribute(16, bytes(8)) + b"".join(attribute(kind, 0) for kind in (1, 2, 3, 4, 5)) + attribute(6, u16(32768))
    data += (
        attribute(7, u8(0)) + attribute(9, u16(0)) + attribute(10, bytes(8)) + attribute(39, struct.pack("!H", 0x8100))
    )
    return attribute(18, attribute(1, "bridge") + attribute(2, data))


def address(index: int, text: str, length: int) -> bytes:
    """An address as inet_fill_ifaddr and inet6_fill_ifaddr tell it."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    packed = socket.inet_pton(family, text)
    body = struct.pack("=BBBBI", family, length, 0x80, 0, index) + attribute(1, packed)
    if family == socket.AF_INET:
        body += attribute(2, packed) + attribute(4, packed)
    body += attribute(6, struct.pack("=IIII", 0xFFFFFFFF, 0xFFFFFFFF, 1, 1)) + attribute(8, 0x80)
    return message(NEWADDR, body)


FIRST, SECOND = "00:16:3e:00:00:02", "00:16:3e:00:00:03"

LINKS = b"".join(
    [
        link(2, "eno1", FIRST, slave(FIRST), master=5, flags=_UP | _SLAVE),
        link(3, "eno2", FIRST, slave(SECOND), master=5, flags=_UP | _SLAVE),
        link(5, "bond0", FIRST, bond(), flags=_UP | _MASTER),
        link(6, "bond0.7", FIRST, vlan(7), parent=5),
        link(7, "bond0.4094", FIRST, vlan(4094), parent=5, master=8),
        link(8, "br-office", FIRST, bridge()),
        link(9, "prio", FIRST, vlan(0), parent=5, flags=0x1002),  # priority-tagged, and switched off
        message(DONE, bytes(4)),
    ]
)

ADDRESSES = b"".join(
    [
        address(5, "192.0.2.2", 24),
        address(6, "198.51.100.2", 25),
        address(6, "2001:db8:7::2", 64),
        address(8, "203.0.113.2", 24),
        address(9, "10.9.0.2", 24),
        message(DONE, bytes(4)),
    ]
)
