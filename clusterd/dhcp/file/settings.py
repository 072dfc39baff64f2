"""The settings of the backend `file`: `[dhcp]` with `backend = "file"`, or without a `backend`."""

from typing import Literal

from clusterd.daemon.config_file import AbsolutePath, Strict


class FileSettings(Strict):
    """A file that somebody else gives to a DHCP server."""

    backend: Literal["file"] = "file"
    hosts_file: AbsolutePath | None = None  # default: dhcp-hosts in the state directory
