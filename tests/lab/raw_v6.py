"""A DHCPv6 client with any DUID (RFC 8415), on a UDP socket at the clients' end of a cable."""

import secrets
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType

from tests.lab.namespaces import Network, in_namespace

_SOLICIT, _ADVERTISE, _REQUEST, _RENEW, _REPLY, _RELEASE = 1, 2, 3, 5, 7, 8
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _ELAPSED, _STATUS = 1, 2, 3, 5, 8, 13
_CLIENT_PORT, _SERVER_PORT, _ALL_SERVERS = 546, 547, "ff02::1:2"
_ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Answer6:
    """What the server said. `status` is that of RFC 8415, 21.13: 0 success, 2 no address available."""

    addresses: tuple[str, ...]
    lifetimes: tuple[int, ...]  # valid lifetimes in seconds, 0 for an address that must not be used any longer
    server_id: bytes
    status: int


class RawClient6:
    """Plays any number of machines that differ by DUID. Not for use by two threads at a time; make one for each.

    The server sees the MAC address of the NIC as the source; `Network.set_client_mac` changes it. `association` is
    the IAID; left out, it is made of the DUID's last four octets, which for DUID-LL is what dhclient does. A server
    keeps an address from another association of the same machine while it is leased.
    """

    def __init__(self, network: Network, nic: str = "c0") -> None:
        def open_socket() -> tuple[socket.socket, int]:
            opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, nic.encode() + b"\0")
            opened.bind(("::", _CLIENT_PORT))
            opened.setblocking(False)
            return opened, socket.if_nametoindex(nic)

        self._socket, self._nic_index = in_namespace(network.client, open_socket)

    def __enter__(self) -> "RawClient6":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def solicit(
        self, duid: bytes, *, association: int | None = None, timeout: float = _ANSWER_SECONDS
    ) -> Answer6 | None:
        """Ask who would give this machine an address."""
        return self._ask(_SOLICIT, duid, association, (), b"", timeout)

    def obtain(
        self, duid: bytes, *, association: int | None = None, timeout: float = _ANSWER_SECONDS
    ) -> Answer6 | None:
        """Solicit and request: what a machine does that comes up. An advertisement without address is the answer."""
        offered = self.solicit(duid, association=association, timeout=timeout)
        if offered is None or not offered.addresses:
            return offered
        return self._ask(_REQUEST, duid, association, offered.addresses, offered.server_id, timeout)

    def renew(
        self, duid: bytes, held: Answer6, *, association: int | None = None, timeout: float = _ANSWER_SECONDS
    ) -> Answer6 | None:
        """Ask to keep what was obtained."""
        return self._ask(_RENEW, duid, association, held.addresses, held.server_id, timeout)

    def release(
        self, duid: bytes, held: Answer6, *, association: int | None = None, timeout: float = _ANSWER_SECONDS
    ) -> Answer6 | None:
        """Give back what was obtained."""
        return self._ask(_RELEASE, duid, association, held.addresses, held.server_id, timeout)

    def _ask(
        self,
        kind: int,
        duid: bytes,
        association: int | None,
        addresses: Iterable[str],
        server_id: bytes,
        timeout: float,
    ) -> Answer6 | None:
        transaction = secrets.token_bytes(3)
        wanted = b"".join(
            _option(_IA_ADDRESS, socket.inet_pton(socket.AF_INET6, address) + bytes(8)) for address in addresses
        )
        message = bytes([kind]) + transaction + _option(_CLIENT_ID, duid) + _option(_ELAPSED, bytes(2))
        identity = duid[-4:].rjust(4, b"\0") if association is None else association.to_bytes(4)
        message += _option(_IA_NA, identity + bytes(8) + wanted)
        if server_id:
            message += _option(_SERVER_ID, server_id)
        self._socket.sendto(message, (_ALL_SERVERS, _SERVER_PORT, 0, self._nic_index))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return None
            answer = self._socket.recv(4096)
            if answer[0] in (_ADVERTISE, _REPLY) and answer[1:4] == transaction:
                return _decode(answer[4:])
        return None


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value


def _options(octets: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position + 4 <= len(octets):
        code, length = (
            int.from_bytes(octets[position : position + 2]),
            int.from_bytes(octets[position + 2 : position + 4]),
        )
        found.append((code, octets[position + 4 : position + 4 + length]))
        position += 4 + length
    return found


def _decode(octets: bytes) -> Answer6:
    outer = _options(octets)
    inner = [option for code, value in outer if code == _IA_NA for option in _options(value[12:])]
    addresses = [value for code, value in inner if code == _IA_ADDRESS]
    statuses = [int.from_bytes(value[:2]) for code, value in outer + inner if code == _STATUS]
    return Answer6(
        addresses=tuple(socket.inet_ntop(socket.AF_INET6, value[:16]) for value in addresses),
        lifetimes=tuple(int.from_bytes(value[20:24]) for value in addresses),
        server_id=next((value for code, value in outer if code == _SERVER_ID), b""),
        status=max(statuses, default=0),
    )
