"""The settings of the backend `dnsmasq`: `[dhcp]` with `backend = "dnsmasq"`."""

from pathlib import Path
from typing import Literal

from clusterd.daemon.config_file import AbsolutePath, Strict


class DnsmasqSettings(Strict):
    """The dnsmasq of this host."""

    backend: Literal["dnsmasq"]
    hosts_file: AbsolutePath | None = None  # default: dhcp-hosts in the state directory
    hosts_directory: AbsolutePath | None = None  # default: beside hosts_file, with .new at the end of its name
    pid_file: AbsolutePath = Path("/run/dnsmasq/dnsmasq.pid")
    configuration_file: AbsolutePath | None = None  # default: what the running dnsmasq was started with
