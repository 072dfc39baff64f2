"""IPv6 host maps as host declarations."""

import re

from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.isc.include import HEADER, parse, render
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind
from tests.clusterd.strategies import v6_maps

DUID = Identifier(IdentifierKind.DUID, bytes.fromhex("0003000100163e000003"))


def test_lines() -> None:
    text = render({HostMap(DUID, "2001:db8::13", "web3"), HostMap(Identifier.mac("00:16:3e:00:00:01"), "2001:db8::11")})
    assert text == HEADER + (
        "host hostmap-00-16-3e-00-00-01-20010db8000000000000000000000011 "
        "{ hardware ethernet 00:16:3e:00:00:01; fixed-address6 2001:db8::11; }\n"
        "host hostmap-id-0003000100163e000003-20010db8000000000000000000000013 { host-identifier "
        "option dhcp6.client-id 00:03:00:01:00:16:3e:00:00:03; fixed-address6 2001:db8::13; } # web3\n"
    )


@given(st.frozensets(v6_maps, max_size=5))
def test_what_is_written_is_read(host_maps: frozenset[HostMap]) -> None:
    text = render(host_maps)
    assert parse(text) == host_maps
    assert render(sorted(host_maps)) == text
    names = re.findall(r"(?m)^host ([a-z0-9-]+) \{", text)
    assert len(set(names)) == len({(one.identifier, one.address) for one in host_maps})


@given(st.text(max_size=300))
def test_any_text_is_read_or_is_not_ours(text: str) -> None:
    assert parse(HEADER + text) is not None
    assert parse(f"subnet6 {text}") is None


def test_an_empty_file_is_for_us_to_fill_and_damaged_lines_are_passed_over() -> None:
    assert parse("") == frozenset()
    assert parse("\n") == frozenset()
    whole = render({HostMap(DUID, "2001:db8::13", "web3")})
    assert parse(whole[:-10]) == frozenset()
    assert parse(f"{whole}host x {{ fixed-address6 2001:db8::1; }}\n") == frozenset(
        {HostMap(DUID, "2001:db8::13", "web3")}
    )
