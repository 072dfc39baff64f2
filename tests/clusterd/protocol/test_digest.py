"""The digest is that of a set, and is kept in O(change)."""

from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.digest import digest_of, digest_of_map, encode_for_digest
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd import strategies as values


@given(st.lists(values.host_maps, max_size=12, unique=True))
def test_it_does_not_depend_on_the_order(host_maps: list[HostMap]) -> None:
    shuffled = sorted(host_maps)
    assert digest_of(shuffled) == digest_of(host_maps) == digest_of(reversed(shuffled))


@given(st.frozensets(values.host_maps, max_size=8), values.host_maps)
def test_adding_and_removing_a_map_is_the_same_step(host_maps: frozenset[HostMap], one: HostMap) -> None:
    without = host_maps - {one}
    assert digest_of(without) ^ digest_of_map(one) == digest_of(without | {one})


@given(values.host_maps, values.host_maps)
def test_different_maps_are_encoded_differently(one: HostMap, other: HostMap) -> None:
    assert (encode_for_digest(one) == encode_for_digest(other)) == (one == other)


def test_the_empty_set_has_zero() -> None:
    assert digest_of(()) == 0


def test_the_documented_encoding() -> None:
    one = HostMap(Identifier(IdentifierKind.MAC, bytes.fromhex("00163e123456")), "192.0.2.1", "node")
    assert encode_for_digest(one) == bytes.fromhex("04 c0000201 01 0006 00163e123456") + b"node"
