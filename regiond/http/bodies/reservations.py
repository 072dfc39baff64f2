"""What is sent to reserve addresses and to find reservations."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from regiond.domain.reservations import Kind, Status
from regiond.http.bodies.base import Body, Change, FilteredPage, has, rules
from regiond.http.fields import AccountName, Address, ExpiresIn, Hostname, Mac, SelectorText, Text, Whole

MAX_COUNT = 256

ExportFormat = Annotated[Literal["csv", "jsonl"], Field(description="`jsonl`: a JSON object on each line")]


class NewReservation(Body):
    """Addresses that the region keeps for an account and never hands out."""

    model_config = rules(
        has("interface"), has("address"), never=[(has("address"), has("count", type="integer", minimum=2))]
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


class ReservationChange(Change):
    """What can be written of a reservation; null takes a value away."""

    examples: ClassVar[Mapping[str, Any]] = {"a longer life": {"expires_in": 604800}, "no name": {"hostname": None}}

    hostname: Hostname | None = None
    comment: Text | None = None
    expires_in: ExpiresIn | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"hostname", "comment", "expires_in"})


class ReservationPage(FilteredPage):
    """Filters; the values of one are alternatives, and all filters hold.

    With `format`, all of them as a file instead of a page: it has no `limit`, and goes on behind `after`.
    """

    format: ExportFormat | None = None
    kind: list[Annotated[str, Field(json_schema_extra={"enum": list(Kind)})]] = Field(
        default=[], description="of these kinds"
    )
    status: list[Annotated[str, Field(json_schema_extra={"enum": list(Status)})]] = Field(
        default=[], description="in these states"
    )
    subnet: list[SelectorText] = Field(default=[], description="of the subnet that a selector means")
    address: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-address"})]] = Field(
        default=[], description="at these addresses, in whatever subnet"
    )
    mac: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-mac"})]] = Field(
        default=[], description="of these MAC addresses, in whatever form"
    )
    device: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-device"})]] = Field(
        default=[], description="of the devices with these ids"
    )
    node: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-node"})]] = Field(
        default=[], description="of the nodes with these ids"
    )
    owner: list[Annotated[str, Field(json_schema_extra={"format": "hostmap-name"})]] = Field(
        default=[], description="of the accounts with these names; a user sees its own only"
    )

    not_filters: ClassVar[frozenset[str]] = FilteredPage.not_filters | {"format"}
