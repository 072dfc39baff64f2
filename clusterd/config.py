"""clusterd's settings: a TOML file → frozen values. Every key has a default, so an empty file nearly works.

name = "rack-7"                            # the cluster's name until it enrols; default: this host's short name
state_directory = "/var/lib/hostmap/cluster"

[region]
endpoints = ["tcp:region.example.org:5250"]   # tried in turn; default: what the region said last, from enrolment on,
                                           # or, of a host that has not, "unix:/var/lib/hostmap/region/clusters.sock"

[dhcp]
backend = "file"                           # or "dnsmasq", "isc", "kea"
hosts_file = "/var/lib/hostmap/cluster/dhcp-hosts"
hosts_directory = "/var/lib/hostmap/cluster/dhcp-hosts.new"   # where dnsmasq learns of additions
pid_file = "/run/dnsmasq/dnsmasq.pid"      # dnsmasq's, to tell it of changes
                                           # or "isc": see clusterd.dhcp.isc.settings

[topology]                                 # and [[relay]]: see clusterd.topology.settings
ignore = ["ib*"]                           # NICs not to report, as shell patterns
watch = ["br-lan"]                         # NICs to report whatever else says otherwise

[metrics]
file = "/var/lib/prometheus/node-exporter/hostmap.prom"   # for node_exporter; no default: none is written
"""

import socket
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from clusterd.daemon.config_file import AbsolutePath, Strict
from clusterd.daemon.endpoints import LinkAddress, LinkAddressSetting, TlsAddress, UnixAddress
from clusterd.dhcp.backends import DhcpSettings
from clusterd.dhcp.file.settings import FileSettings
from clusterd.protocol.values import parse_name
from clusterd.topology.interfaces import TopologySettings
from clusterd.topology.settings import MAX_RELAYS, RelayTable, TopologyTable, no_two_overlap

DEFAULT_STATE_DIRECTORY = Path("/var/lib/hostmap/cluster")
MAX_ENDPOINTS = 32
LOCAL_REGION = UnixAddress("/var/lib/hostmap/region/clusters.sock")


def _host_name() -> str:
    # Checked like one that was written down, so that a strange host name is said at start.
    return socket.gethostname().partition(".")[0]


def _not_port_zero(address: Any) -> Any:
    if isinstance(address, TlsAddress) and address.port == 0:
        raise ValueError("nobody can connect to port 0")
    return address


def _some(addresses: tuple[LinkAddress, ...]) -> tuple[LinkAddress, ...]:
    # Not pydantic's min_length, which counts a list of mistaken addresses as an empty one.
    if not 1 <= len(addresses) <= MAX_ENDPOINTS:
        raise ValueError(f"expected 1 to {MAX_ENDPOINTS} addresses")
    return addresses


def _prom(path: Path) -> Path:
    if path.suffix != ".prom":
        raise ValueError(f"node_exporter reads files that end in .prom, and {path} does not")
    return path


class RegionSettings(Strict):
    """Where the region is."""

    endpoints: (
        Annotated[tuple[Annotated[LinkAddressSetting, AfterValidator(_not_port_zero)], ...], AfterValidator(_some)]
        | None
    ) = None


class MetricsSettings(Strict):
    """Where metrics are written for node_exporter; nowhere by default."""

    file: Annotated[AbsolutePath, AfterValidator(_prom)] | None = None


class ClusterSettings(Strict):
    """All of clusterd's settings."""

    name: Annotated[str, AfterValidator(parse_name)] = Field(default_factory=_host_name, validate_default=True)
    state_directory: AbsolutePath = DEFAULT_STATE_DIRECTORY
    region: RegionSettings = RegionSettings()
    dhcp: DhcpSettings = FileSettings()
    topology: TopologyTable = TopologyTable()
    metrics: MetricsSettings = MetricsSettings()
    relay: Annotated[tuple[RelayTable, ...], AfterValidator(no_two_overlap), Field(max_length=MAX_RELAYS)] = ()

    @property
    def interfaces(self) -> TopologySettings:
        """Which of this host's interfaces the region hears of, and of what else."""
        return self.topology.settings(self.relay)

    @property
    def identity_path(self) -> Path:
        """Key and certificate of an enrolled cluster: in a directory of their own, which only clusterd can enter."""
        return self.state_directory / "identity" / "identity.json"

    @property
    def store_path(self) -> Path:
        """The accepted host maps: in a directory of their own, which only clusterd can enter."""
        return self.state_directory / "accepted" / "host-maps.sqlite"
