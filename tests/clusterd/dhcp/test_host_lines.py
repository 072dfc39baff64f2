"""Host maps as dnsmasq lines: what is written is what is read, and every other line is reported, not raised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.host_lines import (
    HEADER,
    MAX_LINE_LENGTH,
    HostLines,
    UnreadableLine,
    parse,
    parse_line,
    unwritable_hostname,
)
from clusterd.protocol.addresses import unpack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
hostnames = st.none() | st.lists(label, min_size=1, max_size=3).map(".".join)
macs = st.binary(min_size=5, max_size=5).map(lambda tail: Identifier(IdentifierKind.MAC, b"\x02" + tail))
client_ids = st.binary(min_size=2, max_size=255).map(lambda value: Identifier(IdentifierKind.CLIENT_ID, value))
duids = st.binary(min_size=3, max_size=130).map(lambda value: Identifier(IdentifierKind.DUID, value))
v4_addresses = st.binary(min_size=4, max_size=4).map(unpack_address)
v6_addresses = st.binary(min_size=14, max_size=14).map(lambda tail: unpack_address(b"\x20\x01" + tail))
host_maps = st.builds(HostMap, macs | client_ids, v4_addresses, hostnames) | st.builds(
    HostMap, macs | duids, v6_addresses, hostnames
)
few_addresses = st.sampled_from(["192.0.2.1", "192.0.2.2"])
crowded = st.builds(HostMap, macs | client_ids, few_addresses, st.sampled_from([None, "a", "b"]))


@given(st.frozensets(host_maps | crowded, max_size=30))
def test_what_is_written_is_read_and_what_is_not_has_a_reason(wanted: frozenset[HostMap]) -> None:
    lines = HostLines()
    refused = {host_map for host_map in wanted if lines.add(host_map) is not None}
    parsed = parse(lines.render())
    assert parsed.host_maps == lines.host_maps == wanted - refused
    assert parsed.unreadable == ()
    assert parsed.ours
    assert len(lines) == len(wanted - refused)


@given(st.frozensets(host_maps | crowded, max_size=20), st.randoms(use_true_random=False))
def test_the_same_set_renders_the_same_whatever_the_way_to_it(wanted: frozenset[HostMap], random: object) -> None:
    taken = HostLines(wanted).host_maps
    detour = HostLines(wanted)
    for host_map in taken:
        detour.remove(host_map)
    assert detour.render() == HEADER
    for host_map in sorted(taken, key=lambda host_map: host_map.identifier.value):
        assert detour.add(host_map) is None
    assert detour.render() == HostLines(taken).render()


@given(st.frozensets(host_maps | crowded, max_size=20), st.frozensets(host_maps | crowded, max_size=20))
def test_lines_of_what_is_new_can_be_read_beside_the_file(held: frozenset[HostMap], added: frozenset[HostMap]) -> None:
    lines = HostLines(held)
    before = lines.render()
    fresh = lines.lines_of_new(added)
    assert lines.render() == before
    shown = parse("\n".join([HEADER, *fresh])).host_maps
    taken = {host_map.address for host_map in lines.host_maps if host_map.family == 4}
    assert shown <= added and not any(host_map.address in taken for host_map in shown)
    for host_map in added:
        if host_map in shown:
            assert lines.add(host_map) is None
    assert set(fresh) <= set(lines.render().splitlines())


@given(st.frozensets(host_maps | crowded, max_size=30), host_maps | crowded)
def test_what_an_address_has_and_whether_a_host_map_is_there(wanted: frozenset[HostMap], other: HostMap) -> None:
    lines = HostLines(wanted)
    for host_map in (*wanted, other):
        assert (host_map in lines) == (host_map in lines.host_maps)
        assert set(lines.at(host_map.address)) == {one for one in lines.host_maps if one.address == host_map.address}


@given(st.frozensets(host_maps | crowded, max_size=20))
def test_no_two_lines_have_one_ipv4_address_and_none_is_too_long(wanted: frozenset[HostMap]) -> None:
    rendered = HostLines(wanted).render().splitlines()[2:]
    v4_lines = [line for line in rendered if "[" not in line]
    assert len(v4_lines) == len({host_map.address for host_map in HostLines(wanted).host_maps if host_map.family == 4})
    assert all(len(line) <= MAX_LINE_LENGTH for line in rendered)


@given(st.text(max_size=200) | st.lists(st.sampled_from("id:,[]#*.:a0 \n\t12hignore"), max_size=60).map("".join))
def test_no_content_raises(text: str) -> None:
    parsed = parse(text)
    assert len(parsed.unreadable) <= text.count("\n") + 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("00:16:3E:0:0:1,192.0.2.10", [HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10")]),
        (
            "00:16:3e:00:00:01, 192.0.2.10, Web1.Example.ORG , 12h",
            [HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10", "web1.example.org")],
        ),
        (
            "set:red,tag:blue,00:16:3e:00:00:01,192.0.2.10,infinite",
            [HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10")],
        ),
        (
            "00:16:3e:00:00:01,192.0.2.10,[2001:db8::1],both",
            [
                HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10", "both"),
                HostMap(Identifier.mac("00:16:3e:00:00:01"), "2001:db8::1", "both"),
            ],
        ),
        (
            "id:printer,192.0.2.10",
            [HostMap(Identifier(IdentifierKind.CLIENT_ID, b"printer"), "192.0.2.10")],
        ),
        (
            "id:00:03:00:01:02:03,[2001:db8::1]",
            [HostMap(Identifier(IdentifierKind.DUID, bytes.fromhex("000300010203")), "2001:db8::1")],
        ),
    ],
)
def test_reads_what_people_write(line: str, expected: list[HostMap]) -> None:
    assert parse_line(line) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("192.0.2.10,web1", "the line names no client by MAC address, client-id or DUID"),
        ("00:16:3e:00:00:01,web1", "the line names no address"),
        ("00:16:3e:00:00:01,ignore", "the line tells dnsmasq to ignore a client"),
        ("id:*,00:16:3e:00:00:01,192.0.2.10", "the line matches clients whatever their client-id"),
        ("00:16:3e:00:00:*,192.0.2.10", "not a MAC address"),
        ("00:16:3e:00:00:01,[2001:db8::/126]", "not an IP address"),
        ("00:16:3e:00:00:01,[192.0.2.1]", "not one IPv6 address in brackets"),
        ("id:zz:01,192.0.2.10", "not a client-id of hex octets"),
        ("00:16:3e:00:00:01,192.0.2.10,under_score", "not a host name label"),
        ('"00:16:3e:00:00:01",192.0.2.10', "not a MAC address"),
    ],
)
def test_reports_lines_that_mean_something_else(line: str, reason: str) -> None:
    parsed = parse(f"{HEADER}# a comment\n\n{line}\n")
    assert parsed.host_maps == frozenset()
    [unreadable] = parsed.unreadable
    assert (unreadable.number, unreadable.text) == (5, line)
    assert reason in unreadable.reason


def test_line_numbers_and_comments() -> None:
    parsed = parse("# a\n\n00:16:3e:00:00:01,192.0.2.10 # trailing\nrubbish\n")
    assert parsed.host_maps == {HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10")}
    assert parsed.unreadable == (
        UnreadableLine(4, "rubbish", "the line names no client by MAC address, client-id or DUID"),
    )


def test_ownership_is_the_header_or_emptiness() -> None:
    line = "00:16:3e:00:00:01,192.0.2.10\n"
    assert parse("").ours
    assert parse(" \n\n").ours
    assert parse(HEADER + line).ours
    assert parse(line + HEADER).ours
    assert not parse(line).ours
    assert not parse("# somebody's notes\n").ours


@pytest.mark.parametrize("name", ["12", "12h", "3600", "4w", "infinite", "ignore", "10.0.0.5"])
def test_host_names_that_dnsmasq_reads_as_something_else_are_refused(name: str) -> None:
    assert unwritable_hostname(name) is not None
    assert HostLines().add(HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.10", name)) is not None


@pytest.mark.parametrize("name", ["h", "12x", "h12", "12h.example", "infinite.example", "deadbeef", "1.2.3", "ignored"])
def test_host_names_that_only_look_like_it_are_taken(name: str) -> None:
    assert unwritable_hostname(name) is None


def test_a_line_longer_than_dnsmasq_reads_is_refused() -> None:
    longest = Identifier(IdentifierKind.CLIENT_ID, bytes(255))
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert HostLines().add(HostMap(longest, "192.0.2.10")) is None
    refused = HostLines().add(HostMap(longest, "192.0.2.10", name))
    assert refused == "the line for 192.0.2.10 would exceed the 1023 characters that dnsmasq reads"
