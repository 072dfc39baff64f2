"""What the HTTP API needs of the rest of the region. `Claims`, `Inventory` and `Accounts` are these in earnest."""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from regiond.domain.accounts import AccountView, NewToken, Role, TokenView
from regiond.domain.addresses_in_use import MarkedAddress
from regiond.domain.events import EventKind
from regiond.domain.first_contact import AdoptionResult, ContactView, ForeignEntry
from regiond.domain.identity import EnrolmentOffer
from regiond.domain.importing import ImportView
from regiond.domain.leases import LeaseListing
from regiond.domain.lines import LineFormat
from regiond.domain.mutations import ReservationEdit
from regiond.domain.pairs import ClusterOnSubnet
from regiond.domain.ranges import AddressRange
from regiond.domain.readiness import Readiness
from regiond.domain.recovery import RecoveryView
from regiond.domain.topology_changes import RecordedChange
from regiond.domain.views import (
    AuditEntry,
    CheckReport,
    ClusterView,
    DeviceView,
    InterfaceView,
    NodeView,
    ReservationView,
    SubnetView,
    Utilisation,
)
from regiond.domain.vrfs import VrfView
from regiond.use_cases.batches import Member, MemberResult
from regiond.use_cases.events import Told
from regiond.use_cases.requests import Caller, RequestContext
from regiond.use_cases.topologies import Topology


class ClaimUseCases(Protocol):
    """Devices, nodes and their addresses, user reservations. A bool says whether anything new was made."""

    async def create_device(
        self,
        context: RequestContext,
        *,
        interface: str,
        macs: tuple[str, ...],
        duid: str | None,
        address: str | None,
        hostname: str | None,
        owner: str | None,
        comment: str | None,
        force: bool = False,
    ) -> tuple[DeviceView, bool]: ...

    async def list_devices(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> tuple[Sequence[DeviceView], bool]: ...

    async def device(self, context: RequestContext, device_id: str) -> DeviceView: ...

    async def delete_device(
        self, context: RequestContext, device_id: str, *, force: bool
    ) -> Sequence[ReservationView]: ...

    async def create_node(
        self, context: RequestContext, *, hostname: str, macs: tuple[str, ...], owner: str | None, comment: str | None
    ) -> NodeView: ...

    async def list_nodes(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[NodeView]: ...

    async def node(self, context: RequestContext, node_id: str) -> NodeView: ...

    async def delete_node(self, context: RequestContext, node_id: str, *, force: bool) -> Sequence[ReservationView]: ...

    async def claim_node_address(
        self,
        context: RequestContext,
        node_id: str,
        *,
        interface: str,
        mac: str | None,
        alias: str | None,
        client_id: str | None,
        duid: str | None,
        address: str | None,
        hostname: str | None,
        force: bool = False,
    ) -> tuple[ReservationView, bool]: ...

    async def list_node_addresses(self, context: RequestContext, node_id: str) -> Sequence[ReservationView]: ...

    async def node_address(self, context: RequestContext, node_id: str, reservation_id: str) -> ReservationView: ...

    async def release_node_address(
        self, context: RequestContext, node_id: str, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]: ...

    async def reserve(
        self,
        context: RequestContext,
        *,
        interface: str | None,
        address: str | None,
        mac: str | None,
        count: int,
        hostname: str | None,
        purpose: str | None,
        comment: str | None,
        user: str | None,
        expires_at: datetime | None,
        force: bool = False,
    ) -> tuple[Sequence[ReservationView], bool]: ...

    async def list_reservations(
        self, context: RequestContext, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[ReservationView]: ...

    async def reservation(self, context: RequestContext, reservation_id: str) -> ReservationView: ...

    async def release_reservation(
        self, context: RequestContext, reservation_id: str, *, force: bool
    ) -> Sequence[ReservationView]: ...

    async def group(self, context: RequestContext, group_id: str) -> Sequence[ReservationView]: ...
    async def release_group(self, context: RequestContext, group_id: str) -> None: ...


class ExportUseCases(Protocol):
    """Reservations as a file."""

    async def export(
        self, context: RequestContext, form: LineFormat, *, filters: Mapping[str, Sequence[str]], after: str | None
    ) -> AsyncGenerator[bytes, None]: ...


class BatchUseCases(Protocol):
    """Many claims and releases at once."""

    async def run(self, context: RequestContext, *, members: Sequence[Member]) -> Sequence[MemberResult]: ...


class ImportUseCases(Protocol):
    """Reservations from a file."""

    async def create(
        self, context: RequestContext, form: LineFormat, content: bytes, *, dry_run: bool, ignored: Sequence[str]
    ) -> ImportView: ...
    async def read_list(self, context: RequestContext, *, limit: int, after: str | None) -> Sequence[ImportView]: ...
    async def read(self, context: RequestContext, import_id: str) -> ImportView: ...


class EditUseCases(Protocol):
    """Reservations, devices and nodes are changed."""

    async def change_reservation(
        self, context: RequestContext, reservation_id: str, *, changes: ReservationEdit
    ) -> ReservationView: ...

    async def change_device(
        self, context: RequestContext, device_id: str, *, changes: Mapping[str, Any]
    ) -> DeviceView: ...

    async def change_node(self, context: RequestContext, node_id: str, *, changes: Mapping[str, Any]) -> NodeView: ...


class InventoryUseCases(Protocol):
    """Clusters, their interfaces, and subnets."""

    async def clusters(self) -> Sequence[ClusterView]: ...
    async def cluster(self, cluster_id: str) -> ClusterView: ...
    async def interfaces(self, selector: str | None) -> Sequence[InterfaceView]: ...
    async def interface(self, interface_id: str) -> InterfaceView: ...
    async def subnets(self) -> Sequence[SubnetView]: ...
    async def subnet(self, subnet: str) -> SubnetView: ...


class EnrolmentUseCases(Protocol):
    """Which clusters there may be. `cluster` is an id or a name."""

    async def offer(self, context: RequestContext, name: str, *, seconds: int | None) -> EnrolmentOffer: ...
    async def withdraw(self, context: RequestContext, name: str) -> None: ...
    async def revoke(self, context: RequestContext, cluster: str) -> ClusterView: ...
    async def forget(self, context: RequestContext, cluster: str, *, dhcp_is_off: bool) -> None: ...


class SubnetUseCases(Protocol):
    """One subnet: its ranges, how full it is, whether it is sound. `subnet` is an id or a selector."""

    async def utilisation(self, subnet: str) -> Utilisation: ...
    async def available(self, subnet: str, limit: int) -> Sequence[str]: ...

    async def change_subnet(
        self,
        context: RequestContext,
        subnet: str,
        *,
        release_hold_seconds: int | None = None,
        claimable_anyway: bool | None = None,
        probe: bool | None = None,
        claimants: str | Sequence[str] | None = None,
    ) -> SubnetView: ...

    async def list_ranges(self, subnet: str) -> Sequence[AddressRange]: ...
    async def range(self, subnet: str, range_id: str) -> AddressRange: ...

    async def add_range(
        self, context: RequestContext, subnet: str, *, kind: str, low: str, high: str, comment: str | None, force: bool
    ) -> AddressRange: ...

    async def change_range(
        self, context: RequestContext, subnet: str, range_id: str, *, changes: Mapping[str, Any], force: bool
    ) -> AddressRange: ...

    async def remove_range(self, context: RequestContext, subnet: str, range_id: str) -> None: ...
    async def check(self, context: RequestContext, subnet: str) -> CheckReport: ...
    async def repair(self, context: RequestContext, subnet: str) -> CheckReport: ...


class VrfUseCases(Protocol):
    """Routing domains, and what is in them. `vrf` is an id or a name, `subnet` an id or a selector."""

    async def vrfs(self) -> Sequence[VrfView]: ...
    async def vrf(self, vrf: str) -> VrfView: ...
    async def add_vrf(self, context: RequestContext, *, name: str, comment: str | None) -> VrfView: ...
    async def change_vrf(self, context: RequestContext, vrf: str, *, comment: str | None) -> VrfView: ...
    async def remove_vrf(self, context: RequestContext, vrf: str) -> None: ...

    async def add_subnet(
        self, context: RequestContext, *, cidr: str, vrf: str | None, release_hold_seconds: int | None
    ) -> SubnetView: ...

    async def remove_subnet(self, context: RequestContext, subnet: str) -> None: ...


class ClusterEditUseCases(Protocol):
    """Clusters and their interfaces are changed. `cluster` and `vrf` are ids or names."""

    async def change_cluster(
        self, context: RequestContext, cluster: str, *, name: str | None, vrf: str | None, pairs: bool, force: bool
    ) -> ClusterView: ...

    async def change_interface(
        self, context: RequestContext, interface: str, *, serve: bool, force: bool
    ) -> InterfaceView: ...


class TopologyUseCases(Protocol):
    """What clusters see. `cluster` is an id or a name."""

    async def topology(self, cluster: str) -> Topology: ...

    async def changes(
        self, cluster: str, *, filters: Mapping[str, Sequence[str]], limit: int, after: str | None
    ) -> Sequence[RecordedChange]: ...


class PairUseCases(Protocol):
    """The clusters on one subnet. `subnet` is an id or a selector, `cluster` an id or a name."""

    async def clusters_on(self, subnet: str) -> Sequence[ClusterOnSubnet]: ...
    async def confirm(self, context: RequestContext, subnet: str, cluster: str) -> ClusterOnSubnet: ...
    async def end(self, context: RequestContext, subnet: str, cluster: str) -> ClusterOnSubnet: ...


class LeaseUseCases(Protocol):
    """What clusters' DHCP servers have leased."""

    async def on_subnet(
        self,
        context: RequestContext,
        subnet: str,
        *,
        addresses: Sequence[str],
        macs: Sequence[str],
        limit: int,
        after: str | None,
    ) -> LeaseListing: ...


class InUseUseCases(Protocol):
    """Addresses that somebody uses without a reservation. `subnet` is an id or a selector."""

    async def marks(self, subnet: str) -> Sequence[MarkedAddress]: ...
    async def clear(self, context: RequestContext, subnet: str, mark: str) -> None: ...


class AdoptionUseCases(Protocol):
    """What clusters' DHCP servers have of their own."""

    async def contact(self, context: RequestContext, cluster: str) -> ContactView: ...

    async def entries(
        self, context: RequestContext, cluster: str, *, subnet: str | None, limit: int, after: str | None
    ) -> Sequence[ForeignEntry]: ...

    async def adopt(
        self, context: RequestContext, cluster: str, *, entries: Sequence[str], owner: str | None
    ) -> Sequence[AdoptionResult]: ...


class AuditUseCases(Protocol):
    """What happened."""

    async def entries(
        self,
        context: RequestContext,
        *,
        filters: Mapping[str, Sequence[str]],
        since: datetime | None,
        until: datetime | None,
        limit: int,
        after: str | None,
    ) -> Sequence[AuditEntry]: ...


class EventUseCases(Protocol):
    """What happens."""

    async def follow(
        self,
        context: RequestContext,
        *,
        after: str | None,
        kinds: Sequence[EventKind],
        subnets: Sequence[str],
        wait: float | None,
    ) -> AsyncGenerator[Told, None]: ...


class AccountUseCases(Protocol):
    """Who asks; accounts and tokens."""

    async def authenticate(self, authorization: bytes | None) -> Caller | None: ...
    async def local_caller(self) -> Caller: ...
    async def create_account(self, context: RequestContext, *, name: str, role: Role) -> AccountView: ...

    async def list_accounts(
        self, context: RequestContext, *, limit: int, after: str | None
    ) -> Sequence[AccountView]: ...

    async def account(self, context: RequestContext, account_id: str) -> AccountView: ...

    async def change_account(
        self, context: RequestContext, account_id: str, *, changes: Mapping[str, Any]
    ) -> AccountView: ...

    async def create_token(
        self,
        context: RequestContext,
        *,
        name: str,
        account: str | None,
        read_only: bool,
        expires_at: datetime | None,
    ) -> NewToken: ...

    async def list_tokens(
        self, context: RequestContext, *, account: str | None, limit: int, after: str | None
    ) -> Sequence[TokenView]: ...

    async def token(self, context: RequestContext, token_id: str) -> TokenView: ...
    async def revoke_token(self, context: RequestContext, token_id: str) -> None: ...


class RecoveryUseCases(Protocol):
    """After the database went back in time."""

    async def recovery(self, context: RequestContext) -> RecoveryView: ...
    async def begin(self, context: RequestContext, *, reason: str) -> RecoveryView: ...
    async def end(self, context: RequestContext, *, force: bool, without: Collection[str] = ()) -> RecoveryView: ...


class MetricsUseCases(Protocol):
    """What is counted."""

    async def text(self) -> bytes: ...


class Health(Protocol):
    """Whether requests can be served now."""

    async def readiness(self) -> Readiness: ...


@dataclass(frozen=True, slots=True)
class UseCases:
    claims: ClaimUseCases
    exports: ExportUseCases
    batches: BatchUseCases
    imports: ImportUseCases
    edits: EditUseCases
    inventory: InventoryUseCases
    enrolment: EnrolmentUseCases
    subnets: SubnetUseCases
    pairs: PairUseCases
    leases: LeaseUseCases
    vrfs: VrfUseCases
    cluster_edits: ClusterEditUseCases
    topologies: TopologyUseCases
    in_use: InUseUseCases
    adoptions: AdoptionUseCases
    accounts: AccountUseCases
    audit: AuditUseCases
    events: EventUseCases
    recovery: RecoveryUseCases
    health: Health
    metrics: MetricsUseCases
