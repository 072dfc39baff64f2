"""Neighbour solicitations as bytes: does anybody have this IPv6 address? Pure.

Frames are whole Ethernet frames. Layouts and rules are those of RFC 4861; what is asked is what a host asks before it
uses an address of its own (RFC 4862, 5.4.2), so that it needs no address on the network.
"""

import struct
from typing import Final

ETHERTYPE: Final = 0x86DD
ICMPV6: Final = 58
ADVERTISEMENT: Final = 136

_ETHERNET: Final = struct.Struct("!6s6sH")
_IPV6: Final = struct.Struct("!IHBB16s16s")
_MESSAGE: Final = struct.Struct("!BBHI16s")  # type, code, checksum, flags or reserved, target
_PSEUDO_HEADER: Final = struct.Struct("!16s16sII")
_SOLICITATION: Final = 135
_VERSION: Final = 6 << 28
_HOP_LIMIT: Final = 255  # no router lets it through: whoever is seen is on the link
_UNSPECIFIED: Final = bytes(16)
_SOLICITED_NODE: Final = bytes.fromhex("ff0200000000000000000001ff")  # and the last three bytes of the address
_SOLICITED: Final = 1 << 30
_TARGET_LINK_LAYER_ADDRESS: Final = 2


def solicitation(mac: bytes, address: bytes) -> bytes:
    """Who has this address? From a NIC with this MAC address; the answer goes to all nodes, as the asker has none."""
    group = _SOLICITED_NODE + address[13:]
    checksum = internet_checksum(pseudo_header(_UNSPECIFIED, group, _MESSAGE.size) + _message(address, 0))
    message = _message(address, checksum)
    return (
        _ETHERNET.pack(b"\x33\x33" + group[12:], mac, ETHERTYPE)
        + _IPV6.pack(_VERSION, len(message), ICMPV6, _HOP_LIMIT, _UNSPECIFIED, group)
        + message
    )


def advertised(frame: bytes) -> tuple[bytes, bytes] | None:
    """The address that a neighbour advertisement is about, and the MAC address of who has it; None for all else.

    What RFC 4861, 7.1.2, has dropped is dropped.
    """
    start = _ETHERNET.size + _IPV6.size
    if len(frame) < start + _MESSAGE.size:
        return None
    _, mac, ethertype = _ETHERNET.unpack_from(frame)
    version, length, protocol, hops, source, destination = _IPV6.unpack_from(frame, _ETHERNET.size)
    if ethertype != ETHERTYPE or version >> 28 != 6 or protocol != ICMPV6 or hops != _HOP_LIMIT:
        return None
    message = frame[start : start + length]
    if len(message) != length or length < _MESSAGE.size:
        return None
    kind, code, _, flags, target = _MESSAGE.unpack_from(message)
    if kind != ADVERTISEMENT or code != 0 or target[0] == 0xFF or (destination[0] == 0xFF and flags & _SOLICITED):
        return None
    if internet_checksum(pseudo_header(source, destination, length) + message) != 0:
        return None
    options = _options(message[_MESSAGE.size :])
    if options is None:
        return None
    told = options.get(_TARGET_LINK_LAYER_ADDRESS, b"")
    return target, told if len(told) == 6 else mac


def internet_checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that have their right checksum in them."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    """The pseudo-header that the checksum of an ICMPv6 message of this length is over, too (RFC 8200, 8.1)."""
    return _PSEUDO_HEADER.pack(source, destination, length, ICMPV6)


def _message(target: bytes, checksum: int) -> bytes:
    return _MESSAGE.pack(_SOLICITATION, 0, checksum, 0, target)


def _options(data: bytes) -> dict[int, bytes] | None:
    """The first option of each type; None when one has no length, for which the whole message is dropped."""
    found: dict[int, bytes] = {}
    while data:
        if len(data) < 2 or data[1] == 0 or len(data) < data[1] * 8:
            return None
        found.setdefault(data[0], data[2 : data[1] * 8])
        data = data[data[1] * 8 :]
    return found
