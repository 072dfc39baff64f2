"""What the lines of an import ask for: each becomes a claim, is there already, or is a mistake; pure.

An import makes reservations and changes none. A line whose reservation is there exactly so is `present`, so that the
same file can be imported again; one that was being released when it was exported is skipped.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from clusterd.protocol.values import Identifier, IdentifierKind, parse_hex
from regiond.domain import errors
from regiond.domain.ids import NewId
from regiond.domain.line_files import Mistake
from regiond.domain.lines import Line, LineFormat
from regiond.domain.mutations import Claim, NewDevice
from regiond.domain.reservations import Kind, Reservation, Status

MAX_MISTAKES: Final = 1000
"""So many are told; all are counted."""
MAX_LABELLED: Final = 256
"""Addresses of one device or group: as many as one request may reserve together, since they are given back together."""


class ImportState(StrEnum):
    """How far an import is. Nothing is changed before it is `done`, and then everything is at once."""

    WAITING = "waiting"
    CHECKING = "checking"
    APPLYING = "applying"
    DONE = "done"
    REFUSED = "refused"  # some of its lines cannot be done
    FAILED = "failed"  # the region could not

    @property
    def is_over(self) -> bool:
        return self in (ImportState.DONE, ImportState.REFUSED, ImportState.FAILED)


@dataclass(frozen=True, slots=True)
class ImportView:
    """An import as it is now. `created` is what would be made, in a dry run. `reason` says why it failed."""

    id: int
    account: int
    account_name: str
    state: ImportState
    dry_run: bool
    form: LineFormat
    checked: int
    applied: int
    created: int
    present: int
    skipped: int
    mistakes: tuple[Mistake, ...]
    mistake_count: int
    reason: str | None
    began: datetime
    finished: datetime | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Named:
    """What a line names, looked up: its subnet, whose it is, and the node's id for a node's."""

    subnet: int
    owner: int
    owner_name: str
    node: int | None = None


def kind_of(line: Line, *, is_admin: bool) -> Kind:
    """What it says; else a device where an admin names a client, and a user reservation otherwise."""
    if line.kind is not None:
        return line.kind
    if line.node is not None:
        return Kind.NODE
    return Kind.DEVICE if is_admin and (line.macs or line.client_id or line.duid) else Kind.USER


class LineRefused(Exception):
    """A line that cannot be done: a column, and what is wrong with it."""

    def __init__(self, column: str | None, detail: str, slug: str = "invalid-request") -> None:
        super().__init__(detail)
        self.column = column
        self.detail = detail
        self.slug = slug


class Labels:
    """The devices and groups that the lines of one import name: the same label is the same new id."""

    def __init__(self, new_id: NewId) -> None:
        self._new_id = new_id
        self._ids: dict[tuple[str, str, int], int] = {}
        self._uses: Counter[int] = Counter()

    def id_of(self, sort: str, label: str | None, owner: int) -> tuple[int, bool]:
        """The id, and whether it is a new one. Without a label each line has its own; owners share none.

        Raises LineRefused beyond MAX_LABELLED lines; `sort` is the column.
        """
        if label is None:
            return self._new_id(), True
        key = (sort, label, owner)
        is_new = key not in self._ids
        if is_new:
            self._ids[key] = self._new_id()
        number = self._ids[key]
        self.count(sort, number)
        return number, is_new

    def count(self, sort: str, number: int) -> None:
        """One more line is of this. Raises LineRefused beyond MAX_LABELLED of them."""
        self._uses[number] += 1
        if self._uses[number] > MAX_LABELLED:
            raise LineRefused(sort, f"{MAX_LABELLED} lines have this {sort} already, and no {sort} has more addresses")


def claim_of(line: Line, kind: Kind, named: Named, labels: Labels, alias_of: Callable[[int, str], Identifier]) -> Claim:
    """Raises LineRefused. `alias_of` makes the identifier of an alias of a node."""
    identifiers = _identifiers(line)
    common: dict[str, Any] = {"address": line.address, "hostname": line.hostname, "comment": line.comment}
    if kind is not Kind.USER:
        for column in ("purpose", "expires_at", "group"):
            if getattr(line, column) is not None:
                raise LineRefused(column, f"only a user reservation has it, and this is one of kind {kind}")
    if kind is not Kind.NODE:
        for column in ("node", "alias"):
            if getattr(line, column) is not None:
                raise LineRefused(column, f"only a node's address has it, and this is one of kind {kind}")
    if kind is not Kind.DEVICE and line.device is not None:
        raise LineRefused("device", f"only a device's address has it, and this is one of kind {kind}")
    place = (labels.id_of("", None, 0)[0], kind, named.subnet, named.owner, named.owner_name)
    if kind is Kind.USER:
        if len(line.macs) > 1 or line.client_id or line.duid:
            raise LineRefused("macs", "a user reservation notes one MAC address at most, and no other identifier")
        group = None if line.group is None else labels.id_of("group", line.group, named.owner)[0]
        mac = line.macs[0] if line.macs else None
        return Claim(*place, mac=mac, purpose=line.purpose, expires_at=line.expires_at, group=group, **common)
    if kind is Kind.NODE:
        if not identifiers and line.alias is not None and named.node is not None:
            identifiers = (alias_of(named.node, line.alias),)
        if len(identifiers) != 1:
            raise LineRefused("macs", "a node's address is for one MAC address, client-id, DUID or alias")
        if named.node is not None:
            labels.count("node", named.node)
        return Claim(*place, identifiers=identifiers, alias=line.alias, node=named.node, **common)
    if not identifiers:
        raise LineRefused("macs", f"a reservation of kind {kind} needs a MAC address, a client-id or a DUID")
    if kind is Kind.RECOVERED:
        return Claim(*place, identifiers=identifiers, **common)
    device, is_new = labels.id_of("device", line.device, named.owner)
    made = NewDevice(device, line.hostname, line.comment) if is_new else device
    return Claim(*place, identifiers=identifiers, device=made, **common)


def _identifiers(line: Line) -> tuple[Identifier, ...]:
    found = [Identifier.mac(mac) for mac in line.macs]
    if line.client_id is not None:
        found.append(Identifier(IdentifierKind.CLIENT_ID, parse_hex(line.client_id)))
    if line.duid is not None:
        found.append(Identifier(IdentifierKind.DUID, parse_hex(line.duid)))
    return tuple(found)


def differences(held: Reservation, claim: Claim) -> list[str]:
    """The columns in which what is there is not what a line asks for."""
    macs = {i.text for i in claim.identifiers if i.kind is IdentifierKind.MAC} | ({claim.mac} if claim.mac else set())
    others = {i.kind: i.text for i in claim.identifiers}
    wanted: dict[str, Any] = {
        "kind": claim.kind,
        "owner": claim.owner,
        "macs": macs,
        "client_id": others.get(IdentifierKind.CLIENT_ID),
        "duid": others.get(IdentifierKind.DUID),
        "alias": claim.alias,
        "hostname": claim.hostname,
        "node": claim.node,
        "purpose": claim.purpose or None,
        "comment": claim.comment or None,
        "expires_at": claim.expires_at,
        "status": Status.ACTIVE,
    }
    there: dict[str, Any] = {name: getattr(held, name) or None for name in wanted}
    there["macs"] = set(held.macs)
    return [name for name, value in wanted.items() if there[name] != value]


class Duplicates:
    """Finds what two lines of one import both want."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[int, str], int] = {}
        self._identifiers: dict[tuple[int, Identifier], int] = {}

    def check(self, number: int, claim: Claim) -> None:
        """Raises LineRefused."""
        assert claim.address is not None
        first = self._addresses.setdefault((claim.subnet, claim.address), number)
        if first != number:
            raise LineRefused("address", f"{claim.address} stands in line {first} already", "address-taken")
        for identifier in claim.identifiers:
            first = self._identifiers.setdefault((claim.subnet, identifier), number)
            if first != number:
                detail = f"{identifier.text} stands in line {first} already, for an address of the same subnet"
                raise LineRefused("macs", detail, "identifier-taken")


def of_error(number: int, error: errors.DomainError) -> Mistake:
    """What the planner said against a line's claim."""
    return Mistake(number, None, error.slug, error.detail)
