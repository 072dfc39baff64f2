"""The allocation rules once more, naively: Python sets of addresses, and copies of everything in place of an undo."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from clusterd.protocol.addresses import address_to_int
from clusterd.protocol.values import Identifier, IdentifierKind
from regiond.domain import errors
from regiond.domain.mutations import (
    Acknowledge,
    Claim,
    DropDevice,
    EditDevice,
    EditReservation,
    Forgotten,
    Mutation,
    Outcome,
    Place,
    Reclaim,
    Release,
)
from regiond.domain.reservations import Reservation
from tests.regiond.domain.grounds import Ground

Shown = tuple[int, str, str]  # reservation, address, status
Expected = tuple[bool, tuple[Shown, ...]] | type[errors.DomainError]


@dataclass
class Held:
    """A taken address. `rest` is None until every holder has confirmed, then the seconds it has yet to rest."""

    claim: Claim
    address: int
    releasing: bool = False
    removed_at: int | None = None
    rest: float | None = None


@dataclass
class Served:
    role: str
    accepted: int = 0
    applied: int = 0


@dataclass
class ModelSubnet:
    ground: Ground
    hold: int
    free: set[int]
    generation: int = 0
    held: dict[int, Held] = field(default_factory=dict)
    maps: dict[Identifier, int] = field(default_factory=dict)
    former: dict[Identifier, tuple[int, int]] = field(default_factory=dict)  # removed map → address, reservation
    served: dict[int, Served] = field(default_factory=dict)
    changed: bool = False
    told: bool = False

    def holders(self) -> list[Served]:
        return [served for served in self.served.values() if served.role != "former"]


@dataclass
class Model:
    subnets: dict[int, ModelSubnet]
    answers: dict[tuple[int, str], tuple[str, Expected]] = field(default_factory=dict)
    devices: set[int] = field(default_factory=set)
    known: dict[int, set[int]] = field(default_factory=dict)  # devices as a batch finds them, and what they have then

    def batch(self, mutations: Sequence[Mutation]) -> list[Expected]:
        everything = [held for subnet in self.subnets.values() for held in subnet.held.values()]
        self.known = {
            device: {h.claim.reservation for h in everything if h.claim.device_id == device and not h.releasing}
            for device in self.devices
        }
        for subnet in self.subnets.values():
            subnet.changed = subnet.told = False
        expected = [self._member(mutation) for mutation in mutations]
        for subnet in self.subnets.values():
            if subnet.changed:
                subnet.generation += 1
            if subnet.told:
                confirmed = min((s.applied for s in subnet.holders()), default=subnet.generation)
                for held in subnet.held.values():
                    if held.releasing and held.rest is None and (held.removed_at or 0) <= confirmed:
                        held.rest = subnet.hold
        return expected

    def sooner(self, seconds: float) -> None:
        for subnet in self.subnets.values():
            for held in subnet.held.values():
                if held.rest is not None:
                    held.rest -= seconds

    def _member(self, mutation: Mutation) -> Expected:
        key = mutation.idempotency
        if key is not None and (key.account, key.key) in self.answers:
            fingerprint, answer = self.answers[key.account, key.key]
            return answer if fingerprint == key.fingerprint else errors.IdempotencyKeyReused
        before = deepcopy((self.subnets, self.devices))
        try:
            outcome = self._steps(mutation)
        except errors.DomainError as error:
            self.subnets, self.devices = before
            return type(error)
        if key is not None:
            self.answers[key.account, key.key] = (key.fingerprint, outcome)
        return outcome

    def _steps(self, mutation: Mutation) -> Expected:
        created, shown = False, []
        for step in mutation.steps:
            made = True
            if isinstance(step, Claim):
                for number in (step.reservation, *step.others):
                    made, one = self._claim(self.subnets[step.subnet], replace(step, reservation=number))
                    shown.append(one)
            elif isinstance(step, Release):
                resting = self._release(self.subnets[step.subnet], step)
                shown += [] if resting is None else [resting]
            elif isinstance(step, Reclaim):
                made = self._reclaim(self.subnets[step.subnet], step)
            elif isinstance(step, Acknowledge):
                self._acknowledge(self.subnets[step.subnet], step)
            elif isinstance(step, Forgotten):
                self._forgotten(self.subnets[step.subnet], step)
            elif isinstance(step, EditReservation):
                made, one = self._rename(step)
                shown.append(one)
            elif isinstance(step, EditDevice):
                made, some = self._replace(step)
                shown += some
            else:
                assert isinstance(step, DropDevice)
                self.devices.discard(step.device)
            created = created or made
        return created, tuple(shown)

    # ---- the steps ----

    def _claim(self, subnet: ModelSubnet, claim: Claim) -> tuple[bool, Shown]:
        wrong = IdentifierKind.DUID if subnet.ground.family == 4 else IdentifierKind.CLIENT_ID
        if any(identifier.kind is wrong for identifier in claim.identifiers):
            raise errors.WrongFamily("")
        back: Held | None = None
        for identifier in claim.identifiers:
            if identifier in subnet.maps:
                holder = subnet.held[subnet.maps[identifier]]
                if _is_same(claim, holder):
                    return False, _shown(subnet, holder)
                raise errors.IdentifierTaken("")
            if identifier in subnet.former:
                back = self._own_again(subnet, claim, identifier) or back
        address = self._address(subnet, claim, back)
        subnet.free.discard(address)
        held = subnet.held[address] = Held(claim, address)
        for identifier in claim.identifiers:
            subnet.former.pop(identifier, None)
            subnet.maps[identifier] = address
            subnet.changed = True
        if claim.device_id is not None:
            self.devices.add(claim.device_id)
        return True, _shown(subnet, held)

    def _own_again(self, subnet: ModelSubnet, claim: Claim, identifier: Identifier) -> Held | None:
        address, reservation = subnet.former[identifier]
        held = subnet.held.get(address)
        if held is None or held.claim.reservation != reservation or not held.releasing:
            return None
        everybody = {i for i, (_, of) in subnet.former.items() if of == reservation} | set(held.claim.identifiers)
        fits = everybody <= set(claim.identifiers) and claim.address in (None, subnet.ground.text(address))
        return held if fits else None

    def _address(self, subnet: ModelSubnet, claim: Claim, back: Held | None) -> int:
        ground = subnet.ground
        if claim.address is None:
            if back is not None:
                return back.address
            if not subnet.free:
                raise errors.SubnetExhausted("")
            return min(subnet.free)
        family, address = address_to_int(claim.address)
        if family != ground.family or address not in ground:
            raise errors.AddressOutsideSubnet("")
        if address in ground.never():
            raise errors.AddressNotUsable("")
        if address in subnet.held:
            if subnet.held[address] is not back:
                raise errors.AddressTaken("")
            return address
        kind = ground.obstacle(address)
        if kind is not None:
            raise _OBSTACLES[kind]("")
        return address

    def _release(self, subnet: ModelSubnet, step: Release) -> Shown | None:
        held = subnet.held.get(address_to_int(step.address)[1])
        if held is None or held.claim.reservation != step.reservation:
            raise errors.NotFound("")
        if held.releasing and not step.force:
            return _shown(subnet, held)
        for identifier in [i for i, address in subnet.maps.items() if address == held.address]:
            del subnet.maps[identifier]
            subnet.former[identifier] = (held.address, held.claim.reservation)
            subnet.changed = True
        if not held.releasing:
            held.releasing, held.removed_at = True, subnet.generation + 1
        if not subnet.holders():
            held.rest = subnet.hold if subnet.served else 0
        if step.force or not held.claim.identifiers or (held.rest is not None and held.rest <= 0):
            self._free(subnet, held)
            return None
        return _shown(subnet, held)

    def _reclaim(self, subnet: ModelSubnet, step: Reclaim) -> bool:
        held = subnet.held.get(address_to_int(step.address)[1])
        if held is None or held.claim.reservation != step.reservation or held.rest is None or held.rest > 0:
            return False
        self._free(subnet, held)
        return True

    def _free(self, subnet: ModelSubnet, held: Held) -> None:
        del subnet.held[held.address]
        subnet.free.add(held.address)

    def _rename(self, step: EditReservation) -> tuple[bool, Shown]:
        subnet = self.subnets[step.at.subnet]
        held = _held(subnet, step.at)
        if held is None:
            raise errors.NotFound("")
        if held.releasing:
            raise errors.BeingReleased("")
        renamed = held.claim.hostname != step.values["hostname"]
        held.claim = replace(held.claim, hostname=step.values["hostname"])
        if renamed and held.address in subnet.maps.values():
            subnet.changed = True
        return renamed, _shown(subnet, held)

    def _replace(self, step: EditDevice) -> tuple[bool, list[Shown]]:
        if step.device not in self.known or step.device not in self.devices:
            raise errors.NotFound("")
        if self.known[step.device] != {place.reservation for place in step.places}:
            raise errors.ChangedMeanwhile("")
        shown, changed = [], False
        for place in step.places:
            subnet = self.subnets[place.subnet]
            held = _held(subnet, place)
            if held is None or held.releasing:
                raise errors.ChangedMeanwhile("")
            own = {i for i, address in subnet.maps.items() if address == held.address}
            wanted = {i for i in own if i.kind is not IdentifierKind.MAC} | set(step.values["macs"])
            if any(subnet.maps.get(i, held.address) != held.address for i in wanted):
                raise errors.IdentifierTaken("")
            for identifier in own - wanted:
                del subnet.maps[identifier]
                subnet.former[identifier] = (held.address, held.claim.reservation)
            for identifier in wanted:
                subnet.former.pop(identifier, None)
                subnet.maps[identifier] = held.address
            if own != wanted:
                subnet.changed = changed = True
            held.claim = replace(held.claim, identifiers=tuple(sorted(wanted)))
            shown.append(_shown(subnet, held))
        return changed, shown

    def _acknowledge(self, subnet: ModelSubnet, step: Acknowledge) -> None:
        served = subnet.served.get(step.cluster)
        if served is None or served.role == "former":
            return
        accepted, applied = step.accepted_generation, step.applied_generation
        if applied is not None and applied > subnet.generation:
            applied = 0  # from another past
        if accepted is not None:
            served.accepted = accepted if step.reset else max(served.accepted, accepted)
        if applied is not None:
            served.applied = applied if step.reset else max(served.applied, applied)
            served.accepted = max(served.accepted, served.applied)
        subnet.told = True

    def _forgotten(self, subnet: ModelSubnet, step: Forgotten) -> None:
        served = subnet.served.get(step.cluster)
        if served is None or served.role == "former":
            return
        served.accepted = served.applied = 0
        if served.role == "draining":
            served.role = "former"
        subnet.told = True


_OBSTACLES: dict[str, type[errors.DomainError]] = {
    "dynamic": errors.AddressInDynamicRange,
    "reserved": errors.AddressInReservedRange,
    "gateway": errors.AddressOfInfrastructure,
    "controller": errors.AddressOfInfrastructure,
}


def _held(subnet: ModelSubnet, place: Place) -> Held | None:
    found = subnet.held.get(address_to_int(place.address)[1])
    return found if found is not None and found.claim.reservation == place.reservation else None


def _is_same(claim: Claim, holder: Held) -> bool:
    had = holder.claim
    return (
        had.kind is claim.kind
        and had.node == claim.node
        and had.owner == claim.owner
        and set(had.identifiers) == set(claim.identifiers)
        and (claim.address is None or address_to_int(claim.address)[1] == holder.address)
        and claim.hostname in (None, had.hostname)
    )


def _shown(subnet: ModelSubnet, held: Held) -> Shown:
    return held.claim.reservation, subnet.ground.text(held.address), "releasing" if held.releasing else "active"


def shown(outcome: Outcome | errors.DomainError) -> Any:
    """A planner's outcome in the model's words."""
    if isinstance(outcome, errors.DomainError):
        return type(outcome)
    return outcome.created, tuple(_shown_reservation(r) for r in outcome.reservations)


def _shown_reservation(reservation: Reservation) -> Shown:
    return reservation.id, reservation.address, reservation.status.value
