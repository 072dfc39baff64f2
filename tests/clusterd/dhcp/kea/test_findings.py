"""Kea's configuration, read: as it is in use, and anything at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.dhcp.first_contact import ServerPicture
from clusterd.dhcp.kea.findings import Findings, parse
from clusterd.dhcp.kea.reservations import OWNER, is_ours
from clusterd.dhcp.kea.rows import Row
from tests.clusterd import strategies as values
from tests.clusterd.dhcp.checkers import check
from tests.clusterd.dhcp.samples import entries, pools, put


@pytest.fixture
def site(tmp_path: Path) -> Path:
    put("kea-dhcp4.conf", tmp_path)
    put("kea-dhcp6.conf", tmp_path)
    put("kea-reservations.json", tmp_path, "reservations.json")
    return tmp_path


def read(site: Path) -> ServerPicture:
    findings = Findings(is_ours)
    for path in (site / "kea-dhcp4.conf", site / "kea-dhcp6.conf"):
        findings.take(parse(path.read_text(), lambda name: Path(name).read_text()), str(path))
    return findings.picture


def test_a_site_in_use(site: Path) -> None:
    check("kea", site / "kea-dhcp4.conf")
    check("kea", site / "kea-dhcp6.conf", family=6)
    picture = read(site)
    assert picture.remarks == ()
    assert pools(picture) == {
        ("192.0.2.100", "192.0.2.109"),
        ("192.0.2.120", "192.0.2.120"),
        ("198.51.100.48", "198.51.100.63"),
        ("203.0.113.7", "203.0.113.9"),
        ("2001:db8:1::100", "2001:db8:1::1ff"),
        ("2001:db8:1:0:1::", "2001:db8:1:0:1:ffff:ffff:ffff"),
    }
    duid = {"duid:00:01:00:01:16:d2:83:fc:92:d4:19:e2:d8:b2"}
    assert entries(picture) == {
        "192.0.2.31": ({"mac:00:16:3e:00:00:31"}, "everywhere"),
        "192.0.2.32": ({"mac:00:16:3e:00:00:32"}, "web2.example.org"),
        "192.0.2.33": ({"client-id:01:00:16:3e:00:00:33"}, None),
        "192.0.2.34": (set(), None),
        "2001:db8:1::10": (duid, None),
        "2001:db8:1::11": (duid, None),
        "2001:db8:1::12": ({"mac:00:16:3e:00:00:34"}, "six"),
    }


def test_reservations_of_ours_are_not_foreign(site: Path) -> None:
    ours = [{"hw-address": "00:16:3e:00:00:40", "ip-address": "192.0.2.40", "user-context": OWNER}]
    (site / "reservations.json").write_text(json.dumps(ours))
    assert set(entries(read(site))) & {"192.0.2.32", "192.0.2.40", "192.0.2.31"} == {"192.0.2.31"}


def test_what_is_not_understood_is_told_and_the_rest_is_kept() -> None:
    findings = Findings()
    pools_ = [{"pool": "192.0.2.9 - 192.0.2.1"}, {"pool": 3}, {"pool": "192.0.2.0/33"}, {"pool": "192.0.2.4/31"}, 7]
    reservations = [{"ip-address": "x"}, {"hw-address": "zz", "ip-address": "192.0.2.1"}, None]
    findings.take({"Dhcp4": {"subnet4": [{"pools": pools_, "reservations": reservations}], "reservations": {}}}, "f")
    assert pools(findings.picture) == {("192.0.2.4", "192.0.2.5")}
    assert len(findings.picture.remarks) == 5


def test_a_subnet_of_an_unknown_shape_is_no_bug() -> None:
    for odd in (None, 3, [], [3], {"subnet4": 3}, {"shared-networks": [{"subnet4": {}}, 4]}):
        findings = Findings()
        findings.take({"Dhcp4": odd}, "f")
        assert findings.picture == ServerPicture()


def row(address: str | None, number: int, octets: bytes, hostname: str | None = None) -> Row:
    return Row(1, 1, number, octets, address, hostname, ours=False)


def test_rows_of_a_hosts_table() -> None:
    findings = Findings()
    mac, client_id, flex_id = bytes.fromhex("00163e000001"), b"\x01\x02\x03", 4
    findings.rows([row("192.0.2.1", 0, mac, "web1"), row("192.0.2.2", 3, client_id, "no name!")], "t")
    findings.rows([row("192.0.2.3", flex_id, b"x"), row("192.0.2.4", 1, mac), row("2001:db8::1", 1, mac)], "t")
    findings.rows([row(None, 0, mac), row("192.0.2.5", 0, b"short", "")], "t")
    assert entries(findings.picture) == {
        "192.0.2.1": ({"mac:00:16:3e:00:00:01"}, "web1"),
        "192.0.2.2": ({"client-id:01:02:03"}, None),
        "192.0.2.3": (set(), None),
        "192.0.2.4": (set(), None),  # a DUID in DHCPv4, which no host map has; the address is taken all the same
        "192.0.2.5": (set(), None),
        "2001:db8::1": ({"duid:00:16:3e:00:00:01"}, None),
    }


def test_what_the_server_lists_is_not_reported_twice() -> None:
    findings = Findings(is_ours)
    known = {"hw-address": "00:16:3e:00:00:01", "ip-address": "192.0.2.1"}
    findings.take({"Dhcp4": {"subnet4": [{"subnet": "192.0.2.0/24", "reservations": [known]}]}}, "f")
    listed = {"hostname": "", "client-classes": [], "subnet-id": 1, **known}
    ours = {"hw-address": "00:16:3e:00:00:03", "ip-address": "192.0.2.3", "user-context": OWNER, "subnet-id": 1}
    six = {"duid": "0001020304", "ip-addresses": ["2001:db8::1/128"], "subnet-id": 1}
    findings.reservations([listed, ours, six, {"flex-id": "0102", "subnet-id": 4294967295}], "p")
    assert {(entry.address, entry.source) for entry in findings.entries} == {
        ("192.0.2.1", "f: subnet 192.0.2.0/24"),
        ("2001:db8::1", "p"),
    }
    assert findings.remarks == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(st.sampled_from('a"\\/*#,]<?\n'), max_size=10),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text("a#/,", max_size=3), below, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), json_values, max_size=4), st.sampled_from([" ", "/* # */", "// x\n", "#\n"])
)
def test_comments_and_trailing_commas_change_nothing(content: dict[str, Any], between: str) -> None:
    text = json.dumps(content, indent=1).replace("\n", between + "\n")
    assert parse(f"{between}{text}{between}", lambda name: "") == content
    if content:
        assert parse(f"{json.dumps(content)[:-1]}, {between}\n }}", lambda name: "") == content


@settings(deadline=None)
@given(values.text | st.text(st.sampled_from('{}[],:"/*#<?include >'), max_size=60))
def test_nothing_written_there_is_a_bug_here(text: str) -> None:
    try:
        Findings().take(parse(text, lambda name: "{}"), "f")
    except (ValueError, RecursionError):
        return


@settings(deadline=None)
@given(st.lists(st.tuples(values.macs, values.v4_addresses), max_size=5, unique_by=lambda pair: pair[1]))
def test_every_reservation_is_found(hosts: list[tuple[Any, str]]) -> None:
    reservations = [{"hw-address": mac.text, "ip-address": address} for mac, address in hosts]
    findings = Findings()
    findings.take({"Dhcp4": {"subnet4": [{"subnet": "0.0.0.0/0", "reservations": reservations}]}}, "f")
    assert entries(findings.picture) == {address: ({str(mac)}, None) for mac, address in hosts}
