"""Asking by packets of one's own: quick, exact, and repeated. It needs CAP_NET_RAW."""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred

from clusterd.probing import arp, neighbour_discovery
from clusterd.probing.packet_sockets import OpenSocket, PacketSocket, open_packet_socket
from clusterd.probing.wire import Wire
from clusterd.protocol.addresses import Family, pack_address, unpack_address
from clusterd.protocol.values import format_mac

ASKED_TIMES: Final = 3  # as RFC 5227, 1.1, in less time: one may get lost
# After the last question as long as between two of them: the answer to it needs a moment, too.

_FRAMES: Final = {4: arp.probe, 6: neighbour_discovery.solicitation}
_ANSWERS: Final = {4: arp.claimed, 6: neighbour_discovery.advertised}


@dataclass(eq=False, slots=True)
class _Asking:
    """Addresses that are asked for at one NIC, and who has answered for which. `done` fires when all have."""

    nic: str
    asked: Collection[str]
    done: Deferred[None]
    answered: dict[str, str] = field(default_factory=dict)

    def hear(self, nic: str, address: str, mac: str) -> None:
        if nic == self.nic and address in self.asked:
            self.answered.setdefault(address, mac)
            if len(self.answered) == len(self.asked) and not self.done.called:
                self.done.callback(None)


class PacketProbe:
    """Asks by ARP and by neighbour solicitations. Any number of askers at a time share two sockets."""

    def __init__(self, reactor: Any, open_socket: OpenSocket = open_packet_socket) -> None:
        self._reactor = reactor
        self._open_socket = open_socket
        self._sockets: dict[Family, PacketSocket] = {}
        self._asking: dict[Family, set[_Asking]] = {4: set(), 6: set()}

    async def in_use(self, wire: Wire, addresses: Collection[str], seconds: float) -> dict[str, str]:
        """Who has which of these addresses of one family, by MAC address, as far as anybody answers in time.

        Returns before the time is over when all are in use. Raises OSError: PermissionError where this host's clusterd
        may not send packets.
        """
        assert wire.mac is not None
        family: Family = 6 if ":" in next(iter(addresses)) else 4
        opened = self._socket(family)
        asking = _Asking(wire.nic, frozenset(addresses), Deferred())
        self._asking[family].add(asking)
        timers = []
        try:
            opened.listen()
            frames = {address: _FRAMES[family](wire.mac, pack_address(address)) for address in addresses}
            self._send(opened, asking, frames)
            pause = seconds / ASKED_TIMES
            timers = [
                self._reactor.callLater(pause * n, self._send_again, opened, asking, frames)
                for n in range(1, ASKED_TIMES)
            ]
            timers.append(self._reactor.callLater(seconds, _finish, opened, asking.done))
            await asking.done
        finally:
            for timer in timers:
                if timer.active():
                    timer.cancel()
            self._asking[family].discard(asking)
            current = self._sockets.get(family)  # another one, where this one was lost and somebody asked since
            if not self._asking[family] and current is not None:
                current.rest()
        return asking.answered

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()
        self._sockets.clear()

    def _socket(self, family: Family) -> PacketSocket:
        if family not in self._sockets or self._sockets[family].closed:
            heard = partial(self._heard, family)
            self._sockets[family] = PacketSocket(self._reactor, family, heard, self._open_socket)
        return self._sockets[family]

    def _send(self, opened: PacketSocket, asking: _Asking, frames: dict[str, bytes]) -> None:
        for address, frame in frames.items():
            if address not in asking.answered:
                opened.send(asking.nic, frame)

    def _send_again(self, opened: PacketSocket, asking: _Asking, frames: dict[str, bytes]) -> None:
        try:
            self._send(opened, asking, frames)
        except OSError as error:
            if not asking.done.called:
                asking.done.errback(error)

    def _heard(self, family: Family, nic: str, frame: bytes) -> None:
        if (said := _ANSWERS[family](frame)) is not None:
            address, mac = unpack_address(said[0]), format_mac(said[1])
            for asking in list(self._asking[family]):
                asking.hear(nic, address, mac)


def _finish(opened: PacketSocket, done: "Deferred[None]") -> None:
    opened.catch_up()
    if not done.called:
        done.callback(None)
