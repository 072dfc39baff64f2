"""Use cases that answer what a test says, behind the HTTP API's protocols.

Each call is checked against the signature of the real thing, so the fake cannot be called in a way the region is not.
"""

import inspect
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, ServerEntry, ServerPool
from regiond.domain.accounts import AccountView, NewToken, Role, TokenView
from regiond.domain.addresses_in_use import MarkedAddress
from regiond.domain.events import Event, EventId, EventKind
from regiond.domain.first_contact import (
    Adoption,
    AdoptionResult,
    Contact,
    ContactView,
    ForeignEntry,
    ReportedPool,
)
from regiond.domain.identity import EnrolmentOffer, NewEnrolment
from regiond.domain.importing import ImportState, ImportView
from regiond.domain.leases import FoundLease, LeaseListing, LeaseSource, LeaseView
from regiond.domain.line_files import Mistake
from regiond.domain.lines import LineFormat
from regiond.domain.pairs import ClusterOnSubnet
from regiond.domain.ranges import AddressRange, RangeKind, RangeValues
from regiond.domain.readiness import DatabaseRole, DatabaseState, Readiness, ReplicationState, SchemaState
from regiond.domain.recovery import FindingView, RecoveringCluster, RecoveringSubnet, RecoveryView
from regiond.domain.reservations import ClusterProgress, Kind, MapState, Reservation, Status
from regiond.domain.topology_changes import Happened, InterfaceChange, RecordedChange
from regiond.domain.views import (
    AuditEntry,
    CheckReport,
    ClusterSubnetView,
    ClusterView,
    DeviceView,
    InterfaceView,
    NodeView,
    ReservationView,
    SubnetView,
    Utilisation,
)
from regiond.domain.vrfs import VrfView
from regiond.http.use_cases import (
    AccountUseCases,
    AdoptionUseCases,
    AuditUseCases,
    BatchUseCases,
    ClaimUseCases,
    ClusterEditUseCases,
    EditUseCases,
    EnrolmentUseCases,
    EventUseCases,
    ExportUseCases,
    ImportUseCases,
    InUseUseCases,
    InventoryUseCases,
    LeaseUseCases,
    MetricsUseCases,
    PairUseCases,
    RecoveryUseCases,
    SubnetUseCases,
    TopologyUseCases,
    UseCases,
    VrfUseCases,
)
from regiond.imports.requests import Imports
from regiond.metrics.exposition import Exposition
from regiond.use_cases.accounts import Accounts
from regiond.use_cases.addresses_in_use import AddressesInUse
from regiond.use_cases.adoption import Adoptions
from regiond.use_cases.audit_trail import AuditTrail
from regiond.use_cases.batches import Batches, Member, MemberResult
from regiond.use_cases.claims import Claims
from regiond.use_cases.cluster_edits import ClusterEdits
from regiond.use_cases.edits import Edits
from regiond.use_cases.enrolment import Enrolment
from regiond.use_cases.events import Events, Told
from regiond.use_cases.exports import Exports
from regiond.use_cases.inventory import Inventory
from regiond.use_cases.leases import Leases
from regiond.use_cases.pairs import Pairs
from regiond.use_cases.recovery import Recoveries
from regiond.use_cases.requests import Caller
from regiond.use_cases.subnets import Subnets
from regiond.use_cases.topologies import Topologies, Topology
from regiond.use_cases.vrfs import Vrfs

NOW = datetime(2026, 1, 31, 12, 0, 0, 123000, UTC)
ADMIN = Caller(1, "root", is_admin=True, read_only=False)
ALICE = Caller(2, "alice", is_admin=False, read_only=False)
LOCAL = Caller(3, "local", is_admin=True, read_only=False)
TOKENS = {
    b"Bearer admin": ADMIN,
    b"Bearer alice": ALICE,
    b"Bearer admin-reads": replace(ADMIN, read_only=True),
    b"Bearer alice-reads": replace(ALICE, read_only=True),
}

RESERVATION = Reservation(
    id=7,
    kind=Kind.USER,
    status=Status.ACTIVE,
    address="192.0.2.7",
    subnet=5,
    cidr="192.0.2.0/24",
    vrf="default",
    owner=ALICE.account,
    owner_name=ALICE.name,
    macs=("00:16:3e:00:00:07",),
    client_id=None,
    duid=None,
    alias=None,
    hostname="web1",
    device=None,
    node=None,
    purpose="a test",
    comment=None,
    group=None,
    created=NOW,
    expires_at=None,
    map_generation=None,
)
RESERVATION_VIEW = ReservationView(RESERVATION, None)
PROGRESS = ClusterProgress(9, "rack-a", MapState.PENDING, 4, NOW, None)
MAPPED_VIEW = ReservationView(
    replace(RESERVATION, id=8, kind=Kind.DEVICE, device=6, purpose=None, map_generation=5), (PROGRESS,)
)
RELEASING_VIEW = replace(
    MAPPED_VIEW,
    reservation=replace(MAPPED_VIEW.reservation, status=Status.RELEASING, release_generation=6),
    waits_for=("cluster rack-a has to confirm",),
)
DEVICE_VIEW = DeviceView(6, "web1", "root", None, NOW, (MAPPED_VIEW,))
NODE_VIEW = NodeView(4, "node1", ALICE.account, ALICE.name, ("00:16:3e:00:00:01",), None, NOW)
CLUSTER_VIEW = ClusterView(
    9,
    "rack-a",
    "default",
    "controller",
    "dnsmasq",
    "0.1.0",
    True,
    NOW,
    NOW,
    (ClusterSubnetView(5, "192.0.2.0/24", "serving", 5, 5, 4, None, NOW, 3, NOW),),
)
INTERFACE_VIEW = InterfaceView(
    id=11,
    cluster=9,
    cluster_name="rack-a",
    nic="eth1",
    cidr="192.0.2.0/24",
    vrf="default",
    subnet=5,
    addresses=("192.0.2.2",),
    gateways=("192.0.2.1",),
    mac="00:16:3e:00:00:02",
    kind="physical",
    vlan=None,
    up=True,
    present=True,
    serving="serving",
)
SUBNET_VIEW = SubnetView(5, "192.0.2.0/24", "default", 5, 600, ("rack-a",), 3, 1)
VRF_VIEW = VrfView(14, "blue", "the other site", NOW, 1, 1)
RECORDED_CHANGE = RecordedChange(
    15,
    NOW,
    InterfaceChange(
        Happened.MOVED,
        8,
        "eth1",
        "192.0.2.0/24",
        "default",
        "serving",
        {"interface": 7, "cidr": "198.51.100.0/24", "mac": "00:16:3e:00:00:01"},
        {"interface": 8, "cidr": "192.0.2.0/24", "mac": "00:16:3e:00:00:02"},
    ),
)
CLUSTER_ON_SUBNET = ClusterOnSubnet(10, "rack-b", True, ("eth2",), (), "shared-subnet", 5, 0, 0, None, None)
MARK = MarkedAddress(17, 5, "192.0.2.66", "00:16:3e:00:00:66", "rack-a", NOW, NOW, NOW)
UTILISATION = Utilisation(
    subnet=5,
    cidr="192.0.2.0/24",
    usable=254,
    active={"device": 1, "node": 0, "user": 1},
    releasing=1,
    in_ranges={"dynamic": 51, "reserved": 0},
    infrastructure=1,
    free=199,
)
RECOVERY_VIEW = RecoveryView(
    history="5d2e",
    since=NOW,
    reason="a backup was restored",
    clusters=(RecoveringCluster(3, "rack-a", True, True, NOW, "0.1.0"),),
    subnets=(RecoveringSubnet(5, "192.0.2.0/24", "default", NOW, ("rack-a",)),),
    counts={"recovered": 1},
    findings=(FindingView(1, NOW, "recovered", 5, "192.0.2.0/24", "192.0.2.7", 7, "is reserved again"),),
)
RANGE = AddressRange(13, 5, RangeValues(RangeKind.DYNAMIC, "192.0.2.100", "192.0.2.150", "leases"), NOW)
POOL = ServerPool("192.0.2.100", "192.0.2.150", "/etc/dnsmasq.conf:7")
CONTACT_VIEW = ContactView(
    9, "rack-a", "dnsmasq", Contact.REPORTED, NOW, None, (), (ReportedPool(15, POOL, "192.0.2.0/24", 1),), 1
)
FOREIGN_ENTRY = ForeignEntry(
    id=16,
    cluster=9,
    cluster_name="rack-a",
    backend="dnsmasq",
    entry=ServerEntry("192.0.2.20", (Identifier.mac("00:16:3e:00:00:20"),), "old", "/etc/dnsmasq.conf:8"),
    subnet=5,
    cidr="192.0.2.0/24",
    usable=True,
    in_pool=False,
    infrastructure=None,
    holder=None,
    others=(),
    same_client=0,
    same_address=0,
)
FOUND_LEASE = FoundLease(
    9, "rack-a", ServerLease("192.0.2.101", (Identifier.mac("00:16:3e:00:00:77"),), "guest", 1_800_000_000)
)
LEASE_LISTING = LeaseListing(
    5,
    (LeaseView(FOUND_LEASE, 8),),
    (LeaseSource(9, "rack-a"), LeaseSource(10, "rack-b", "it is not connected")),
    "192.0.2.101",
)
ADOPTION_RESULT = AdoptionResult(16, Adoption.DONE, None, 8)
CHECK_REPORT = CheckReport(5, "192.0.2.0/24", "default", 3, 2, 2, ())
OFFER = EnrolmentOffer(NewEnrolment("rack-b", "hme_the-secret", NOW), "tcp:region.example:5251", "sha256:" + "ab" * 32)
EVENT = Event(
    position=7,
    at=NOW,
    kind=EventKind.RESERVATION,
    action="claimed",
    subnet=5,
    cidr="192.0.2.0/24",
    vrf="default",
    reservation=7,
    reservation_kind=Kind.USER,
    address="192.0.2.7",
    owner=ALICE.account,
    owner_name=ALICE.name,
)
AUDIT_ENTRY = AuditEntry(14, NOW, 1, "root", "range.add", "rg-000000000d", None, {"kind": "dynamic"}, "deploy-7")
ACCOUNT_VIEW = AccountView(ALICE.account, ALICE.name, Role.USER, False, NOW)
TOKEN_VIEW = TokenView(12, ALICE.account, ALICE.name, "laptop", False, NOW, None)


IMPORT_VIEW = ImportView(
    id=17,
    account=ALICE.account,
    account_name=ALICE.name,
    state=ImportState.REFUSED,
    dry_run=True,
    form=LineFormat.CSV,
    checked=2,
    applied=0,
    created=1,
    present=0,
    skipped=0,
    mistakes=(Mistake(3, "address", "address-taken", "192.0.2.7 is taken"),),
    mistake_count=1,
    reason=None,
    began=NOW,
    finished=NOW,
    request_id="deploy-7",
)


class Scripted:
    """Answers each method with `answers[name]`: a value, an exception to raise, or a function of the arguments."""

    def __init__(self, real: type, answers: dict[str, Any]) -> None:
        self._real = real
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        signature = inspect.signature(getattr(self._real, name))

        async def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(self, *args, **kwargs)
            self.calls.append((name, {key: value for key, value in bound.arguments.items() if key != "self"}))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return await answer(**kwargs) if callable(answer) else answer

        return call


async def exported(**arguments: Any) -> AsyncGenerator[bytes, None]:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"address\r\n"
        yield b"192.0.2.7\r\n"

    return pieces()


async def told(**arguments: Any) -> AsyncGenerator[Told, None]:
    async def news() -> AsyncGenerator[Told, None]:
        yield Told(EventId("5d2e0000", 6))
        yield Told(EventId("5d2e0000", 7), [EVENT])
        yield Told(EventId("5d2e0000", 7), ends="nothing came")

    return news()


class FakeHealth:
    """Ready, unless told otherwise."""

    def __init__(self) -> None:
        self.reasons: Sequence[str] = ()
        self.database = DatabaseState(True, DatabaseRole.PRIMARY, SchemaState.CURRENT)
        self.replication: ReplicationState | None = ReplicationState(False, 0, 0, 0, None)

    async def readiness(self) -> Readiness:
        return Readiness(tuple(self.reasons), self.database, self.replication)


async def _each_done(members: Sequence[Member]) -> Sequence[MemberResult]:
    return [MemberResult(True, (MAPPED_VIEW,)) for _ in members]


class FakeRegion:
    """All the use cases, answering with one well-formed thing of each sort."""

    def __init__(self) -> None:
        self.claims = Scripted(
            Claims,
            {
                "create_device": (DEVICE_VIEW, True),
                "list_devices": ([DEVICE_VIEW], False),
                "device": DEVICE_VIEW,
                "delete_device": [],
                "create_node": NODE_VIEW,
                "list_nodes": [NODE_VIEW],
                "node": NODE_VIEW,
                "delete_node": [],
                "claim_node_address": (MAPPED_VIEW, True),
                "list_node_addresses": [MAPPED_VIEW],
                "node_address": MAPPED_VIEW,
                "release_node_address": [],
                "reserve": ([RESERVATION_VIEW], True),
                "list_reservations": [RESERVATION_VIEW],
                "reservation": RESERVATION_VIEW,
                "release_reservation": [],
                "group": [RESERVATION_VIEW],
                "release_group": None,
            },
        )
        self.events = Scripted(Events, {"follow": told})
        self.exports = Scripted(Exports, {"export": exported})
        self.batches = Scripted(Batches, {"run": _each_done})
        self.imports = Scripted(Imports, {"create": IMPORT_VIEW, "read_list": [IMPORT_VIEW], "read": IMPORT_VIEW})
        self.edits = Scripted(
            Edits,
            {"change_reservation": RESERVATION_VIEW, "change_device": DEVICE_VIEW, "change_node": NODE_VIEW},
        )
        self.inventory = Scripted(
            Inventory,
            {
                "clusters": [CLUSTER_VIEW],
                "cluster": CLUSTER_VIEW,
                "interfaces": [INTERFACE_VIEW],
                "interface": INTERFACE_VIEW,
                "subnets": [SUBNET_VIEW],
                "subnet": SUBNET_VIEW,
            },
        )
        self.enrolment = Scripted(
            Enrolment,
            {"offer": OFFER, "withdraw": None, "revoke": CLUSTER_VIEW, "forget": None},
        )
        self.subnets = Scripted(
            Subnets,
            {
                "utilisation": UTILISATION,
                "available": ["192.0.2.2", "192.0.2.3"],
                "change_subnet": SUBNET_VIEW,
                "list_ranges": [RANGE],
                "range": RANGE,
                "add_range": RANGE,
                "change_range": RANGE,
                "remove_range": None,
                "check": CHECK_REPORT,
                "repair": CHECK_REPORT,
            },
        )
        self.pairs = Scripted(
            Pairs, {"clusters_on": [CLUSTER_ON_SUBNET], "confirm": CLUSTER_ON_SUBNET, "end": CLUSTER_ON_SUBNET}
        )
        self.metrics = Scripted(Exposition, {"text": b"hostmap_info 1.0\n"})
        self.leases = Scripted(Leases, {"on_subnet": LEASE_LISTING})
        self.vrfs = Scripted(
            Vrfs,
            {
                "vrfs": [VRF_VIEW],
                "vrf": VRF_VIEW,
                "add_vrf": VRF_VIEW,
                "change_vrf": VRF_VIEW,
                "remove_vrf": None,
                "add_subnet": SUBNET_VIEW,
                "remove_subnet": None,
            },
        )
        self.cluster_edits = Scripted(
            ClusterEdits, {"change_cluster": CLUSTER_VIEW, "change_interface": INTERFACE_VIEW}
        )
        self.topologies = Scripted(
            Topologies, {"topology": Topology(CLUSTER_VIEW, [INTERFACE_VIEW]), "changes": [RECORDED_CHANGE]}
        )
        self.in_use = Scripted(AddressesInUse, {"marks": [MARK], "clear": None})
        self.adoptions = Scripted(
            Adoptions,
            {"contact": CONTACT_VIEW, "entries": [FOREIGN_ENTRY], "adopt": [ADOPTION_RESULT]},
        )
        self.recovery = Scripted(Recoveries, {"recovery": RECOVERY_VIEW, "begin": RECOVERY_VIEW, "end": RECOVERY_VIEW})
        self.audit = Scripted(AuditTrail, {"entries": [AUDIT_ENTRY]})
        self.accounts = Scripted(
            Accounts,
            {
                "local_caller": LOCAL,
                "create_account": ACCOUNT_VIEW,
                "list_accounts": [ACCOUNT_VIEW],
                "account": ACCOUNT_VIEW,
                "change_account": ACCOUNT_VIEW,
                "create_token": NewToken(TOKEN_VIEW, "hm_the-secret"),
                "list_tokens": [TOKEN_VIEW],
                "token": TOKEN_VIEW,
                "revoke_token": None,
            },
        )
        self.accounts.authenticate = self._authenticate  # type: ignore[attr-defined]
        self.health = FakeHealth()

    async def _authenticate(self, authorization: bytes | None) -> Caller | None:
        return TOKENS.get(authorization or b"")

    @property
    def use_cases(self) -> UseCases:
        return UseCases(
            cast(ClaimUseCases, self.claims),
            cast(ExportUseCases, self.exports),
            cast(BatchUseCases, self.batches),
            cast(ImportUseCases, self.imports),
            cast(EditUseCases, self.edits),
            cast(InventoryUseCases, self.inventory),
            cast(EnrolmentUseCases, self.enrolment),
            cast(SubnetUseCases, self.subnets),
            cast(PairUseCases, self.pairs),
            cast(LeaseUseCases, self.leases),
            cast(VrfUseCases, self.vrfs),
            cast(ClusterEditUseCases, self.cluster_edits),
            cast(TopologyUseCases, self.topologies),
            cast(InUseUseCases, self.in_use),
            cast(AdoptionUseCases, self.adoptions),
            cast(AccountUseCases, self.accounts),
            cast(AuditUseCases, self.audit),
            cast(EventUseCases, self.events),
            cast(RecoveryUseCases, self.recovery),
            self.health,
            cast(MetricsUseCases, self.metrics),
        )
