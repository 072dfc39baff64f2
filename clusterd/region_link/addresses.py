"""Where the region is to be found: as the configuration says, or else as the region said last.

A region tells it when a cluster enrols and with each registration, so that regionds can come and go without anybody
touching its clusters. It is kept with the cluster's identity, for the next start.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from twisted.logger import Logger

from clusterd.daemon.endpoints import TlsAddress, parse_link_address
from clusterd.region_link.identity import IdentityFile, IdentityUnusable

MAX_ENDPOINTS: Final = 32

Move = Callable[[Sequence[TlsAddress]], None]
"""Try these from the next connection on."""


def parse_endpoints(text: str) -> tuple[TlsAddress, ...]:
    """What a region says: addresses with spaces between them. Raises ValueError."""
    words = text.split()
    if not 1 <= len(words) <= MAX_ENDPOINTS:
        raise ValueError(f"it names {len(words)} addresses to connect to, not 1 to {MAX_ENDPOINTS}")
    return tuple(_reachable(word) for word in words)


def _reachable(text: str) -> TlsAddress:
    address = parse_link_address(text)
    if not isinstance(address, TlsAddress) or address.port == 0:
        raise ValueError(f"no other host can connect to {text[:128]!r}")
    return address


class RegionAddresses:
    """Takes what the region says, and keeps it in `file`. Without `move` the configuration has the last word."""

    _log = Logger()

    def __init__(self, file: IdentityFile, move: Move | None) -> None:
        self._file = file
        self._move = move

    def told(self, text: str) -> None:
        """The region said it. What cannot be used, or not be written down, changes nothing, but for a line in the log.

        It is believed: whoever answers at another address still has to prove that it is the same region.
        """
        try:
            addresses = parse_endpoints(text)
            endpoints = tuple(map(str, addresses))
            identity = self._file.load()
            if endpoints == identity.endpoints:
                return
            self._file.save(replace(identity, endpoints=endpoints))
        except (ValueError, IdentityUnusable, OSError) as error:
            self._log.warn(
                "where the region says that it is cannot be kept: {reason}",
                event="region.endpoints-not-kept",
                reason=str(error)[:500],
            )
            return
        self._log.info(
            "the region is at {endpoints} from now on",
            event="region.endpoints-changed",
            endpoints=list(endpoints),
            followed=self._move is not None,
        )
        if self._move is not None:
            self._move(addresses)
