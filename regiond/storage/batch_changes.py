"""What a batch changes, as the JSON of `batch_write` and `batch_edit` (migrations 0002 and 0013)."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from regiond.domain.changes import Changes
from regiond.domain.facts import (
    SubnetFacts,
)
from regiond.domain.reservations import Kind, Reservation

_SIGN_BIT = 1 << 63
_TWO_64 = 1 << 64


def to_signed(digest: int) -> int:
    """An unsigned 64-bit digest as PostgreSQL's bigint."""
    return digest - _TWO_64 if digest >= _SIGN_BIT else digest


def changes_document(batch_id: str, changes: Changes, subnets: Mapping[int, SubnetFacts]) -> str:
    """The argument of `batch_write`; `subnets` are the facts that the changes were planned on."""

    def text(subnet: int, address: int) -> str:
        return subnets[subnet].network.text(address)

    document: dict[str, list[Any]] = {
        "reservations_gone": [{"subnet": r.subnet, "address": r.address} for r in changes.reservations_gone],
        "reservations_new": [_reservation_row(r) for r in changes.reservations_new],
        "reservations_changed": [_reservation_row(r) for r in changes.reservations_changed],
        "counts": _counts(changes),
        "maps": [
            {
                "subnet": subnet,
                "kind": identifier.kind.value,
                "identifier": identifier.value.hex(),
                "address": row.address,
                "hostname": row.hostname,
                "reservation": row.reservation,
                "generation": subnets[subnet].generation + 1,
                "removed": row.removed,
                "request_id": row.request_id,
            }
            for subnet, identifier, row in changes.maps
        ],
        "subnets": [
            {"id": subnet, "generation": generation, "digest": to_signed(digest)}
            for subnet, generation, digest in changes.subnets
        ],
        "free_gone": [{"subnet": s, "high": text(s, high)} for s, high in changes.free_gone],
        "free_put": [{"subnet": s, "low": text(s, low), "high": text(s, high)} for s, low, high in changes.free_put],
        "deliveries": [
            {
                "subnet": subnet,
                "cluster": d.cluster,
                "role": d.role,
                "accepted_generation": d.accepted_generation,
                "applied_generation": d.applied_generation,
                "error": d.error,
            }
            for subnet, d in changes.deliveries
        ],
        "rejected": [
            {
                "subnet": step.subnet,
                "cluster": step.cluster,
                "maps": [
                    {
                        "kind": r.identifier.kind.value,
                        "identifier": r.identifier.value.hex(),
                        "reason": r.reason,
                    }
                    for r in step.rejected or ()
                ],
            }
            for step in changes.rejected.values()
        ],
        "confirmed": [{"subnet": subnet, "generation": generation} for subnet, generation in changes.confirmed],
        "devices_new": [
            {"id": device.id, "hostname": device.hostname, "owner": owner, "comment": device.comment}
            for device, owner in changes.devices_new
        ],
        "devices_gone": list(changes.devices_gone),
        "nodes_gone": list(changes.nodes_gone),
        "nodes_claimed": sorted({r.node for r in changes.reservations_new if r.node is not None}),
        "audit": [
            {
                "account": a.actor.account,
                "actor": a.actor.name,
                "action": a.action,
                "object": a.object,
                "before": a.before,
                "after": a.after,
                "request_id": a.request_id,
            }
            for a in changes.audit
        ],
        "answers": [
            {"account": account, "key": key, "fingerprint": answered.fingerprint, "answer": answered.answer}
            for account, key, answered in changes.answers
        ],
    }
    filled: dict[str, Any] = {table: rows for table, rows in document.items() if rows}
    return to_json({"batch": batch_id, **filled}).decode()


def edits_document(changes: Changes) -> str | None:
    """The argument of `batch_edit`; None when nothing is edited."""
    document = {
        "reservations": [_reservation_row(r) for r in changes.reservations_edited],
        "devices": [
            {"id": d.id, "hostname": d.hostname, "owner": d.owner, "comment": d.comment} for d in changes.devices_edited
        ],
        "nodes": [
            {"id": n.id, "hostname": n.hostname, "owner": n.owner, "comment": n.comment, "macs": n.macs}
            for n in changes.nodes_edited
        ],
    }
    return to_json(document).decode() if any(document.values()) else None


def _counts(changes: Changes) -> list[dict[str, int]]:
    """How many user reservations more or less each account has on each subnet."""
    differences: Counter[tuple[int, int]] = Counter()
    for rows, sign in ((changes.reservations_new, 1), (changes.reservations_gone, -1)):
        for row in rows:
            if row.kind is Kind.USER:
                differences[row.owner, row.subnet] += sign
    return [
        {"account": account, "subnet": subnet, "difference": difference}
        for (account, subnet), difference in differences.items()
        if difference
    ]


def _reservation_row(reservation: Reservation) -> dict[str, Any]:
    """Without what it does not have: PostgreSQL reads such a row in half the time."""
    r = reservation
    row = {
        "subnet": r.subnet,
        "address": r.address,
        "id": r.id,
        "kind": r.kind.value,
        "status": r.status.value,
        "owner": r.owner,
        "macs": r.macs,
        "client_id": r.client_id,
        "duid": r.duid,
        "alias": r.alias,
        "hostname": r.hostname,
        "device": r.device,
        "node": r.node,
        "purpose": r.purpose,
        "comment": r.comment,
        "group": r.group,
        "expires_at": _text(r.expires_at),
        "map_generation": r.map_generation,
        "release_generation": r.release_generation,
        "confirmed_at": _text(r.confirmed_at),
        "free_at": _text(r.free_at),
        "probed": r.probed,
    }
    return {column: value for column, value in row.items() if value is not None}


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()
