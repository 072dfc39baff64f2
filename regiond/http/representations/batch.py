"""What became of a batch, as people and programs see it."""

from regiond.domain.ids import Prefix
from regiond.http.representations.reservations import reservation
from regiond.http.representations.values import optional_id
from regiond.http.shapes import batch as shapes
from regiond.use_cases.batches import MemberResult


def member_result(operation: shapes.Operation, result: MemberResult) -> shapes.MemberResult:
    first = result.reservations[0].reservation if result.reservations else None
    return {
        "operation": operation,
        "new": result.created,
        "device": optional_id(Prefix.DEVICE, None if first is None else first.device),
        "group": optional_id(Prefix.GROUP, None if first is None else first.group),
        "reservations": [reservation(view) for view in result.reservations],
    }
