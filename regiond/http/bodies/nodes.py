"""What is sent to make and change nodes, and to claim addresses for them."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from regiond.http.bodies.base import MAX_MACS, Body, Change, Macs, has, need_distinct, rules
from regiond.http.fields import AccountName, Address, Alias, ClientId, Duid, Hostname, Mac, SelectorText, Text


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
    macs: Macs = Field(default=[])
    owner: AccountName | None = None
    comment: Text | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        need_distinct(self.macs)
        return self


class NewNodeAddress(Body):
    """An extra address of a node, for another MAC address or for an alias of one of its NICs."""

    model_config = rules(
        *map(has, ("mac", "alias", "client_id", "duid")),
        never=[(has(one), has(other)) for one, other in combinations(("mac", "client_id", "duid"), 2)],
    )

    examples: ClassVar[Mapping[str, Any]] = {
        "another NIC": {"interface": "rack-a:eth2", "mac": "00:16:3e:00:01:02"},
        "an alias of a NIC": {"interface": "192.0.2.0/24", "alias": "eth0:1"},
    }

    interface: SelectorText
    mac: Mac | None = None
    alias: Alias | None = Field(
        default=None,
        description="of a NIC; alone it makes the DHCP client-id that is answered, which the alias' client has to send",
    )
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


class ReplacedMac(Body):
    """A NIC that was replaced by another."""

    old: Mac
    new: Mac


class NodeChange(Change):
    """`macs` are the node's own from now on. With `replaced_macs` the node and its extra addresses get the new ones."""

    model_config = rules(never=[(has("macs", type="array"), has("replaced_macs", type="array"))])

    examples: ClassVar[Mapping[str, Any]] = {
        "a replaced NIC": {"replaced_macs": [{"old": "00:16:3e:00:01:01", "new": "00:16:3e:00:01:09"}]},
        "another owner": {"owner": "bob"},
    }

    hostname: Hostname | None = None
    comment: Text | None = None
    owner: AccountName | None = None
    macs: Macs | None = None
    replaced_macs: list[ReplacedMac] | None = Field(
        default=None, min_length=1, max_length=MAX_MACS, json_schema_extra={"uniqueItems": True}
    )

    nullable: ClassVar[frozenset[str]] = frozenset({"comment"})

    @model_validator(mode="after")
    def _which_macs(self) -> Self:
        replaced = self.replaced_macs or []
        if self.macs is not None and replaced:
            raise ValueError("give either macs or replaced_macs")
        for macs in (self.macs or [], [each.old for each in replaced], [each.new for each in replaced]):
            need_distinct(macs)
        return self
