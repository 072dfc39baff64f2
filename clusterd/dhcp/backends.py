"""Which DHCP server: `[dhcp] backend` chooses the settings, and the settings choose the backend.

A backend is one entry in each: its settings model in `ServerSettings`, its constructor in `make_backend`, which imports
it only then, so that a site needs only what its own server needs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.dnsmasq.settings import DnsmasqSettings
from clusterd.dhcp.file.settings import FileSettings
from clusterd.dhcp.first_contact import Look, NothingToRead, ServerReader
from clusterd.dhcp.host_system import run_in_threads_of
from clusterd.dhcp.isc.settings import IscSettings
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


def hosts_of_dnsmasq(settings: DnsmasqSettings, state_directory: Path) -> tuple[Path, Path]:
    """The hosts file and the hosts directory that clusterd writes for dnsmasq."""
    path = settings.hosts_file or state_directory / HOSTS_FILE
    return path, settings.hosts_directory or path.with_name(f"{path.name}.new")


def make_backend(settings: ServerSettings, state_directory: Path, reactor: Any) -> Backend:
    """The backend for these settings, ready for its first call; nothing is opened, read or connected yet.

    `state_directory` is clusterd's own: the place of files whose path the settings leave open.
    """
    match settings:
        case FileSettings():
            from clusterd.dhcp.file.backend import FileBackend

            path = settings.hosts_file or state_directory / HOSTS_FILE
            return FileBackend(path, run_in_thread=run_in_threads_of(reactor))
        case DnsmasqSettings():
            from clusterd.dhcp.dnsmasq.backend import dnsmasq_backend

            path, directory = hosts_of_dnsmasq(settings, state_directory)
            return dnsmasq_backend(path, directory, settings.pid_file, reactor)
        case IscSettings():
            from clusterd.dhcp.isc.backend import isc_backend

            return isc_backend(settings, reactor)
        case KeaSettings():
            from clusterd.dhcp.kea.backend import kea_backend

            return kea_backend(settings, reactor)


def make_reader(settings: ServerSettings, state_directory: Path, look: Look, reactor: Any) -> ServerReader:
    """What reads the pools and static entries that the server of these settings has of its own.

    `look` tells the interfaces of this host; `state_directory` as in `make_backend`.
    """
    run_in_thread = run_in_threads_of(reactor)
    match settings:
        case FileSettings():
            return NothingToRead()
        case DnsmasqSettings():
            from clusterd.dhcp.dnsmasq.contact import DnsmasqReader

            ours = hosts_of_dnsmasq(settings, state_directory)
            return DnsmasqReader(settings.pid_file, settings.configuration_file, ours, look, run_in_thread)
        case IscSettings():
            from clusterd.dhcp.isc.contact import DhcpdReader
            from clusterd.dhcp.isc.hosts import is_ours

            ipv6 = settings.ipv6
            return DhcpdReader(
                [settings.configuration_file, *([ipv6.configuration_file] if ipv6 is not None else [])],
                [settings.leases_file],
                [ipv6.include_file] if ipv6 is not None else [],
                lambda name: is_ours(name.encode("utf-8", "replace")),
                run_in_thread,
            )
        case KeaSettings():
            from clusterd.dhcp.kea.backend import kea_reader

            return kea_reader(settings, reactor, run_in_thread)
