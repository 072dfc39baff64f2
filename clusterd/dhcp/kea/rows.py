"""Host maps as rows of Kea's hosts table, and what a change does to the rows; pure.

Kea's table has no rule against two rows with one address (since schema 6.2); the server would then serve neither. So
it is decided here, with the table locked against other writers, which rows a change may make.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from clusterd.dhcp.backend import Rejection
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

TYPE_OF_KIND = {IdentifierKind.MAC: 0, IdentifierKind.DUID: 1, IdentifierKind.CLIENT_ID: 3}  # host_identifier_type
KIND_OF_TYPE = {number: kind for kind, number in TYPE_OF_KIND.items()}

Placed = tuple[HostMap, int]
"""A host map and the id of the subnet it belongs into."""

_FOREIGN_IDENTIFIER = "{identifier} has a reservation of {address} there already, which is not hostmap's"
_FOREIGN_ADDRESS = "{address} is reserved for {holder} already, which is not hostmap's doing"
_TAKEN_ADDRESS = (
    "Kea takes one client per address as long as ip-reservations-unique is not false in its configuration, "
    "and {address} is {holder}'s"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One reservation of one address as it stands in the table. `holder` names the client for people."""

    host_id: int
    subnet_id: int
    type: int
    value: bytes
    address: str | None
    hostname: str | None
    ours: bool

    @property
    def key(self) -> tuple[int, int, bytes]:
        """What is unique in the table."""
        return self.subnet_id, self.type, self.value

    @property
    def holder(self) -> str:
        kind = KIND_OF_TYPE.get(self.type)
        return f"{kind.value if kind else f'identifier type {self.type}'}:{self.value.hex(':')}"

    def host_map(self) -> HostMap | None:
        """The host map that this row is, None for one that no host map can be."""
        kind = KIND_OF_TYPE.get(self.type)
        if kind is None or self.address is None:
            return None
        try:
            return HostMap(Identifier(kind, self.value), self.address, self.hostname or None)
        except ValueError:
            return None


@dataclass(slots=True)
class RowChanges:
    """What to do to the table: delete the rows with these ids, then insert."""

    deletes: set[int] = field(default_factory=set)
    inserts: list[Placed] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.deletes or self.inserts)


def plan_rows(
    existing: Iterable[Row], removed: Collection[Placed], added: Collection[Placed], *, unique_addresses: bool
) -> RowChanges:
    """The change, given every row that has an identifier or an address of it in its subnet."""
    plan = RowChanges()
    by_key: dict[tuple[int, int, bytes], Row] = {}
    by_address: dict[tuple[int, str | None], dict[tuple[int, int, bytes], Row]] = defaultdict(dict)
    for row in existing:
        by_key[row.key] = row
        by_address[row.subnet_id, row.address][row.key] = row

    def delete(row: Row) -> None:
        plan.deletes.add(row.host_id)
        del by_key[row.key]
        del by_address[row.subnet_id, row.address][row.key]

    for host_map, subnet_id in removed:
        doomed = by_key.get(_key(host_map, subnet_id))
        if doomed is not None and doomed.ours and doomed.address == host_map.address:
            delete(doomed)
    for host_map, subnet_id in sorted(added, key=_order):
        key = _key(host_map, subnet_id)
        held = by_key.get(key)
        if held is not None and not held.ours:
            words = _FOREIGN_IDENTIFIER.format(identifier=host_map.identifier, address=held.address)
            plan.rejections.append(Rejection(host_map, words))
            continue
        at_address = by_address[subnet_id, host_map.address]
        others = [other for other_key, other in at_address.items() if other_key != key]
        reason = _why_not_beside(host_map, others, unique_addresses)
        if reason is not None:
            plan.rejections.append(Rejection(host_map, reason))
            continue
        if held is not None:
            if held.address == host_map.address and (held.hostname or None) == host_map.hostname:
                continue
            delete(held)
        plan.inserts.append((host_map, subnet_id))
        new = Row(0, subnet_id, key[1], key[2], host_map.address, host_map.hostname, ours=True)
        by_key[key] = at_address[key] = new
    return plan


def _why_not_beside(host_map: HostMap, others: list[Row], unique_addresses: bool) -> str | None:
    for other in others:
        if not other.ours:
            return _FOREIGN_ADDRESS.format(address=host_map.address, holder=other.holder)
        if unique_addresses:
            return _TAKEN_ADDRESS.format(address=host_map.address, holder=other.holder)
    return None


def _key(host_map: HostMap, subnet_id: int) -> tuple[int, int, bytes]:
    return subnet_id, TYPE_OF_KIND[host_map.identifier.kind], host_map.identifier.value


def _order(placed: Placed) -> tuple[str, bytes]:
    """The same set gets the same rejections whatever its order."""
    return placed[0].address, placed[0].identifier.value
