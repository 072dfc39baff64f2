"""Ranges of addresses that are never allocated, and what can be wrong with one: pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from clusterd.protocol.addresses import address_to_int
from regiond.domain import errors
from regiond.domain.networks import Network


class RangeKind(StrEnum):
    """Why: the DHCP server leases these addresses on its own, or an operator keeps them back."""

    DYNAMIC = "dynamic"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class RangeValues:
    """What an operator can write of a range. Both ends are included; addresses are canonical text."""

    kind: RangeKind
    low: str
    high: str
    comment: str | None

    def __str__(self) -> str:
        return f"the {self.kind.value} range {self.low} to {self.high}"

    @property
    def summary(self) -> dict[str, Any]:
        """For the audit."""
        fields = {"kind": self.kind.value, "low": self.low, "high": self.high, "comment": self.comment}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class AddressRange:
    """A range of a subnet, as it is stored; or a pool of the DHCP server of the cluster `reported_by`.

    The latter is changed by nobody but that server's own configuration.
    """

    id: int
    subnet: int
    values: RangeValues
    created: datetime
    reported_by: str | None = None


def check_range(network: Network, values: RangeValues) -> None:
    """Raises InvalidRequest for ends of another family or in the wrong order, AddressOutsideSubnet.

    The network and broadcast addresses may be in a range: they are never claimed anyway.
    """
    ends = {}
    for pointer, text in (("/low", values.low), ("/high", values.high)):
        family, ends[pointer] = address_to_int(text)
        if family != network.family:
            raise errors.InvalidRequest(pointer, f"{text} is no IPv{network.family} address, as {network.cidr} needs")
        if ends[pointer] not in network:
            raise errors.AddressOutsideSubnet(f"{text} is not in {network.cidr}")
    if ends["/high"] < ends["/low"]:
        raise errors.InvalidRequest("/high", f"{values.high} is below {values.low}")


def newly_dynamic(before: RangeValues | None, after: RangeValues) -> bool:
    """Whether addresses become the DHCP server's own that were not: reservations among them have to be looked for."""
    if after.kind is not RangeKind.DYNAMIC:
        return False
    if before is None or before.kind is not RangeKind.DYNAMIC:
        return True
    return _int(after.low) < _int(before.low) or _int(after.high) > _int(before.high)


def _int(text: str) -> int:
    return address_to_int(text)[1]
