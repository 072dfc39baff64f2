"""Sockets for whole frames of one Ethernet type, on all NICs at once. They need CAP_NET_RAW.

A socket is kept open once it is: closing one waits for the kernel to be done with it (tens of milliseconds). While
nobody asks, a filter in the kernel lets nothing through to it, however much there is on the wires; while somebody asks,
only what can be an answer.
"""

import ctypes
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from clusterd.probing import arp, neighbour_discovery
from clusterd.protocol.addresses import Family

OpenSocket = Callable[[int], socket.socket]
"""From an Ethernet type to a new, non-blocking packet socket on all NICs. Raises OSError."""

Instruction = tuple[int, int, int, int]

FRAME_BYTES: Final = 2048
READS_PER_TURN: Final = 64
CATCH_UP_TURNS: Final = 16

_SO_ATTACH_FILTER: Final = 26
_LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x30, 0x15, 0x06
_OUTGOING: Final = 4

# Classic BPF (linux/filter.h): operation, jump if true, jump if false, operand. Offsets are into the Ethernet frame.
DROP_ALL: Final[Sequence[Instruction]] = ((_RETURN, 0, 0, 0),)
KEEP_ALL: Final[Sequence[Instruction]] = ((_RETURN, 0, 0, FRAME_BYTES),)
KEEP_ADVERTISEMENTS: Final[Sequence[Instruction]] = (
    (_LOAD_BYTE, 0, 0, 20),  # the next header of IPv6
    (_JUMP_EQUAL, 0, 3, neighbour_discovery.ICMPV6),
    (_LOAD_BYTE, 0, 0, 54),  # the type of ICMPv6
    (_JUMP_EQUAL, 0, 1, neighbour_discovery.ADVERTISEMENT),
    (_RETURN, 0, 0, FRAME_BYTES),
    (_RETURN, 0, 0, 0),
)

ETHERTYPES: Final[dict[Family, int]] = {4: arp.ETHERTYPE, 6: neighbour_discovery.ETHERTYPE}
_ANSWERS: Final[dict[Family, Sequence[Instruction]]] = {4: KEEP_ALL, 6: KEEP_ADVERTISEMENTS}


def open_packet_socket(ethertype: int) -> socket.socket:
    """In this thread's network namespace. Raises OSError, PermissionError without CAP_NET_RAW."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_PACKET, kind, socket.htons(ethertype))


@implementer(IReadDescriptor)
class PacketSocket:
    """Frames of the Ethernet type in which one address family asks for neighbours. `heard` gets a NIC and a frame.

    Raises OSError when it cannot be opened.
    """

    _log = Logger(namespace="probing")

    def __init__(
        self, reactor: IReactorFDSet, family: Family, heard: Callable[[str, bytes], None], open_socket: OpenSocket
    ) -> None:
        self._reactor = reactor
        self._family = family
        self._heard = heard
        self._socket = open_socket(ETHERTYPES[family])
        self._listening = False
        try:
            _filter(self._socket, DROP_ALL)
        except BaseException:
            self._socket.close()
            raise

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def listen(self) -> None:
        """Hear answers from now on. Raises OSError."""
        if not self._listening:
            self._drop_what_is_left()
            _filter(self._socket, _ANSWERS[self._family])
            self._reactor.addReader(self)
            self._listening = True

    def catch_up(self) -> None:
        """Hear what has come already, before time is called: a busy reactor may have had no turn for it yet."""
        for _ in range(CATCH_UP_TURNS):
            if self._read() < READS_PER_TURN:
                return

    def rest(self) -> None:
        """Hear nothing from now on. Raises OSError."""
        if self._listening:
            self._reactor.removeReader(self)
            self._listening = False
            _filter(self._socket, DROP_ALL)

    def send(self, nic: str, frame: bytes) -> None:
        """Raises OSError; one that is not sent because there is no room now is not missed: probes are repeated."""
        with suppress(BlockingIOError):
            self._socket.sendto(frame, (nic, ETHERTYPES[self._family]))

    def close(self) -> None:
        """Safe to call twice."""
        if self._listening:
            self._reactor.removeReader(self)
            self._listening = False
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "probing"

    def doRead(self) -> None:
        self._read()

    def _drop_what_is_left(self) -> None:
        """What came after the last question is not about the next one. It ends, as the filter lets nothing in now."""
        with suppress(OSError):
            while True:
                self._socket.recv(FRAME_BYTES)

    def _read(self) -> int:
        """How many frames there were, of at most READS_PER_TURN."""
        for number in range(READS_PER_TURN):
            try:
                frame, source = self._socket.recvfrom(FRAME_BYTES)
            except OSError:
                # No more; or a NIC that went down, which is told once here: who asks finds out by sending.
                return number
            if source[2] != _OUTGOING:
                self._heard(source[0], frame)
        return READS_PER_TURN

    def connectionLost(self, reason: Failure) -> None:
        self._log.failure("a socket for probes was lost", reason, event="probing.socket-lost")
        self.close()


def _filter(opened: socket.socket, program: Sequence[Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # The kernel copies the program within the call, so that the buffer need not live any longer.
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
