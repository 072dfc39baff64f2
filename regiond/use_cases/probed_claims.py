"""Claims of addresses that are probed before they are handed out.

# Note [Probed claims]
The planner alone knows which addresses a claim may have, and a probe takes a second, which nobody may hold a subnet's
lock for. So a claim goes to the writer as any other does; where an address has to be probed the planner refuses it with
addresses that are free now (Unvetted). These are probed without a lock, those that are in use are marked, which
keeps them from everybody, and the claim goes again with those that are nobody's (`vetted`): it takes the first of them
that is still free. When others were faster with all of them, it is tried again with more.

Everything else about a claim is therefore as it always is: what a repeated key or a client that has its address already
is answered is found out before anything is probed, and the commit decides who gets which address.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from twisted.logger import Logger

from clusterd.protocol.arguments import MAX_PROBED_ADDRESSES
from clusterd.protocol.values import AddressInUse
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Claim, Mutation, Outcome, Probing
from regiond.use_cases.probes import CannotProbe, Probed
from regiond.use_cases.requests import RequestContext

SPARE: Final = (4, 16, 64)  # how many more addresses than are claimed are probed, in each attempt


class Mutations(Protocol):
    """`storage.writer.Writer`."""

    async def submit(self, mutation: Mutation) -> Outcome: ...


class Asks(Protocol):
    """`probes.Probes`."""

    async def ask(self, subnet: int, addresses: Sequence[str]) -> Probed: ...


class Marks(Protocol):
    """`storage.addresses_in_use.InUseStore`, as far as it is needed here."""

    async def mark(self, request_id: str, subnet: int, cluster: int, found: Sequence[AddressInUse]) -> None: ...


class ProbedClaims:
    """Submits claims, and has their addresses probed where the request or the subnet wants that."""

    _log = Logger(namespace="region.probing")

    def __init__(self, writer: Mutations, probes: Asks, marks: Marks) -> None:
        self._writer = writer
        self._probes = probes
        self._marks = marks
        self._on_trial: dict[int, set[str]] = defaultdict(set)  # by subnet: what a claim here is about to take

    async def submit(self, context: RequestContext, claim: Claim) -> Outcome:
        """The claim's outcome. `context.probe` is what the request says of probing; None: as the subnet says.

        A request that insists on it is refused with NotProbed where that is not possible; where only the subnet wants
        it the claim goes on without, since a cluster that is away never fails a claim.
        """
        wanted = {None: Probing.DEFAULT, True: Probing.YES, False: Probing.NO}[context.probe]
        claim = replace(claim, probing=wanted)
        mine: set[str] = set()
        try:
            for spare in SPARE:
                try:
                    return await self._submit(context, claim)
                except errors.Unvetted as unvetted:
                    chosen = self._choose(claim, unvetted.candidates, claim.count + spare)
                mine.update(chosen)
                self._on_trial[claim.subnet].update(chosen)
                try:
                    claim = await self._vet(context, claim, chosen)
                except CannotProbe as error:
                    return await self._unprobed(context, claim, error)
            try:
                return await self._submit(context, claim)
            except errors.Unvetted as unvetted:
                raise errors.NotProbed(
                    f"of {len(mine)} addresses that were probed all are in use, or were claimed by others meanwhile: "
                    "try again, or see regionctl in-use list",
                    reasons=[],
                ) from unvetted
        finally:
            self._forget(claim.subnet, mine)

    def _choose(self, claim: Claim, candidates: Sequence[str], count: int) -> Sequence[str]:
        """Those first that no other claim here is about to take."""
        trial = self._on_trial[claim.subnet]
        ordered = sorted(candidates, key=lambda address: address in trial)  # stable: the lowest first
        return ordered[: min(count, MAX_PROBED_ADDRESSES)]

    async def _vet(self, context: RequestContext, claim: Claim, chosen: Sequence[str]) -> Claim:
        """The claim with those of the addresses that are nobody's, or its own client's; the others are marked."""
        probed = await self._probes.ask(claim.subnet, chosen)
        others = [found for found in probed.in_use if found.mac not in claim.macs]
        if others:
            for found in others:
                self._log.warn(
                    "somebody uses {address}: {mac}",
                    event="address.in-use",
                    address=found.address,
                    mac=found.mac,
                    subnet=format_id(Prefix.SUBNET, claim.subnet),
                    cluster=format_id(Prefix.CLUSTER, probed.cluster),
                    request_id=context.request_id,
                )
            await self._marks.mark(context.request_id, claim.subnet, probed.cluster, others)
        taken = {found.address for found in others}
        return replace(claim, vetted=(*claim.vetted, *(address for address in chosen if address not in taken)))

    async def _unprobed(self, context: RequestContext, claim: Claim, error: CannotProbe) -> Outcome:
        if claim.probing is Probing.YES:
            raise errors.NotProbed(
                f"nobody can be asked whether an address is in use: {error}. Without probe=true an address is claimed "
                "all the same",
                reasons=error.reasons,
            ) from error
        self._log.warn(
            "an address is claimed without a probe: {reason}",
            event="claim.not-probed",
            subnet=format_id(Prefix.SUBNET, claim.subnet),
            reason=str(error)[:500],
            request_id=context.request_id,
        )
        return await self._submit(context, replace(claim, probing=Probing.IMPOSSIBLE, vetted=()))

    async def _submit(self, context: RequestContext, claim: Claim) -> Outcome:
        mutation = Mutation(context.caller.actor, (claim,), context.request_id, context.idempotency)
        return await self._writer.submit(mutation)

    def _forget(self, subnet: int, mine: set[str]) -> None:
        trial = self._on_trial[subnet]
        trial -= mine
        if not trial:
            del self._on_trial[subnet]
