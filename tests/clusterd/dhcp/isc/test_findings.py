"""ISC dhcpd's configuration and leases, read: as they are in use, and anything at all."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusterd.dhcp.first_contact import ServerPicture, Unreadable
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.isc.contact import DhcpdReader
from clusterd.dhcp.isc.findings import Findings, Malformed, Statement, octets, parse, unquoted
from tests.clusterd import strategies as values
from tests.clusterd.dhcp.checkers import check
from tests.clusterd.dhcp.samples import entries, pools, put
from tests.finished import result_of


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "more.conf").write_text(
        "host included { hardware ethernet 00:16:3e:00:00:07; fixed-address 192.0.2.24; }\n"
        f'include "{tmp_path}/ours.conf";\n'
    )
    (tmp_path / "ours.conf").write_text("host a { hardware ethernet 00:16:3e:00:00:08; fixed-address 192.0.2.25; }\n")
    for name in ("dhcpd.conf", "dhcpd6.conf", "dhcpd.leases"):
        put(name, tmp_path)
    return tmp_path


def read(site: Path) -> ServerPicture:
    reader = DhcpdReader(
        [site / "dhcpd.conf", site / "dhcpd6.conf"],
        [site / "dhcpd.leases", site / "dhcpd6.leases"],
        [site / "ours.conf"],
        lambda name: name.startswith("ours-"),
        run_at_once,
    )
    return result_of(reader.read())


def test_a_site_in_use(site: Path) -> None:
    check("isc", site / "dhcpd.conf")
    check("isc", site / "dhcpd6.conf", family=6)
    picture = read(site)
    assert picture.remarks == ()
    assert pools(picture) == {
        ("10.254.239.10", "10.254.239.20"),
        ("192.0.2.100", "192.0.2.109"),
        ("192.0.2.120", "192.0.2.120"),
        ("192.0.2.130", "192.0.2.139"),
        ("198.51.100.50", "198.51.100.59"),
        ("2001:db8:1::100", "2001:db8:1::1ff"),
        ("2001:db8:1:0:1::", "2001:db8:1:0:1:ffff:ffff:ffff"),
        ("2001:db8:1:0:2::", "2001:db8:1:0:2:ffff:ffff:ffff"),
    }
    assert entries(picture) == {
        "192.0.2.20": ({"mac:00:16:3e:00:00:01"}, "web1"),
        "192.0.2.21": ({"mac:00:16:3e:00:00:02"}, "web2"),
        "198.51.100.21": ({"mac:00:16:3e:00:00:02"}, "web2"),
        "192.0.2.22": ({f"client-id:{b'fred'.hex(':')}"}, "by-id"),
        "192.0.2.23": ({"client-id:01:00:16:3e:00:00:05"}, "by-octets"),
        "192.0.2.24": ({"mac:00:16:3e:00:00:07"}, "included"),
        "2001:db8:1::10": ({"duid:00:01:00:01:16:d2:83:fc:92:d4:19:e2:d8:b2"}, "by-duid"),
        "192.0.2.41": ({"mac:00:16:3e:00:00:21"}, "by-omshell"),
        "192.0.2.45": ({"client-id:01:00:16:3e:00:00:24"}, "moved"),
    }
    sources = {entry.address: entry.source for entry in picture.entries}
    assert sources["192.0.2.41"] == f"{site}/dhcpd.leases:16"


def test_a_configuration_that_cannot_be_read_is_not_an_empty_one(site: Path) -> None:
    (site / "more.conf").unlink()
    with pytest.raises(Unreadable, match=r"more\.conf"):
        read(site)
    (site / "dhcpd.conf").write_text("subnet 192.0.2.0 netmask 255.255.255.0 { range 192.0.2.5;")
    with pytest.raises(Unreadable, match=r"dhcpd\.conf:1: the file ends within a statement"):
        read(site)
    for name in ("dhcpd.conf", "dhcpd6.conf"):
        (site / name).unlink()
    with pytest.raises(Unreadable, match="set configuration_file"):
        read(site)


def test_names_instead_of_addresses_are_told(site: Path) -> None:
    (site / "dhcpd.conf").write_text("host a { hardware ethernet 00:16:3e:00:00:01; fixed-address web.example.org; }\n")
    assert "the name web.example.org" in read(site).remarks[0]


def test_files_that_include_each_other_end(site: Path) -> None:
    (site / "dhcpd.conf").write_text(f'include "{site}/dhcpd.conf"; range 192.0.2.5 192.0.2.4;\n')
    assert ("192.0.2.4", "192.0.2.5") in pools(read(site))


def test_statements() -> None:
    assert parse('a b; c "d;e" { f; { } }\n# x {\ng;', "f") == (
        Statement(("a", "b"), None, "f:1"),
        Statement(("c", '"d;e"'), (Statement(("f",), None, "f:1"), Statement((), (), "f:1")), "f:1"),
        Statement(("g",), None, "f:3"),
    )


@pytest.mark.parametrize("text", ["a", "a {", "}", "a { b }", '"a', "{" * 200])
def test_what_does_not_end_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text, "f")


def test_strings() -> None:
    assert unquoted(r'"\001a\x41\"\n"') == b'\x01aA"\n'
    assert octets("1:aB") == b"\x01\xab"
    assert octets('"1:aB"') == b"1:aB"


words = st.from_regex(r'[a-zA-Z0-9.:/_-]{1,12}|"[a-z{};# ]{0,8}"', fullmatch=True)
trees = st.recursive(
    st.tuples(st.lists(words, min_size=1, max_size=4), st.none()),
    lambda below: st.tuples(st.lists(words, max_size=3), st.lists(below, max_size=3)),
    max_leaves=10,
)


def rendered(tree: Any) -> str:
    head, block = tree
    words = " ".join(head)
    return f"{words};\n" if block is None else f"{words} {{ # }}\n{''.join(map(rendered, block))}}}\n"


def plain(statement: Statement) -> Any:
    return list(statement.words), None if statement.block is None else [plain(inner) for inner in statement.block]


@settings(deadline=None)
@given(st.lists(trees, max_size=4))
def test_what_is_written_is_what_is_read(forest: list[Any]) -> None:
    assert [plain(statement) for statement in parse("".join(map(rendered, forest)), "f")] == forest


@settings(deadline=None)
@given(st.text(st.sampled_from('{};",=# \nrange6hostfixed-a:1.\\'), max_size=80) | values.text)
def test_nothing_written_there_is_a_bug_here(text: str) -> None:
    findings = Findings(lambda name: ())
    try:
        statements = parse(text, "f")
    except Malformed:
        return
    findings.take(statements)


@settings(deadline=None)
@given(st.text(st.sampled_from('{};"= \nrange6hostfixed-a:1.\\'), max_size=60))
@example("{")
@example("{}")
@example("}")
@example("}{")
@example("{;}")
def test_no_lease_is_a_bug_here(text: str) -> None:
    try:
        Findings(lambda name: ()).take_leases(f"host a {{\n{text}\n}}\n", "f")
    except Malformed:
        return


@settings(deadline=None)
@given(st.lists(st.tuples(values.macs, values.v4_addresses), max_size=5, unique_by=lambda pair: pair[1]))
def test_every_host_is_found_wherever_it_stands(hosts: list[tuple[object, str]]) -> None:
    text = "".join(
        f"group {{ subnet 0.0.0.0 netmask 0.0.0.0 {{ host h{number} {{ hardware ethernet {str(mac)[4:]}; "
        f"fixed-address {address}; }} }} }}\n"
        for number, (mac, address) in enumerate(hosts)
    )
    findings = Findings(lambda name: ())
    findings.take(parse(text, "f"))
    expected = {address: ({str(mac)}, f"h{number}") for number, (mac, address) in enumerate(hosts)}
    assert entries(findings.picture) == expected
