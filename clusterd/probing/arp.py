"""ARP probes as bytes: does anybody have this IPv4 address? Pure.

Frames are whole Ethernet frames. Layouts are those of RFC 826, on Ethernet; the probe is that of RFC 5227, 2.1.1.
"""

import struct
from typing import Final

ETHERTYPE: Final = 0x0806

_FRAME: Final = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_BROADCAST: Final = b"\xff" * 6
_ETHERNET, _IPV4, _REQUEST, _REPLY = 1, 0x0800, 1, 2
_NOBODY: Final = bytes(4)


def probe(mac: bytes, address: bytes) -> bytes:
    """Who has this address? From a NIC with this MAC address, which says of itself that it has none.

    The sender's address is all zeros, so that nobody's cache learns anything wrong of it.
    """
    return _FRAME.pack(
        *(_BROADCAST, mac, ETHERTYPE, _ETHERNET, _IPV4, 6, 4, _REQUEST),
        *(mac, _NOBODY, bytes(6), address),
    )


def claimed(frame: bytes) -> tuple[bytes, bytes] | None:
    """The IPv4 address that the sender of a frame has, and its MAC address; None for what says nothing of the kind.

    Requests tell it as well as replies do (RFC 5227, 2.1.1). Another one's probe tells nothing: it does not have the
    address yet, and may be the other cluster of a pair, which asks as we do.
    """
    if len(frame) < _FRAME.size:
        return None
    _, _, ethertype, hardware, protocol, size, length, operation, mac, address, _, _ = _FRAME.unpack_from(frame)
    if (ethertype, hardware, protocol, size, length) != (ETHERTYPE, _ETHERNET, _IPV4, 6, 4):
        return None
    if operation not in (_REQUEST, _REPLY) or address == _NOBODY:
        return None
    return address, mac
