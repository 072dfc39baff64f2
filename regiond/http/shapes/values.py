"""Ids, times and names: what the shapes of several nouns are made of."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from regiond.domain.ids import ID_BITS, Prefix

_LENGTH = ID_BITS // 5


_ID_CHARACTERS = "[0-9a-hjkmnp-tv-z]"


def _id(prefix: Prefix) -> Any:
    pattern = f"^{prefix}-{_ID_CHARACTERS}{{{_LENGTH}}}$"
    return Field(pattern=pattern, examples=[f"{prefix}-4k2m9q8xvz"])


AccountId = Annotated[str, _id(Prefix.ACCOUNT)]


AddressInUseId = Annotated[str, _id(Prefix.ADDRESS_IN_USE)]
RangeId = Annotated[str, _id(Prefix.ADDRESS_RANGE)]


AuditEntryId = Annotated[str, _id(Prefix.AUDIT_ENTRY)]


ClusterId = Annotated[str, _id(Prefix.CLUSTER)]


ClusterInterfaceId = Annotated[str, _id(Prefix.CLUSTER_INTERFACE)]


DeviceId = Annotated[str, _id(Prefix.DEVICE)]


ForeignEntryId = Annotated[str, _id(Prefix.FOREIGN_ENTRY)]


GroupId = Annotated[str, _id(Prefix.GROUP)]


ImportId = Annotated[str, _id(Prefix.IMPORT)]


InterfaceChangeId = Annotated[str, _id(Prefix.INTERFACE_CHANGE)]


NodeId = Annotated[str, _id(Prefix.NODE)]


ReservationId = Annotated[str, _id(Prefix.RESERVATION)]


SubnetId = Annotated[str, _id(Prefix.SUBNET)]


TokenId = Annotated[str, _id(Prefix.TOKEN)]


VrfId = Annotated[str, _id(Prefix.VRF)]


Moment = Annotated[
    str,
    Field(
        description="RFC 3339, UTC, with milliseconds",
        json_schema_extra={"format": "date-time"},
        examples=["2026-01-31T12:00:00.123Z"],
    ),
]


Address = Annotated[str, Field(description="an IP address in its canonical spelling", examples=["192.0.2.7"])]


Cidr = Annotated[str, Field(examples=["192.0.2.0/24", "2001:db8::/64"])]


Mac = Annotated[str, Field(pattern="^([0-9a-f]{2}:){5}[0-9a-f]{2}$", examples=["00:16:3e:00:00:01"])]


Octets = Annotated[str, Field(pattern="^[0-9a-f]{2}(:[0-9a-f]{2})*$", examples=["01:00:16:3e:00:00:01"])]


Etag = Annotated[
    str,
    Field(
        description="the version, as in the ETag header: for If-Match",
        pattern='^"[0-9a-f]{16}"$',
        examples=['"9f86d081884c7d65"'],
    ),
]


Count = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(extra="forbid"))
class Shape(TypedDict):
    """A JSON object with these members and no others."""


class SubnetName(Shape):
    id: SubnetId
    cidr: Cidr
    vrf: str


class ClusterName(Shape):
    id: ClusterId
    name: str
