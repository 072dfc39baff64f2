"""A DHCPv4 server for demonstrations, on a high port of the loopback interface: no root and no DHCP server needed.

It serves the host maps of a hosts file in dnsmasq's syntax, which it reads again whenever it has changed, to
clients behind a relay: the relay's address (`giaddr`) tells which network a client is on (RFC 2131, 4.3.1). Answers
go back to where the question came from. It has no pools and keeps no leases.

    python -m tests.lab.responder --hosts-file /tmp/maps --network 192.0.2.0/24 [--port 10067]
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import react

from clusterd.dhcp.host_lines import parse
from clusterd.dhcp.host_system import FileVersion
from clusterd.protocol.values import HostMap, IdentifierKind
from tests.lab.dhcp_messages import NO_ADDRESS, Kind, Message, Option, decode

LEASE_SECONDS = 600
DEFAULT_PORT = 10067


class ServedMaps:
    """The IPv4 host maps of a hosts file, indexed by what a message says about its sender."""

    def __init__(self, hosts_file: Path) -> None:
        self._hosts_file = hosts_file
        self._version: FileVersion | None = None
        self._by_identifier: dict[tuple[IdentifierKind, bytes], list[HostMap]] = {}

    def find(self, message: Message, network: IPv4Network) -> HostMap | None:
        """The sender's host map in this network; a client-id says more than a MAC address."""
        self._refresh()
        client_id = message.options.get(Option.CLIENT_ID)
        keys = [(IdentifierKind.MAC, message.mac)]
        if client_id is not None:
            keys.insert(0, (IdentifierKind.CLIENT_ID, client_id))
        for key in keys:
            for host_map in self._by_identifier.get(key, ()):
                if IPv4Address(host_map.address) in network:
                    return host_map
        return None

    def _refresh(self) -> None:
        version = FileVersion.of(self._hosts_file)
        if version == self._version:
            return
        self._by_identifier = {}
        for host_map in parse(self._hosts_file.read_text() if version else "").host_maps:
            if host_map.family == 4:
                key = (host_map.identifier.kind, host_map.identifier.value)
                self._by_identifier.setdefault(key, []).append(host_map)
        self._version = version


def answer_to(message: Message, host_map: HostMap | None, network: IPv4Network, server_address: str) -> Message | None:
    """What a server that knows only host maps says: an offer, an ACK, a NAK, or nothing (None)."""
    if message.kind not in (Kind.DISCOVER, Kind.REQUEST) or host_map is None:
        return None
    if message.server_id not in (None, server_address):
        return None  # the client took another server's offer
    server_id = {int(Option.SERVER_ID): IPv4Address(server_address).packed}
    if message.kind is Kind.REQUEST:
        wanted = message.requested_address or message.client_address
        if wanted != host_map.address:
            return replace(message, kind=Kind.NAK, client_address=NO_ADDRESS, options=server_id)
    options = {
        **server_id,
        Option.LEASE_SECONDS: LEASE_SECONDS.to_bytes(4),
        Option.SUBNET_MASK: network.netmask.packed,
    }
    if host_map.hostname is not None:
        options[Option.HOST_NAME] = host_map.hostname.partition(".")[0].encode()
    kind = Kind.OFFER if message.kind is Kind.DISCOVER else Kind.ACK
    return replace(message, kind=kind, your_address=host_map.address, options=options)


class Responder(DatagramProtocol):
    """The server as a Twisted protocol, for `reactor.listenUDP(port, Responder(...), interface="127.0.0.1")`.

    `networks` are the IPv4 networks in CIDR form that it answers for; relays on others get silence.
    """

    def __init__(self, hosts_file: Path, networks: Iterable[str], server_address: str = "127.0.0.1") -> None:
        self._maps = ServedMaps(hosts_file)
        self._networks = [IPv4Network(network) for network in networks]
        self._server_address = server_address

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        try:
            message = decode(datagram)
        except ValueError:
            return
        relay = IPv4Address(message.relay_address)
        for network in self._networks:
            if relay in network:
                host_map = self._maps.find(message, network)
                answer = answer_to(message, host_map, network, self._server_address)
                if answer is not None and self.transport is not None:
                    self.transport.write(answer.encode(), addr)


async def _serve(reactor: Any, hosts_file: Path, networks: list[str], port: int) -> None:
    listening = reactor.listenUDP(port, Responder(hosts_file, networks), interface="127.0.0.1")
    print(f"ready 127.0.0.1:{listening.getHost().port}", flush=True)
    await Deferred()  # until the process is told to end


def main() -> None:
    """Serve until told to end; the first line of output is `ready ADDRESS:PORT`."""
    parser = argparse.ArgumentParser(description="A DHCPv4 server for demonstrations, on the loopback interface.")
    parser.add_argument("--hosts-file", type=Path, required=True)
    parser.add_argument("--network", action="append", required=True, metavar="CIDR")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 chooses a free one")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(_serve(reactor, options.hosts_file, options.network, options.port)))


if __name__ == "__main__":
    main()
