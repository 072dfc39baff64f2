"""What the kernel knows of this host's network, over a raw AF_NETLINK socket: no privilege and no dependency.

Parsing is pure: the `parse_…` functions take the bytes of whole netlink messages as they were received and raise
MalformedNetlink, a ValueError, for anything else. Layouts and numbers are those of rtnetlink(7) and of
linux/if_link.h, linux/if_addr.h, linux/neighbour.h and linux/rtnetlink.h; integers are in the host's byte order.

A socket belongs to the network namespace of the thread that opened it, so whoever needs another namespace passes
another `open_socket`.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.protocol.addresses import Family, unpack_address

OpenSocket = Callable[[int], socket.socket]
"""From a bit mask of multicast groups (0 for none) to a bound netlink socket."""

DUMP_TIMEOUT_SECONDS = 5.0
DUMP_ATTEMPTS = 5
RECEIVE_BYTES = 1 << 18  # the kernel puts at most 32 KiB of a dump into one message
EVENT_BUFFER_BYTES = 1 << 20
READS_PER_TURN = 16

_LINK_GROUP, _ADDRESS_GROUPS, _ROUTE_GROUPS = 0x1, 0x10 | 0x100, 0x40 | 0x400
CHANGE_GROUPS = _LINK_GROUP | _ADDRESS_GROUPS | _ROUTE_GROUPS

NEWLINK, DELLINK, GETLINK, NEWADDR, GETADDR, NEWROUTE, GETROUTE = 16, 17, 18, 20, 22, 24, 26
NEWNEIGH, GETNEIGH = 28, 30
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
_DUMP_INTERRUPTED = 0x10

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ATTRIBUTE_TYPE = 0x3FFF  # the two highest bits are flags
_LINK = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, two lengths, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BBHiHBB")  # family, two pads, index, state, flags, type
_HOP = struct.Struct("=HBBi")  # length, flags, hops, index
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_U16 = struct.Struct("=H")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 1, 3, 5, 10, 18, 29
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_VLAN_ID = 1, 2, 1
_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_SKIP_STATISTICS = 8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_TEMPORARY, _IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x01, 0x08, 0x40
_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 5, 9, 18
_RTN_UNICAST = 1
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_NOBODY = 0x01 | 0x20 | 0x40  # incomplete, failed, needs none


class MalformedNetlink(ValueError):
    """The bytes are not whole, well-formed netlink messages."""


@dataclass(frozen=True, slots=True)
class Link:
    """One network device. `kind` is the kernel's word (`vlan`, `bond`, `bridge`, `veth`, …), None for hardware.

    `up` means switched on and with a carrier. `parent` and `master` are the indices of the device below (a
    VLAN's) and above (a bond's or bridge's).
    """

    index: int
    name: str
    kind: str | None = None
    mac: bytes | None = None
    up: bool = True
    loopback: bool = False
    vlan: int | None = None
    parent: int | None = None
    master: int | None = None


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one device. `usable` is false while IPv6 has not found out, or has denied, that it is unique."""

    index: int
    address: str
    prefix_length: int
    usable: bool = True
    temporary: bool = False
    point_to_point: bool = False

    @property
    def family(self) -> Family:
        return 6 if ":" in self.address else 4


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who has an address on the wire of the device with this index, as far as the kernel knows."""

    index: int
    address: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """A picture of the host's network. `gateways` are the next hops of the routes of every table."""

    links: tuple[Link, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()
    gateways: frozenset[str] = frozenset()


def parse_links(data: bytes) -> tuple[Link, ...]:
    """The devices in a dump of RTM_GETLINK. Raises MalformedNetlink."""
    return tuple(_link(body) for kind, _, body in _messages(data) if kind == NEWLINK)


def parse_addresses(data: bytes) -> tuple[InterfaceAddress, ...]:
    """The IPv4 and IPv6 addresses in a dump of RTM_GETADDR. Raises MalformedNetlink."""
    found = (_address(body) for kind, _, body in _messages(data) if kind == NEWADDR)
    return tuple(address for address in found if address is not None)


def parse_gateways(data: bytes) -> frozenset[str]:
    """The next hops of the unicast routes in a dump of RTM_GETROUTE, those of multipath routes included.

    All tables count: hosts with several uplinks keep the second gateway in a table of its own, and it must not
    be handed out either. Raises MalformedNetlink.
    """
    return frozenset(hop for kind, _, body in _messages(data) if kind == NEWROUTE for hop in _next_hops(body))


def parse_neighbours(data: bytes) -> tuple[Neighbour, ...]:
    """The neighbours in a dump of RTM_GETNEIGH that have, or had until a moment ago, a MAC address, but those of
    bridges. Raises MalformedNetlink.
    """
    found = (_neighbour(body) for kind, _, body in _messages(data) if kind == NEWNEIGH)
    return tuple(neighbour for neighbour in found if neighbour is not None)


def is_change(data: bytes) -> bool:
    """Whether a notification says something of links, addresses or routes.

    A port of a bridge announces itself in link messages of family AF_BRIDGE, a `DELLINK` when it leaves the
    bridge included: nothing happened to the device. What cannot be read counts as a change.
    """
    try:
        return any(kind not in (NEWLINK, DELLINK) or body[:1] == b"\0" for kind, _, body in _messages(data))
    except MalformedNetlink:
        return True


def open_netlink(groups: int) -> socket.socket:
    """A netlink socket in this thread's network namespace. Raises OSError."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER_BYTES)
        opened.bind((0, groups))
    except BaseException:
        opened.close()
        raise
    return opened


def snapshot(open_socket: OpenSocket = open_netlink) -> KernelFacts:
    """Ask the kernel. Raises OSError and MalformedNetlink. Blocks for milliseconds; see the topology reporter."""
    with open_socket(0) as opened:
        opened.settimeout(DUMP_TIMEOUT_SECONDS)
        return KernelFacts(
            links=parse_links(dump(opened, GETLINK)),
            addresses=parse_addresses(dump(opened, GETADDR)),
            gateways=parse_gateways(dump(opened, GETROUTE)),
        )


def dump(opened: socket.socket, request: int) -> bytes:
    """The kernel's answer to one dump request, as it came. Raises OSError.

    A dump during which something changed is marked by the kernel as inconsistent and asked for again.
    """
    for attempt in range(1, DUMP_ATTEMPTS + 1):
        opened.send(_dump_request(request, sequence=attempt))
        answer, interrupted = _receive_dump(opened, sequence=attempt)
        if not interrupted:
            return answer
    raise OSError(errno.EINTR, f"the network changed during each of {DUMP_ATTEMPTS} dumps")


def _dump_request(request: int, sequence: int) -> bytes:
    if request == GETLINK:
        body = _LINK.pack(0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_SKIP_STATISTICS)
    elif request == GETADDR:
        body = _ADDRESS.pack(0, 0, 0, 0, 0)
    elif request == GETNEIGH:
        body = _NEIGHBOUR.pack(0, 0, 0, 0, 0, 0, 0)
    else:
        body = _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), request, _REQUEST_DUMP, sequence, 0) + body


def _receive_dump(opened: socket.socket, sequence: int) -> tuple[bytes, bool]:
    """The messages up to the end of the dump, and whether it was interrupted."""
    parts: list[bytes] = []
    interrupted = False
    while True:
        part = opened.recv(RECEIVE_BYTES)
        if len(part) < _HEADER.size or _HEADER.unpack_from(part)[3] != sequence:
            continue  # the rest of an earlier, interrupted dump
        parts.append(part)
        for kind, flags, body in _messages(part):
            interrupted |= bool(flags & _DUMP_INTERRUPTED)
            if kind == _ERROR and len(body) >= 4:
                code = -_I32.unpack_from(body)[0]
                raise OSError(code, f"netlink: {errno.errorcode.get(code, code)}")
            if kind in (_DONE, _ERROR):
                return b"".join(parts), interrupted


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message."""
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _HEADER.size:
            raise MalformedNetlink(f"{end - offset} bytes after the last message")
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= end - offset:
            raise MalformedNetlink(f"a message of {length} bytes where {end - offset} are left")
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    end = len(data)
    while end - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            raise MalformedNetlink(f"an attribute of {length} bytes where {end - offset} are left")
        found[kind & _ATTRIBUTE_TYPE] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _fixed(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise MalformedNetlink(f"{len(data)} bytes where at least {layout.size} belong")
    return layout.unpack_from(data)


def _number(layout: struct.Struct, data: bytes | None) -> int | None:
    return None if data is None else _fixed(layout, data)[0]


def _name(data: bytes) -> str:
    """Device names are bytes to the kernel."""
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _fixed(_LINK, body)
    attributes = _attributes(body, _LINK.size)
    name = _name(attributes.get(_IFLA_IFNAME, b""))
    if not name:
        raise MalformedNetlink(f"link {index} has no name")
    mac = attributes.get(_IFLA_ADDRESS, b"")
    about = _attributes(attributes.get(_IFLA_LINKINFO, b""), 0)
    kind = _name(about[_IFLA_INFO_KIND]) if _IFLA_INFO_KIND in about else None
    specific = _attributes(about.get(_IFLA_INFO_DATA, b""), 0) if kind == "vlan" else {}
    return Link(
        index=index,
        name=name,
        kind=kind,
        mac=mac if len(mac) == 6 else None,
        up=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        loopback=bool(flags & _IFF_LOOPBACK),
        vlan=_number(_U16, specific.get(_IFLA_VLAN_ID)),
        parent=_number(_U32, attributes.get(_IFLA_LINK)),
        master=_number(_U32, attributes.get(_IFLA_MASTER)),
    )


def _address(body: bytes) -> InterfaceAddress | None:
    family, prefix_length, short_flags, _, index = _fixed(_ADDRESS, body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attributes = _attributes(body, _ADDRESS.size)
    far = attributes.get(_IFA_ADDRESS)
    own = attributes.get(_IFA_LOCAL, far)
    size = 4 if family == socket.AF_INET else 16
    if own is None or len(own) != size or prefix_length > size * 8:
        raise MalformedNetlink(f"an address of link {index} that is none")
    flags = _number(_U32, attributes.get(_IFA_FLAGS))
    flags = short_flags if flags is None else flags
    return InterfaceAddress(
        index=index,
        address=unpack_address(own),
        prefix_length=prefix_length,
        usable=not flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED),
        temporary=family == socket.AF_INET6 and bool(flags & _IFA_F_TEMPORARY),  # in IPv4 the bit means secondary
        point_to_point=far is not None and far != own,
    )


def _neighbour(body: bytes) -> Neighbour | None:
    family, _, _, index, state, _, _ = _fixed(_NEIGHBOUR, body)
    attributes = _attributes(body, _NEIGHBOUR.size)
    address, mac = attributes.get(_NDA_DST, b""), attributes.get(_NDA_LLADDR, b"")
    if family not in (socket.AF_INET, socket.AF_INET6) or state & _NUD_NOBODY or len(mac) != 6:
        return None
    if len(address) != (4 if family == socket.AF_INET else 16):
        raise MalformedNetlink(f"a neighbour on link {index} that has no address")
    return Neighbour(index, unpack_address(address), mac)


def _next_hops(body: bytes) -> Iterator[str]:
    family, *_, kind, _ = _fixed(_ROUTE, body)
    if kind != _RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
        return
    attributes = _attributes(body, _ROUTE.size)
    yield from _gateway(attributes)
    hops = attributes.get(_RTA_MULTIPATH, b"")
    while hops:
        length = _fixed(_HOP, hops)[0]
        if not _HOP.size <= length <= len(hops):
            raise MalformedNetlink(f"a next hop of {length} bytes where {len(hops)} are left")
        yield from _gateway(_attributes(hops[:length], _HOP.size))
        hops = hops[(length + 3) & ~3 :]


def _gateway(attributes: dict[int, bytes]) -> Iterator[str]:
    if (gateway := attributes.get(_RTA_GATEWAY)) is None and (via := attributes.get(_RTA_VIA)) is not None:
        gateway = via[2:]  # a next hop of the other family, after two bytes that name that family
    if gateway is not None:
        if len(gateway) not in (4, 16):
            raise MalformedNetlink(f"a gateway of {len(gateway)} bytes")
        yield unpack_address(gateway)


@implementer(IReadDescriptor)
class Monitor:
    """Calls `changed` whenever the kernel announces a change, and when it says that announcements were lost.

    Listens from construction to `stop`. A burst that arrives in one turn of the reactor is one call.
    """

    _log = Logger(namespace="topology")

    def __init__(
        self, reactor: IReactorFDSet, changed: Callable[[], None], open_socket: OpenSocket = open_netlink
    ) -> None:
        self._reactor = reactor
        self._changed = changed
        self._socket = open_socket(CHANGE_GROUPS)
        self._socket.setblocking(False)
        reactor.addReader(self)

    def stop(self) -> None:
        """Stop listening. Safe to call twice."""
        self._reactor.removeReader(self)
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "netlink"

    def doRead(self) -> Failure | None:
        dirty = False
        try:
            for _ in range(READS_PER_TURN):
                dirty |= is_change(self._socket.recv(RECEIVE_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            dirty = True
            if error.errno != errno.ENOBUFS:
                return Failure()  # the reactor drops this reader and tells connectionLost
        finally:
            if dirty:
                self._changed()
        return None

    def connectionLost(self, reason: Failure) -> None:
        self._log.failure("the kernel's announcements of changes ended", reason, event="topology.watch-lost")
        self.stop()
