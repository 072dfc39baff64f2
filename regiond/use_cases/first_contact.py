"""What happens when a cluster says what its DHCP server has of its own: it is stored, and everybody hears of it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from regiond.cluster_rpc.connections import Connection
from regiond.domain.first_contact import DhcpServerReport


class Reports(Protocol):
    """`storage.first_contact.FirstContactStore`, as far as it is needed here."""

    async def expect(self, cluster: int, reports: bool, epoch: int) -> None: ...

    async def report(self, cluster: int, name: str, report: DhcpServerReport, epoch: int) -> Sequence[int]: ...


class FirstContacts:
    """See `cluster_rpc.listeners.FirstContact`. `changed` is called when a subnet may have become claimable, or not
    any more.
    """

    def __init__(self, reports: Reports, changed: Callable[[], None]) -> None:
        self._reports = reports
        self._changed = changed

    async def expect(self, connection: Connection, reports: bool) -> None:
        """The cluster registered; `reports` tells whether it will say more."""
        await self._reports.expect(connection.cluster, reports, connection.epoch)
        self._changed()

    async def report(self, connection: Connection, report: DhcpServerReport) -> None:
        """The whole picture is here."""
        await self._reports.report(connection.cluster, connection.name, report, connection.epoch)
        self._changed()
