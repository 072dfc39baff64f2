"""`python3 -m clusterd dhcp-config`: what is printed is taken by the real server's own checker, and says it all."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from clusterd import dhcp_config
from clusterd.dhcp.dnsmasq.contact import DnsmasqReader
from clusterd.dhcp.first_contact import ServerReader
from clusterd.dhcp.host_system import run_at_once
from clusterd.dhcp.isc.contact import DhcpdReader
from clusterd.dhcp.kea.findings import Findings, parse
from clusterd.protocol.values import InterfaceReport
from tests.clusterd.dhcp.checkers import check
from tests.clusterd.dhcp.samples import pools
from tests.finished import result_of

SUBNETS = (
    *("--subnet", "192.0.2.0/24,router=192.0.2.1,dns=192.0.2.53,dns=192.0.2.54,pool=192.0.2.100-192.0.2.150"),
    *("--subnet", "198.51.100.0/25,pool=198.51.100.10-198.51.100.19,pool=198.51.100.30-198.51.100.39"),
    *("--subnet", "203.0.113.0/24"),
    *("--subnet", "2001:db8:1::/64,dns=2001:db8:1::53,pool=2001:db8:1::100-2001:db8:1::1ff"),
    *("--subnet", "2001:db8:2::/64"),
    *("--subnet", "10.5.0.0/24,via=eth0,router=10.5.0.1"),
    *("--subnet", "2001:db8:5::/64,via=eth0"),
    *("--dns", "192.0.2.99", "--dns", "2001:db8::99"),
)
POOLS: dict[int, set[tuple[str, str]]] = {
    4: {
        ("192.0.2.100", "192.0.2.150"),
        ("198.51.100.10", "198.51.100.19"),
        ("198.51.100.30", "198.51.100.39"),
    },
    6: {("2001:db8:1::100", "2001:db8:1::1ff")},
}


async def look() -> tuple[InterfaceReport, ...]:
    return ()


def settings_file(directory: Path, dhcp: str) -> list[str]:
    path = directory / "clusterd.toml"
    path.write_text(f'name = "rack-a"\nstate_directory = "{directory}/state"\n[dhcp]\n{dhcp}\n')
    return ["--config", str(path)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    dhcp_config.main(arguments)
    return capsys.readouterr().out


def found(reader: ServerReader) -> set[tuple[str, str]]:
    picture = result_of(reader.read())
    assert (picture.entries, picture.remarks) == (frozenset(), ())
    return pools(picture)


def test_dnsmasq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings_file(tmp_path, 'backend = "dnsmasq"\npid_file = "/run/site.pid"')
    text = printed(capsys, "dnsmasq", *config, *SUBNETS, "--host-maps", "2000")
    path = tmp_path / "dnsmasq.conf"
    path.write_text(text)
    check("dnsmasq", path)
    lines = text.splitlines()
    assert f"dhcp-hostsfile={tmp_path}/state/dhcp-hosts" in lines
    assert f"dhcp-hostsdir={tmp_path}/state/dhcp-hosts.new" in lines
    assert "pid-file=/run/site.pid" in lines
    assert f"dhcp-lease-max={2400 + 51 + 20 + 256}" in lines
    assert "dhcp-range=set:net2,203.0.113.0,static,255.255.255.0,600" in lines
    assert "# 10.5.0.0/24 relayed, via eth0" in lines
    assert "dhcp-range=set:net5,10.5.0.0,static,255.255.255.0,600" in lines
    assert "dhcp-option=tag:net0,option:dns-server,192.0.2.53,192.0.2.54,192.0.2.99" in lines
    assert found(DnsmasqReader(tmp_path / "pid", path, (), look, run_at_once)) == POOLS[4] | POOLS[6]


@pytest.mark.parametrize("family", [4, 6])
def test_isc(family: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, include = tmp_path / "key", tmp_path / "host-maps.conf"
    key.write_text('key hostmap { algorithm hmac-sha256; secret "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ="; };\n')
    include.write_text("")
    dhcp = f'backend = "isc"\nomapi_key_file = "{key}"\n[dhcp.ipv6]\ninclude_file = "{include}"'
    text = printed(capsys, "isc", *settings_file(tmp_path, dhcp), *SUBNETS, "--family", str(family))
    path = tmp_path / "dhcpd.conf"
    path.write_text(text)
    check("isc", path, family=family)
    assert ("omapi-key hostmap;" in text, f'include "{include}";' in text) == (family == 4, family == 6)
    assert "c2VjcmV0" not in text
    if family == 6:
        usual = printed(capsys, "isc", *SUBNETS, "--family", "6", *settings_file(tmp_path, 'backend = "dnsmasq"'))
        assert "clusterd needs a table [dhcp.ipv6]" in usual and "clusterd needs" not in text
        assert 'include "/etc/dhcp/hostmap6/host-maps.conf";' in usual
    assert found(DhcpdReader([path], [], [], lambda name: False, run_at_once)) == POOLS[family]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("way", ["hosts-database", "include-files"])
def test_kea(family: int, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dhcp = f'backend = "kea"\nway = "{way}"\ninclude_directory = "{tmp_path}"'
    text = printed(capsys, "kea", *settings_file(tmp_path, dhcp), *SUBNETS, "--family", str(family))
    path = tmp_path / "kea.conf"
    path.write_text(text)
    networks = ["2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:5::/64"]
    if family == 4:
        networks = ["192.0.2.0/24", "198.51.100.0/25", "203.0.113.0/24", "10.5.0.0/24"]
    for cidr in networks:
        (tmp_path / f"dhcp{family}-{cidr.replace('/', '-')}.json").write_text("[]")
    check("kea", path, family=family)
    assert ('"hosts-database"' in text, "<?include" in text) == (way == "hosts-database", way == "include-files")
    assert "libdhcp_lease_cmds.so" in text
    assert ('say dhcp6_socket = "/run/kea/kea6-ctrl-socket"' in text) == (family == 6)
    assert (f"echo '[]' > {tmp_path}/dhcp{family}-" in text) == (way == "include-files")
    findings = Findings()
    findings.take(parse(text, lambda name: Path(name).read_text()), "fragment")
    assert pools(findings.picture) == POOLS[family]


@pytest.mark.parametrize(
    "subnet",
    [
        "192.0.2.1/24",
        "192.0.2.0/24,router=x",
        "192.0.2.0/24,router=198.51.100.1",
        "192.0.2.0/24,pool=192.0.2.9-192.0.2.1",
        "192.0.2.0/24,pool=198.51.100.10-198.51.100.20",
        "192.0.2.0/24,pool=192.0.2.250-192.0.3.9",
        "192.0.2.0/24,x=y",
    ],
)
def test_mistakes_in_a_subnet_are_told(subnet: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dhcp_config.main(["dnsmasq", "--subnet", subnet])
    assert ended.value.code == 2
    assert "argument --subnet" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-1", "0", "many", "1.5"])
def test_a_number_of_host_maps_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dhcp_config.main(["dnsmasq", "--subnet", "192.0.2.0/24", "--host-maps", number])
    assert ended.value.code == 2
    assert "argument --host-maps: expected a number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["isc", "kea"])
def test_networks_that_are_all_of_the_other_family_are_no_empty_fragment(server: str) -> None:
    with pytest.raises(SystemExit, match="none of these networks is of IPv4: say --family 6"):
        dhcp_config.main([server, "--subnet", "2001:db8::/64"])
    with pytest.raises(SystemExit, match="none of these networks is of IPv6: say --family 4"):
        dhcp_config.main([server, "--subnet", "192.0.2.0/24", "--family", "6"])


def test_a_token_is_not_sent_over_the_network_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hm_secret\n")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(SystemExit, match="expected https://"):
        dhcp_config.main(["dnsmasq", "--region", "http://192.0.2.1:5240", "--token-file", str(tmp_path / "token")])
    with pytest.raises(SystemExit, match="cannot be asked"):
        dhcp_config.main(["dnsmasq", "--region", f"unix:{tmp_path}/nobody.sock"])


class Region:
    """A region's HTTP API on a port of the loopback interface, by what it answers: rows, each a page of their own."""

    def __init__(self) -> None:
        self.lists: dict[str, list[Any]] = {}
        self.asked: list[str] = []
        region = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                region.asked.append(self.headers["Authorization"])
                url = urlsplit(self.path)
                rows, query = region.lists[url.path], dict(parse_qsl(url.query))
                position = int(query.get("after", 0))
                content = json.dumps(rows[position : position + 1]).encode()
                self.send_response(200)
                if position + 1 < len(rows):
                    following = urlencode({**query, "after": position + 1})
                    self.send_header("Link", f'<{url.path}?{following}>; rel="next"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def interface(self, cidr: str, subnet: str | None, **more: object) -> dict[str, object]:
        return {"cidr": cidr, "nic": "eth0", "gateways": [], "subnet": subnet, **more}


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_the_region_is_asked_for_all_pages(region: Region, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    region.lists["/api/v1/cluster-interfaces"] = [
        region.interface("192.0.2.0/24", "sn-1", gateways=["192.0.2.1"]),
        region.interface("198.51.100.0/24", None, relayed=True),
    ]
    region.lists["/api/v1/subnets/sn-1/ranges"] = [
        {"kind": "dynamic", "low": "192.0.2.100", "high": "192.0.2.150"},
        {"kind": "reserved", "low": "192.0.2.200", "high": "192.0.2.210"},
        {"kind": "dynamic", "low": "192.0.2.160", "high": "192.0.2.170"},
    ]
    token = tmp_path / "token"
    token.write_text("hm_secret\n")
    token.chmod(0o600)
    asking = ["--region", region.url, "--token-file", str(token), *settings_file(tmp_path, 'backend = "dnsmasq"')]
    lines = printed(capsys, "dnsmasq", *asking).splitlines()
    assert [line for line in lines if line.startswith("dhcp-range")] == [
        "dhcp-range=set:net0,192.0.2.100,192.0.2.150,255.255.255.0,600",
        "dhcp-range=set:net0,192.0.2.160,192.0.2.170,255.255.255.0,600",
        "dhcp-range=set:net1,198.51.100.0,static,255.255.255.0,600",
    ]
    assert "dhcp-option=tag:net0,option:router,192.0.2.1" in lines and "# 198.51.100.0/24 relayed, via eth0" in lines
    assert set(region.asked) == {"Bearer hm_secret"} and len(region.asked) == 5


@pytest.mark.parametrize("answer", ["no interface", {"cidr": "192.0.2.0/24"}, None])
def test_what_is_no_region_is_told(region: Region, answer: object) -> None:
    region.lists["/api/v1/cluster-interfaces"] = [answer]
    with pytest.raises(SystemExit, match=f"{region.url} does not answer as a region does"):
        dhcp_config.main(["dnsmasq", "--region", region.url])


def test_a_region_that_never_comes_to_an_end_is_told(region: Region) -> None:
    region.lists["/api/v1/cluster-interfaces"] = [region.interface("192.0.2.0/24", None)] * (dhcp_config.MAX_PAGES + 1)
    with pytest.raises(SystemExit, match=f"more than {dhcp_config.MAX_PAGES} pages"):
        dhcp_config.main(["dnsmasq", "--region", region.url])


def test_as_a_program_with_this_host_s_networks(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clusterd", "dhcp-config", "dnsmasq", *settings_file(tmp_path, 'backend = "dnsmasq"')],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "dhcp-hostsfile=" in done.stdout
    path = tmp_path / "dnsmasq.conf"
    path.write_text(done.stdout)
    check("dnsmasq", path)


def test_relayed_networks_of_the_configuration_are_among_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = '[[relay]]\ncidr = "10.5.0.0/24"\nvia = "not-here0"\ngateways = ["10.5.0.1"]\n'
    text = printed(capsys, "kea", *settings_file(tmp_path, f'backend = "kea"\n{relay}'), "--family", "4")
    server = json.loads(text.partition("\n")[2])["Dhcp4"]
    (relayed,) = [subnet for subnet in server["subnet4"] if subnet["subnet"] == "10.5.0.0/24"]
    assert "interface" not in relayed, "Kea would only look for its clients on that NIC itself"
    assert relayed["option-data"] == [{"name": "routers", "data": "10.5.0.1"}]
    assert "not-here0" in server["interfaces-config"]["interfaces"]


def test_kea_is_told_to_listen_where_relays_send_to(capsys: pytest.CaptureFixture[str]) -> None:
    told = '//   "interfaces": ["eth0", "eth0/ADDRESS"]'
    assert told in printed(capsys, "kea", "--family", "6", "--subnet", "2001:db8:7::/64,via=eth0")
    assert told not in printed(capsys, "kea", "--family", "6", "--subnet", "2001:db8:7::/64,nic=eth0")
    assert told not in printed(capsys, "kea", "--family", "4", "--subnet", "10.5.0.0/24,via=eth0")
