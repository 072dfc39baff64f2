"""Which leases are on a page, and what the three servers' own records of them say."""

from calendar import timegm
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter
from time import gmtime, strftime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.dnsmasq.lease_pages import FEW, leases_of, page_of
from clusterd.dhcp.dnsmasq.leases import Lease
from clusterd.dhcp.isc.lease_pages import page_of_v4, page_of_v6, unquoted
from clusterd.dhcp.kea.lease_pages import lease_of
from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address, unpack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind
from tests.clusterd import strategies as values

NET, NET6 = "10.20.0.0/16", "2001:db8::/64"
NOW = 1_800_000_000
MAC = Identifier.mac("00:16:3e:aa:00:01")
ALL_V4, ALL_V6 = LeaseQuestion("0.0.0.0/0"), LeaseQuestion("::/0")

# Mostly in NET and NET6, so that most questions find something.
addresses_v4 = st.one_of(st.integers(0, 300).map(lambda n: f"10.20.{n >> 8}.{n & 255}"), values.v4_addresses)
addresses_v6 = st.one_of(st.integers(1, 300).map(lambda n: f"2001:db8::{n:x}"), values.v6_addresses)
names = st.none() | values.hostnames
expiries = st.integers(NOW - 1000, NOW + 1000)
leases_v4 = st.builds(
    lambda address, mac, client, name, expires: ServerLease(address, (mac, *client), name, expires),
    addresses_v4,
    values.macs,
    st.lists(values.client_ids, max_size=1),
    names,
    st.none() | expiries,
)
leases_v6 = st.builds(
    lambda address, duid, name, expires: ServerLease(address, (duid,), name, expires),
    addresses_v6,
    values.duids,
    names,
    st.none() | expiries,
)


def unique(leases: list[ServerLease]) -> list[ServerLease]:
    return list({lease.address: lease for lease in leases}.values())


lists_v4 = st.lists(leases_v4, max_size=30).map(unique)
lists_v6 = st.lists(leases_v6, max_size=30).map(unique)


@st.composite
def questions(draw: st.DrawFn, leases: list[ServerLease], network: str) -> LeaseQuestion:
    """A question about these leases: mostly one with an answer."""
    addresses = [lease.address for lease in leases] or ["10.20.0.1"]
    clients = [identifier for lease in leases for identifier in lease.identifiers] or [MAC]
    return LeaseQuestion(
        draw(st.sampled_from([network, "0.0.0.0/0" if network == NET else "::/0"])),
        draw(st.none() | st.sampled_from(addresses)),
        draw(st.integers(1, 5)),
        draw(st.frozensets(st.sampled_from(addresses), max_size=FEW + 2)),
        draw(st.frozensets(st.sampled_from(clients), max_size=2)),
    )


def expected(leases: list[ServerLease], question: LeaseQuestion) -> LeasePage:
    """The same by sorting all of them."""
    low, high = question.bounds
    size = len(pack_address(question.cidr.partition("/")[0]))
    rows = [(pack_address(lease.address), lease) for lease in leases]
    found = [
        lease
        for packed, lease in sorted(rows, key=itemgetter(0))
        if len(packed) == size
        and low <= packed <= high
        and (not question.addresses or lease.address in question.addresses)
        and (not question.clients or any(lease.is_of(client) for client in question.clients))
        and (lease.expires is None or lease.expires > NOW)
    ]
    return LeasePage(tuple(found[: question.limit]), len(found) > question.limit)


@given(st.data(), lists_v4 | lists_v6)
def test_a_page_is_what_sorting_all_would_give(data: st.DataObject, leases: list[ServerLease]) -> None:
    network = NET6 if leases and ":" in leases[0].address else NET
    question = data.draw(questions(leases, network))
    rows = [(pack_address(lease.address), lease) for lease in leases]
    assert choose(rows, lambda lease: lease, question, NOW) == expected(leases, question)


@given(lists_v4)
def test_pages_one_after_the_other_are_all(leases: list[ServerLease]) -> None:
    rows = [(pack_address(lease.address), lease) for lease in leases]
    told: list[ServerLease] = []
    page = LeasePage(more=True)
    while page.more:
        question = LeaseQuestion("0.0.0.0/0", told[-1].address if told else None, 3)
        page = choose(rows, lambda lease: lease, question, NOW)
        told += page.leases
    assert told == list(expected(leases, replace(ALL_V4, limit=500)).leases)


def test_only_what_can_be_on_the_page_is_read() -> None:
    read: list[int] = []

    def lease(number: int) -> ServerLease:
        read.append(number)
        return ServerLease(unpack_address(number.to_bytes(4)))

    page = choose(((n.to_bytes(4), n) for n in range(100_000)), lease, replace(ALL_V4, limit=10), NOW)
    assert (len(page.leases), page.more, len(read)) == (10, True, 11)


@pytest.mark.parametrize(
    ("question", "bounds"),
    [
        (LeaseQuestion("192.0.2.0/24"), ("192.0.2.0", "192.0.2.255")),
        (LeaseQuestion("192.0.2.0/24", "192.0.2.7"), ("192.0.2.8", "192.0.2.255")),
        (LeaseQuestion("192.0.2.0/24", "10.0.0.1"), ("192.0.2.0", "192.0.2.255")),
        (LeaseQuestion("192.0.2.0/24", "2001:db8::1"), ("192.0.2.0", "192.0.2.255")),
        (LeaseQuestion("2001:db8::/64", "2001:db8::ff"), ("2001:db8::100", "2001:db8::ffff:ffff:ffff:ffff")),
    ],
)
def test_bounds(question: LeaseQuestion, bounds: tuple[str, str]) -> None:
    low, high = question.bounds
    assert (unpack_address(low), unpack_address(high)) == bounds


@pytest.mark.parametrize("after", ["192.0.2.255", "203.0.113.1", "255.255.255.255"])
def test_nothing_is_above_the_last_address(after: str) -> None:
    low, high = LeaseQuestion("192.0.2.0/24", after).bounds
    assert low > high


@pytest.mark.parametrize(
    "values_", [("10.0.0.0",), ("10.0.0.1/24",), ("10.0.0.0/8", "here"), ("10.0.0.0/8", None, 0), ("::/0", None, 501)]
)
def test_questions_that_make_no_sense(values_: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"network|host bits|address|500"):
        LeaseQuestion(*values_)


# ---- dnsmasq ----


def dnsmasq_line(lease: ServerLease) -> str:
    by_kind = {identifier.kind: identifier.value for identifier in lease.identifiers}
    v6 = ":" in lease.address
    client = by_kind.get(IdentifierKind.DUID if v6 else IdentifierKind.CLIENT_ID)
    first = "1234" if v6 else by_kind[IdentifierKind.MAC].hex(":")
    return f"{lease.expires or 0} {first} {lease.address} {lease.hostname or '*'} {client.hex(':') if client else '*'}"


def dnsmasq_file(leases: list[ServerLease]) -> bytes:
    return "".join(f"{line}\n" for line in [*map(dnsmasq_line, leases), "duid 00:01:00:01", "half a line"]).encode()


@given(st.data(), lists_v4, lists_v6)
def test_the_lease_file_of_dnsmasq(data: st.DataObject, v4: list[ServerLease], v6: list[ServerLease]) -> None:
    leases = [*v4, *v6]
    content = dnsmasq_file(leases)
    for network in (NET, NET6):
        question = data.draw(questions(leases, network))
        assert page_of(content, question, NOW) == expected(leases, question)


def test_a_client_that_calls_itself_like_an_address_is_not_at_that_address() -> None:
    content = b"0 00:16:3e:aa:00:01 10.20.0.1 10.20.0.2 *\n0 00:16:3e:aa:00:02 10.20.0.2 * *\n"
    page = page_of(content, LeaseQuestion(NET, addresses=frozenset({"10.20.0.2"})), NOW)
    assert [lease.identifiers for lease in page.leases] == [(Identifier.mac("00:16:3e:aa:00:02"),)]


def test_the_lease_that_is_to_be_ended_is_its_clients_own() -> None:
    content = b"0 00:16:3e:aa:00:01 10.20.0.1 * ff:01\n"
    held = (MAC, Identifier(IdentifierKind.CLIENT_ID, b"\xff\x01"))
    assert leases_of(content, ServerLease("10.20.0.1", held)) == [Lease("10.20.0.1", MAC.value, b"\xff\x01")]
    assert leases_of(content, ServerLease("10.20.0.1", (MAC,))) == []
    assert leases_of(content, ServerLease("10.20.0.2", held)) == []


@given(st.binary())
def test_no_lease_file_of_dnsmasq_raises(content: bytes) -> None:
    page_of(content, ALL_V4, NOW)
    page_of(content, ALL_V6, NOW)


# ---- dhcpd ----


def quoted(octets: bytes) -> str:
    """As dhcpd writes a client's bytes (quotify_buf in common/print.c)."""
    return '"' + "".join(
        f"\\{chr(o)}" if o in b'"\\' else chr(o) if 32 <= o < 127 else f"\\{o:03o}" for o in octets
    ) + '"'  # fmt: skip


def dhcpd_time(expires: int | None) -> str:
    return "never" if expires is None else strftime("%w %Y/%m/%d %H:%M:%S", gmtime(expires))


def dhcpd_record(lease: ServerLease, state: str = "active") -> str:
    by_kind = {identifier.kind: identifier.value for identifier in lease.identifiers}
    lines = ["starts 0 2026/11/22 14:07:58;", f"ends {dhcpd_time(lease.expires)};", f"binding state {state};"]
    lines += ["next binding state free;", f"hardware ethernet {by_kind[IdentifierKind.MAC].hex(':')};"]
    if (client := by_kind.get(IdentifierKind.CLIENT_ID)) is not None:
        lines.append(f"uid {quoted(client)};")
    if lease.hostname is not None:
        lines.append(f"client-hostname {quoted(lease.hostname.encode())};")
    return f"lease {lease.address} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


HOST = "host hostmap-1 {\n  dynamic;\n  hardware ethernet 00:16:3e:00:00:01;\n  fixed-address 10.20.0.1;\n}\n"


@given(st.data(), lists_v4)
def test_the_leases_file_of_dhcpd(data: st.DataObject, leases: list[ServerLease]) -> None:
    former = [dhcpd_record(replace(lease, expires=NOW + 5), "active") for lease in leases]
    ended = ServerLease("10.20.77.77", (MAC,), None, NOW + 5)
    content = "".join(
        ["# a comment\n", *former, HOST, dhcpd_record(ended), *map(dhcpd_record, leases), dhcpd_record(ended, "free")]
    )
    question = data.draw(questions(leases, NET))
    assert page_of_v4(content.encode(), question, NOW) == expected(leases, question)
    cut = content + "lease 10.20.0.1 {\n  starts 0 2026"
    assert page_of_v4(cut.encode(), question, NOW) == expected(leases, question)


def dhcpd6_record(lease: ServerLease, state: str = "active") -> str:
    (duid,) = lease.identifiers
    return (
        f"ia-na {quoted(b'abcd' + duid.value)} {{\n  cltt 0 2026/11/22 19:29:10;\n  iaaddr {lease.address} {{\n"
        f"    binding state {state};\n    preferred-life 375;\n    max-life 600;\n"
        f"    ends {dhcpd_time(lease.expires)};\n  }}\n}}\n\n"
    )


@given(st.data(), lists_v6)
def test_the_ipv6_leases_file_of_dhcpd(data: st.DataObject, leases: list[ServerLease]) -> None:
    leases = [replace(lease, hostname=None) for lease in leases]
    prefix = 'ia-pd "abcd\\000\\001x" {\n  iaprefix 2001:db8::/56 {\n    binding state active;\n  }\n}\n'
    former = "".join(dhcpd6_record(lease, "expired") for lease in leases)
    content = 'server-duid "\\000\\001";\n' + prefix + former + "".join(map(dhcpd6_record, leases))
    question = data.draw(questions(leases, NET6))
    assert page_of_v6(content.encode(), question, NOW) == expected(leases, question)


@given(st.binary())
def test_what_dhcpd_quotes_is_read_back(octets: bytes) -> None:
    assert unquoted(quoted(octets).encode()) == octets
    if octets:
        assert unquoted(octets.hex(":").encode()) == octets


@given(st.binary() | st.text().map(lambda text: f'lease 10.20.0.1 {{\n  ends {text};\n  uid "{text}";\n}}\n'.encode()))
def test_no_leases_file_of_dhcpd_raises(content: bytes) -> None:
    page_of_v4(content, ALL_V4, NOW)
    page_of_v6(content, ALL_V6, NOW)


def test_statements_inside_of_a_record_and_a_record_at_the_very_beginning() -> None:
    lease = ServerLease("10.20.0.1", (MAC,), None, NOW + 5)
    with_events = dhcpd_record(lease).replace("  hardware", "  on expiry {\n    execute (1);\n  }\n  hardware")
    assert page_of_v4(with_events.encode(), ALL_V4, NOW).leases == (lease,)
    lease6 = ServerLease("2001:db8::1", (Identifier(IdentifierKind.DUID, b"\0\3\0\1" + MAC.value),), None, NOW + 5)
    nested = dhcpd6_record(lease6).replace("    ends", "    on expiry {\n      execute (1);\n    }\n    ends")
    assert page_of_v6(nested.encode(), ALL_V6, NOW).leases == (lease6,)
    no_octets = "ia-na 1:zz:3 {\n  iaaddr 2001:db8::2 {\n    binding state active;\n    ends never;\n  }\n}\n"
    assert page_of_v6(no_octets.encode(), ALL_V6, NOW).leases == ()


def test_times_of_dhcpd() -> None:
    for text, expires in (
        ("never", None),
        ("epoch 1893456000", 1893456000),
        ("5 2038/01/01 00:00:01", timegm(datetime(2038, 1, 1, 0, 0, 1, tzinfo=UTC).timetuple())),
    ):
        content = f"lease 10.20.0.1 {{\n  ends {text};\n  binding state active;\n}}\n".encode()
        assert page_of_v4(content, ALL_V4, NOW).leases == (ServerLease("10.20.0.1", expires=expires),)


# ---- Kea ----


def kea_lease(lease: ServerLease) -> dict[str, Any]:
    names = {IdentifierKind.MAC: "hw-address", IdentifierKind.CLIENT_ID: "client-id", IdentifierKind.DUID: "duid"}
    timing = {"cltt": NOW - 600, "valid-lft": 0xFFFFFFFF if lease.expires is None else lease.expires - NOW + 600}
    told = {names[identifier.kind]: identifier.text for identifier in lease.identifiers}
    return {"ip-address": lease.address, "hostname": lease.hostname or "", "state": 0, "subnet-id": 1, **timing, **told}


@given(leases_v4 | leases_v6)
def test_a_lease_as_kea_tells_it(lease: ServerLease) -> None:
    if lease.expires is None or lease.expires >= NOW - 600:
        assert lease_of(kea_lease(lease)) == lease
    assert lease_of({**kea_lease(lease), "state": 1}) is None
    assert lease_of({**kea_lease(lease), "type": "IA_PD"}) is None


@given(st.dictionaries(st.sampled_from(["ip-address", "cltt", "valid-lft", "duid", "hostname", "state", "type"]),
                       st.none() | st.integers() | st.text() | st.booleans()))  # fmt: skip
def test_nothing_that_kea_tells_raises(told: dict[str, Any]) -> None:
    lease_of(told)
