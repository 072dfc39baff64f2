"""What dnsmasq was told, read from its command line and its files."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.dhcp.dnsmasq.options import Option
from clusterd.dhcp.dnsmasq.own_settings import (
    Configuration,
    range_network,
    read_configuration,
    settings_obstacles,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.0,static,255.255.255.0,10m", (4, "192.0.2.0/24")),
        ("set:lan,192.0.2.50,192.0.2.150,255.255.255.128,192.0.2.127,12h", (4, "192.0.2.0/25")),
        ("192.0.2.50,192.0.2.150,12h", (4, None)),
        ("interface:eth0,10.0.0.0,static", (4, None)),
        ("192.0.2.0,static,255.0.255.0", (4, None)),
        ("2001:db8::,static,64,10m", (6, "2001:db8::/64")),
        ("2001:db8::2, 2001:db8::500, slaac, 80", (6, "2001:db8::/80")),
        ("2001:db8::,ra-only", (6, "2001:db8::/64")),
        ("::,constructor:eth0,static", (6, None)),
        ("lan", (None, None)),
    ],
)
def test_the_network_of_a_range(value: str, expected: tuple[int | None, str | None]) -> None:
    family, network = range_network(value)
    assert (family, None if network is None else str(network)) == expected


def test_the_command_line_the_file_and_what_they_include(tmp_path: Path) -> None:
    included = tmp_path / "dnsmasq.d"
    included.mkdir()
    (included / "one.conf").write_text("dhcp-host=00:16:3e:00:00:01,192.0.2.5 # printer\ndhcp-lease-max=2000\n")
    (included / "one.conf.dpkg-dist").write_text("dhcp-lease-max=1\n")
    (included / ".hidden").write_text("dhcp-lease-max=2\n")
    (included / "old~").write_text("dhcp-lease-max=3\n")
    main = tmp_path / "dnsmasq.conf"
    main.write_text(f'# dhcp-lease-max=4\n\ndhcp-hostsfile = "{tmp_path}/maps"\nconf-file={tmp_path}/more\nno-ping\n')
    (tmp_path / "more").write_text("dhcp-host=id:ff:01,192.0.2.6\ndhcp-host=00:16:3e:*:*:*,ignore\n")
    words = f"dnsmasq -kx /run/pid -C {main} -7{included},.dpkg-dist -l /leases --user=dnsmasq -u C"
    configuration = read_configuration([*words.split(), "--dhcp-range", "192.0.2.0,static,255.255.255.0"])
    assert configuration.unread == ()
    assert configuration.lease_max == 2000 and configuration.lease_file == Path("/leases")
    assert configuration.reads("dhcp-hostsfile", tmp_path / "maps")
    assert not configuration.reads("dhcp-hostsdir", tmp_path / "maps")
    assert configuration.networks(4) == [ip_network("192.0.2.0/24")] and configuration.networks(6) == []
    assert {address: setting.source for address, setting in configuration.static_addresses.items()} == {
        "192.0.2.5": f"{included}/one.conf:1",
        "192.0.2.6": f"{tmp_path}/more:1",
    }


def test_files_that_cannot_be_read_and_files_that_include_themselves_are_said(tmp_path: Path) -> None:
    main = tmp_path / "main"
    main.write_text(f"conf-file={tmp_path}/absent\nconf-dir={tmp_path}/nowhere\n")
    absent, nowhere = read_configuration(["dnsmasq", f"--conf-file={main}"]).unread
    assert f"{tmp_path}/absent" in absent and "o such file" in absent
    assert f"{tmp_path}/nowhere" in nowhere and "o such file" in nowhere
    main.write_text(f"conf-file={main}\nconf-file={main}\ndhcp-lease-max=7\n")
    endless = read_configuration(["dnsmasq", f"--conf-file={main}"])
    assert endless.lease_max == 7 and endless.unread == ()  # dnsmasq reads a file once, too


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8), st.text(max_size=200))
def test_no_command_line_and_no_content_raises(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.conf"
    file.write_text(text, errors="replace")
    found = read_configuration(["dnsmasq", f"--conf-file={file}", *(word for word in words if word[:1] != "-")])
    assert found.lease_max >= 0
    assert all(settings_obstacles(found, file, ["192.0.2.1", "2001:db8::1"]))


def configured(*settings: str) -> Configuration:
    pairs = (setting.partition("=") for setting in settings)
    return Configuration(tuple(Option(name, value, "dnsmasq.conf") for name, _, value in pairs))


def test_each_obstacle_says_what_to_change() -> None:
    hosts_file = Path("/srv/maps")
    addresses = [f"192.0.2.{number}" for number in range(1, 101)] * 10 + ["2001:db8::5"]
    assert settings_obstacles(configured("dhcp-range=198.51.100.0,static,255.255.255.0"), hosts_file, addresses) == [
        "dnsmasq does not read /srv/maps: add dhcp-hostsfile=/srv/maps and restart it.",
        "dnsmasq stops giving out addresses at 1000 leases (the default), and there are 1001 host maps: set "
        "dhcp-lease-max=1201 or more and restart it.",
        "dnsmasq serves no network with 192.0.2.1 (1000 such host maps): add a dhcp-range for its subnet, for instance "
        "dhcp-range=192.0.2.0,static,255.255.255.0, and restart it.",
        "dnsmasq serves no network with 2001:db8::5 (1 such host maps): add a dhcp-range for its subnet, for instance "
        "dhcp-range=2001:db8::,static, and restart it.",
    ]
    right = configured(
        "dhcp-hostsfile=/srv/maps",
        "dhcp-lease-max=1500",
        "dhcp-range=192.0.2.9,192.0.2.99",
        "dhcp-range=::,constructor:e",
    )
    assert settings_obstacles(right, hosts_file, addresses) == []


def test_where_only_host_maps_give_leases() -> None:
    mixed = configured(
        "dhcp-range=192.0.2.0,static,255.255.255.0", "dhcp-range=198.51.100.9,198.51.100.99,255.255.255.0"
    )
    assert (
        mixed.only_static("192.0.2.7") and not mixed.only_static("198.51.100.7") and not mixed.only_static("10.0.0.1")
    )
    assert not configured("dhcp-range=192.0.2.0,static").only_static("192.0.2.7")
    both = configured("dhcp-range=192.0.2.0,static,255.255.255.0", "dhcp-range=192.0.2.9,192.0.2.99,255.255.255.0")
    assert not both.only_static("192.0.2.7")
