"""What a DHCP server has of its own when we come to it: its pools, and static entries that are not ours.

Nothing here changes anything: it is read, and reported to the region, which never hands such an address out.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clusterd.protocol.values import (
    Identifier,
    IdentifierKind,
    InterfaceReport,
    ServerEntry,
    ServerPool,
    parse_hostname,
)

MAX_FILE_BYTES = 256 << 20  # a leases file with 100,000 hosts and their leases has some 60 MB
MAX_FILES = 10_000
MAX_REMARKS = 100

Look = Callable[[], Awaitable[tuple[InterfaceReport, ...]]]


class Unreadable(Exception):
    """What the server has of its own is not known. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class ServerPicture:
    """The whole picture. `remarks` are sentences about what was found and could not be understood."""

    pools: frozenset[ServerPool] = frozenset()
    entries: frozenset[ServerEntry] = frozenset()
    remarks: tuple[str, ...] = ()


class ServerReader(Protocol):
    """One DHCP server's own configuration, read and never written."""

    async def read(self) -> ServerPicture:
        """Raises Unreadable and nothing else."""


class NothingToRead:
    """A site without a DHCP server that clusterd knows of: the backend `file`."""

    async def read(self) -> ServerPicture:
        """Nothing."""
        return ServerPicture()


def read_text(path: Path) -> str:
    """A configuration file, bounded; bytes that are no text are kept out of the way. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable(
            f"{path} cannot be read: {error.strerror or error}; let clusterd's user read it, or name the right file "
            f"in [dhcp]"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable(f"{path} has more than {MAX_FILE_BYTES} bytes: that is no configuration")
    return content.decode("utf-8", "replace")


def identifiers_of(clients: Iterable[tuple[IdentifierKind, bytes]]) -> tuple[Identifier, ...]:
    """Those that can be an identifier of a host map."""
    found = []
    for kind, octets in clients:
        try:
            found.append(Identifier(kind, octets))
        except ValueError:
            continue
    return tuple(found)


def safe_hostname(text: str | None) -> str | None:
    """The name if it is DNS-safe, else None."""
    try:
        return None if text is None else parse_hostname(text)
    except ValueError:
        return None
