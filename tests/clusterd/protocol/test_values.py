"""Values: one spelling each, and nothing that is not well-formed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.addresses import address_to_int, canonical_address, int_to_address, pack_address
from clusterd.protocol.values import (
    HostMap,
    Identifier,
    IdentifierKind,
    InterfaceReport,
    format_mac,
    parse_hex,
    parse_hostname,
    parse_mac,
    parse_name,
    parse_network,
)
from tests.clusterd import strategies as values


def spellings(octets: bytes) -> list[str]:
    """Every customary way to write a MAC address."""
    digits = octets.hex()
    bare = [f"{octet:x}" for octet in octets]
    return [
        digits,
        octets.hex(":"),
        octets.hex("-"),
        ":".join(bare),
        "-".join(bare),
        ".".join(digits[i : i + 4] for i in (0, 4, 8)),
        f"{digits[:6]}-{digits[6:]}",
    ]


@given(values.mac_octets, st.integers(0, 6), st.booleans(), st.sampled_from(["", " ", "\t"]))
def test_every_spelling_of_a_mac_address_is_the_same_address(
    octets: bytes, spelling: int, upper: bool, blank: str
) -> None:
    text = spellings(octets)[spelling]
    assert parse_mac(blank + (text.upper() if upper else text) + blank) == octets
    assert Identifier.mac(text).text == format_mac(octets)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:16:3e:12:34",
        "00:16:3e:12:34:56:78",
        "00:16:3e:12:34:5g",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "00:16-3e:12:34:56",
        "00163e 123456",
    ],
)
def test_what_no_machine_can_have_is_no_mac_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"MAC address|machine"):
        parse_mac(text)


@given(st.one_of(values.v4_addresses, values.v6_addresses))
def test_an_address_survives_its_number(address: str) -> None:
    family, number = address_to_int(address)
    assert int_to_address(family, number) == address == canonical_address(address)


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert canonical_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert canonical_address("2001:DB8:0:0::1") == "2001:db8::1"


@pytest.mark.parametrize(
    "text", ["", "192.0.2", "192.0.2.01", "192.0.2.1/24", "fe80::1%eth0", "::1::", "a\0b", "1.2.3.4\n"]
)
def test_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        pack_address(text)


@given(values.identifiers)
def test_the_text_of_an_identifier_leads_back_to_it(identifier: Identifier) -> None:
    assert Identifier(identifier.kind, parse_hex(identifier.text)) == identifier


@pytest.mark.parametrize(
    ("kind", "octets"),
    [
        (IdentifierKind.CLIENT_ID, 1),
        (IdentifierKind.CLIENT_ID, 256),
        (IdentifierKind.DUID, 2),
        (IdentifierKind.DUID, 131),
        (IdentifierKind.MAC, 5),
        (IdentifierKind.MAC, 7),
    ],
)
def test_identifiers_have_the_lengths_of_their_standards(kind: IdentifierKind, octets: int) -> None:
    with pytest.raises(ValueError, match="octets"):
        Identifier(kind, b"\x02" * octets)


@given(st.lists(values.host_maps, max_size=20))
def test_host_maps_always_sort(host_maps: list[HostMap]) -> None:
    twins = [HostMap(host_map.identifier, host_map.address) for host_map in host_maps]
    assert sorted(host_maps + twins) == sorted(twins + host_maps)


@given(st.lists(values.interfaces, max_size=8))
def test_interface_reports_always_sort(reports: list[InterfaceReport]) -> None:
    twins = [InterfaceReport(r.nic, r.cidr, r.addresses, r.gateways) for r in reports]
    assert sorted(reports + twins) == sorted(twins + reports)


def test_an_identifier_belongs_to_its_family() -> None:
    with pytest.raises(ValueError, match="DHCPv4"):
        HostMap(Identifier(IdentifierKind.CLIENT_ID, b"ab"), "2001:db8::1")
    with pytest.raises(ValueError, match="DHCPv6"):
        HostMap(Identifier(IdentifierKind.DUID, b"abc"), "192.0.2.1")


def test_a_host_map_is_normalised() -> None:
    host_map = HostMap(Identifier.mac("02-00-00-00-00-01"), "2001:DB8::0:1", "Node-1.Example.")
    assert (host_map.address, host_map.hostname, host_map.family) == ("2001:db8::1", "node-1.example", 6)


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", "a..b", "a b", "ä", "a" * 64, ".".join(["a" * 60] * 5), "a_b", "a\nb"]
)
def test_what_dns_cannot_hold_is_no_host_name(text: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        parse_hostname(text)


@pytest.mark.parametrize("text", ["", ".a", "a/b", "a" * 64, "a b"])
def test_what_a_url_or_file_cannot_hold_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        parse_name(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("192.0.2.0/24", "192.0.2.0/24"), (" 2001:DB8::/64 ", "2001:db8::/64"), ("0.0.0.0/0", "0.0.0.0/0")],
)
def test_a_network_has_one_spelling(text: str, canonical: str) -> None:
    assert parse_network(text) == canonical


@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "192.0.2.0", "192.0.2.0/33", "192.0.2.0/255.255.255.0", "/24", "x/24"]
)
def test_other_text_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r"network|IP address"):
        parse_network(text)
