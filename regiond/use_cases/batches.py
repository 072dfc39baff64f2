"""Claims and releases over any subnets as one request: all of them happen, or none. The story of such a request."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from regiond.domain import errors
from regiond.domain.ids import Prefix
from regiond.domain.mutations import Claim, Mutation, Outcome, Step
from regiond.domain.reservations import Reservation, Status
from regiond.domain.views import ReservationView
from regiond.progress import Progress
from regiond.storage.reads import Reads
from regiond.use_cases import inputs
from regiond.use_cases.claims import Claims
from regiond.use_cases.repeats import once
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.steps import (
    DeviceClaim,
    DeviceRelease,
    NodeAddressClaim,
    NodeAddressRelease,
    ReservationRelease,
    UserClaim,
)

MAX_MEMBERS = 256
MAX_ADDRESSES = 256
"""Of all the claims of a batch together."""
MAX_STEPS = 512
"""Of a batch in all: each address, and each device that goes. Planning more at once would hold up others' claims."""

ClaimMember = DeviceClaim | NodeAddressClaim | UserClaim
Member = ClaimMember | DeviceRelease | NodeAddressRelease | ReservationRelease


@dataclass(frozen=True, slots=True)
class MemberResult:
    """What became of a member. Of a claim: its reservations, and whether they are new; of a release: what is not free
    yet.
    """

    created: bool
    reservations: tuple[ReservationView, ...]


class Batches:
    """See the module. A member means what the request that it stands for means, and needs the same role."""

    def __init__(self, reads: Reads, claims: Claims, progress: Progress) -> None:
        self._reads = reads
        self._steps = claims.steps
        self._leases = claims.leases
        self._probed = claims.probed
        self._progress = progress

    async def run(self, context: RequestContext, *, members: Sequence[Member]) -> Sequence[MemberResult]:
        """One result for each member, in order.

        Raises BatchRefused with every member that is wrong, what is wrong with their names first: what names nothing
        is not tried. Raises InvalidRequest for more than MAX_MEMBERS, NotProbed, and DatabaseUnavailable.
        """
        if not 1 <= len(members) <= MAX_MEMBERS:
            raise errors.InvalidRequest("/members", f"between 1 and {MAX_MEMBERS}")

        async def run() -> Outcome:
            steps = await self._without_leases(await self._understood(context, members))
            mutation = Mutation(
                context.caller.actor,
                tuple(step for _, step in steps),
                context.request_id,
                context.idempotency,
                tuple(member for member, _ in steps),
            )
            return await self._probed.submit(context, mutation)

        outcome = await once(self._reads, context.idempotency, run)
        return await self._results(context, members, outcome)

    async def _understood(self, context: RequestContext, members: Sequence[Member]) -> list[tuple[int, Step]]:
        """The steps with the positions of their members."""
        steps: list[tuple[int, Step]] = []
        refused: list[tuple[int, errors.DomainError]] = []
        addresses = 0
        of_nodes: Counter[int] = Counter()
        for position, member in enumerate(members):
            try:
                addresses += _addresses(member)
                if addresses > MAX_ADDRESSES:
                    raise errors.InvalidRequest("/count", f"more than {MAX_ADDRESSES} addresses in all are claimed")
                steps.extend((position, step) for step in await self._steps_of(context, member, of_nodes))
            except errors.DomainError as error:
                refused.append((position, error))
            if len(steps) > MAX_STEPS:
                detail = (
                    f"more than {MAX_STEPS} changes in all, with this member: each address, and each device that goes"
                )
                refused.append((position, errors.InvalidRequest("", detail)))
                break
        if refused:
            raise errors.BatchRefused(refused)
        return steps

    async def _without_leases(self, steps: Sequence[tuple[int, Step]]) -> Sequence[tuple[int, Step]]:
        """The same steps; claims know the leases of others. See Note [Leases and claims] in leases.py."""
        claims = [(at, step) for at, (_, step) in enumerate(steps) if isinstance(step, Claim)]
        looked = await self._leases.look([claim for _, claim in claims])
        informed = dict(zip((at for at, _ in claims), looked, strict=True))
        return [(member, informed.get(at, step)) for at, (member, step) in enumerate(steps)]

    async def _steps_of(self, context: RequestContext, member: Member, of_nodes: Counter[int]) -> Sequence[Step]:
        """`of_nodes`: how many addresses of each node the members before it claim."""
        match member:
            case DeviceClaim():
                return [await self._steps.claim_device(context, member)]
            case NodeAddressClaim():
                node = inputs.known_id(Prefix.NODE, member.node)
                claim = await self._steps.claim_node_address(context, member, of_nodes[node])
                of_nodes[node] += 1
                return [claim]
            case UserClaim():
                return [await self._steps.claim_for_user(context, member)]
            case DeviceRelease():
                return await self._steps.release_device(context, member)
            case NodeAddressRelease():
                return await self._steps.release_node_address(context, member)
            case ReservationRelease():
                return await self._steps.release_reservation(context, member)

    async def _results(
        self, context: RequestContext, members: Sequence[Member], outcome: Outcome
    ) -> Sequence[MemberResult]:
        """The claims are waited for, as anybody's; the releases are told as they stand then."""
        cut, parts = 0, []
        for did in outcome.members:
            parts.append(outcome.reservations[cut : cut + did.reservations])
            cut += did.reservations
        claimed = [held for member, part in zip(members, parts, strict=True) if _claims(member) for held in part]
        given_up = [held for member, part in zip(members, parts, strict=True) if not _claims(member) for held in part]
        waited = iter(await self._progress.settled(_part_of(outcome, claimed), context.wait_seconds))
        others = iter(await self._progress.settled(_part_of(outcome, given_up), 0.0))
        results = []
        for member, part, did in zip(members, parts, outcome.members, strict=True):
            if _claims(member):
                shown = [next(waited) for _ in part]
            else:
                found = [next(others) for _ in part]
                shown = [view for view in found if view.reservation.status is Status.RELEASING]
            results.append(MemberResult(did.created, tuple(shown)))
        return results


def _part_of(outcome: Outcome, reservations: Sequence[Reservation]) -> Outcome:
    """The outcome of these alone: they wait for their own clusters."""
    subnets = {held.subnet for held in reservations}
    deliveries = {subnet: rows for subnet, rows in outcome.deliveries.items() if subnet in subnets}
    return replace(outcome, reservations=tuple(reservations), deliveries=deliveries)


def _addresses(member: Member) -> int:
    """How many it claims."""
    return member.count if isinstance(member, UserClaim) else int(_claims(member))


def _claims(member: Member) -> bool:
    return isinstance(member, ClaimMember)
