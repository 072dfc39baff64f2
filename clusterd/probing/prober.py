"""Answers the region's question whether addresses are in use: checks it, bounds it, and asks in the way that works."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from netaddr import IPAddress, IPNetwork
from twisted.logger import Logger

from clusterd.probing.by_neighbour_table import NeighbourTableProbe
from clusterd.probing.by_packets import PacketProbe
from clusterd.probing.wire import Wire
from clusterd.protocol.errors import MalformedArgument, NotProbed
from clusterd.protocol.values import AddressInUse, InterfaceReport, parse_mac

MAX_ASKED_AT_ONCE: Final = 1024  # addresses, by all questions that are under way
LEAST_SECONDS: Final = 0.1


class InUse(Protocol):
    """A way to ask; see `PacketProbe`."""

    async def in_use(self, wire: Wire, addresses: Sequence[str], seconds: float) -> dict[str, str]: ...

    def close(self) -> None: ...


class Prober:
    """Asks on behalf of the region. `look` tells the interfaces of this host as they are now.

    Without the privilege to send packets of its own it goes by the kernel's neighbour table from then on.
    """

    _log = Logger(namespace="probing")

    def __init__(
        self,
        look: Callable[[], Awaitable[Sequence[InterfaceReport]]],
        by_packets: InUse,
        by_neighbour_table: InUse,
    ) -> None:
        self._look = look
        self._by_packets = by_packets
        self._by_neighbour_table = by_neighbour_table
        self._privileged = True
        self._asked = 0

    async def probe(self, nic: str, cidr: str, addresses: Sequence[str], seconds: float) -> list[AddressInUse]:
        """Which of these addresses somebody answers for, in their order.

        Raises MalformedArgument for addresses that are not of the network, and NotProbed where this NIC is not on it,
        or cannot be asked at now.
        """
        wanted = tuple(dict.fromkeys(addresses))
        if not wanted:
            return []
        wire = await self._wire(nic, cidr)
        network = IPNetwork(cidr)
        if not all(IPAddress(address) in network for address in wanted):
            raise MalformedArgument(f"only addresses of {cidr} can be asked for there")
        if self._asked + len(wanted) > MAX_ASKED_AT_ONCE:
            raise NotProbed(f"{self._asked} addresses are being asked for already")
        self._asked += len(wanted)
        try:
            found = await self._ask(wire, wanted, max(seconds, LEAST_SECONDS))
        except (OSError, ValueError) as error:
            raise NotProbed(f"{nic} cannot be asked at: {error}"[:500]) from error
        finally:
            self._asked -= len(wanted)
        return [AddressInUse(address, found[address]) for address in wanted if address in found]

    def close(self) -> None:
        self._by_packets.close()
        self._by_neighbour_table.close()

    async def _wire(self, nic: str, cidr: str) -> Wire:
        for report in await self._look():
            if (report.nic, report.cidr) != (nic, cidr):
                continue
            if report.relayed:
                raise NotProbed(f"{cidr} is relayed to {nic}: this host is not on it")
            if not report.up:
                raise NotProbed(f"{nic} is down")
            return Wire(nic, None if report.mac is None else parse_mac(report.mac))
        raise NotProbed(f"{nic} is not on {cidr}")

    async def _ask(self, wire: Wire, addresses: Sequence[str], seconds: float) -> dict[str, str]:
        if self._privileged and wire.mac is not None:
            try:
                return await self._by_packets.in_use(wire, addresses, seconds)
            except PermissionError as error:
                self._privileged = False
                self._log.info(
                    "no packets of our own can be sent ({reason}): probing goes by the kernel's neighbour table",
                    event="probing.unprivileged",
                    reason=str(error),
                )
        return await self._by_neighbour_table.in_use(wire, addresses, seconds)


def make_prober(reactor: Any, look: Callable[[], Awaitable[Sequence[InterfaceReport]]]) -> Prober:
    """One that asks at this host's NICs. Nothing is opened before the first question."""
    return Prober(look, PacketProbe(reactor), NeighbourTableProbe(reactor))
