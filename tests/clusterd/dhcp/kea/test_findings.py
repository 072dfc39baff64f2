"""Kea's configuration, read: as it is in use, and anything at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.dhcp.first_contact import ServerPicture, Unreadable
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.kea.contact import KeaReader
from clusterd.dhcp.kea.findings import Findings, parse
from clusterd.dhcp.kea.reservations import OWNER, is_ours
from tests.clusterd import strategies as values
from tests.clusterd.dhcp.checkers import check
from tests.clusterd.dhcp.samples import entries, pools, put
from tests.finished import result_of


@pytest.fixture
def site(tmp_path: Path) -> Path:
    put("kea-dhcp4.conf", tmp_path)
    put("kea-dhcp6.conf", tmp_path)
    put("kea-reservations.json", tmp_path, "reservations.json")
    return tmp_path


def read(site: Path) -> ServerPicture:
    return result_of(KeaReader([site / "kea-dhcp4.conf", site / "kea-dhcp6.conf"], is_ours, run_at_once).read())


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


def test_a_configuration_that_cannot_be_read_is_not_an_empty_one(site: Path) -> None:
    (site / "reservations.json").unlink()
    with pytest.raises(Unreadable, match=r"reservations\.json"):
        read(site)
    (site / "kea-dhcp4.conf").write_text('{ "Dhcp4": ')
    with pytest.raises(Unreadable, match=r"kea-dhcp4\.conf"):
        read(site)
    (site / "kea-dhcp4.conf").write_text(f'<?include "{site}/kea-dhcp4.conf"?>')
    with pytest.raises(Unreadable, match="includes"):
        read(site)


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
