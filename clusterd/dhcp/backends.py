"""Which DHCP server: `[dhcp] backend` chooses the settings, and the settings choose the backend.

A backend is one entry in each: its settings model in `ServerSettings`, its constructor in `make_backend`, which imports
it only then, so that a site needs only what its own server needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.dnsmasq_settings import DnsmasqSettings
from clusterd.dhcp.file_settings import FileSettings
from clusterd.dhcp.isc_settings import IscSettings
from clusterd.dhcp.kea.settings import KeaSettings

HOSTS_FILE = "dhcp-hosts"


def _file_unless_said(table: Any) -> Any:
    return {"backend": "file", **table} if isinstance(table, Mapping) else table


ServerSettings = FileSettings | DnsmasqSettings | IscSettings | KeaSettings
DhcpSettings = Annotated[
    Annotated[ServerSettings, Field(discriminator="backend")],
    BeforeValidator(_file_unless_said),
]
"""The table `[dhcp]`; `backend = "file"` where it does not say."""


def make_backend(settings: ServerSettings, state_directory: Path, reactor: Any) -> Backend:
    """The backend for these settings, ready for its first call; nothing is opened, read or connected yet.

    `state_directory` is clusterd's own: the place of files whose path the settings leave open.
    """
    match settings:
        case FileSettings():
            from clusterd.dhcp.file import FileBackend
            from clusterd.dhcp.host_system import run_in_threads_of

            path = settings.hosts_file or state_directory / HOSTS_FILE
            return FileBackend(path, run_in_thread=run_in_threads_of(reactor))
        case DnsmasqSettings():
            from clusterd.dhcp.dnsmasq import dnsmasq_backend

            path = settings.hosts_file or state_directory / HOSTS_FILE
            directory = settings.hosts_directory or path.with_name(f"{path.name}.new")
            return dnsmasq_backend(path, directory, settings.pid_file, reactor)
        case IscSettings():
            from clusterd.dhcp.isc import isc_backend

            return isc_backend(settings, reactor)
        case KeaSettings():
            from clusterd.dhcp.kea.backend import kea_backend

            return kea_backend(settings, reactor)
