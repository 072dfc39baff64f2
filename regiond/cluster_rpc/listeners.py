"""What has to happen when a cluster says something. Each method may raise DatabaseUnavailable."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from clusterd.protocol.values import HeldSubnet, InterfaceReport, RejectedMap
from regiond.cluster_rpc.connections import Connection
from regiond.domain.first_contact import DhcpServerReport
from regiond.domain.identity import Identity, Introduction, Registered


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """Whose host maps a cluster has when it registers: the region's id and history, None where it has none."""

    region: str | None
    history: str | None


class Arrivals(Protocol):
    """Clusters that come and go."""

    async def register(self, identity: Identity, said: Introduction) -> Registered:
        """Raises ClusterRefused."""

    async def registered(self, connection: Connection, store: StoreOrigin, held: Sequence[HeldSubnet]) -> None:
        """Raises RegistrationRefused."""

    async def disconnected(self, connection: Connection) -> None: ...


class Reports(Protocol):
    """What clusters say of themselves."""

    async def topology(self, connection: Connection, reports: Sequence[InterfaceReport]) -> None: ...

    async def host_map_state(
        self, connection: Connection, subnet: int, applied: int, rejected: Sequence[RejectedMap], error: str | None
    ) -> None: ...

    async def drifted(self, connection: Connection, subnet: int, count: int) -> None:
        """So many host maps had been changed in the DHCP server, and are put right."""


class FirstContact(Protocol):
    """What clusters say of what their DHCP server has of its own."""

    async def expect(self, connection: Connection, reports: bool) -> None:
        """The cluster registers; `reports` tells whether it will say more."""

    async def report(self, connection: Connection, report: DhcpServerReport) -> None:
        """The whole picture is here."""


Renew = Callable[[Registered, str, str], Awaitable[tuple[str, str]]]
"""From who it is, its present certificate's serial and a signing request to a new certificate and the authority's.
Raises EnrolmentRefused."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom to tell."""

    arrivals: Arrivals
    reports: Reports
    contact: FirstContact
    renew: Renew | None = None
