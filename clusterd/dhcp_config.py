"""`python3 -m clusterd dhcp-config`: print a configuration fragment for the site's DHCP server.

The networks are those of this host's NICs with their gateways, what the region knows (`--region`: dynamic ranges too),
or what is given as `--subnet`.
"""

import argparse
import http.client
import json
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from clusterd.config import ClusterSettings
from clusterd.daemon.config_file import ConfigError, read_secret
from clusterd.dhcp.backends import hosts_of_dnsmasq
from clusterd.dhcp.dnsmasq.settings import DnsmasqSettings
from clusterd.dhcp.fragments import SiteNetwork, dnsmasq_fragment, isc_fragment, kea_fragment
from clusterd.dhcp.isc.settings import IscSettings
from clusterd.dhcp.kea.settings import KeaSettings
from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import ServerPool, parse_network
from clusterd.region_link.join import usual_settings
from clusterd.topology.interfaces import interface_reports
from clusterd.topology.netlink import open_netlink, snapshot

ANSWER_SECONDS: Final = 30.0
MAX_ANSWER_BYTES: Final = 16 << 20
PAGE_ROWS: Final = 1000  # as many as the region gives at a time
MAX_PAGES: Final = 100

_NEXT_PAGE: Final = re.compile(r'<(?P<path>/[^<>]*)>; rel="next"')


class NoNetworks(Exception):
    """Where the networks should come from cannot be asked; the text says why."""


def networks_here(settings: ClusterSettings) -> list[SiteNetwork]:
    """The networks of this host's NICs. Raises NoNetworks."""
    try:
        reports = interface_reports(snapshot(open_netlink), settings.interfaces)
    except (OSError, ValueError) as error:
        raise NoNetworks(f"the interfaces of this host cannot be read: {error}") from None
    return [SiteNetwork(report.cidr, report.nic, report.gateways, relayed=report.relayed) for report in reports]


def networks_of_region(region: str, token_file: Path | None, cluster: str) -> list[SiteNetwork]:
    """What the region knows of the cluster's networks, at a URL or at `unix:/path`. Raises NoNetworks."""
    token = None if token_file is None else read_secret(token_file)
    found: list[SiteNetwork] = []
    selector = quote(f"cluster:{cluster}", safe="")
    try:
        for interface in _ask(region, token, f"/api/v1/cluster-interfaces?limit={PAGE_ROWS}&selector={selector}"):
            ranges: Iterable[Any] = ()
            if interface["subnet"] is not None:
                ranges = _ask(region, token, f"/api/v1/subnets/{interface['subnet']}/ranges?limit={PAGE_ROWS}")
            pools = [ServerPool(each["low"], each["high"]) for each in ranges if each["kind"] == "dynamic"]
            found.append(
                SiteNetwork(
                    parse_network(interface["cidr"]),
                    interface["nic"],
                    tuple(map(canonical_address, interface["gateways"])),
                    (),
                    tuple(dict.fromkeys(pools)),
                    interface.get("relayed", False),
                )
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NoNetworks(f"{region} does not answer as a region does: {error!r}") from None
    return found


def parse_subnet(text: str) -> SiteNetwork:
    """`192.0.2.0/24[,nic=eth1][,via=eth1][,router=A][,dns=A][,pool=A-B]`. Raises ValueError.

    `via` is the NIC of a relayed network; it and `nic` are said once, the others any number of times.
    """
    cidr, *rest = text.split(",")
    site = SiteNetwork(parse_network(cidr))
    for word in rest:
        name, _, value = word.partition("=")
        match name:
            case "nic":
                site = replace(site, nic=value)
            case "via":
                site = replace(site, nic=value, relayed=True)
            case "router":
                site = replace(site, routers=(*site.routers, canonical_address(value)))
            case "dns":
                site = replace(site, dns_servers=(*site.dns_servers, canonical_address(value)))
            case "pool":
                low, _, high = value.partition("-")
                site = replace(site, pools=(*site.pools, ServerPool(low, high)))
            case _:
                raise ValueError(f"{word!r}: expected nic=, via=, router=, dns= or pool=")
    network = ip_network(site.cidr)
    for address in (*site.routers, *(end for pool in site.pools for end in (pool.low, pool.high))):
        if ip_address(address) not in network and not ip_address(address).is_link_local:
            raise ValueError(f"{address} is not in {site.cidr}")
    return site


def main(arguments: Sequence[str]) -> None:
    """Prints the fragment, or ends the process: 1 when the networks cannot be had, 2 for a mistake in the command."""
    given = _parser().parse_args(arguments)
    try:
        settings = usual_settings(given.config)
        networks: list[SiteNetwork] = given.subnet
        if given.region is not None:
            networks += networks_of_region(given.region, given.token_file, given.cluster or settings.name)
        elif not networks:
            networks = networks_here(settings)
    except (ConfigError, NoNetworks) as error:
        sys.exit(str(error))
    if given.server != "dnsmasq" and networks and not any(site.family == given.family for site in networks):
        # The fragment would be one without a network, for the wrong one of two servers.
        sys.exit(f"none of these networks is of IPv{given.family}: say --family {10 - given.family}")
    for server in given.dns:
        networks = [
            replace(site, dns_servers=(*site.dns_servers, server)) if (":" in server) == (site.family == 6) else site
            for site in networks
        ]
    sys.stdout.write(fragment(given.server, networks, settings, given))


def fragment(server: str, networks: Sequence[SiteNetwork], settings: ClusterSettings, given: Any) -> str:
    """The text for one server; its settings are those of `[dhcp]` where that is for this server, else the defaults."""
    dhcp = settings.dhcp
    if server == "dnsmasq":
        dnsmasq = dhcp if isinstance(dhcp, DnsmasqSettings) else DnsmasqSettings(backend="dnsmasq")
        hosts = hosts_of_dnsmasq(dnsmasq, settings.state_directory)
        return dnsmasq_fragment(networks, dnsmasq, hosts, given.host_maps)
    if server == "isc":
        return isc_fragment(
            networks, dhcp if isinstance(dhcp, IscSettings) else IscSettings(backend="isc"), given.family
        )
    kea = dhcp if isinstance(dhcp, KeaSettings) else KeaSettings(backend="kea")
    return kea_fragment(networks, kea, given.family, given.hooks or _hooks(), given.database)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m clusterd dhcp-config",
        description="Print a configuration fragment for a DHCP server, with the networks of this host "
        "(or of the region, or as given) and what hostmap needs. Nothing is written anywhere.",
    )
    parser.add_argument("server", choices=("dnsmasq", "isc", "kea"))
    parser.add_argument("--config", type=Path, metavar="FILE", help="clusterd's settings")
    parser.add_argument(
        "--subnet",
        type=_subnet,
        action="append",
        default=[],
        metavar="CIDR[,nic=NAME][,via=NAME][,router=A][,dns=A][,pool=A-B]",
        help="a network, instead of those of this host; via: one whose clients are relayed, and by which NIC they come",
    )
    parser.add_argument(
        "--dns", type=_address, action="append", default=[], metavar="ADDRESS", help="for every network"
    )
    parser.add_argument("--region", metavar="URL", help="ask the region: http(s)://HOST:PORT or unix:/path/of/api.sock")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a token for --region, mode 0600")
    parser.add_argument("--cluster", metavar="NAME", help="at --region; this cluster's name by default")
    parser.add_argument("--family", type=int, choices=(4, 6), default=4, help="isc and kea: which of the two servers")
    parser.add_argument("--host-maps", type=_number, default=10_000, metavar="N", help="dnsmasq: how many to expect")
    parser.add_argument("--hooks", type=Path, metavar="DIRECTORY", help="kea: where its hooks libraries are")
    parser.add_argument("--database", default="kea", metavar="NAME", help="kea: its PostgreSQL database")
    return parser


def _subnet(text: str) -> SiteNetwork:
    try:
        return parse_subnet(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _address(text: str) -> str:
    try:
        return canonical_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


def _hooks() -> Path:
    """Where this machine has Kea's hooks, or where Debian puts them."""
    found = next(Path("/usr/lib").glob("*/kea/hooks/libdhcp_lease_cmds.so"), None)
    return Path("/usr/lib/x86_64-linux-gnu/kea/hooks") if found is None else found.parent


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(region: str, token: str | None, path: str) -> Iterator[Any]:
    """The rows of a list, from all its pages. Raises NoNetworks."""
    following = path
    for _ in range(MAX_PAGES):
        rows, next_page = _page(region, token, following)
        yield from rows
        if next_page is None:
            return
        following = next_page
    raise NoNetworks(f"the region at {region} has more than {MAX_PAGES} pages of {path}")


def _page(region: str, token: str | None, path: str) -> tuple[Any, str | None]:
    """One page of a list, and the path of the next one."""
    try:
        url = urlsplit(region)
        if url.scheme == "unix":
            connection: http.client.HTTPConnection = _UnixConnection(url.path)
        elif url.scheme == "https" and url.hostname is not None:
            connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=ANSWER_SECONDS)
        elif url.scheme == "http" and url.hostname in ("localhost", "127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=ANSWER_SECONDS)
        else:
            raise NoNetworks(f"{region}: expected https://…, unix:/…, or http:// on this host (the token goes there)")
        try:
            connection.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            content = response.read(MAX_ANSWER_BYTES)
            following = _NEXT_PAGE.search(response.getheader("Link", ""))
        finally:
            connection.close()
        if response.status != 200:
            raise NoNetworks(f"the region refuses {path}: {response.status} {content[:300].decode(errors='replace')}")
        return json.loads(content), following and following["path"]
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoNetworks(f"the region at {region} cannot be asked: {error}") from None
