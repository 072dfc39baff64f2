"""What a running dnsmasq was told: its command line and the files that this names, as far as host maps depend on it.

dnsmasq has no way to be asked. Its settings are read as it reads them itself (option.c of 2.90): options on the
command line, then the configuration file, then what these include.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice
from pathlib import Path

from clusterd.dhcp.dnsmasq_lines import parse_line
from clusterd.protocol.addresses import Family, pack_address

DEFAULT_CONFIGURATION = "/etc/dnsmasq.conf"
DEFAULT_LEASE_FILE = Path("/var/lib/misc/dnsmasq.leases")
DEFAULT_LEASE_MAX = 1000
LEASES_PER_HOST_MAP = 1.2  # room for the leases of clients that changed their identifier
MAX_FILES = 1_000
MAX_DEPTH = 10
MAX_FILE_BYTES = 16 * 1024 * 1024
COMMAND_LINE = "its command line"

_SHORT = {"C": "conf-file", "7": "conf-dir", "X": "dhcp-lease-max", "l": "dhcp-leasefile", "F": "dhcp-range"}
_SHORT |= {"G": "dhcp-host"}
_SHORT_WITH_VALUE = frozenset("rmpclsituGgaxSCATHQIBFOMXVUjPJWY246780" + "3")
_LONG = frozenset(_SHORT.values()) | {"dhcp-hostsfile", "dhcp-hostsdir"}

FAMILIES: tuple[Family, ...] = (4, 6)

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Setting:
    """One option and where it stands: the path of a file, or COMMAND_LINE."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Configuration:
    """All options, in the order in which dnsmasq reads them. `unread`: a sentence for each file that could not be."""

    settings: tuple[Setting, ...] = ()
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
    def static_addresses(self) -> dict[str, Setting]:
        """The IPv4 addresses that its own `dhcp-host` lines give away: it refuses each in a hosts file."""
        taken: dict[str, Setting] = {}
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
    unread: list[str] = []
    settings: list[Setting] = []
    said = list(_of_command_line(arguments))
    if not any(setting.name == "conf-file" for setting in said) and Path(DEFAULT_CONFIGURATION).exists():
        said.append(Setting("conf-file", DEFAULT_CONFIGURATION, COMMAND_LINE))
    budget = [MAX_FILES]
    for setting in said:
        settings.extend(_expanded(setting, unread, budget, 0))
    return Configuration(tuple(settings), tuple(unread))


def _of_command_line(arguments: Sequence[str]) -> Iterator[Setting]:
    words = iter(arguments[1:])
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in _LONG:
                yield Setting(name, value if equals else next(words, ""), COMMAND_LINE)
        elif word.startswith("-"):
            for position, letter in enumerate(word[1:], start=2):
                if letter in _SHORT_WITH_VALUE:
                    value = word[position:] or next(words, "")
                    if letter in _SHORT:
                        yield Setting(_SHORT[letter], value, COMMAND_LINE)
                    break


def _expanded(setting: Setting, unread: list[str], budget: list[int], depth: int) -> Iterator[Setting]:
    """The setting itself, or, where it includes files, theirs."""
    if setting.name not in ("conf-file", "conf-dir"):
        yield setting
        return
    paths = [Path(setting.value)] if setting.name == "conf-file" else _files_in(setting.value, unread)
    for path in paths:
        budget[0] -= 1
        if budget[0] < 0 or depth >= MAX_DEPTH:
            unread.append(f"dnsmasq's configuration has more files than are read here: {path} was left out.")
            return
        for line in _lines_of(path, unread):
            name, _, value = line.partition("=")
            yield from _expanded(Setting(name.strip(), value.strip().strip('"'), str(path)), unread, budget, depth + 1)


def _files_in(value: str, unread: list[str]) -> list[Path]:
    """The files of a `conf-dir=DIRECTORY[,.suffix to leave out | *.suffix to take]…`, as dnsmasq chooses them."""
    directory, *patterns = value.split(",")
    wanted = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*"))
    unwanted = tuple(pattern for pattern in patterns if not pattern.startswith("*") and pattern)
    try:
        names = sorted(islice((entry.name for entry in os.scandir(directory) if entry.is_file()), MAX_FILES))
    except OSError as error:
        unread.append(_unread(directory, error))
        return []
    return [
        Path(directory) / name
        for name in names
        if not (name.startswith((".", "#")) or name.endswith(("~", *unwanted)))
        and (not wanted or name.endswith(wanted))
    ]


def _lines_of(path: Path, unread: list[str]) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode(errors="replace")
    except OSError as error:
        unread.append(_unread(path, error))
        return []
    lines = (line.strip() for line in text.splitlines())
    return [line.split(" #")[0].strip() for line in lines if line and not line.startswith("#")]


def _unread(path: Path | str, error: OSError) -> str:
    return f"dnsmasq's settings cannot all be checked: clusterd cannot read {path} ({error.strerror or error})."


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


def _within(address: str, networks: Sequence[Network]) -> bool:
    octets = int.from_bytes(pack_address(address))
    return any(int(net.network_address) <= octets <= int(net.broadcast_address) for net in networks)
