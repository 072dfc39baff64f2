"""Ready configuration fragments for DHCP servers: a site's networks, and what clusterd needs of each server; pure."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

from clusterd.dhcp.dnsmasq.settings import DnsmasqSettings
from clusterd.dhcp.isc.settings import Ipv6Settings, IscSettings
from clusterd.dhcp.kea.include_text import file_name
from clusterd.dhcp.kea.settings import KeaSettings, Way
from clusterd.protocol.addresses import Family
from clusterd.protocol.values import ServerPool

LEASE_SECONDS: Final = 600  # short: a client whose host map is gone uses its address until its lease is over
LEASES_PER_HOST_MAP: Final = 1.2


@dataclass(frozen=True, slots=True)
class SiteNetwork:
    """One network as its DHCP server has to know it. `pools` are what the server leases on its own, if anything.

    The clients of a `relayed` network are not on the NIC: their requests come in by it.
    """

    cidr: str
    nic: str | None = None
    routers: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    pools: tuple[ServerPool, ...] = ()
    relayed: bool = False

    @property
    def network(self) -> IPv4Network | IPv6Network:
        return ip_network(self.cidr)

    @property
    def family(self) -> Family:
        return 6 if ":" in self.cidr else 4

    @property
    def place(self) -> str:
        """Where it is, for a comment; empty where that is not known."""
        return "" if self.nic is None else f"relayed, via {self.nic}" if self.relayed else f"on {self.nic}"


def dnsmasq_fragment(
    networks: Sequence[SiteNetwork], settings: DnsmasqSettings, hosts: tuple[Path, Path], host_maps: int
) -> str:
    """For a file of dnsmasq's `conf-dir`. `hosts` are the hosts file and directory, `host_maps` how many to expect."""
    hosts_file, hosts_directory = hosts
    pooled = sum(_size(pool) for site in networks for pool in site.pools)
    lines = [
        "# What hostmap needs of dnsmasq. Check it with: dnsmasq --test --conf-file=THIS-FILE",
        "# Make the directory first, writable for clusterd's user and readable for dnsmasq's, which needs it to start:",
        f"#   install -d -m 0755 {hosts_directory}",
        f"dhcp-hostsfile={hosts_file}",
        f"dhcp-hostsdir={hosts_directory}",
        f"pid-file={settings.pid_file}",
        "# Silently the limit of all leases, host maps included; 1000 when it is not set.",
        f"dhcp-lease-max={int(host_maps * LEASES_PER_HOST_MAP) + min(pooled, 1_000_000)}",
        "dhcp-authoritative",
    ]
    for number, site in enumerate(networks):
        tag, net = f"net{number}", site.network
        size = str(net.netmask) if site.family == 4 else str(net.prefixlen)
        lines += ["", f"# {site.cidr} {site.place}".rstrip()]
        ends = [f"{pool.low},{pool.high}" for pool in site.pools] or [f"{net.network_address},static"]
        lines += [f"dhcp-range=set:{tag},{end},{size},{LEASE_SECONDS}" for end in ends]
        if site.family == 4:
            lines += [f"dhcp-option=tag:{tag},option:router,{','.join(site.routers)}"] if site.routers else []
            servers = ",".join(site.dns_servers)
            lines += [f"dhcp-option=tag:{tag},option:dns-server,{servers}"] if servers else []
        elif site.dns_servers:
            servers = ",".join(f"[{server}]" for server in site.dns_servers)
            lines.append(f"dhcp-option=tag:{tag},option6:dns-server,{servers}")
    return "\n".join(lines) + "\n"


def isc_fragment(networks: Sequence[SiteNetwork], settings: IscSettings, family: Family) -> str:
    """For dhcpd.conf, or for dhcpd6.conf, which is another process with a file of its own."""
    lines = [f"# What hostmap needs of dhcpd. Check it with: dhcpd -t -{family} -cf THIS-FILE"]
    if family == 4:
        lines += [
            f"omapi-port {settings.omapi_port};   # open on all addresses: keep it from other hosts by a packet filter",
            "# The key as tsig-keygen -a hmac-sha256 hostmap prints it, mode 0600; AppArmor wants it below /etc/dhcp",
            f'include "{settings.omapi_key_file}";',
            "omapi-key hostmap;",
        ]
    else:
        if settings.ipv6 is None:
            lines.append("# clusterd needs a table [dhcp.ipv6] in its settings, with these paths or others.")
        include_file = (settings.ipv6 or Ipv6Settings()).include_file
        lines += [
            "# Make the file first, writable for clusterd's user and readable for dhcpd's, which needs it to start:",
            f"#   install -d -m 0755 {include_file.parent} && touch {include_file}",
            f'include "{include_file}";',
        ]
    lines += ["authoritative;"] if family == 4 else []
    lines += [f"default-lease-time {LEASE_SECONDS};"] + ([f"max-lease-time {LEASE_SECONDS};"] if family == 4 else [])
    for site in _of(networks, family):
        net = site.network
        head = f"subnet {net.network_address} netmask {net.netmask}" if family == 4 else f"subnet6 {net}"
        lines += ["", f"{head} {{{f'   # {site.place}' if site.place else ''}"]
        if family == 4 and site.routers:
            lines.append(f"  option routers {', '.join(site.routers)};")
        if site.dns_servers:
            option = "domain-name-servers" if family == 4 else "dhcp6.name-servers"
            lines.append(f"  option {option} {', '.join(site.dns_servers)};")
        word = "range" if family == 4 else "range6"
        lines += [f"  {word} {pool.low} {pool.high};" for pool in site.pools]
        lines.append("}")
    return "\n".join(lines) + "\n"


def kea_fragment(
    networks: Sequence[SiteNetwork], settings: KeaSettings, family: Family, hooks: Path, database: str
) -> str:
    """A whole configuration for kea-dhcp4 or kea-dhcp6; `hooks` is where its hooks libraries are.

    `database` is the name of the PostgreSQL database for reservations (`kea-admin db-init pgsql`), reached as the user
    `kea` over the local socket.
    """
    way = settings.way or Way.HOSTS_DATABASE
    socket = settings.dhcp4_socket if family == 4 else settings.dhcp6_socket
    sites = list(_of(networks, family))
    server: dict[str, Any] = {
        "interfaces-config": {"interfaces": sorted({site.nic for site in sites if site.nic is not None})},
        "control-socket": {"socket-type": "unix", "socket-name": str(socket or _usual_socket(family))},
        "lease-database": {"type": "memfile", "persist": True},
        "valid-lifetime": LEASE_SECONDS,
        # A client-id first: with the hardware address first, a NIC alias is given the address of its primary.
        "host-reservation-identifiers": ["client-id", "hw-address"] if family == 4 else ["duid", "hw-address"],
        # Several machines for one address: docks and bonds.
        "ip-reservations-unique": False,
        "reservations-global": False,
        "reservations-in-subnet": True,
        "reservations-out-of-pool": False,
        "hooks-libraries": [{"library": str(hooks / "libdhcp_lease_cmds.so")}],
    }
    if family == 4:
        # The client-ids of a machine change between PXE and its system.
        server |= {"authoritative": True, "match-client-id": False}
    if way is Way.HOSTS_DATABASE:
        # While the database is away Kea serves on, without its host maps, and tries again.
        retry = {"max-reconnect-tries": 1_000_000, "reconnect-wait-time": 1000, "on-fail": "serve-retry-continue"}
        server["hosts-database"] = {"type": "postgresql", "name": database, "user": "kea", **retry}
    elif way is Way.RESERVATION_COMMANDS:
        server["hooks-libraries"].append({"library": str(hooks / "libdhcp_host_cmds.so")})
    includes: dict[str, tuple[Path, str]] = {}
    server[f"subnet{family}"] = [
        _kea_subnet(site, None if way is not Way.INCLUDE_FILES else settings.include_directory, includes)
        for site in sites
    ]
    text = json.dumps({f"Dhcp{family}": server}, indent=2)
    for mark, (_, include) in includes.items():
        text = text.replace(json.dumps(mark), include)
    head = [f"// What hostmap needs of Kea. Check it with: kea-dhcp{family} -t THIS-FILE"]
    if socket == "":
        head.append(f'// clusterd\'s table [dhcp] has to say dhcp{family}_socket = "{_usual_socket(family)}".')
    if family == 6 and (relayed_by := {site.nic or "NIC" for site in sites if site.relayed}):
        head += [
            "// What a relay sends to an address of this host is heard only where that is named, too:",
            *(f'//   "interfaces": ["{nic}", "{nic}/ADDRESS"]' for nic in sorted(relayed_by)),
        ]
    if includes:
        head += [
            "// Make the files first, writable for clusterd's user and readable for Kea's, which needs them to start:",
            f"//   install -d -m 0755 {settings.include_directory}",
            *(f"//   echo '[]' > {path}" for path, _ in includes.values()),
        ]
    return "\n".join([*head, text]) + "\n"


def _usual_socket(family: Family) -> str:
    return f"/run/kea/kea{family}-ctrl-socket"


def _kea_subnet(
    site: SiteNetwork, include_directory: Path | None, includes: dict[str, tuple[Path, str]]
) -> dict[str, Any]:
    names = ("routers", "domain-name-servers") if site.family == 4 else (None, "dns-servers")
    options = zip(names, (site.routers, site.dns_servers), strict=True)
    subnet: dict[str, Any] = {
        # Made of the network, so that it stays when others come and go: leases are kept by it.
        "id": zlib.crc32(site.cidr.encode()) % 0xFFFF_FFFE + 1,
        "subnet": site.cidr,
        "pools": [{"pool": f"{pool.low} - {pool.high}"} for pool in site.pools],
        "option-data": [{"name": name, "data": ", ".join(values)} for name, values in options if name and values],
    }
    if site.nic is not None and not site.relayed:  # relayed: found by the relay's address
        subnet["interface"] = site.nic
    if include_directory is not None:
        mark = f"include {site.cidr}"
        subnet["reservations"] = mark
        path = include_directory / file_name(site.family, site.cidr)
        includes[mark] = path, f'<?include "{path}"?>'
    return subnet


def _of(networks: Sequence[SiteNetwork], family: Family) -> Iterator[SiteNetwork]:
    return (site for site in networks if site.family == family)


def _size(pool: ServerPool) -> int:
    low, high = (ip_network(end)[0] for end in (pool.low, pool.high))
    return int(high) - int(low) + 1
