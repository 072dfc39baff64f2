"""dnsmasq's own configuration, read: from files as they are in use, from command lines, from anything at all."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.dhcp.dnsmasq.contact import DnsmasqReader
from clusterd.dhcp.dnsmasq.findings import Findings
from clusterd.dhcp.dnsmasq.options import Option, options_of_file
from clusterd.dhcp.first_contact import Unreadable
from clusterd.dhcp.host_lines import HEADER
from clusterd.dhcp.host_system import run_at_once
from clusterd.protocol.values import Identifier, IdentifierKind, InterfaceReport
from tests.clusterd import strategies as values
from tests.clusterd.dhcp.checkers import check
from tests.clusterd.dhcp.samples import entries, pools, put
from tests.finished import result_of

INTERFACES = (
    InterfaceReport("eth1", "192.0.2.0/24", ("192.0.2.2",)),
    InterfaceReport("eth1", "2001:db8:9::/64", ("2001:db8:9::2",)),
)


async def look() -> tuple[InterfaceReport, ...]:
    return INTERFACES


def reader(config_file: Path | None, pid_file: Path = Path("/nowhere/pid"), ours: Sequence[Path] = ()) -> DnsmasqReader:
    return DnsmasqReader(pid_file, config_file, ours, look, run_at_once)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-more").write_text("dhcp-range=192.0.2.200,192.0.2.201\n")
    (tmp_path / "conf.d" / "10-more.bak").write_text("dhcp-range=192.0.2.1,192.0.2.254\n")
    (tmp_path / "conf.d" / ".hidden").write_text("dhcp-range=192.0.2.1,192.0.2.254\n")
    (tmp_path / "hosts").write_text("# theirs\n00:16:3e:00:00:0c,192.0.2.28\n")
    return put("dnsmasq.conf", tmp_path)


def test_a_configuration_in_use(sample: Path) -> None:
    check("dnsmasq", sample)
    picture = result_of(reader(sample).read())
    assert picture.remarks == ()
    assert pools(picture) == {
        ("192.0.2.100", "192.0.2.150"),
        ("198.51.100.50", "198.51.100.59"),
        ("203.0.113.7", "203.0.113.9"),
        ("2001:db8:1::100", "2001:db8:1::1ff"),
        ("2001:db8:9::2", "2001:db8:9::5"),
        ("2001:db8:1::40", "2001:db8:1::47"),
        ("192.0.2.200", "192.0.2.201"),
    }
    laptop = {"duid:00:01:00:01:16:d2:83:fc:92:d4:19:e2:d8:b2"}
    assert entries(picture) == {
        "192.0.2.20": ({"mac:00:16:3e:00:00:01"}, None),
        "192.0.2.21": ({"mac:00:16:3e:00:00:02", "mac:00:16:3e:00:00:03"}, "docked"),
        "192.0.2.22": ({"mac:00:16:3e:00:00:04"}, None),
        "192.0.2.23": ({"client-id:01:00:16:3e:00:00:05"}, None),
        "192.0.2.24": ({f"client-id:{b'fred'.hex(':')}"}, None),
        "192.0.2.25": (set(), "judge"),
        "192.0.2.26": ({"mac:00:16:3e:00:00:06"}, "by-serial"),
        "192.0.2.27": ({"mac:00:16:3e:00:00:09"}, "both"),
        "192.0.2.28": ({"mac:00:16:3e:00:00:0c"}, None),
        "2001:db8:1::10": (laptop, "laptop"),
        "2001:db8:1::11": ({"mac:00:16:3e:00:00:09"}, "both"),
        "2001:db8:9::56": ({"mac:00:16:3e:00:00:0a"}, None),
    }
    sources = {entry.address: entry.source for entry in picture.entries}
    assert sources["192.0.2.28"] == f"{sample.parent}/hosts:2"
    assert sources["192.0.2.20"].startswith(f"{sample}:")


def test_a_hosts_file_of_ours_is_not_foreign(sample: Path) -> None:
    (sample.parent / "hosts").write_text(f"{HEADER}00:16:3e:00:00:0c,192.0.2.28\n")
    assert "192.0.2.28" not in entries(result_of(reader(sample).read()))
    (sample.parent / "hosts").write_text("00:16:3e:00:00:0c,192.0.2.28\n")
    assert "192.0.2.28" in entries(result_of(reader(sample).read()))
    assert "192.0.2.28" not in entries(result_of(reader(sample, ours=[sample.parent / "hosts"]).read()))


def test_what_is_read_is_what_the_process_was_given(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(str(os.getpid()))
    with pytest.raises(Unreadable, match="is no dnsmasq"):
        result_of(reader(None, tmp_path / "pid").read())
    with pytest.raises(Unreadable, match="start dnsmasq, or set configuration_file"):
        result_of(reader(None, tmp_path / "no-pid").read())


def test_a_file_that_cannot_be_read_is_not_an_empty_one(sample: Path) -> None:
    sample.write_text("conf-file=/nowhere/more.conf\n")
    with pytest.raises(Unreadable, match=r"/nowhere/more\.conf"):
        result_of(reader(sample).read())
    sample.write_text("conf-dir=/nowhere/conf.d\n")
    with pytest.raises(Unreadable, match=r"/nowhere/conf\.d"):
        result_of(reader(sample).read())
    sample.write_text("conf-script=/usr/local/bin/ranges\n")
    with pytest.raises(Unreadable, match="conf-script"):
        result_of(reader(sample).read())


def test_files_that_include_each_other_end(sample: Path) -> None:
    sample.write_text(f"conf-file={sample}\ndhcp-range=192.0.2.5\n")
    assert pools(result_of(reader(sample).read())) == {("192.0.2.5", "192.0.2.5")}


def test_what_is_not_understood_is_told_and_the_rest_is_kept() -> None:
    findings = Findings()
    for value in ("192.0.2.9,192.0.2.1", "", "no,address", "192.0.2.1,192.0.2.3"):
        findings.option(Option("dhcp-range", value, "here:1"))
    assert pools(findings.picture) == {("192.0.2.1", "192.0.2.3")}
    assert len(findings.picture.remarks) == 3
    assert all(remark.startswith("here:1: dhcp-range=") for remark in findings.picture.remarks)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["dhcp-range", "dhcp-host", "read-ethers"]), values.text), max_size=5))
def test_nothing_written_there_is_a_bug_here(lines: list[tuple[str, str]]) -> None:
    findings = Findings(INTERFACES)
    for option in options_of_file("\n".join(f"{name}={value}" for name, value in lines), "file"):
        findings.option(option)
    for _, value in lines:
        findings.host_lines(value, "hosts")
        findings.ethers(value, "ethers")


@settings(deadline=None)
@given(
    st.lists(values.v4_addresses, min_size=2, max_size=2).map(sorted),
    st.lists(st.sampled_from(["tag:a", "set:b", "net:c", "old-tag"]), max_size=2),
    st.sampled_from(["", ",255.255.255.0", ",255.255.255.0,192.0.2.255", ",12h", ",255.255.255.0,infinite"]),
)
def test_every_form_of_a_range(ends: list[str], tags: list[str], rest: str) -> None:
    low, high = sorted(ends, key=lambda end: tuple(map(int, end.split("."))))
    findings = Findings()
    findings.option(Option("dhcp-range", ",".join([*tags, low, high]) + rest, ""))
    assert pools(findings.picture) == {(low, high)}


@settings(deadline=None)
@given(st.lists(values.macs, min_size=1, max_size=3, unique=True), values.v4_addresses, st.booleans())
def test_every_order_of_a_host(macs: list[Identifier], address: str, address_first: bool) -> None:
    words = [mac.text.upper() for mac in macs] + ["set:x", "web-1", "1h"]
    words.insert(0 if address_first else len(macs), address)
    findings = Findings()
    findings.option(Option("dhcp-host", ",".join(words), ""))
    (entry,) = findings.picture.entries
    assert (entry.address, entry.hostname, set(entry.identifiers)) == (address, "web-1", set(macs))
    assert all(identifier.kind is IdentifierKind.MAC for identifier in entry.identifiers)
