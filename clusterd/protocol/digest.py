"""The order-independent hash with which region and cluster compare host map sets.

# Note [Digest]
digest(set) = XOR over its maps of the first 8 bytes of SHA-256(encoding(map)), as an unsigned 64-bit integer;
the empty set has 0. XOR makes it independent of order and lets both sides keep it in O(change): adding and
removing a map are the same operation.

encoding(map) = family (1 byte, 4 or 6) | address (4 or 16 bytes) | identifier kind (1 byte: 1 MAC, 2 client-id,
3 DUID) | identifier length (2 bytes, big-endian) | identifier | host name (ASCII, empty if there is none)

The region's SQL recomputes the same value (`host_map_digest` in regiond/storage/migrations).
"""

from collections.abc import Iterable
from functools import reduce
from hashlib import sha256
from operator import xor

from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import HostMap, IdentifierKind

KIND_CODES: dict[IdentifierKind, int] = {
    IdentifierKind.MAC: 1,
    IdentifierKind.CLIENT_ID: 2,
    IdentifierKind.DUID: 3,
}


def encode_for_digest(host_map: HostMap) -> bytes:
    """The documented byte encoding of one map."""
    address = pack_address(host_map.address)
    identifier = host_map.identifier
    return b"".join(
        (
            b"\x04" if len(address) == 4 else b"\x06",
            address,
            bytes((KIND_CODES[identifier.kind],)),
            len(identifier.value).to_bytes(2),
            identifier.value,
            (host_map.hostname or "").encode("ascii"),
        )
    )


def digest_of_map(host_map: HostMap) -> int:
    """One map's share of the digest: XOR it in to add the map, XOR it again to remove it."""
    return int.from_bytes(sha256(encode_for_digest(host_map)).digest()[:8])


def digest_of(host_maps: Iterable[HostMap]) -> int:
    """The digest of a whole set."""
    return reduce(xor, map(digest_of_map, host_maps), 0)
