"""Asking through the kernel, which needs no privilege: a datagram to an address makes it look for the neighbour.

What the kernel then has in its neighbour table tells whether somebody answered. It asks once a second by itself, and
an entry that it had already may be old: one that it has not confirmed is taken for one in use, since an address that is
passed over for a while is a lesser evil than one that two have.
"""

import socket
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from fcntl import ioctl
from typing import Any, Final

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from clusterd.probing.wire import Wire
from clusterd.protocol.values import format_mac
from clusterd.topology.netlink import GETNEIGH, OpenSocket, dump, open_netlink, parse_neighbours

OpenDatagramSocket = Callable[[socket.AddressFamily], socket.socket]

DISCARD_PORT: Final = 9  # RFC 863; nothing is sent to it but an empty datagram
FIRST_LOOK: Final = 0.1  # of the time: whoever is there answers within milliseconds
DUMP_TIMEOUT_SECONDS: Final = 2.0
DATAGRAMS_PER_SOCKET: Final = 64

_SIOCGIFINDEX: Final = 0x8933
_INTERFACE_REQUEST: Final = struct.Struct("16si20x")


def open_datagram_socket(family: socket.AddressFamily) -> socket.socket:
    """In this thread's network namespace. Raises OSError."""
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


class NeighbourTableProbe:
    """Asks by way of the kernel. Its table is read in a thread: it may have thousands of entries."""

    def __init__(
        self,
        reactor: Any,
        open_datagrams: OpenDatagramSocket = open_datagram_socket,
        open_netlink: OpenSocket = open_netlink,
    ) -> None:
        self._reactor = reactor
        self._open_datagrams = open_datagrams
        self._open_netlink = open_netlink

    async def in_use(self, wire: Wire, addresses: Collection[str], seconds: float) -> dict[str, str]:
        """As `PacketProbe.in_use`. Raises OSError also where the kernel has no room for so many neighbours."""
        family = socket.AF_INET6 if ":" in next(iter(addresses)) else socket.AF_INET
        with ExitStack() as stack:
            for some in _few(addresses):
                opened = stack.enter_context(self._open_datagrams(family))
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, wire.nic.encode() + b"\0")
                for address in some:
                    opened.sendto(b"", (address, DISCARD_PORT))
            found: dict[str, str] = {}
            for part in (FIRST_LOOK, 1 - FIRST_LOOK):
                await deferLater(self._reactor, part * seconds)
                pool = self._reactor.getThreadPool()
                found = await deferToThreadPool(self._reactor, pool, self._look, wire.nic, frozenset(addresses))
                if len(found) == len(addresses):
                    break
        return found

    def close(self) -> None:
        """Nothing is kept open."""

    def _look(self, nic: str, addresses: frozenset[str]) -> dict[str, str]:
        with self._open_netlink(0) as opened:
            opened.settimeout(DUMP_TIMEOUT_SECONDS)
            index = _index_of(opened, nic)
            entries = parse_neighbours(dump(opened, GETNEIGH))
        return {
            each.address: format_mac(each.mac) for each in entries if each.index == index and each.address in addresses
        }


def _few(addresses: Collection[str]) -> Iterator[Sequence[str]]:
    """As many as the buffer of one socket holds while the kernel looks for them."""
    ordered = list(addresses)
    for start in range(0, len(ordered), DATAGRAMS_PER_SOCKET):
        yield ordered[start : start + DATAGRAMS_PER_SOCKET]


def _index_of(opened: socket.socket, nic: str) -> int:
    """The kernel's number of a NIC, in the network namespace of the socket. Raises OSError."""
    answer = ioctl(opened, _SIOCGIFINDEX, _INTERFACE_REQUEST.pack(nic.encode(), 0))
    return int(_INTERFACE_REQUEST.unpack(answer)[1])
