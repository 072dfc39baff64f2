"""What a running dnsmasq was told: its command line and the files that this names, as far as host maps depend on it.

dnsmasq has no way to be asked.
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from clusterd.dhcp.dnsmasq.options import Option, expanded_command_line
from clusterd.dhcp.host_lines import parse_line
from clusterd.protocol.addresses import Family, pack_address
from clusterd.protocol.values import HostMap

DEFAULT_LEASE_FILE = Path("/var/lib/misc/dnsmasq.leases")
DEFAULT_LEASE_MAX = 1000
LEASES_PER_HOST_MAP = 1.2  # room for the leases of clients that changed their identifier
COMMAND_LINE = "its command line"

FAMILIES: tuple[Family, ...] = (4, 6)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Configuration:
    """All options, in the order in which dnsmasq reads them. `unread`: a sentence for each file that could not be."""

    settings: tuple[Option, ...] = ()
    unread: tuple[str, ...] = ()

    def values(self, name: str) -> list[str]:
        """Every value that an option was given."""
        return [setting.value for setting in self.settings if setting.name == name]

    @property
    def lease_max(self) -> int:
        """How many leases it gives out before it stops giving any."""
        said = [int(value) for value in self.values("dhcp-lease-max") if value.isdecimal()]
        return said[-1] if said else DEFAULT_LEASE_MAX

    @property
    def lease_file(self) -> Path:
        """Where it keeps its leases."""
        return Path((self.values("dhcp-leasefile") or [str(DEFAULT_LEASE_FILE)])[-1])

    def reads(self, option: str, path: Path) -> bool:
        """Whether a `dhcp-hostsfile` or `dhcp-hostsdir` names this path."""
        return any(os.path.realpath(value) == os.path.realpath(path) for value in self.values(option))

    @cached_property
    def static_addresses(self) -> dict[str, Option]:
        """The IPv4 addresses that its own `dhcp-host` lines give away: it refuses each in a hosts file."""
        taken: dict[str, Option] = {}
        for setting in self.settings:
            if setting.name == "dhcp-host":
                try:
                    found = parse_line(setting.value)
                except ValueError:
                    continue  # no client, or no address: nothing that a host map of ours could meet
                taken.update((host_map.address, setting) for host_map in found if host_map.family == 4)
        return taken

    def only_static(self, address: str) -> bool:
        """Whether it gives this address to nobody without a host map; False where its settings do not tell."""
        family = _family_of(address)
        around = []
        for value in self.values("dhcp-range"):
            range_family, network = range_network(value)
            if range_family == family:
                if network is None:
                    return False
                if _within(address, [network]):
                    around.append("static" in value.split(","))
        return bool(around) and all(around) and not self.unread

    def networks(self, family: Family) -> list[Network] | None:
        """The networks of its `dhcp-range` lines; None when one leaves its network to be found from an interface."""
        found: list[Network] = []
        for value in self.values("dhcp-range"):
            range_family, network = range_network(value)
            if range_family == family:
                if network is None:
                    return None
                found.append(network)
        return found


def range_network(value: str) -> tuple[Family | None, Network | None]:
    """The family and network of one `dhcp-range`; no network where the line does not tell it."""
    words = [word.strip() for word in value.split(",")]
    addresses = [word for word in words if _family_of(word) is not None]
    if not addresses:
        return None, None
    family = _family_of(addresses[0])
    if family == 6:
        if any(word.startswith("constructor:") for word in words):
            return 6, None
        lengths = [int(word) for word in words if word.isdecimal() and int(word) <= 128]
        return 6, ip_network(f"{addresses[0]}/{lengths[0] if lengths else 64}", strict=False)
    for word in addresses[1:]:
        if word.startswith("255."):
            try:
                return 4, ip_network(f"{addresses[0]}/{word}", strict=False)
            except ValueError:
                return 4, None
    return 4, None


def _family_of(word: str) -> Family | None:
    try:
        return 4 if len(pack_address(word)) == 4 else 6
    except ValueError:
        return None


def read_configuration(arguments: Sequence[str]) -> Configuration:
    """The configuration of a process with this command line. Blocks while it reads files; never raises OSError."""
    found = expanded_command_line(arguments[1:], COMMAND_LINE)
    scripts = [option.value for option in found.options if option.name == "conf-script"]
    unread = [*found.unread, *(f"what {script[:200]} prints is known to dnsmasq only" for script in scripts)]
    return Configuration(found.options, tuple(f"dnsmasq's own settings cannot all be checked: {w}." for w in unread))


def settings_obstacles(configuration: Configuration, hosts_file: Path, addresses: Sequence[str]) -> list[str]:
    """What in dnsmasq's settings keeps host maps with these addresses from being served, and what to change."""
    obstacles = list(configuration.unread)
    if not configuration.unread and not configuration.reads("dhcp-hostsfile", hosts_file):
        obstacles.append(f"dnsmasq does not read {hosts_file}: add dhcp-hostsfile={hosts_file} and restart it.")
    needed = int(len(addresses) * LEASES_PER_HOST_MAP)
    if configuration.lease_max < needed:
        default = "" if configuration.values("dhcp-lease-max") else " (the default)"
        obstacles.append(
            f"dnsmasq stops giving out addresses at {configuration.lease_max} leases{default}, and there are "
            f"{len(addresses)} host maps: set dhcp-lease-max={needed} or more and restart it."
        )
    for family in FAMILIES:
        networks = configuration.networks(family)
        if networks is None or configuration.unread:
            continue
        outside = [a for a in addresses if _family_of(a) == family and not _within(a, networks)]
        if outside:
            example = ip_network(f"{outside[0]}/{24 if family == 4 else 64}", strict=False)
            words = f"{example.network_address},static" + (f",{example.netmask}" if family == 4 else "")
            obstacles.append(
                f"dnsmasq serves no network with {outside[0]} ({len(outside)} such host maps): add a dhcp-range for "
                f"its subnet, for instance dhcp-range={words}, and restart it."
            )
    return obstacles


def refusals(configuration: Configuration, host_maps: Collection[HostMap]) -> dict[HostMap, str]:
    """The host maps whose address dnsmasq's own configuration gives to somebody else, in the words that it logs.

    One of which its configuration says the same (an adopted entry) stays in our file, where dnsmasq skips it as a
    duplicate: the client has its address by that entry, and keeps it when the entry is deleted.
    """
    taken = configuration.static_addresses
    return {
        host_map: f"duplicate dhcp-host IP address {host_map.address}: {taken[host_map.address].source} has "
        f"dhcp-host={taken[host_map.address].value}"
        for host_map in host_maps
        if host_map.address in taken and not _says(taken[host_map.address].value, host_map)
    }


def _says(line: str, host_map: HostMap) -> bool:
    """Whether a `dhcp-host` line gives this address to this client, whatever name it has there."""
    return any((same.identifier, same.address) == (host_map.identifier, host_map.address) for same in parse_line(line))


def _within(address: str, networks: Sequence[Network]) -> bool:
    octets = int.from_bytes(pack_address(address))
    return any(int(net.network_address) <= octets <= int(net.broadcast_address) for net in networks)
