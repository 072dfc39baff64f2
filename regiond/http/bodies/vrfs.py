"""What is sent about VRFs, and to make subnets."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from clusterd.protocol.values import parse_network
from regiond.http.bodies.base import Body, Change
from regiond.http.bodies.subnets import MAX_RELEASE_HOLD_SECONDS
from regiond.http.fields import AccountName, Text, Whole

Network = Annotated[
    str,
    AfterValidator(parse_network),
    Field(json_schema_extra={"format": "hostmap-network", "examples": ["192.0.2.0/24", "2001:db8::/64"]}),
]


class NewVrf(Body):
    """A routing domain. Its name stays for ever: clusters' configurations use it."""

    examples: ClassVar[Mapping[str, Any]] = {"of a site": {"name": "site-2", "comment": "the old data centre"}}

    name: AccountName
    comment: Text | None = None


class VrfChange(Change):
    examples: ClassVar[Mapping[str, Any]] = {"a comment": {"comment": "moved to the new data centre"}}

    nullable: ClassVar[frozenset[str]] = frozenset({"comment"})

    comment: Text | None = None


class NewSubnet(Body):
    """A network that no cluster has reported yet; of the VRF `default` unless told otherwise."""

    examples: ClassVar[Mapping[str, Any]] = {"in a VRF": {"cidr": "10.0.0.0/24", "vrf": "site-2"}}

    cidr: Network
    vrf: AccountName | None = None
    release_hold_seconds: Annotated[int, Field(ge=0, le=MAX_RELEASE_HOLD_SECONDS), Whole] | None = None
