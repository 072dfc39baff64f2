"""The pure decision over one batch: facts and mutations in, outcomes and row changes out.

# Note [Batch]
All mutations that wait share one transaction. Its subnets are locked before anything is read, so nothing the
planner sees can change before it is written. Members are planned in order on an overlay of the facts; each
change of the overlay notes how to undo it, so a member that is refused leaves no trace and harms no neighbour.

# Note [Release]
A released address is free only when every holder has confirmed that its host map is gone from the DHCP server
and the release hold has passed: a server that forgot an address does not stop the client from using it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from pydantic import TypeAdapter

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain import errors
from regiond.domain.acknowledging import Acknowledging
from regiond.domain.changes import Plan
from regiond.domain.choosing import Choosing, was_probed
from regiond.domain.editing import Editing
from regiond.domain.facts import Answered, Facts, MapFacts, SubnetFacts
from regiond.domain.ids import Prefix, format_id
from regiond.domain.leases import leased_to_another, told_of
from regiond.domain.mutations import (
    Acknowledge,
    Claim,
    Confirm,
    DropDevice,
    DropNode,
    EditDevice,
    EditNode,
    EditReservation,
    Forgotten,
    Idempotency,
    MemberOutcome,
    Mutation,
    NewDevice,
    Outcome,
    Reclaim,
    Release,
    Require,
    Step,
)
from regiond.domain.overlay import HOLDING_ROLES, summary
from regiond.domain.reservations import Kind, Reservation, Status

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


def plan(facts: Facts, mutations: Sequence[Mutation]) -> Plan:
    """Decide every member of a batch. The facts must cover what the mutations touch (see `storage.batch`)."""
    planner = _Planner(facts)
    outcomes = [planner.member(mutation) for mutation in mutations]
    planner.settle()
    changes = planner.changes()
    return Plan(outcomes, changes, frozenset(subnet for subnet, _, _ in changes.subnets))


class _Planner(Editing, Acknowledging, Choosing):
    """The decisions, member by member, each on what the ones before it left."""

    # ---- one member, all or nothing ----

    def member(self, mutation: Mutation) -> Outcome | errors.DomainError:
        self.begin()
        try:
            return self._answer(mutation)
        except errors.DomainError as error:
            self.undo()
            return error

    def _answer(self, mutation: Mutation) -> Outcome:
        key = mutation.idempotency
        if key is not None:
            known = self.answered.get((key.account, key.key))
            if known is not None:
                return replayed(key, known)
        outcome = self._outcome(mutation) if not mutation.members else self._outcome_of_members(mutation)
        if key is not None:
            answer = Answered(key.fingerprint, _OUTCOME.dump_json(outcome).decode())
            self.put(self.answered, (key.account, key.key), answer)
            self.append(self.appended.answers, (key.account, key.key, answer))
        subnets = {held.subnet for held in outcome.reservations if held.map_generation is not None}
        return replace(outcome, deliveries={subnet: tuple(self.deliveries_of(subnet)) for subnet in subnets})

    def _outcome(self, mutation: Mutation) -> Outcome:
        created = False
        touched: list[Reservation] = []
        for step in mutation.steps:
            made, reservations = self._step(mutation, step)
            created = created or made
            touched.extend(reservations)
        return Outcome(created, tuple(touched))

    def _outcome_of_members(self, mutation: Mutation) -> Outcome:
        """As `_outcome`, of a batch: what is wrong with any of its members is found out, each as if it had not been."""
        did: dict[int, MemberOutcome] = {}
        refused: dict[int, errors.DomainError] = {}
        touched: list[Reservation] = []
        for member, step in zip(mutation.members, mutation.steps, strict=True):
            if member in refused:
                continue
            before = self.changed
            try:
                made, reservations = self._step(mutation, step)
            except errors.DomainError as error:
                self.undo(before)
                refused[member] = error
                continue
            so_far = did.get(member, MemberOutcome(False, 0))
            did[member] = MemberOutcome(so_far.created or made, so_far.reservations + len(reservations))
            touched.extend(reservations)
        if refused:
            raise errors.BatchRefused(sorted(refused.items()))
        return Outcome(any(each.created for each in did.values()), tuple(touched), members=tuple(did.values()))

    def _step(self, mutation: Mutation, step: Step) -> tuple[bool, Sequence[Reservation]]:
        """Whether anything was done, and the reservations of a claim, release or edit."""
        match step:
            case Claim(others=()):
                self.quotas.check((step,), self.facts.subnets)
                made, reservation = self._claim(mutation, step)
                return made, (reservation,)
            case Claim():
                self.quotas.check((step,), self.facts.subnets)
                return True, self._claim_several(mutation, step)
            case Release():
                resting = self._release(mutation, step)
                return True, () if resting is None else (resting,)
            case Reclaim():
                return self._reclaim(mutation, step), ()
            case Acknowledge():
                self.acknowledge(step)
            case EditReservation() | EditDevice() | EditNode():
                return self.edit(mutation, step)
            case Require():
                self.require(step)
                return False, ()
            case Forgotten():
                self.forgotten(step)
            case Confirm():
                self.confirm(step)
            case DropDevice(device):
                self.append(self.appended.devices_gone, device)
                self.put(self.devices, device, None)
                self.audit(mutation, "device.delete", format_id(Prefix.DEVICE, device), None, None)
            case DropNode(node):
                self.append(self.appended.nodes_gone, node)
                self.put(self.nodes, node, None)
                self.audit(mutation, "node.delete", format_id(Prefix.NODE, node), None, None)
        return True, ()

    # ---- claims ----

    def _claimable(self, mutation: Mutation, claim: Claim) -> SubnetFacts:
        """The claim's subnet, if addresses can be claimed there now, and by who claims."""
        subnet = self.subnet(claim.subnet)
        actor = mutation.actor
        if subnet.claimants is not None and not actor.is_admin and actor.account not in subnet.claimants:
            raise errors.NotPermitted(
                f"{actor.name} is not among the accounts that may claim from {subnet.network.cidr}: ask an admin"
            )
        if subnet.recovering:
            unheard = [d for d in self.deliveries_of(subnet.id) if d.unheard and d.role in HOLDING_ROLES]
            names = ", ".join(f"{d.cluster_name} ({'' if d.connected else 'not '}connected)" for d in unheard)
            raise errors.SubnetRecovering(
                f"the region's database went back in time: which addresses of {subnet.network.cidr} are in use is not "
                f"known before its clusters were heard{f', {names}' if names else ''}. regionctl recover shows who is "
                "waited for",
                clusters=[d.cluster_name for d in unheard],
            )
        _check_families(subnet, claim.identifiers)
        return subnet

    def _claim(self, mutation: Mutation, claim: Claim) -> tuple[bool, Reservation]:
        subnet = self._claimable(mutation, claim)
        taken_back: Reservation | None = None
        for identifier in claim.identifiers:
            row = self.maps.get((subnet.id, identifier))
            if row is None:
                continue
            holder = self.reservation_at(subnet, address_to_int(row.address)[1])
            if not row.removed:
                if holder is not None and self._is_that_very(claim, subnet, holder):
                    return False, holder
                raise errors.IdentifierTaken(
                    f"{identifier.text} already has {row.address} on {subnet.network.cidr}", holder=holder
                )
            if holder is not None and self._may_take_back(claim, holder, row):
                taken_back = holder
        address = self.choose(subnet, claim, taken_back)
        if claim.leases and not claim.over_leases:
            raise leased_to_another(claim.leases)
        generation = subnet.generation + 1 if claim.identifiers else None
        reservation = _reserving(subnet, claim, self.facts.now, generation)(claim.reservation, address)
        self.put(self.reservations, (subnet.id, address), reservation)
        self.count(reservation, 1)
        for identifier in claim.identifiers:
            self.put_map(
                subnet.id,
                identifier,
                MapFacts(reservation.id, reservation.address, claim.hostname, False, mutation.request_id),
            )
        if isinstance(claim.device, NewDevice):
            self.append(self.appended.devices_new, (claim.device, claim.owner))
        action = "reservation.adopt" if claim.adopts else "reservation.claim"
        before = None
        if claim.leases:
            action, before = "reservation.force-claim", told_of(claim.leases)
        self.audit(mutation, action, format_id(Prefix.RESERVATION, reservation.id), before, summary(reservation))
        return True, reservation

    def _claim_several(self, mutation: Mutation, claim: Claim) -> Sequence[Reservation]:
        subnet = self._claimable(mutation, claim)
        claimed: list[Reservation] = []
        reservation_at = _reserving(subnet, claim, self.facts.now, None)
        for number in (claim.reservation, *claim.others):
            try:
                address = self.choose(subnet, claim, None)
            except errors.SubnetExhausted as error:
                if not claimed:
                    raise
                raise errors.SubnetExhausted(
                    f"only {len(claimed)} of {1 + len(claim.others)} addresses are left in {subnet.network.cidr}; "
                    "none was reserved"
                ) from error
            reservation = reservation_at(number, address)
            self.put(self.reservations, (subnet.id, address), reservation)
            claimed.append(reservation)
        self.count(claimed[0], len(claimed))
        after = summary(claimed[0]) | {"addresses": [one.address for one in claimed]}
        del after["address"]
        object_id = format_id(Prefix.GROUP, claim.group or claim.reservation)
        self.audit(mutation, "reservation.claim", object_id, None, after)
        return claimed

    def _is_that_very(self, claim: Claim, subnet: SubnetFacts, holder: Reservation) -> bool:
        """Would this claim make the reservation that is already there?"""
        return (
            holder.kind is claim.kind
            and holder.node == claim.node
            and (claim.kind is not Kind.DEVICE or holder.owner == claim.owner)
            and (not isinstance(claim.device, int) or holder.device == claim.device)
            and self.identifiers_of(holder, removed=False) == set(claim.identifiers)
            and claim.address in (None, holder.address)
            and (claim.hostname is None or claim.hostname == holder.hostname)
        )

    def _may_take_back(self, claim: Claim, holder: Reservation, row: MapFacts) -> bool:
        """Its own releasing address may be had back by whoever brings all its identifiers: a client that is recognised
        by another one of them may still be using it, also when that one has a host map elsewhere by now.
        """
        return (
            holder.status is Status.RELEASING
            and row.reservation == holder.id
            and self.identifiers_of(holder, removed=True) | holder.identifiers <= set(claim.identifiers)
            and claim.address in (None, row.address)
        )

    # ---- release ----

    def _release(self, mutation: Mutation, step: Release) -> Reservation | None:
        subnet = self.subnet(step.subnet)
        address = address_to_int(step.address)[1]
        held = self.reservation_at(subnet, address)
        if held is None or held.id != step.reservation:
            raise errors.NotFound("this reservation is gone")
        action = "reservation.force-release" if step.force else "reservation.release"
        if held.status is Status.RELEASING and not step.force:
            return held
        if step.if_expired and (held.expires_at is None or held.expires_at > self.facts.now):
            return held
        own = self.identifiers_of(held, removed=False)
        for identifier in sorted(own):
            tombstone = replace(self.maps[subnet.id, identifier], removed=True, request_id=mutation.request_id)
            self.put_map(subnet.id, identifier, tombstone)
        self.audit(mutation, action, format_id(Prefix.RESERVATION, held.id), summary(held), None)
        resting = replace(held, status=Status.RELEASING)
        if held.status is Status.ACTIVE and own:
            resting = replace(resting, release_generation=subnet.generation + 1)
        if not any(d.role in HOLDING_ROLES for d in self.deliveries_of(subnet.id)):
            resting = self._confirmed(subnet, resting)
        if step.force or held.map_generation is None or _is_due(resting, self.facts):
            self._free(subnet, address)
            return None
        self.put(self.reservations, (subnet.id, address), resting)
        return resting

    def _confirmed(self, subnet: SubnetFacts, resting: Reservation) -> Reservation:
        hold = timedelta(seconds=subnet.hold_seconds if subnet.was_served else 0)
        return replace(resting, confirmed_at=self.facts.now, free_at=self.facts.now + hold)

    def _reclaim(self, mutation: Mutation, step: Reclaim) -> bool:
        subnet = self.facts.subnets.get(step.subnet)
        address = address_to_int(step.address)[1]
        held = None if subnet is None else self.reservation_at(subnet, address)
        if subnet is None or held is None or held.id != step.reservation or not _is_due(held, self.facts):
            return False
        if subnet.recovering:  # since it was confirmed it may have been taken and released once more
            return False
        self._free(subnet, address)
        self.audit(mutation, "reservation.free", format_id(Prefix.RESERVATION, held.id), summary(held), None)
        return True

    def _free(self, subnet: SubnetFacts, address: int) -> None:
        held = self.reservation_at(subnet, address)
        if held is not None:
            self.count(held, -1)
        self.put(self.reservations, (subnet.id, address), None)
        space = self.spaces[subnet.id]
        excluded = not subnet.network.is_usable(address) or (subnet.id, address) in self.facts.obstacles
        if not excluded and address not in space:
            space.give(address)
            self.on_undo(lambda: space.take(address))


def replayed(key: Idempotency, known: Answered) -> Outcome:
    """The stored answer to a repeated key. Raises IdempotencyKeyReused if it was given to another request."""
    if known.fingerprint != key.fingerprint:
        raise errors.IdempotencyKeyReused("this Idempotency-Key was used for another request")
    return replace(_OUTCOME.validate_json(known.answer), replayed=True)


def _reserving(
    subnet: SubnetFacts, claim: Claim, now: datetime, generation: int | None
) -> Callable[[int, int], Reservation]:
    """What makes the reservations of a claim, from their ids and addresses."""
    macs, client_id, duid = _texts(claim)
    make = partial(
        Reservation,
        kind=claim.kind,
        status=Status.ACTIVE,
        subnet=subnet.id,
        cidr=subnet.network.cidr,
        vrf=subnet.vrf,
        owner=claim.owner,
        owner_name=claim.owner_name,
        macs=macs,
        client_id=client_id,
        duid=duid,
        alias=claim.alias,
        hostname=claim.hostname,
        device=claim.device_id,
        node=claim.node,
        purpose=claim.purpose,
        comment=claim.comment,
        group=claim.group,
        created=now,
        expires_at=claim.expires_at,
        map_generation=generation,
    )
    return lambda number, address: make(
        id=number, address=subnet.network.text(address), probed=was_probed(subnet, claim, address)
    )


def _texts(claim: Claim) -> tuple[tuple[str, ...], str | None, str | None]:
    """The MAC addresses, client-id and DUID of a reservation."""
    macs: list[str] = []
    others: dict[IdentifierKind, str] = {}
    for identifier in claim.identifiers:
        if identifier.kind is IdentifierKind.MAC:
            macs.append(identifier.text)
        else:
            others.setdefault(identifier.kind, identifier.text)
    if not macs and claim.mac:
        macs.append(claim.mac)
    return tuple(macs), others.get(IdentifierKind.CLIENT_ID), others.get(IdentifierKind.DUID)


def _check_families(subnet: SubnetFacts, identifiers: Sequence[Identifier]) -> None:
    wrong = IdentifierKind.DUID if subnet.network.family == 4 else IdentifierKind.CLIENT_ID
    if any(identifier.kind is wrong for identifier in identifiers):
        raise errors.WrongFamily(f"a {wrong.value} identifies no client on {subnet.network.cidr}")


def _is_due(resting: Reservation, facts: Facts) -> bool:
    return (
        resting.status is Status.RELEASING
        and resting.confirmed_at is not None
        and resting.free_at is not None
        and resting.free_at <= facts.now
    )
