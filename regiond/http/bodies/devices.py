"""What is sent to make and change devices."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from regiond.http.bodies.base import Body, Change, Macs, has, need_distinct, rules
from regiond.http.fields import AccountName, Address, Duid, Hostname, Mac, SelectorText, Text


class NewDevice(Body):
    """An unmanaged device: who it is, and where it wants an address."""

    model_config = rules(
        has("mac"),
        has("macs", type="array", minItems=1),
        has("duid"),
        never=[(has("mac"), has("macs", type="array", minItems=1))],
    )

    examples: ClassVar[Mapping[str, Any]] = {
        "a MAC address": {"interface": "192.0.2.0/24", "mac": "00:16:3e:00:00:01", "hostname": "web1"},
        "a bond, by cluster and NIC": {"interface": "rack-a:eth1", "macs": ["00:16:3e:00:00:02", "00:16:3e:00:00:03"]},
    }

    interface: SelectorText
    mac: Mac | None = None
    macs: Macs = Field(default=[])
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
        need_distinct(self.macs)
        return self

    @property
    def all_macs(self) -> tuple[str, ...]:
        return (self.mac,) if self.mac is not None else tuple(self.macs)


class DeviceChange(Change):
    """A device keeps its address: `macs` are its MAC addresses from now on, all of them."""

    examples: ClassVar[Mapping[str, Any]] = {
        "a replaced NIC": {"macs": ["00:16:3e:00:00:09"]},
        "another name": {"hostname": "web2"},
    }

    hostname: Hostname | None = None
    comment: Text | None = None
    owner: AccountName | None = None
    macs: Macs | None = None

    nullable: ClassVar[frozenset[str]] = frozenset({"hostname", "comment"})

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        need_distinct(self.macs or [])
        return self
