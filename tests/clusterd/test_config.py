"""clusterd's settings: good without a file, and every mistake said at once."""

from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from clusterd.config import ClusterSettings
from clusterd.daemon.config_file import ConfigError, load, validate
from clusterd.daemon.endpoints import TlsAddress, UnixAddress
from clusterd.dhcp.backends import make_backend
from clusterd.dhcp.dnsmasq.settings import DnsmasqSettings
from clusterd.dhcp.file.backend import FileBackend
from clusterd.dhcp.file.settings import FileSettings
from clusterd.dhcp.isc.settings import IscSettings
from clusterd.topology.interfaces import Relay


def test_an_empty_file_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Rack-7.example.net")
    (tmp_path / "clusterd.toml").write_text("")
    settings = load(tmp_path / "clusterd.toml", ClusterSettings)
    assert settings.name == "rack-7"
    assert settings.region.endpoints is None
    assert settings.dhcp == FileSettings(backend="file", hosts_file=None)
    backend = make_backend(settings.dhcp, settings.state_directory, MemoryReactorClock())
    assert isinstance(backend, FileBackend) and backend.path == Path("/var/lib/hostmap/cluster/dhcp-hosts")
    assert settings.store_path.parent.parent == settings.state_directory


def test_everything_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "clusterd.toml").write_text(
        """
        name = "Rack-7"
        state_directory = "/srv/hostmap"
        [region]
        endpoints = ["unix:/run/hostmap/region.sock", "tcp:[::1]:5250"]
        [dhcp]
        backend = "dnsmasq"
        hosts_file = "/etc/hostmap/hosts"
        pid_file = "/run/dnsmasq.pid"
        [topology]
        ignore = ["ib*"]
        watch = ["br-lan"]
        """
    )
    settings = load(tmp_path / "clusterd.toml", ClusterSettings)
    assert settings.name == "rack-7"
    assert settings.region.endpoints == (UnixAddress("/run/hostmap/region.sock"), TlsAddress("::1", 5250))
    assert settings.dhcp == DnsmasqSettings(
        backend="dnsmasq", hosts_file=Path("/etc/hostmap/hosts"), pid_file=Path("/run/dnsmasq.pid")
    )
    assert make_backend(settings.dhcp, settings.state_directory, MemoryReactorClock()).name == "dnsmasq"
    assert (settings.topology.ignore, settings.topology.watch) == (("ib*",), ("br-lan",))


def test_every_mistake_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(
            {
                "nmae": "x",
                "name": "a name",
                "state_directory": "relative",
                "region": {"endpoints": ["tcp:192.0.2.1:0"]},
                "dhcp": {"backend": "windows"},
                "topology": {"ignore": [""]},
            },
            ClusterSettings,
            "clusterd.toml",
        )
    mistakes = sorted(caught.value.mistakes)
    assert len(mistakes) == 6
    for mistake, words in zip(
        mistakes,
        [
            "[dhcp] backend: expected one of 'file', 'dnsmasq'",
            "port 0",
            "[topology] ignore #1",
            "not a name",
            'did you mean "name"',
            "absolute",
        ],
        strict=True,
    ):
        assert words in mistake


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"region": {"endpoints": []}}, "expected 1 to 32 addresses"),
        ({"region": {"endpoints": ["tcp:127.0.0.1:0"]}}, "port 0"),
        ({"dhcp": {"pid_file": "/run/dnsmasq.pid"}}, "pid_file: unknown key — known here: backend, hosts_file"),
        ({"dhcp": {"backend": "dnsmasq", "pid_fil": "/run/a"}}, 'did you mean "pid_file"'),
        ({"dhcp": {"backend": "dnsmasq", "pid_file": "run/a"}}, r"\[dhcp\] pid_file: the path has to be absolute"),
        ({"dhcp": "dnsmasq"}, "dhcp: "),
        ({"topology": {"serve": "yes"}}, r"\[topology\] serve: .*'auto' or 'confirm'"),
        ({"topology": {"vrf": {"eth1": "no name"}}}, r"\[topology.vrf\] eth1: not a name"),
        ({"topology": {"vrf": {"": "blue"}}}, r"\[topology.vrf\]"),
        ({"topology": {"vrf": "blue"}}, r"\[topology\] vrf: "),
        ({"relay": [{"cidr": "10.5.0.0/24"}]}, r"\[\[relay\]\] #1 via: is missing"),
        (
            {"relay": [{"cidr": "10.5.0.1/24", "via": "eth0"}]},
            r"#1 cidr: .*has host bits set; the network is 10.5.0.0/24",
        ),
        ({"relay": [{"cidr": "10.5.0.1", "via": "eth0"}]}, r"#1 cidr: not a network in CIDR form"),
        ({"relay": [{"cidr": "127.0.0.0/8", "via": "eth0"}]}, r"#1 cidr: no DHCP server serves loopback"),
        ({"relay": [{"cidr": "ff02::/64", "via": "eth0"}]}, r"#1 cidr: no DHCP server serves loopback"),
        (
            {"relay": [{"cidr": "10.5.0.1/32", "via": "eth0"}]},
            r"#1 cidr: a network of clients has more than one address",
        ),
        (
            {"relay": [{"cidr": "10.5.0.0/24", "via": "192.0.2.1"}]},
            r"#1 via: expected the name of the NIC .*not an address",
        ),
        ({"relay": [{"cidr": "10.5.0.0/24", "via": "a b"}]}, r"#1 via: not a NIC name"),
        ({"relay": [{"cidr": "10.5.0.0/24", "via": "e", "gateway": "10.5.0.1"}]}, 'did you mean "gateways"'),
        (
            {"relay": [{"cidr": "10.5.0.0/24", "via": "eth0", "gateways": ["10.6.0.1"]}]},
            "relay #1: the gateway 10.6.0.1 is not in 10.5.0.0/24",
        ),
        ({"relay": [{"cidr": "10.5.0.0/24", "via": "eth0"}] * 2}, "relay: 10.5.0.0/24 is relayed twice"),
        (
            {"relay": [{"cidr": "10.5.0.0/24", "via": "eth0"}, {"cidr": "10.0.0.0/8", "via": "eth1"}]},
            "10.5.0.0/24 and 10.0.0.0/8 overlap",
        ),
        ({"relay": {"cidr": "10.5.0.0/24", "via": "eth0"}}, "relay: "),
    ],
)
def test_what_cannot_work_is_a_mistake(content: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(content, ClusterSettings, "clusterd.toml")


def test_a_host_name_that_is_no_cluster_name_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "(none)")
    with pytest.raises(ConfigError, match="name: not a name"):
        validate({}, ClusterSettings, "no --config given")


def test_isc_dhcpd(tmp_path: Path) -> None:
    path = tmp_path / "clusterd.toml"
    path.write_text('[dhcp]\nbackend = "isc"\n')
    settings = load(path, ClusterSettings).dhcp
    assert isinstance(settings, IscSettings)
    assert (settings.omapi_port, settings.ipv6) == (7911, None)
    path.write_text('[dhcp]\nbackend = "isc"\n[dhcp.ipv6]\nrestart_command = ["sudo", "-n", "restart-dhcpd6"]\n')
    settings = load(path, ClusterSettings).dhcp
    assert isinstance(settings, IscSettings) and settings.ipv6 is not None
    assert settings.ipv6.restart_command == ("sudo", "-n", "restart-dhcpd6")
    backend = make_backend(settings, tmp_path, MemoryReactorClock())
    assert (backend.name, sorted(backend.capabilities.needs_restart)) == ("isc", [6])
    path.write_text('[dhcp]\nbackend = "isc"\nomapi_prot = 1\n[dhcp.ipv6]\nrestart_command = []\npid_file = "x"\n')
    with pytest.raises(ConfigError) as raised:
        load(path, ClusterSettings)
    mistakes = [mistake.removeprefix(f"{path}: ") for mistake in raised.value.mistakes]
    assert any(one.startswith('[dhcp] omapi_prot: unknown key — did you mean "omapi_port"?') for one in mistakes)
    assert any(one.startswith("[dhcp.ipv6] pid_file: the path has to be absolute") for one in mistakes)
    assert any(one.startswith("[dhcp.ipv6] restart_command:") for one in mistakes)


def test_what_no_kernel_shows(tmp_path: Path) -> None:
    path = tmp_path / "clusterd.toml"
    path.write_text(
        """
        [topology]
        serve = "confirm"
        [topology.vrf]
        "eth2.*" = "green"
        "eth2.7" = "Blue"
        "eth*" = "red"
        [[relay]]
        cidr = "10.5.0.0/24"
        via = "eth0"
        gateways = ["10.5.0.1"]
        vrf = "blue"
        [[relay]]
        cidr = "2001:db8:5::/64"
        via = "eth1"
        """
    )
    interfaces = load(path, ClusterSettings).interfaces
    assert interfaces.relays == (
        Relay("10.5.0.0/24", "eth0", ("10.5.0.1",), "blue"),
        Relay("2001:db8:5::/64", "eth1"),
    )
    assert not interfaces.serve
    names = ("eth2.7", "eth2.8", "eth1", "br0")
    assert [interfaces.vrf_of(nic) for nic in names] == ["blue", "green", "red", None]
