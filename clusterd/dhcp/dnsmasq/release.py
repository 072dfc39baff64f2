"""Tell a DHCP server on this host that a client gives its lease back, in the client's name.

A DHCPRELEASE (RFC 2131, 4.4.6) or a Release (RFC 8415, 18.2.7). dnsmasq takes it from the host that it runs on when
it seems to come in by the NIC that the client is at, which is what binding the socket to that NIC does.
"""

import secrets
import socket
from collections.abc import Callable, Collection
from ipaddress import ip_interface
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clusterd.dhcp.backend import BackendError
from clusterd.dhcp.dnsmasq.leases import Lease, Leases, parse_leases
from clusterd.dhcp.host_system import FileVersion, RunInThread
from clusterd.topology.netlink import KernelFacts, MalformedNetlink, snapshot

_SERVER_PORT_4, _SERVER_PORT_6 = 67, 547
_ALL_SERVERS = "ff02::1:2"  # RFC 8415, 7.1
_COOKIE = b"\x63\x82\x53\x63"  # RFC 2131, 3
_SERVER_ID, _MESSAGE_KIND, _CLIENT_ID, _END = 54, 53, 61, 255  # RFC 2132
_RELEASE = 7
_RELEASE_6, _CLIENT_ID_6, _SERVER_ID_6, _IA_NA_6, _IA_ADDRESS_6, _ELAPSED_6 = 8, 1, 2, 3, 5, 8  # RFC 8415, 7.3 and 21


MAX_LEASE_FILE_BYTES = 128 << 20  # a million leases
ENDED_WITHIN_SECONDS = 1.0
LOOK_EVERY_SECONDS = 0.02


class NotOnLink(Exception):
    """No NIC of this host is on the lease's network: its client is behind a relay."""


class LeaseEnding:
    """Ends leases of a dnsmasq on this host, and sees in its lease file that they are gone.

    `in_its_network` does blocking work in dnsmasq's network namespace; `send` is `release` except in tests.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        run_in_thread: RunInThread,
        in_its_network: RunInThread,
        send: Callable[[Lease, bytes | None], None] | None = None,
    ) -> None:
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._in_its_network = in_its_network
        self._send = send or release

    async def read(self, lease_file: Path) -> Leases:
        """The leases of now. Raises BackendError when the file is there and cannot be read."""
        return await self._run_in_thread(lambda: _read(lease_file))

    async def read_bytes(self, lease_file: Path) -> bytes:
        """The lease file of now. Raises BackendError when it is there and cannot be read, or is no sane lease file."""
        return await self._run_in_thread(lambda: _read_bytes(lease_file))

    async def end(self, leases: Collection[Lease], server_duid: bytes | None, lease_file: Path) -> frozenset[Lease]:
        """Return when they are gone, or when it is clear that they stay until they expire, which is logged.

        Those that stay are the answer.
        """
        before = await self._run_in_thread(lambda: FileVersion.of(lease_file))
        sent = await self._in_its_network(lambda: self._send_all(leases, server_duid))
        deadline = self._clock.seconds() + ENDED_WITHIN_SECONDS
        left = sent
        while left and self._clock.seconds() < deadline:
            version = await self._run_in_thread(lambda: FileVersion.of(lease_file))
            if version != before:
                before = version
                left = left.intersection((await self.read(lease_file)).leases)
            if left:
                await deferLater(self._clock, LOOK_EVERY_SECONDS)
        for lease in sorted(left, key=lambda lease: lease.address):
            self._warn(lease, "dnsmasq did not take its release")
        for lease in sorted(sent - left, key=lambda lease: lease.address):
            self._log.info(
                "ended the lease of a former client on {address}",
                event="dnsmasq.lease-ended",
                address=lease.address,
                mac=None if lease.mac is None else lease.mac.hex(":"),
                client=None if lease.client is None else lease.client.hex(":"),
            )
        return frozenset(leases) - (sent - left)

    def _send_all(self, leases: Collection[Lease], server_duid: bytes | None) -> frozenset[Lease]:
        """Those that could be sent."""
        sent: set[Lease] = set()
        for lease in leases:
            try:
                self._send(lease, server_duid)
                sent.add(lease)
            except (OSError, NotOnLink, MalformedNetlink) as error:
                self._warn(lease, str(error))
        return frozenset(sent)

    def _warn(self, lease: Lease, reason: str) -> None:
        self._log.warn(
            "the lease of a former client on {address} stays until it expires: {reason}",
            event="dnsmasq.lease-stays",
            address=lease.address,
            reason=reason,
        )


def _read(lease_file: Path) -> Leases:
    return parse_leases(_read_bytes(lease_file).decode(errors="replace"))


def _read_bytes(lease_file: Path) -> bytes:
    try:
        with lease_file.open("rb") as file:
            content = file.read(MAX_LEASE_FILE_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BackendError(f"cannot read dnsmasq's leases, {lease_file}: {error.strerror or error}") from error
    if len(content) > MAX_LEASE_FILE_BYTES:
        raise BackendError(f"dnsmasq's leases, {lease_file}, have more than {MAX_LEASE_FILE_BYTES} bytes")
    return content


def release(lease: Lease, server_duid: bytes | None) -> None:
    """Send the message. There is no answer; the lease file tells. Raises OSError and NotOnLink.

    Blocks for milliseconds; works on the network namespace of the calling thread.
    """
    index, own_address = _place_on_link(snapshot(), lease.address)
    name = socket.if_indextoname(index)
    family = socket.AF_INET6 if lease.is_v6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        if lease.is_v6:
            opened.sendto(release_message_6(lease, server_duid or b""), (_ALL_SERVERS, _SERVER_PORT_6, 0, index))
        else:
            opened.sendto(release_message_4(lease, own_address), (own_address, _SERVER_PORT_4))


def _place_on_link(facts: KernelFacts, address: str) -> tuple[int, str]:
    """The index of the NIC on the address's network, and this host's address there."""
    wanted = ip_interface(address).ip
    for own in facts.addresses:
        network = ip_interface(f"{own.address}/{own.prefix_length}").network
        if not own.point_to_point and wanted.version == network.version and wanted in network:
            return own.index, own.address
    raise NotOnLink(f"no NIC of this host is on the network of {address}")


def release_message_4(lease: Lease, server_address: str) -> bytes:
    """The DHCPRELEASE of a lease."""
    head = bytes([1, 1, 6, 0]) + secrets.token_bytes(4) + bytes(4)
    head += socket.inet_aton(lease.address) + bytes(12) + (lease.mac or b"").ljust(16, b"\0")
    options = bytes([_MESSAGE_KIND, 1, _RELEASE, _SERVER_ID, 4]) + socket.inet_aton(server_address)
    if lease.client is not None:
        options += bytes([_CLIENT_ID, len(lease.client)]) + lease.client
    return head.ljust(236, b"\0") + _COOKIE + options + bytes([_END])


def release_message_6(lease: Lease, server_duid: bytes) -> bytes:
    """The Release of a lease."""
    address = _option_6(_IA_ADDRESS_6, socket.inet_pton(socket.AF_INET6, lease.address) + bytes(8))
    return (
        bytes([_RELEASE_6])
        + secrets.token_bytes(3)
        + _option_6(_CLIENT_ID_6, lease.client or b"")
        + _option_6(_SERVER_ID_6, server_duid)
        + _option_6(_ELAPSED_6, bytes(2))
        + _option_6(_IA_NA_6, lease.association.to_bytes(4) + bytes(8) + address)
    )


def _option_6(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value
