"""`regionctl import` and `regionctl export`: what they send, what they print, exit codes."""

import json
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from regiond.ctl.server_files import ServerFormat, convert, format_of
from regiond.domain.importing import ImportState
from regiond.domain.lines import LineFormat
from regiond.storage.errors import DatabaseUnavailable
from tests.fakes.use_cases import IMPORT_VIEW
from tests.regiond.ctl.test_regionctl import check_one_line, over_tcp, run
from tests.regiond.http.serving import serving

DHCPD = """\
subnet 192.0.2.0 netmask 255.255.255.0 {
  range 192.0.2.100 192.0.2.150;
  host web1 { hardware ethernet 00:16:3e:00:00:01; fixed-address 192.0.2.7; }
  host by-name { hardware ethernet 00:16:3e:00:00:02; fixed-address web2.example.org; }
  host no-client { fixed-address 192.0.2.9; }
}
include "more.conf";
"""
MORE = (
    "host six { host-identifier option dhcp6.client-id 00:03:00:01:00:16:3e:00:00:03; fixed-address6 2001:db8::7; }\n"
)
DNSMASQ = "dhcp-range=192.0.2.0,static\ndhcp-host=00:16:3e:00:00:01,192.0.2.7,web1\ndhcp-hostsfile=more.hosts\n"
HOSTS = "# a hosts file\n00:16:3e:00:00:02,192.0.2.8\nid:01:02:03,192.0.2.9,alias\n"
KEA = """\
{ "Dhcp4": { // of rack 7
    "subnet4": [ { "id": 1, "subnet": "192.0.2.0/24", "reservations": <?include "more.json"?> } ] } }
"""
KEA_MORE = '[ { "hw-address": "00:16:3e:00:00:01", "ip-address": "192.0.2.7", "hostname": "web1" } ]'

DONE = replace(IMPORT_VIEW, state=ImportState.DONE, created=2, mistakes=(), mistake_count=0)


def written(directory: Path, **files: str) -> Path:
    """Files by name, with `_` for a dot; the first one."""
    paths = [directory / name.replace("_", ".") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return paths[0]


@pytest_twisted.ensureDeferred
async def test_a_spreadsheet_is_sent_as_it_is(tmp_path: Path) -> None:
    async with serving() as server:
        server.region.imports.answers["create"] = DONE
        file = written(tmp_path, hosts_csv="address,Rack\n192.0.2.7,U1\n192.0.2.8,U2\n")
        said = await run("import", str(file), "--ignore", "Rack", env=over_tcp(server))
        assert said.exit_code == 0
        assert said.stdout == "2 would be reserved, 0 there already; nothing was changed: add --apply to do it\n"
        [(_, asked)] = server.region.imports.calls
        assert (asked["form"], asked["content"]) == (LineFormat.CSV, file.read_bytes())
        assert (asked["dry_run"], asked["ignored"]) == (True, ["Rack"])
        server.region.imports.answers["create"] = replace(DONE, dry_run=False, present=1, skipped=1)
        done = await run("import", str(file), "--apply", env=over_tcp(server))
        assert done.stdout == "2 reserved, 1 there already, 1 passed over (were being released)\n"
        assert server.region.imports.calls[-1][1]["dry_run"] is False


@pytest_twisted.ensureDeferred
async def test_bad_lines_are_listed_and_the_exit_code_says_so(tmp_path: Path) -> None:
    async with serving() as server:
        file = written(tmp_path, hosts_csv="address\n192.0.2.7\n192.0.2.8\n")
        said = await run("import", str(file), "--apply", env=over_tcp(server))
        assert said.exit_code == 1
        assert said.stdout.splitlines()[1].split("  ")[0] == f"{file}:3"
        assert said.stdout.splitlines()[-1] == (
            "1 would be reserved, 0 there already, 1 cannot be done; nothing was changed"
        )
        told = await run("import", str(file), "--json", env=over_tcp(server))
        assert json.loads(told.stdout)["mistakes"][0]["line"] == 3 and told.exit_code == 1


@pytest_twisted.ensureDeferred
async def test_a_long_import_is_asked_about_until_it_is_over(tmp_path: Path) -> None:
    async with serving() as server:
        going = replace(IMPORT_VIEW, state=ImportState.APPLYING, applied=1, mistakes=(), mistake_count=0, finished=None)
        server.region.imports.answers.update(create=going, read=DONE)
        file = written(tmp_path, hosts_csv="address\n192.0.2.7\n192.0.2.8\n")
        said = await run("import", str(file), env=over_tcp(server))
        assert said.stderr == "applying: 2 lines checked, 1 written\n" and said.exit_code == 0
        assert [name for name, _ in server.region.imports.calls] == ["create", "read"]


@pytest_twisted.ensureDeferred
async def test_a_dhcpd_conf_is_sent_as_lines_and_mistakes_point_into_it(tmp_path: Path) -> None:
    async with serving() as server:
        file = written(tmp_path, dhcpd_conf=DHCPD, more_conf=MORE)
        said = await run("import", str(file), "--vrf", "blue", env=over_tcp(server))
        [(_, asked)] = server.region.imports.calls
        assert asked["form"] is LineFormat.JSONL
        assert [json.loads(line) for line in asked["content"].splitlines()] == [
            {
                "address": "192.0.2.7",
                "vrf": "blue",
                "kind": "device",
                "macs": ["00:16:3e:00:00:01"],
                "hostname": "web1",
            },
            {"address": "192.0.2.9", "vrf": "blue", "kind": "user", "hostname": "no-client"},
            {
                "address": "2001:db8::7",
                "vrf": "blue",
                "kind": "device",
                "duid": "00:03:00:01:00:16:3e:00:00:03",
                "hostname": "six",
            },
        ]
        assert said.stdout.splitlines()[1].split("  ")[0] == f"{tmp_path}/more.conf:1"
        assert "by-name has the address of the name web2.example.org" in said.stderr


@pytest_twisted.ensureDeferred
async def test_what_is_not_understood_in_a_server_s_file_keeps_all_of_it_from_being_done(tmp_path: Path) -> None:
    """Its address would not be reserved, and so be given to somebody else."""
    async with serving() as server:
        server.region.imports.answers["create"] = DONE
        file = written(tmp_path, dhcpd_conf=DHCPD, more_conf=MORE)
        for arguments in ((), ("--apply",)):
            said = await run("import", str(file), *arguments, env=over_tcp(server))
            assert said.exit_code == 1
            assert said.stdout == "2 would be reserved, 0 there already; nothing was changed\n"
            assert said.stderr.endswith("1 not imported, see above: mend them, or go on without by --leave-out\n")
        dry = await run("import", str(file), "--leave-out", env=over_tcp(server))
        assert dry.exit_code == 0 and dry.stdout.endswith("add --apply to do it\n")
        server.region.imports.answers["create"] = replace(DONE, dry_run=False)
        assert (await run("import", str(file), "--leave-out", "--apply", env=over_tcp(server))).exit_code == 0
        assert [asked["dry_run"] for _, asked in server.region.imports.calls] == [True, True, True, False]


def test_what_a_file_is_and_what_stands_in_it(tmp_path: Path) -> None:
    for form, files in (
        (ServerFormat.DNSMASQ, {"dnsmasq_conf": DNSMASQ, "more_hosts": HOSTS}),
        (ServerFormat.DNSMASQ, {"more_hosts": HOSTS}),
        (ServerFormat.KEA, {"kea_conf": KEA, "more_json": KEA_MORE}),
        (ServerFormat.DHCPD, {"dhcpd_conf": DHCPD, "more_conf": MORE}),
    ):
        file = written(tmp_path, **files)
        assert format_of(file.name, file.read_text()) is form
        converted = convert(form, file, file.read_text())
        assert len(converted.lines) == len(converted.sources) > 0
    hosts = convert(ServerFormat.DNSMASQ, written(tmp_path, dnsmasq_conf=DNSMASQ, more_hosts=HOSTS), DNSMASQ)
    assert {(line.address, line.client_id, line.hostname) for line in hosts.lines} == {
        ("192.0.2.7", None, "web1"),
        ("192.0.2.8", None, None),
        ("192.0.2.9", "01:02:03", "alias"),
    }
    for name, text, expected in (
        ("a.csv", "IP Address;MAC\n", LineFormat.CSV),
        ("a", '{"address": "192.0.2.7"}\n', LineFormat.JSONL),
        ("a.csv", "192.0.2.7,web1\n", LineFormat.CSV),
    ):
        assert format_of(name, text) is expected


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("name", "text", "arguments", "says"),
    [
        ("dhcpd.conf", "subnet {", ["--format", "dhcpd"], "ends within a statement"),
        ("dhcpd.conf", 'host x { }\ninclude "missing";', [], "missing"),
        ("kea.conf", '{"Dhcp4": ', [], "file of kea"),
        ("a.hosts", "# nothing\n", [], "has no fixed addresses"),
        ("a.csv", "address\n", ["--vrf", "blue"], "columns of this file"),
        ("a.csv", "address\n", ["--leave-out"], "mend or delete the lines"),
    ],
)
async def test_files_that_cannot_be_sent(tmp_path: Path, name: str, text: str, arguments: list[str], says: str) -> None:
    async with serving() as server:
        (tmp_path / name).write_text(text)
        check_one_line(await run("import", str(tmp_path / name), *arguments, env=over_tcp(server)), 2, says)
        assert server.region.imports.calls == []


@pytest_twisted.ensureDeferred
async def test_an_export_is_printed_or_becomes_a_file_of_its_own(tmp_path: Path) -> None:
    async with serving() as server:
        said = await run("export", "--kind", "user", "--kind", "device", "--format", "jsonl", env=over_tcp(server))
        assert (said.exit_code, said.stdout_bytes) == (0, b"address\r\n192.0.2.7\r\n")
        asked = server.region.exports.calls[-1][1]
        assert (asked["form"], asked["filters"]) == ("jsonl", {"kind": ["user", "device"]})
        output = tmp_path / "out.csv"
        assert (await run("export", "--output", str(output), env=over_tcp(server))).exit_code == 0
        assert output.read_bytes() == b"address\r\n192.0.2.7\r\n"
        assert stat.S_IMODE(output.stat().st_mode) == 0o600


@pytest_twisted.ensureDeferred
async def test_an_export_that_breaks_off_replaces_nothing(tmp_path: Path) -> None:
    async with serving() as server:

        async def broken(**arguments: Any) -> AsyncGenerator[bytes, None]:
            async def pieces() -> AsyncGenerator[bytes, None]:
                yield b"address\r\n"
                raise DatabaseUnavailable("the server is gone")

            return pieces()

        server.region.exports.answers["export"] = broken
        output = written(tmp_path, out_csv="before")
        check_one_line(await run("export", "--output", str(output), env=over_tcp(server)), 3, "no answer from")
        assert output.read_text() == "before" and list(tmp_path.iterdir()) == [output]
        server.region.exports.answers["export"] = DatabaseUnavailable("gone")
        check_one_line(await run("export", env=over_tcp(server)), 1, "database-unavailable")
        check_one_line(await run("export", "--output", "/nowhere/x", env=over_tcp(server)), 2, "/nowhere/x cannot be")
