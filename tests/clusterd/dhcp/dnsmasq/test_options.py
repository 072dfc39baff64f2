"""dnsmasq's command line and configuration files as options."""

from pathlib import Path

import pytest

from clusterd.dhcp.dnsmasq.options import (
    Option,
    expanded,
    expanded_command_line,
    options_of_arguments,
    wanted_in_directory,
    without_comment,
)


def test_command_lines() -> None:
    words = ["-x", "/run/dnsmasq.pid", "-u", "dnsmasq", "-7", "/etc/dnsmasq.d,.dpkg-dist", "-C/etc/d.conf", "--local"]
    words += ["--dhcp-range", "192.0.2.5,192.0.2.9", "-F", "198.51.100.1", "-G00:16:3e:00:00:01,192.0.2.7", "-Z"]
    assert [(option.name, option.value) for option in options_of_arguments(words, "")][:-1] == [
        ("conf-dir", "/etc/dnsmasq.d,.dpkg-dist"),
        ("conf-file", "/etc/d.conf"),
        ("local", ""),
        ("dhcp-range", "192.0.2.5,192.0.2.9"),
        ("dhcp-range", "198.51.100.1"),
        ("dhcp-host", "00:16:3e:00:00:01,192.0.2.7"),
    ]


def test_files_of_a_directory() -> None:
    names = ["a.conf", "b", "c.bak", ".d", "e~", "#f#", "g.conf.bak"]
    assert wanted_in_directory(names, [".bak"]) == ["a.conf", "b"]
    assert wanted_in_directory(names, ["*.conf"]) == ["a.conf"]
    assert wanted_in_directory(names, []) == ["a.conf", "b", "c.bak", "g.conf.bak"]


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("dhcp-host=a#b # c", "dhcp-host=a#b"),
        ('dhcp-host="a # b"', "dhcp-host=a # b"),
        (r'"a\"b" # c', 'a"b'),
        ("   # all of it", ""),
    ],
)
def test_comments_and_quotes(line: str, plain: str) -> None:
    assert without_comment(line) == plain


def values(options: tuple[Option, ...], name: str = "dhcp-host") -> list[str]:
    return [option.value for option in options if option.name == name]


def test_files_are_read_where_they_are_named_and_once(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.conf").write_text("dhcp-host=two\nconf-file=main\n")
    (tmp_path / "d" / "b.bak").write_text("dhcp-host=never\n")
    (tmp_path / "main").write_text("dhcp-host=one\nconf-dir=d,*.conf\ndhcp-host=three\nconf-file=main\n")
    found = expanded_command_line(["--conf-file=main", "-G", "four"], "the command line", tmp_path)
    assert (values(found.options), found.unread) == (["one", "two", "three", "four"], ())
    assert {option.source for option in found.options if option.value == "two"} == {f"{tmp_path}/d/a.conf:1"}


def test_what_cannot_be_read_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    (tmp_path / "main").write_text(
        "conf-file=gone\nconf-dir=nowhere\nconf-script=/bin/x\ndhcp-host=one\nconf-file=a\0b\n"
    )
    found = expanded([Option("conf-file", "main", "")], tmp_path)
    assert values(found.options) == ["one"]
    assert values(found.options, "conf-script") == ["/bin/x"]
    gone, nowhere, nul = found.unread
    assert gone.startswith(f"{tmp_path}/gone cannot be read: No such file")
    assert nowhere == f"{tmp_path}/nowhere cannot be listed: No such file or directory"
    assert "null" in nul


def test_a_chain_of_files_has_an_end(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / str(number)).write_text(f"conf-file={number + 1}\n")
    [sentence] = expanded([Option("conf-file", "0", "")], tmp_path).unread
    assert "is one file too many" in sentence
