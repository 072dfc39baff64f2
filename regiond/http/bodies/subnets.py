"""What is sent about subnets and their ranges."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from regiond.domain.ranges import RangeKind
from regiond.http.bodies.base import Body, Change, Query
from regiond.http.fields import AccountName, Address, Flag, Limit, Text, Whole

MAX_RELEASE_HOLD_SECONDS = 30 * 86400

DEFAULT_AVAILABLE = 10

Accounts = Annotated[list[AccountName], Field(min_length=1, max_length=1000)]


class SubnetChange(Change):
    """`release_hold_seconds`: how long an address rests after its removal was confirmed everywhere.

    `claimable_anyway`: claim addresses although a cluster has not told yet what its DHCP server has of its own.

    `probe`: find out that nobody uses an address before it is handed out, unless a claim says otherwise.

    `claimants`: who may claim addresses: everyone, admins only, or admins and the named accounts.
    """

    examples: ClassVar[Mapping[str, Any]] = {
        "ten minutes": {"release_hold_seconds": 600},
        "probing": {"probe": True},
        "not for everyone": {"claimants": ["alice", "load-balancers"]},
    }

    release_hold_seconds: Annotated[int, Field(ge=0, le=MAX_RELEASE_HOLD_SECONDS), Whole] | None = None
    claimable_anyway: bool | None = None
    probe: bool | None = None
    claimants: Literal["everyone", "admins"] | Accounts | None = None


class NewRange(Body):
    """Addresses that are never allocated; both ends are included."""

    examples: ClassVar[Mapping[str, Any]] = {
        "leases": {"kind": "dynamic", "low": "192.0.2.100", "high": "192.0.2.199", "comment": "PXE"}
    }

    kind: RangeKind = Field(strict=False)
    low: Address
    high: Address
    comment: Text | None = None


class RangeChange(Change):
    examples: ClassVar[Mapping[str, Any]] = {"smaller": {"high": "192.0.2.149"}}

    kind: RangeKind | None = Field(default=None, strict=False)
    low: Address | None = None
    high: Address | None = None
    comment: Text | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"comment"})


class ForcingRange(Query):
    """Take a dynamic range although reservations lie in it; they stay with their holders (admin)."""

    force: Annotated[
        Flag, Field(description="take a dynamic range although reservations lie in it; they stay with their holders")
    ] = False


class Available(Query):
    """How many addresses at most."""

    limit: Limit = DEFAULT_AVAILABLE
