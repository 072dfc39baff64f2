"""Argument types: round trips, bounds on both sides, and nothing but MalformedArgument for garbage."""

import json
import random
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.arguments import (
    HELD_SUBNETS,
    HOST_MAPS,
    IDENTIFIERS,
    INTERFACES,
    MAX_GENERATION,
    MAX_PAGE_JSON_BYTES,
    MAX_PAGE_ROWS,
    MAX_VALUE_BYTES,
    REJECTED_MAPS,
    TEXTS,
    Digest,
    Number,
    Rows,
    Text,
)
from clusterd.protocol.errors import MalformedArgument
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, InterfaceReport, RejectedMap
from tests.clusterd import strategies as values

ALL_ROWS: dict[str, tuple[Rows[Any], st.SearchStrategy[Any]]] = {
    "host maps": (HOST_MAPS, values.host_maps),
    "identifiers": (IDENTIFIERS, values.identifiers),
    "interfaces": (INTERFACES, values.interfaces),
    "rejected maps": (REJECTED_MAPS, values.rejected_maps),
    "held subnets": (HELD_SUBNETS, values.held_subnets),
    "texts": (TEXTS, values.text),
}


@pytest.mark.parametrize("name", ALL_ROWS)
def test_rows_survive_the_wire(name: str) -> None:
    rows, strategy = ALL_ROWS[name]

    @given(st.lists(strategy, max_size=8))
    def survive(sent: list[Any]) -> None:
        assert list(rows.fromString(rows.toString(sent))) == sent

    survive()


@pytest.mark.parametrize("name", ALL_ROWS)
def test_garbage_is_a_malformed_argument(name: str) -> None:
    rows, _ = ALL_ROWS[name]

    @given(st.binary(max_size=200))
    def refuse(garbage: bytes) -> None:
        with pytest.raises(MalformedArgument):
            rows.fromString(garbage)

    refuse()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=20,
)


@pytest.mark.parametrize("name", ALL_ROWS)
def test_any_json_is_rows_or_a_malformed_argument(name: str) -> None:
    rows, _ = ALL_ROWS[name]

    @given(st.one_of(json_values, st.lists(st.lists(json_values, max_size=9), max_size=3)))
    def read(content: Any) -> None:
        try:
            found = rows.fromString(zlib.compress(json.dumps(content).encode()))
        except MalformedArgument:
            return
        assert rows.fromString(rows.toString(found)) == found

    read()


def test_a_zlib_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zlib.compress(b"[" + b" " * (100 << 20) + b"]", 9)
    assert len(bomb) > MAX_VALUE_BYTES  # what fits in a value is tried below
    inner = zlib.compress(b"[" + b" " * (50 << 20) + b"]", 9)
    assert len(inner) <= MAX_VALUE_BYTES
    for one in (bomb, inner):
        with pytest.raises(MalformedArgument, match="unpacks to more"):
            HOST_MAPS.fromString(one)


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(MalformedArgument):
        HOST_MAPS.fromString(zlib.compress(b"[" * 100_000))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(MalformedArgument):
        TEXTS.fromString(zlib.compress(b'[["\\ud800"]]'))


@pytest.mark.parametrize("size", [0, 1, 65_534, 65_535])
def test_text_of_any_size_that_fits(size: int) -> None:
    text = Text(70_000)
    assert text.fromString(text.toString("x" * size)) == "x" * size


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536])
def test_text_above_its_own_limit_is_refused_on_both_sides(size: int) -> None:
    text = Text(size - 1)
    with pytest.raises(MalformedArgument):
        text.toString("x" * size)
    with pytest.raises(MalformedArgument):
        text.fromString(b"x" * size)


def compressed_to(size: int) -> bytes:
    """Rows of text whose compressed form has exactly `size` bytes: stored blocks grow byte by byte."""
    noise = random.Random(1)
    letters = "".join(chr(noise.randrange(0x20, 0x7F)) for _ in range(90_000)).replace("\\", "x").replace('"', "y")
    low, high = 0, len(letters)
    while low < high:
        middle = (low + high) // 2
        if len(zlib.compress(json.dumps([[letters[:middle]]]).encode(), 1)) < size:
            low = middle + 1
        else:
            high = middle
    for length in range(low, low + 400):
        for filler in ("", "a", "aa", "aaa", "aaaa"):
            packed = zlib.compress(json.dumps([[letters[:length] + filler]]).encode(), 1)
            if len(packed) == size:
                return packed
    raise AssertionError(f"no text compresses to {size} bytes")


@pytest.mark.parametrize("size", [65_534, 65_535])
def test_a_page_at_the_byte_limit_is_read(size: int) -> None:
    assert len(TEXTS.fromString(compressed_to(size))) == 1


def test_a_page_above_the_byte_limit_is_not_sent() -> None:
    noise = random.Random(1)
    incompressible = [Identifier(IdentifierKind.CLIENT_ID, noise.randbytes(255)) for _ in range(MAX_PAGE_ROWS)]
    with pytest.raises(MalformedArgument, match="65535"):
        IDENTIFIERS.toString(incompressible)
    pages = list(IDENTIFIERS.pages_of(incompressible))
    assert [one for page in pages for one in page] == incompressible
    assert all(len(IDENTIFIERS.toString(page)) <= MAX_VALUE_BYTES for page in pages)


def test_pages_that_would_unpack_to_too_much_are_cut() -> None:
    wide = [RejectedMap(Identifier(IdentifierKind.MAC, b"\x02\0\0\0\0\1"), "\N{SNOWMAN}" * 500)] * MAX_PAGE_ROWS
    pages = list(REJECTED_MAPS.pages_of(wide))
    assert sum(len(REJECTED_MAPS.fromString(REJECTED_MAPS.toString(page))) for page in pages) == len(wide)
    assert len(json.dumps([["mac", "", "\N{SNOWMAN}" * 500]] * MAX_PAGE_ROWS)) > MAX_PAGE_JSON_BYTES


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000, 1001])
def test_pages_hold_everything_in_order(count: int) -> None:
    maps = [
        HostMap(Identifier(IdentifierKind.MAC, (0x020000000000 + i).to_bytes(6)), "192.0.2.1") for i in range(count)
    ]
    pages = list(HOST_MAPS.pages_of(maps))
    assert [one for page in pages for one in page] == maps
    assert len(pages) == max(1, -(-count // MAX_PAGE_ROWS))


def test_more_rows_than_a_page_has_are_refused_on_both_sides() -> None:
    rows = [Identifier(IdentifierKind.MAC, b"\x02\0\0\0\0\1")] * (MAX_PAGE_ROWS + 1)
    with pytest.raises(MalformedArgument, match="rows"):
        IDENTIFIERS.toString(rows)
    with pytest.raises(MalformedArgument, match="rows"):
        IDENTIFIERS.fromString(zlib.compress(json.dumps([["mac", "020000000001"]] * len(rows)).encode()))


@given(values.generations)
def test_numbers_survive(number: int) -> None:
    assert Number().fromString(Number().toString(number)) == number


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"0x1", "\u0661".encode(), b"9" * 21, b"1.0"]
)
def test_other_text_is_no_number(text: bytes) -> None:
    with pytest.raises(MalformedArgument):
        Number().fromString(text)


@pytest.mark.parametrize("number", [-1, MAX_GENERATION + 1])
def test_numbers_out_of_bounds_are_not_sent(number: int) -> None:
    with pytest.raises(MalformedArgument):
        Number().toString(number)


@given(values.digests)
def test_digests_survive(digest: int) -> None:
    assert Digest().fromString(Digest().toString(digest)) == digest


@pytest.mark.parametrize(
    "text", [b"", b"0" * 15, b"0" * 17, b"00 00 00 00 00 0", b"g" * 16, b"\xff" * 16, b"0x00000000000000"]
)
def test_other_text_is_no_digest(text: bytes) -> None:
    with pytest.raises(MalformedArgument):
        Digest().fromString(text)


@pytest.mark.parametrize("digest", [-1, 1 << 64])
def test_a_digest_has_64_bits(digest: int) -> None:
    with pytest.raises(MalformedArgument):
        Digest().toString(digest)


@pytest.mark.parametrize("text", [b"\xff", b"a\0b"])
def test_text_that_no_database_takes_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedArgument):
        Text(10).fromString(text)


def test_rows_that_no_database_takes_are_refused() -> None:
    with pytest.raises(MalformedArgument):
        TEXTS.fromString(zlib.compress(b'[["a\\u0000b"]]'))


def test_an_interface_of_a_cluster_that_knows_no_vrfs_and_no_relays_is_read() -> None:
    older = ["eth0", "192.0.2.0/24", ["192.0.2.2"], [], None, "physical", None, True]
    (report,) = INTERFACES.fromString(zlib.compress(json.dumps([older]).encode()))
    assert report == InterfaceReport("eth0", "192.0.2.0/24", ("192.0.2.2",))
    (newer,) = INTERFACES.fromString(zlib.compress(json.dumps([[*older, "blue", True, False, "later"]]).encode()))
    assert (newer.vrf, newer.relayed, newer.serve) == ("blue", True, False)
