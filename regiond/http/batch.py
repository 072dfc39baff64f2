"""Batches over HTTP: what may be asked alone may be asked together."""

from datetime import datetime, timedelta

from regiond.http.bodies import batch as bodies
from regiond.http.bodies.base import Probing
from regiond.http.representations import batch as show
from regiond.http.routing import BASE, Access, Answer, Call, Route
from regiond.http.shapes import batch as shapes
from regiond.http.use_cases import UseCases
from regiond.use_cases.batches import Member
from regiond.use_cases.steps import (
    DeviceClaim,
    DeviceRelease,
    NodeAddressClaim,
    NodeAddressRelease,
    ReservationRelease,
    UserClaim,
)


async def run(use: UseCases, call: Call[bodies.Batch, Probing]) -> Answer:
    """All members happen, or none: then `refused` says what is wrong with each that is wrong, by its position.

    Addresses are probed together, where `probe` or their subnet wants it, as those of single claims.
    """
    members = call.body.members
    results = await use.batches.run(call.context, members=[_understood(member, call.now) for member in members])
    shown = [show.member_result(member.operation, result) for member, result in zip(members, results, strict=True)]
    return Answer(200, {"results": shown})


def _understood(member: bodies.Member, now: datetime) -> Member:
    match member:
        case bodies.ClaimDevice():
            return DeviceClaim(
                member.interface,
                member.all_macs,
                member.duid,
                member.address,
                member.hostname,
                member.owner,
                member.comment,
            )
        case bodies.ClaimNodeAddress():
            return NodeAddressClaim(
                member.node,
                member.interface,
                member.mac,
                member.alias,
                member.client_id,
                member.duid,
                member.address,
                member.hostname,
            )
        case bodies.Reserve():
            return UserClaim(
                member.interface,
                member.address,
                member.mac,
                member.count,
                member.hostname,
                member.purpose,
                member.comment,
                member.user,
                None if member.expires_in is None else now + timedelta(seconds=member.expires_in),
            )
        case bodies.ReleaseDevice():
            return DeviceRelease(member.device, member.force)
        case bodies.ReleaseNodeAddress():
            return NodeAddressRelease(member.node, member.reservation, member.force)
        case bodies.ReleaseReservation():
            return ReservationRelease(member.reservation, member.force)


ROUTES = [
    Route(
        "POST",
        f"{BASE}/batch",
        run,
        Access.USER,
        "Claim and release many addresses at once",
        bodies.Batch,
        Probing,
        shows=shapes.BatchResult,
        refusals=("batch-refused", "not-found", "not-probed"),
    )
]
