"""The bodies and queries of requests. What is not named here is an error."""

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from regiond.domain.accounts import Role
from regiond.domain.ranges import RangeKind
from regiond.domain.reservations import Kind, Status
from regiond.http.fields import (
    DEFAULT_PAGE,
    AccountName,
    Address,
    Alias,
    ClientId,
    Duid,
    ExpiresIn,
    Flag,
    Hostname,
    Limit,
    Mac,
    Name,
    ReservationLimit,
    SelectorText,
    Text,
    Wait,
    Whole,
)

MAX_MACS = 16
MAX_COUNT = 256
MAX_ADOPTED = 500
MAX_RELEASE_HOLD_SECONDS = 30 * 86400
MAX_ENROLMENT_SECONDS = 7 * 86400
DEFAULT_AVAILABLE = 10


class Body(BaseModel):
    """A JSON object; types are not guessed (`"3"` is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: ClassVar[Mapping[str, Any]] = {}


def _given(name: str, **more: Any) -> dict[str, Any]:
    """In a schema: the member is there, and not null."""
    kind = more or {"type": "string", "format": _FORMATS[name]}
    return {"required": [name], "properties": {name: kind}}


_FORMATS = {
    "address": "hostmap-address",
    "alias": "hostmap-line",
    "client_id": "hostmap-client-id",
    "duid": "hostmap-duid",
    "interface": "hostmap-selector",
    "mac": "hostmap-mac",
}


def _rules(*given: dict[str, Any], never: list[tuple[dict[str, Any], dict[str, Any]]]) -> ConfigDict:
    """What a model's validators ask of several members, as a schema: any of `given`, and no pair of `never`."""
    rules: list[dict[str, Any]] = [{"anyOf": list(given)}] if given else []
    rules += [{"not": {"allOf": list(pair)}} for pair in never]
    return ConfigDict(json_schema_extra=cast("dict[str, JsonValue]", {"allOf": rules}))


_Macs = Annotated[list[Mac], Field(max_length=MAX_MACS, json_schema_extra={"uniqueItems": True})]


class NewDevice(Body):
    """An unmanaged device: who it is, and where it wants an address."""

    model_config = _rules(
        _given("mac"),
        _given("macs", type="array", minItems=1),
        _given("duid"),
        never=[(_given("mac"), _given("macs", type="array", minItems=1))],
    )

    examples: ClassVar[Mapping[str, Any]] = {
        "a MAC address": {"interface": "192.0.2.0/24", "mac": "00:16:3e:00:00:01", "hostname": "web1"},
        "a bond, by cluster and NIC": {"interface": "rack-a:eth1", "macs": ["00:16:3e:00:00:02", "00:16:3e:00:00:03"]},
    }

    interface: SelectorText
    mac: Mac | None = None
    macs: _Macs = []
    duid: Duid | None = None
    address: Address | None = None
    hostname: Hostname | None = None
    owner: AccountName | None = None
    comment: Text | None = None

    @model_validator(mode="after")
    def _who_it_is(self) -> Self:
        if self.mac is not None and self.macs:
            raise ValueError("give either mac or macs")
        if self.mac is None and not self.macs and self.duid is None:
            raise ValueError("give mac, macs or duid")
        _need_distinct(self.macs)
        return self

    @property
    def all_macs(self) -> tuple[str, ...]:
        return (self.mac,) if self.mac is not None else tuple(self.macs)


class NewNode(Body):
    """A machine that gets extra addresses."""

    examples: ClassVar[Mapping[str, Any]] = {
        "a machine": {
            "hostname": "node1",
            "macs": ["00:16:3e:00:01:01"],
            "owner": "alice",
            "comment": "rack 7, unit 12",
        }
    }

    hostname: Hostname
    macs: _Macs = []
    owner: AccountName | None = None
    comment: Text | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _need_distinct(self.macs)
        return self


class NewNodeAddress(Body):
    """An extra address of a node, for another MAC address or for an alias of one of its NICs."""

    model_config = _rules(
        *map(_given, ("mac", "alias", "client_id", "duid")),
        never=[(_given(one), _given(other)) for one, other in combinations(("mac", "client_id", "duid"), 2)],
    )

    examples: ClassVar[Mapping[str, Any]] = {
        "another NIC": {"interface": "rack-a:eth2", "mac": "00:16:3e:00:01:02"},
        "an alias of a NIC": {"interface": "192.0.2.0/24", "alias": "eth0:1"},
    }

    interface: SelectorText
    mac: Mac | None = None
    alias: Alias | None = None
    client_id: ClientId | None = None
    duid: Duid | None = None
    address: Address | None = None
    hostname: Hostname | None = None

    @model_validator(mode="after")
    def _for_whom(self) -> Self:
        given = [value for value in (self.mac, self.client_id, self.duid) if value is not None]
        if len(given) > 1:
            raise ValueError("give one of mac, client_id and duid")
        if not given and self.alias is None:
            raise ValueError("give mac, alias, client_id or duid")
        return self


class NewReservation(Body):
    """Addresses that the region keeps for an account and never hands out."""

    model_config = _rules(
        _given("interface"), _given("address"), never=[(_given("address"), _given("count", type="integer", minimum=2))]
    )

    examples: ClassVar[Mapping[str, Any]] = {
        "one address": {"interface": "198.51.100.0/24", "purpose": "a load balancer"},
        "eight for a day": {"interface": "nic:eth1,family:4", "count": 8, "purpose": "a test", "expires_in": 86400},
        "a certain one": {"address": "192.0.2.7"},
    }

    interface: SelectorText | None = None
    address: Address | None = None
    mac: Mac | None = None
    count: Annotated[int, Field(ge=1, le=MAX_COUNT), Whole] = 1
    hostname: Hostname | None = None
    purpose: Text | None = None
    comment: Text | None = None
    user: AccountName | None = None
    expires_in: ExpiresIn | None = None

    @model_validator(mode="after")
    def _where(self) -> Self:
        if self.interface is None and self.address is None:
            raise ValueError("give interface, address or both")
        if self.address is not None and self.count > 1:
            raise ValueError("one address is asked for: leave out count")
        return self


class NewAccount(Body):
    examples: ClassVar[Mapping[str, Any]] = {"a user": {"name": "alice"}, "an admin": {"name": "bob", "role": "admin"}}

    name: AccountName
    role: Role = Field(default=Role.USER, strict=False)


class Change(Body):
    """A PATCH: what is not there stays as it is; null only where a value can be taken away (`nullable`)."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        for name in sorted(self.model_fields_set - self.nullable):
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What is to be changed, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class ReservationChange(Change):
    """What can be written of a reservation; null takes a value away."""

    examples: ClassVar[Mapping[str, Any]] = {"a longer life": {"expires_in": 604800}, "no name": {"hostname": None}}

    hostname: Hostname | None = None
    comment: Text | None = None
    expires_in: ExpiresIn | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"hostname", "comment", "expires_in"})


class DeviceChange(Change):
    """A device keeps its address: `macs` are its MAC addresses from now on, all of them."""

    examples: ClassVar[Mapping[str, Any]] = {
        "a replaced NIC": {"macs": ["00:16:3e:00:00:09"]},
        "another name": {"hostname": "web2"},
    }

    hostname: Hostname | None = None
    comment: Text | None = None
    owner: AccountName | None = None
    macs: _Macs | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"hostname", "comment"})

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _need_distinct(self.macs or [])
        return self


class ReplacedMac(Body):
    """A NIC that was replaced by another."""

    old: Mac
    new: Mac


class NodeChange(Change):
    """`macs` are the node's own from now on. With `replaced_macs` the node and its extra addresses get the new ones."""

    model_config = _rules(never=[(_given("macs", type="array"), _given("replaced_macs", type="array"))])

    examples: ClassVar[Mapping[str, Any]] = {
        "a replaced NIC": {"replaced_macs": [{"old": "00:16:3e:00:01:01", "new": "00:16:3e:00:01:09"}]},
        "another owner": {"owner": "bob"},
    }

    hostname: Hostname | None = None
    comment: Text | None = None
    owner: AccountName | None = None
    macs: _Macs | None = None
    replaced_macs: list[ReplacedMac] | None = Field(default=None, min_length=1, max_length=MAX_MACS)

    nullable: ClassVar[frozenset[str]] = frozenset({"comment"})

    @model_validator(mode="after")
    def _which_macs(self) -> Self:
        replaced = self.replaced_macs or []
        if self.macs is not None and replaced:
            raise ValueError("give either macs or replaced_macs")
        for macs in (self.macs or [], [each.old for each in replaced], [each.new for each in replaced]):
            _need_distinct(macs)
        return self


class AccountChange(Change):
    """A limit counts live user reservations; null is no limit."""

    examples: ClassVar[Mapping[str, Any]] = {"a limit": {"max_reservations": 100}, "no entry": {"disabled": True}}

    disabled: bool | None = None
    max_reservations: ReservationLimit | None = None
    max_reservations_per_subnet: ReservationLimit | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"max_reservations", "max_reservations_per_subnet"})


class SubnetChange(Change):
    """`release_hold_seconds`: how long an address rests after its removal was confirmed everywhere.

    `claimable_anyway`: claim addresses although a cluster has not told yet what its DHCP server has of its own.
    """

    examples: ClassVar[Mapping[str, Any]] = {"ten minutes": {"release_hold_seconds": 600}}

    release_hold_seconds: Annotated[int, Field(ge=0, le=MAX_RELEASE_HOLD_SECONDS), Whole] | None = None
    claimable_anyway: bool | None = None


class RecoveryBegin(Body):
    """Why it is believed that the database went back; kept in the audit."""

    examples: ClassVar[Mapping[str, Any]] = {"a backup": {"reason": "restored from the backup of Monday"}}

    reason: Text


class RecoveryEnd(Body):
    """`force`: also when clusters that may serve unknown addresses were not heard."""

    examples: ClassVar[Mapping[str, Any]] = {"a cluster is gone for good": {"force": True}}

    force: bool = False


class NewRange(Body):
    """Addresses that are never allocated; both ends are included."""

    examples: ClassVar[Mapping[str, Any]] = {
        "leases": {"kind": "dynamic", "low": "192.0.2.100", "high": "192.0.2.199", "comment": "PXE"}
    }

    kind: RangeKind = Field(strict=False)
    low: Address
    high: Address
    comment: Text | None = None


class Adopting(Body):
    """Static entries of a cluster's DHCP server that are to become devices; `owner` is whose, else the caller's."""

    examples: ClassVar[Mapping[str, Any]] = {
        "two entries": {"entries": ["fe-4k2m9q8xvz", "fe-4k2m9q8xw0"], "owner": "alice"}
    }

    entries: list[Annotated[str, Field(max_length=64)]] = Field(min_length=1, max_length=MAX_ADOPTED)
    owner: AccountName | None = None


class RangeChange(Change):
    examples: ClassVar[Mapping[str, Any]] = {"smaller": {"high": "192.0.2.149"}}

    kind: RangeKind | None = Field(default=None, strict=False)
    low: Address | None = None
    high: Address | None = None
    comment: Text | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"comment"})


class NewEnrolmentBody(Body):
    """A one-time token for a cluster; an hour by default."""

    examples: ClassVar[Mapping[str, Any]] = {"a day": {"expires_in": 86400}}

    expires_in: Annotated[int, Field(ge=60, le=MAX_ENROLMENT_SECONDS), Whole] | None = None


class NewTokenBody(Body):
    """A bearer token; without `account` it is the caller's own."""

    examples: ClassVar[Mapping[str, Any]] = {
        "for reading, for a year": {"name": "grafana", "read_only": True, "expires_in": 31536000}
    }

    name: Name
    account: AccountName | None = None
    read_only: bool = False
    expires_in: ExpiresIn | None = None


class Query(BaseModel):
    """The query of a URL. A field that is a list may be repeated; every other one may not."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(Query):
    """No parameter at all."""


class Waiting(Query):
    """How long the answer may wait until the host map is applied."""

    wait: Wait | None = None


class Forcing(Query):
    """Free the address at once, without the clusters' confirmation (admin)."""

    force: Flag = False


class ForcingRange(Query):
    """Take a dynamic range although reservations lie in it; they stay with their holders (admin)."""

    force: Flag = False


class Forgetting(Query):
    """Forget a cluster that may still serve host maps: its DHCP server is off for good, says the admin."""

    dhcp_is_off: Flag = False


class Available(Query):
    """How many addresses at most."""

    limit: Limit = DEFAULT_AVAILABLE


class Page(Query):
    """A part of a list: `limit` entries after the one with the id `after`."""

    limit: Limit = DEFAULT_PAGE
    after: str | None = None


class ReservationPage(Page):
    """Filters; the values of one are alternatives, and all filters hold."""

    kind: list[Annotated[str, Field(json_schema_extra={"enum": list(Kind)})]] = []
    status: list[Annotated[str, Field(json_schema_extra={"enum": list(Status)})]] = []
    subnet: list[SelectorText] = []
    address: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-address"})]] = []
    mac: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-mac"})]] = []
    device: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-device"})]] = []
    node: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-node"})]] = []

    @property
    def filters(self) -> dict[str, list[str]]:
        return _filters(self)


class InterfacePage(Page):
    """With `selector`, only the cluster interfaces that it names."""

    selector: SelectorText | None = None


class ForeignEntryPage(Page):
    """With `subnet`, an id or a selector, only what lies in that subnet."""

    subnet: SelectorText | None = None


_Line = Annotated[str, Field(json_schema_extra={"format": "hostmap-line"})]


class AuditPage(Page):
    """Filters; the values of one are alternatives, and all filters hold."""

    object: list[_Line] = []
    actor: list[_Line] = []
    action: list[_Line] = []
    request_id: list[_Line] = []

    @property
    def filters(self) -> dict[str, list[str]]:
        return _filters(self)


class TokenPage(Page):
    account: AccountName | None = None


def _filters(query: Page) -> dict[str, list[str]]:
    named = {name: getattr(query, name) for name in type(query).model_fields if name not in Page.model_fields}
    return {name: values for name, values in named.items() if values}


def _need_distinct(macs: list[str]) -> None:
    if len(set(macs)) < len(macs):
        raise ValueError("a MAC address is given twice")
