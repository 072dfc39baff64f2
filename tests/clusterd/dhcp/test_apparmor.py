"""What AppArmor's profiles say of our files, read from profiles as distributions have them."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.dhcp.apparmor import parse_profile, why_confined
from tests.clusterd.dhcp.samples import SAMPLES

DHCPD, KEA, DNSMASQ = "/usr/sbin/dhcpd", "/usr/sbin/kea-dhcp4", "/usr/sbin/dnsmasq"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host on which AppArmor is in force."""
    shutil.copytree(SAMPLES / "apparmor", tmp_path / "etc/apparmor.d")
    parameters = tmp_path / "sys/module/apparmor/parameters"
    parameters.mkdir(parents=True)
    (parameters / "enabled").write_text("Y\n")
    (tmp_path / "sys/kernel/security/apparmor").mkdir(parents=True)
    shutil.copy(SAMPLES / "apparmor-loaded", tmp_path / "sys/kernel/security/apparmor/profiles")
    return tmp_path


def test_the_missing_line_and_where_to_add_it(root: Path) -> None:
    assert why_confined(DHCPD, Path("/srv/hostmap/maps6.conf"), root) == (
        "AppArmor is the likely cause: its profile /usr/sbin/dhcpd has no rule with which /usr/sbin/dhcpd may read "
        "/srv/hostmap/maps6.conf. Add the line `/srv/hostmap/maps6.conf r,` to /etc/apparmor.d/local/usr.sbin.dhcpd "
        "and load it with apparmor_parser -r /etc/apparmor.d/usr.sbin.dhcpd."
    )
    # Debian's profile of Kea has no place for a site's own lines.
    assert why_confined(KEA, Path("/srv/host maps.json"), root) == (
        "AppArmor is the likely cause: its profile kea-dhcp4 has no rule with which /usr/sbin/kea-dhcp4 may read "
        '/srv/host maps.json. Add the line `"/srv/host maps.json" r,` to /etc/apparmor.d/usr.sbin.kea-dhcp4 '
        "and load it with apparmor_parser -r /etc/apparmor.d/usr.sbin.kea-dhcp4."
    )
    assert "local/usr.sbin.dnsmasq and load" in (why_confined(DNSMASQ, Path("/srv/maps"), root) or "")


@pytest.mark.parametrize(
    ("program", "path"),
    [
        (DHCPD, "/etc/dhcp/hostmap6/host-maps.conf"),
        (DHCPD, "/etc/dhcpd6.conf"),
        (DHCPD, "/var/lib/dhcp/dhcpd.leases~"),
        (DHCPD, "/var/lib/site/a/b"),  # of an included directory
        (DHCPD, "/usr/lib/x86_64-linux-gnu/libc.so.6"),  # of an abstraction
        (KEA, "/etc/kea/hostmap/dhcp4.json"),
        (DNSMASQ, "/etc/dnsmasq.d/maps"),
        (DNSMASQ, "/etc/dnsmasq.d/hosts/maps"),
        (DNSMASQ, "/etc/ethers"),
        ("/usr/sbin/unconfined", "/srv/anything"),
    ],
)
def test_what_a_profile_allows(root: Path, program: str, path: str) -> None:
    assert why_confined(program, Path(path), root) is None


@pytest.mark.parametrize(
    ("program", "path"),
    [
        (DHCPD, "/etc/dhcp/private/maps"),  # denied, although allowed
        (DHCPD, "/etc/dhcp6/maps"),
        (DHCPD, "/usr/lib/a/b/libc.so"),  # a star stops at a slash
        (KEA, "/srv/maps"),  # only a profile within it may
        (KEA, "/run/kea/kea4-ctrl-socket"),  # to write is not to read
        (DNSMASQ, "/var/lib/misc/other file"),
    ],
)
def test_what_a_profile_does_not_allow(root: Path, program: str, path: str) -> None:
    assert why_confined(program, Path(path), root) is not None


def test_a_line_that_was_added_helps(root: Path) -> None:
    local = root / "etc/apparmor.d/local/usr.sbin.dhcpd"
    local.write_text("/srv/hostmap/maps6.conf r,\n")
    assert why_confined(DHCPD, Path("/srv/hostmap/maps6.conf"), root) is None
    local.write_text("file,\n")
    assert why_confined(DHCPD, Path("/srv/hostmap/another"), root) is None


def test_where_apparmor_is_not_in_force_nothing_is_said(root: Path) -> None:
    path = Path("/srv/maps")
    loaded = root / "sys/kernel/security/apparmor/profiles"
    loaded.write_text(loaded.read_text().replace("kea-dhcp4 (enforce)", "kea-dhcp4 (complain)"))
    assert why_confined(KEA, path, root) is None
    loaded.write_text("")  # not loaded at all
    assert why_confined(DHCPD, path, root) is None
    loaded.unlink()  # nobody but root can ask the kernel: what is written counts
    assert why_confined(DHCPD, path, root) is not None
    disabled = root / "etc/apparmor.d/disable"
    disabled.mkdir()
    (disabled / "usr.sbin.dhcpd").symlink_to("../usr.sbin.dhcpd")
    assert why_confined(DHCPD, path, root) is None
    assert why_confined(DNSMASQ, path, root) is not None
    (root / "sys/module/apparmor/parameters/enabled").write_text("N\n")
    assert why_confined(DNSMASQ, path, root) is None
    assert why_confined(DNSMASQ, path, root / "nowhere") is None


def test_a_profile_that_only_complains() -> None:
    text = "profile dnsmasq /usr/sbin/dnsmasq flags=(complain) {\n}\n"
    profile = parse_profile(text, Path("p"), DNSMASQ)
    assert profile is not None and not profile.enforced


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/a[0-9]?", "/a1x", "/ab/"),
        ("/a[^0-9-]", "/ab", "/a-"),
        ("/{a,b{c,d}}/*", "/bd/x", "/bd/x/y"),
        ("/a\\*", "/a*", "/ab"),
        ("@{run}/x", "/var/run/x", "/srv/run/x"),
        ("@{HOME}/.x", "/home/me/.x", "/srv/.x"),
        ("/a[[&&--]b", "/a&b", "/ab"),
    ],
)
def test_patterns(pattern: str, yes: str, no: str) -> None:
    profile = parse_profile(f"{DHCPD} {{\n  {pattern} r,\n}}", Path("p"), DHCPD)
    assert profile is not None
    assert (profile.allows(yes), profile.allows(no)) == (True, False)


@given(st.lists(st.text(st.sampled_from('/@{}*?[]a,r# \\"-<>du'), max_size=15), max_size=8))
def test_nothing_written_there_is_a_bug_here(lines: list[str]) -> None:
    text = "\n".join(["/usr/sbin/dhcpd {", *lines, "}"])
    profile = parse_profile(text, Path("p"), DHCPD)
    if profile is not None:
        profile.allows("/etc/dhcp/maps")
