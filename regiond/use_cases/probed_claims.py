"""Claims of addresses that are probed before they are handed out, alone or in a batch.

# Note [Probed claims]
The planner alone knows which addresses a claim may have, and a probe takes a second, which nobody may hold a subnet's
lock for. So a claim goes to the writer as any other does; where an address has to be probed the planner refuses it with
addresses that are free now (Unvetted). These are probed without a lock, those that are in use are marked, which
keeps them from everybody, and the claim goes again with those that are nobody's (`vetted`): it takes the first of them
that is still free. When others were faster with all of them, it is tried again with more.

Everything else about a claim is therefore as it always is: what a repeated key or a client that has its address already
is answered is found out before anything is probed, and the commit decides who gets which address.

The claims of a batch are probed together, one question for each subnet, once nothing else is wrong with any of them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from twisted.logger import Logger

from clusterd.protocol.arguments import MAX_PROBED_ADDRESSES
from clusterd.protocol.values import AddressInUse
from regiond.domain import errors
from regiond.domain.ids import Prefix, format_id
from regiond.domain.mutations import Claim, Mutation, Outcome, Probing, Step
from regiond.use_cases.probes import CannotProbe, Probed
from regiond.use_cases.requests import RequestContext
from regiond.use_cases.together import together

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


Claims = Mapping[int, Claim]
"""Steps of a mutation, by position."""


@dataclass(slots=True)
class _Attempts:
    """What was probed so far for one mutation, by subnet."""

    tried: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, subnet: int, addresses: Sequence[str]) -> None:
        self.tried[subnet].update(addresses)

    @property
    def count(self) -> int:
        return sum(map(len, self.tried.values()))


class ProbedClaims:
    """Submits claims, and has their addresses probed where the request or the subnet wants that."""

    _log = Logger(namespace="region.probing")

    def __init__(self, writer: Mutations, probes: Asks, marks: Marks) -> None:
        self._writer = writer
        self._probes = probes
        self._marks = marks
        self._on_trial: dict[int, set[str]] = defaultdict(set)  # by subnet: what a claim here is about to take

    async def submit(self, context: RequestContext, mutation: Mutation) -> Outcome:
        """The mutation's outcome; one claim, or whatever is in a batch. `context.probe` is what the request says of
        probing; None: as the subnets say.

        A request that insists on it is refused with NotProbed where that is not possible; where only the subnet wants
        it the claim goes on without, since a cluster that is away never fails a claim.
        """
        wanted = {None: Probing.DEFAULT, True: Probing.YES, False: Probing.NO}[context.probe]
        claims = {at: step for at, step in enumerate(mutation.steps) if isinstance(step, Claim)}
        mutation = _with(mutation, {at: replace(claim, probing=wanted) for at, claim in claims.items()})
        attempts = _Attempts()
        try:
            for spare in SPARE:
                try:
                    return await self._writer.submit(mutation)
                except (errors.Unvetted, errors.BatchRefused) as refused:
                    unvetted = _unvetted(mutation, refused)
                _check_named(mutation, unvetted, attempts)
                mutation = _with(mutation, await self._vetted(context, mutation, unvetted, spare, attempts))
            try:
                return await self._writer.submit(mutation)
            except (errors.Unvetted, errors.BatchRefused) as refused:
                _check_named(mutation, _unvetted(mutation, refused), attempts)
                raise errors.NotProbed(
                    f"of {attempts.count} addresses that were probed all are in use, or were claimed by others "
                    "meanwhile: try again, or see regionctl in-use list",
                    reasons=[],
                ) from refused
        finally:
            for subnet, mine in attempts.tried.items():
                self._forget(subnet, mine)

    async def _vetted(
        self,
        context: RequestContext,
        mutation: Mutation,
        unvetted: Mapping[int, Sequence[str]],
        spare: int,
        attempts: _Attempts,
    ) -> Claims:
        """These claims, each with addresses of its own that nobody uses; all subnets are probed at once."""
        by_subnet: dict[int, dict[int, Claim]] = defaultdict(dict)
        for at in unvetted:
            claim = mutation.steps[at]
            assert isinstance(claim, Claim)
            by_subnet[claim.subnet][at] = claim

        async def vet(subnet: int, claims: Claims) -> Claims:
            chosen = self._choose(subnet, claims, unvetted, spare)
            attempts.add(subnet, chosen)
            self._on_trial[subnet].update(chosen)
            try:
                probed = await self._probes.ask(subnet, chosen)
            except CannotProbe as error:
                return self._unprobed(context, subnet, claims, error)
            await self._mark(context, subnet, claims, probed)
            return _shared_out(claims, chosen, {found.address: found.mac for found in probed.in_use})

        found = await together(vet(*each) for each in by_subnet.items())
        return {at: claim for part in found for at, claim in part.items()}

    def _choose(self, subnet: int, claims: Claims, unvetted: Mapping[int, Sequence[str]], spare: int) -> Sequence[str]:
        """Those that are wanted by name, and free ones, those first that no other claim here is about to take."""
        named = list(dict.fromkeys(claim.address for claim in claims.values() if claim.address is not None))
        anything = [at for at, claim in claims.items() if claim.address is None]
        if not anything:
            return named
        trial = self._on_trial[subnet]
        free = [address for address in unvetted[anything[0]] if address not in named]
        ordered = sorted(free, key=lambda address: address in trial)  # stable: the lowest first
        count = sum(claims[at].count for at in anything) + spare
        return [*named, *ordered[: min(count, MAX_PROBED_ADDRESSES - len(named))]]

    async def _mark(self, context: RequestContext, subnet: int, claims: Claims, probed: Probed) -> None:
        """Keep addresses that others use from everybody: that is, others than the machines that are claimed for."""
        own = {mac for claim in claims.values() for mac in claim.macs}
        others = [found for found in probed.in_use if found.mac not in own]
        for found in others:
            self._log.warn(
                "somebody uses {address}: {mac}",
                event="address.in-use",
                address=found.address,
                mac=found.mac,
                subnet=format_id(Prefix.SUBNET, subnet),
                cluster=format_id(Prefix.CLUSTER, probed.cluster),
                request_id=context.request_id,
            )
        if others:
            await self._marks.mark(context.request_id, subnet, probed.cluster, others)

    def _unprobed(self, context: RequestContext, subnet: int, claims: Claims, error: CannotProbe) -> Claims:
        if context.probe:
            raise errors.NotProbed(
                f"nobody can be asked whether an address is in use: {error}. Without probe=true an address is claimed "
                "all the same",
                reasons=error.reasons,
            ) from error
        self._log.warn(
            "an address is claimed without a probe: {reason}",
            event="claim.not-probed",
            subnet=format_id(Prefix.SUBNET, subnet),
            reason=str(error)[:500],
            request_id=context.request_id,
        )
        return {at: replace(claim, probing=Probing.IMPOSSIBLE, vetted=()) for at, claim in claims.items()}

    def _forget(self, subnet: int, mine: set[str]) -> None:
        trial = self._on_trial[subnet]
        trial -= mine
        if not trial:
            del self._on_trial[subnet]


def _with(mutation: Mutation, claims: Claims) -> Mutation:
    steps: list[Step] = list(mutation.steps)
    for at, claim in claims.items():
        steps[at] = claim
    return replace(mutation, steps=tuple(steps))


def _unvetted(mutation: Mutation, refused: errors.Unvetted | errors.BatchRefused) -> dict[int, Sequence[str]]:
    """By the claims' positions, what can be probed for them. Raises BatchRefused for whatever else is wrong."""
    if isinstance(refused, errors.Unvetted):
        return {0: refused.candidates}
    wrong = [(member, error) for member, error in refused.refused if not isinstance(error, errors.Unvetted)]
    if wrong:
        raise errors.BatchRefused(wrong) from refused
    candidates = {member: error.candidates for member, error in refused.refused if isinstance(error, errors.Unvetted)}
    return {at: candidates[member] for at, member in enumerate(mutation.members) if member in candidates}


def _check_named(mutation: Mutation, unvetted: Mapping[int, Sequence[str]], attempts: _Attempts) -> None:
    """A wanted address that was probed, and that nobody has marked: its reservation is given up by the same batch.

    Raises BatchRefused.
    """
    refused = []
    for at in unvetted:
        claim = mutation.steps[at]
        assert isinstance(claim, Claim)
        if claim.address is not None and claim.address in attempts.tried[claim.subnet]:
            words = f"{claim.address} is still in use: somebody else than the machine that it is claimed for answers"
            refused.append((mutation.members[at] if mutation.members else 0, errors.AddressInUse(words)))
    if refused:
        raise errors.BatchRefused(refused) if mutation.members else refused[0][1]


def _shared_out(claims: Claims, chosen: Sequence[str], in_use: Mapping[str, str]) -> Claims:
    """Each claim with as many of these addresses as it needs, and a share of those that are left, the lowest first.

    What its own machine uses is no other's. `in_use` has the MAC addresses of those who answered.
    """
    named = {claim.address for claim in claims.values()}
    free = [address for address in chosen if address not in in_use and address not in named]
    anything = [at for at, claim in claims.items() if claim.address is None]
    shares: dict[int, set[str]] = {}
    for at in anything:
        shares[at] = set(free[: claims[at].count])
        free = free[claims[at].count :]
    for turn, at in enumerate(anything):
        shares[at].update(free[turn :: len(anything)])
    vetted = {}
    for at, claim in claims.items():
        good = shares.get(at, {claim.address} - in_use.keys())
        own = {address for address in chosen if in_use.get(address) in claim.macs}
        good = good | (own - named if claim.address is None else own & {claim.address})
        vetted[at] = replace(claim, vetted=(*claim.vetted, *(address for address in chosen if address in good)))
    return vetted
