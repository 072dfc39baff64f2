"""The settings of the backend `isc`: `[dhcp]` with `backend = "isc"`, and `[dhcp.ipv6]` where dhcpd serves IPv6 too."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from clusterd.daemon.config_file import AbsolutePath, Strict

Argument = Annotated[str, Field(min_length=1, max_length=4096)]


class Ipv6Settings(Strict):
    """The dhcpd that serves IPv6: a process of its own, restarted for its host maps."""

    include_file: AbsolutePath = Path("/etc/dhcp/hostmap6/host-maps.conf")
    configuration_file: AbsolutePath = Path("/etc/dhcp/dhcpd6.conf")
    pid_file: AbsolutePath = Path("/run/dhcpd6.pid")
    leases_file: AbsolutePath = Path("/var/lib/dhcp/dhcpd6.leases")
    program: AbsolutePath = Path("/usr/sbin/dhcpd")
    restart_command: Annotated[tuple[Argument, ...], Field(min_length=1, max_length=64)] = (
        "systemctl",
        "restart",
        "isc-dhcp-server6.service",
    )


class IscSettings(Strict):
    """The ISC dhcpd of this host."""

    backend: Literal["isc"]
    omapi_port: Annotated[int, Field(ge=1, le=65_535)] = 7911
    omapi_key_file: AbsolutePath = Path("/etc/hostmap/omapi-key")
    leases_file: AbsolutePath = Path("/var/lib/dhcp/dhcpd.leases")
    configuration_file: AbsolutePath = Path("/etc/dhcp/dhcpd.conf")
    ipv6: Ipv6Settings | None = None

    @model_validator(mode="after")
    def _can_speak_omapi(self) -> "IscSettings":
        if find_spec("pypureomapi") is None:
            raise ValueError("the backend isc needs the Python package pypureomapi: pip install 'hostmap[isc]'")
        return self
