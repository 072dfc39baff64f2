"""The files of the directory that dnsmasq watches. Everything here blocks: it is called in a thread."""

import os
from collections.abc import Collection
from pathlib import Path

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.host_lines import OWNER_MARK
from clusterd.dhcp.host_system import READABLE_BY_ALL

SHOWN_PREFIX = "hostmap-"


def write_shown(path: Path, lines: Collection[str]) -> None:
    """Marked as ours; not flushed to the disk, for after a power cut dnsmasq starts with the hosts file."""
    try:
        with path.open("w") as file:
            os.fchmod(file.fileno(), READABLE_BY_ALL)
            file.write("\n".join([OWNER_MARK, *lines]) + "\n")
    except OSError as error:
        raise BackendError(f"cannot write {path}: {error.strerror or error}") from error


def size_of(path: Path) -> int:
    """In octets; 0 for a file that is not there or cannot be read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def take_away(directory: Path) -> None:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.removeprefix(".").startswith(SHOWN_PREFIX):
                    Path(entry.path).unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackendError(f"cannot clear {directory}: {error.strerror or error}") from error
