"""The settings of the backend `kea`: `[dhcp]` with `backend = "kea"`."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from clusterd.daemon.config_file import AbsolutePath, Strict

_PASSWORD = re.compile(r"password\s*=|://[^/@\s]*:[^/@\s]*@")


class Way(StrEnum):
    """How Kea is given host maps."""

    HOSTS_DATABASE = "hosts-database"
    RESERVATION_COMMANDS = "reservation-commands"
    INCLUDE_FILES = "include-files"


class KeaSettings(Strict):
    """The Kea of this host: its DHCPv4 server, its DHCPv6 server, or both.

    A family whose `dhcp…_socket` is the empty string is not served by Kea here: a server that is merely away must not
    be mistaken for one that does not exist, because it would keep host maps that count as removed. `hosts_database`
    is a libpq DSN for the hosts database, where the one in Kea's own configuration does not do for clusterd; no
    password may stand in it, that is in the file `hosts_database_password_file`.
    """

    backend: Literal["kea"]
    way: Way | None = None  # default: the first of them that the server offers
    dhcp4_socket: AbsolutePath | Literal[""] = Path("/run/kea/kea4-ctrl-socket")
    dhcp6_socket: AbsolutePath | Literal[""] = ""
    hosts_database: str | None = None
    hosts_database_password_file: AbsolutePath | None = None
    include_directory: AbsolutePath = Path("/var/lib/hostmap/kea")
    dhcp4_config: AbsolutePath = Path("/etc/kea/kea-dhcp4.conf")
    dhcp6_config: AbsolutePath = Path("/etc/kea/kea-dhcp6.conf")

    @model_validator(mode="after")
    def _serves_something(self) -> "KeaSettings":
        if not self.dhcp4_socket and not self.dhcp6_socket:
            raise ValueError("dhcp4_socket and dhcp6_socket are both empty: name the socket of at least one server")
        if self.hosts_database is None and self.hosts_database_password_file is not None:
            raise ValueError("hosts_database_password_file is for hosts_database, and there is none")
        if self.hosts_database is not None and _PASSWORD.search(self.hosts_database):
            raise ValueError("hosts_database: no password belongs here: put it into hosts_database_password_file")
        return self
