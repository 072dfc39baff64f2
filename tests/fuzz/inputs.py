"""What a hostile peer sends, from a seed: bytes, boxes that are nearly right, and values of every awkward size."""

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.protocols import amp

from clusterd.protocol import commands
from clusterd.protocol.arguments import MAX_VALUE_BYTES, Digest, Number, Rows, Text
from clusterd.protocol.values import HeldSubnet, HostMap, Identifier, IdentifierKind, InterfaceReport, RejectedMap

EVERY_COMMAND = sorted(
    {*commands.ANSWERED_BY_REGIOND, *commands.ANSWERED_BY_CLUSTERD, *commands.ANSWERED_TO_ANYBODY},
    key=lambda command: command.__name__,
)
SIZES = (0, 1, 254, 255, 256, MAX_VALUE_BYTES - 1, MAX_VALUE_BYTES)
_TEXTS = ("", "rack-66", "history-1", "sn-0000000035", "sn-0000000036", "10.0.0.0/16", "10.0.0.0/99", "é" * 60, "x")
_NUMBERS = (0, 1, 2, 3, 65_535, 1_000_000, 1_000_001, (1 << 63) - 1)
_KEYS = (amp.COMMAND, amp.ASK, amp.ANSWER, amp.ERROR, amp.ERROR_CODE, amp.ERROR_DESCRIPTION)


def inputs(random: Random, speaks_amp: bool = False) -> bytes:
    """One input: some bytes that arrive together. Who `speaks_amp` sends commands only, right and spoilt ones: it is
    not cut at once, and gets further in.
    """
    kind = random.uniform(0.30, 0.95) if speaks_amp else random.random()
    if kind < 0.15:
        return random.randbytes(random.choice((1, 2, 3, 10, 100, 1000)))
    if kind < 0.30:
        return bytes(_box(random, random.choice((1, 1, 2, 5, 70))).serialize())
    box = well_formed(random)
    if kind < 0.65:
        return bytes(box.serialize())
    _spoil(random, box)
    data = bytes(box.serialize())
    if kind > 0.95:
        at = random.randrange(len(data))
        return data[:at] if random.random() < 0.5 else data[:at] + random.randbytes(1) + data[at + 1 :]
    return data


def well_formed(random: Random) -> amp.AmpBox:
    """A call whose every argument can be read; what it says is nonsense."""
    command = random.choice(EVERY_COMMAND)
    values = {name.decode(): _value(random, argument) for name, argument in command.arguments}
    present = {name: value for name, value in values.items() if value is not None}
    box: amp.AmpBox = command.makeArguments(present, amp.AMP())
    box[amp.COMMAND] = command.commandName
    if random.random() < 0.95:
        box[amp.ASK] = b"%x" % random.randrange(1 << 16)
    return box


def _value(random: Random, argument: amp.Argument) -> Any:
    if argument.optional and random.random() < 0.4:
        return None
    if isinstance(argument, Text):
        return random.choice(_TEXTS)[: argument.max_length]
    if isinstance(argument, Number):
        return min(random.choice(_NUMBERS), argument.maximum)
    if isinstance(argument, Digest):
        return random.choice((0, 1, (1 << 64) - 1, random.getrandbits(64)))
    assert isinstance(argument, Rows)
    return [row for _ in range(random.choice((0, 1, 3))) if (row := _row(random, argument)) is not None]


def _identifier(random: Random) -> Identifier:
    return Identifier(IdentifierKind.MAC, (0x020000000000 + random.randrange(4)).to_bytes(6))


_ROWS: tuple[Callable[[Random], Any], ...] = (
    lambda random: HostMap(_identifier(random), f"10.0.0.{random.randrange(256)}"),
    _identifier,
    lambda random: InterfaceReport("eth0", f"10.{random.randrange(4)}.0.0/16", ("10.0.0.1",)),
    lambda random: RejectedMap(_identifier(random), "no"),
    lambda random: HeldSubnet(random.choice(_TEXTS[:-2]), random.choice(_NUMBERS), random.choice(_NUMBERS), 7),
    lambda random: random.choice(_TEXTS[:-2]),
)


def _row(random: Random, rows: Rows[Any]) -> Any:
    """A value of the sort that this list takes."""
    for make in _ROWS:
        value = make(random)
        try:
            rows.toString([value])
        except (AttributeError, TypeError, ValueError):
            continue
        return value
    return None


def _spoil(random: Random, box: amp.AmpBox) -> None:
    for _ in range(random.choice((1, 1, 2))):
        key = random.choice(sorted(box))
        how = random.randrange(4)
        if how == 0:
            del box[key]
        elif how == 1:
            box[key] = random.randbytes(random.choice((0, 1, 20)))
        elif how == 2:
            box[key] = bytes([random.choice(b"0a\xff\x00")]) * random.choice(SIZES)
        else:
            box[random.choice(_KEYS)] = random.choice((b"1", b"Ping", b"", b"NOT_REGISTERED"))
        if not box:
            box[b"k"] = b""


def _box(random: Random, keys: int) -> amp.AmpBox:
    box = amp.AmpBox()
    for _ in range(keys):
        key = random.choice(_KEYS) if random.random() < 0.5 else random.randbytes(random.choice((1, 5, 255)))
        box[key] = random.randbytes(random.choice((0, 1, 30))) if random.random() < 0.9 else bytes(random.choice(SIZES))
    return box
