"""The short opaque identifiers that people see, e.g. `ci-4k2m9q8xvz`.

An id is 50 random bits, stored as a number and shown as a two-letter prefix and ten characters of Crockford's
base 32 (no i, l, o or u). They are random and not counted: after a restore from a backup a counter would hand
out numbers again that programs still hold for something else.
"""

from collections.abc import Callable
from enum import StrEnum

ID_BITS = 50
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {character: index for index, character in enumerate(_ALPHABET)}
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]  # ten bits at a time: every answer has many ids
_LENGTH = ID_BITS // 5

NewId = Callable[[], int]


class Prefix(StrEnum):
    """What sort of thing an id names."""

    ACCOUNT = "ac"
    ADDRESS_IN_USE = "iu"
    ADDRESS_RANGE = "rg"
    AUDIT_ENTRY = "au"
    CLUSTER = "cl"
    CLUSTER_INTERFACE = "ci"
    DEVICE = "dv"
    ENROLMENT = "en"
    FOREIGN_ENTRY = "fe"
    INTERFACE_CHANGE = "ic"
    GROUP = "gr"
    IMPORT = "im"
    NODE = "nd"
    RESERVATION = "rs"
    SUBNET = "sn"
    TOKEN = "tk"  # noqa: S105 (a prefix, not a secret)
    VRF = "vr"


def format_id(prefix: Prefix, number: int) -> str:
    """`(Prefix.SUBNET, 7)` → `"sn-0000000007"`."""
    pairs = _PAIRS
    return (
        f"{prefix}-{pairs[number >> 40 & 1023]}{pairs[number >> 30 & 1023]}{pairs[number >> 20 & 1023]}"
        f"{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )


def parse_id(prefix: Prefix, text: str) -> int | None:
    """The number of an id of this sort, or None when the text is not one."""
    head, dash, body = text.strip().lower().partition("-")
    if not dash or head != prefix.value or len(body) != _LENGTH:
        return None
    number = 0
    for character in body:
        value = _VALUES.get(character)
        if value is None:
            return None
        number = number << 5 | value
    return number
