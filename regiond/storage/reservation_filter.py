"""Which reservations are meant: conditions, as everything that reads reservations puts them into its WHERE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regiond.domain.reservations import Kind, Status


@dataclass(frozen=True, slots=True)
class ReservationFilter:
    """A conjunction of conditions; several values of one mean any of them. Empty means no condition.

    `owner` is whose reservations are seen at all; `owners` are asked for.
    """

    ids: Sequence[int] = ()
    kinds: Sequence[Kind] = ()
    statuses: Sequence[Status] = ()
    subnets: Sequence[int] = ()
    addresses: Sequence[str] = ()
    macs: Sequence[str] = ()
    owner: int | None = None
    owners: Sequence[int] = ()
    devices: Sequence[int] = ()
    nodes: Sequence[int] = ()
    groups: Sequence[int] = ()

    def where(self, after: int | None = None) -> tuple[str, list[Any]]:
        """The condition on a reservation `r`, and its arguments; with `after`, only what comes later by id."""
        conditions: dict[str, Any] = {
            "r.id = ANY(%s)": list(self.ids),
            "r.kind = ANY(%s)": [kind.value for kind in self.kinds],
            "r.status = ANY(%s)": [status.value for status in self.statuses],
            "r.subnet = ANY(%s)": list(self.subnets),
            # the primary key is (subnet, address): an address is looked up in each of the few subnets that have it
            """(r.subnet, r.address) IN (SELECT s.id, wanted.address FROM unnest(%s::inet[]) AS wanted(address)
                JOIN subnet s ON s.cidr >>= wanted.address)""": list(self.addresses),
            # looked up on its own: in order of id, the planner would rather walk that index and compare every row
            "r.id = ANY(ARRAY(SELECT m.id FROM reservation m WHERE m.macs && %s))": list(self.macs),
            "r.device = ANY(%s)": list(self.devices),
            "r.node = ANY(%s)": list(self.nodes),
            'r."group" = ANY(%s)': list(self.groups),
            "r.owner = ANY(%s)": list(self.owners),
        }
        used = {text: values for text, values in conditions.items() if values}
        if self.owner is not None:
            used["r.owner = %s"] = self.owner
        if after is not None:
            used["r.id > %s"] = after
        return " AND ".join(used) or "true", list(used.values())
