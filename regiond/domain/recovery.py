"""When the past is not what it was: what a cluster's generations mean, what becomes of the host maps it has. Pure.

# Note [Recovery]
A database that was restored from a backup, or that lost commits in a failover, does not know who was given which
address in the past that it lost. The clusters do: their host maps are the second copy. So, before anything is delivered
to a cluster, what it has is compared with what the region knows of. A cluster that is ahead of the region, or that has
host maps that the region never had, or a history of this region that is not the database's, has evidence of another
past.

A recovery then begins, for the whole region, because one database holds it all: the history changes, every connection
ends, every subnet is *recovering*: nothing is claimed there and nothing is delivered. Each cluster that comes
back hands up what it has. When every cluster that may have something of a subnet was heard (or an admin ends the wait),
the subnet is settled, and its generations go on above the highest one that anybody has seen. That is every cluster
that is on the subnet or had it once, not only its holders: who serves what may have changed in the lost past. Of a
subnet that is made while the recovery goes on the database knows nothing, and it waits for every cluster.

Settling never forgets an address that anybody serves:

* A map that only the cluster knows becomes a reservation of kind `recovered`, with its host map.
* A map that the region knows of too stays as it is.
* Where both have something at one address, or for one identifier, the later one counts. The cluster has seen all that
  the region did up to the generation that the cluster had accepted; a change of the region's after that is later.
  So a reservation that the region has from before, whose address the cluster has for somebody else, was released and
  its address handed on in the lost past: it is displaced by a `recovered` one.
* What only a cluster has that is behind another one was removed in the lost past, but may be in use: its address rests.
  So does that of a host map whose removal a cluster has accepted and its DHCP server may not have done. If the region
  has a reservation of before there, for somebody else, that was released before this one came: it is displaced, too.
* What was resting may have been free, taken and released again in the lost past: every holder has to confirm it anew.
* What the region has and the cluster had no more may have been released in the lost past. Nobody can tell, so it stays.

All but the second are findings, which an admin is shown.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from clusterd.protocol.values import HeldSubnet, Identifier


class Past(StrEnum):
    """Whose generations a cluster registers with."""

    NONE = "none"  # it has nothing
    OURS = "ours"
    ANOTHER = "another"  # of this region, but not of this database as it is
    FOREIGN = "foreign"  # of another region: no evidence of anything here


def past_of(region: str, history: str, its_region: str | None, its_history: str | None) -> Past:
    """An older clusterd does not say which region its store is from: it is taken for this one."""
    if its_history is None:
        return Past.NONE
    if its_region is not None and its_region != region:
        return Past.FOREIGN
    return Past.OURS if its_history == history else Past.ANOTHER


def is_beyond(held: HeldSubnet, generation: int) -> bool:
    """Whether a cluster of our own history has a generation that this database has not reached."""
    return max(held.accepted_generation, held.applied_generation) > generation


class FindingKind(StrEnum):
    """What became of something that a cluster and the region did not agree on."""

    RECOVERED = "recovered"  # reserved again, with its host map
    RESTING = "resting"  # not in use by the newest state, but a cluster still served it: rests, then is free
    DISPLACED = "displaced"  # the region's reservation gave way to the one that a cluster serves
    MOVED = "moved"  # the identifier's host map is at another address than the region knew
    JOINED = "joined"  # one more identifier of a reservation that both know
    CONFLICT = "conflict"  # the region's later reservation stands; the cluster will drop its host map
    POSSIBLY_RELEASED = "possibly-released"  # the cluster had it no more; it stays
    UNKNOWN_NETWORK = "unknown-network"  # host maps of a network that is no subnet of the region
    GIVEN_UP = "given-up"  # a cluster was not heard of a subnet: somebody ended the wait for it


@dataclass(frozen=True, slots=True)
class Occupant:
    """The reservation that the region has at a candidate's address.

    `generation` is that of its host maps, None where it has none. `before_fork`: it was there when the recovery began.
    `confirmed`: a cluster that knows no less than the candidate's has one of its host maps at this address, too.
    """

    reservation: int
    kind: str
    active: bool
    generation: int | None
    before_fork: bool
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host map of a cluster that the region has not, or has otherwise.

    `accepted` is the generation that the cluster had accepted, `newest` tells whether no cluster's was higher. The
    `known_…` are the region's row of the same identifier, if there is one (removed: a tombstone). A `former` one was
    removed by then, and the cluster's DHCP server may have it still. `beyond`: the cluster knows of the lost past.
    """

    cluster: int
    cluster_name: str
    identifier: Identifier
    address: str
    hostname: str | None
    accepted: int
    newest: bool
    known_address: str | None = None
    known_removed: bool = False
    known_generation: int | None = None
    known_reservation: int | None = None
    occupant: Occupant | None = None
    former: bool = False
    beyond: bool = True


@dataclass(slots=True)
class Recovered:
    """A reservation to make: with these host maps, or resting, without any. `displaced` gives way to it."""

    address: str
    cluster_name: str
    resting: bool
    maps: dict[Identifier, str | None] = field(default_factory=dict)
    displaced: Occupant | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """A host map to add to a reservation that is there."""

    reservation: int
    address: str
    identifier: Identifier
    hostname: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """For people; `reservation` is the region's own that it is about, None for one that is made."""

    kind: FindingKind
    address: str | None
    reservation: int | None
    detail: str


@dataclass(slots=True)
class Settlement:
    """What to do. `bereft` are reservations that lost a host map to another one, perhaps their last."""

    recovered: dict[str, Recovered] = field(default_factory=dict)
    joined: list[Joined] = field(default_factory=list)
    bereft: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


def settle(candidates: Iterable[Candidate]) -> Settlement:
    """Decide candidate by candidate, the newest first; see Note [Recovery]."""
    made = Settlement()
    placed: set[Identifier] = set()
    for candidate in candidates:
        unseen = candidate.known_generation is None or candidate.known_generation <= candidate.accepted
        if candidate.newest and not candidate.former and unseen and candidate.identifier not in placed:
            if _keep(made, candidate):
                placed.add(candidate.identifier)
                _note_move(made, candidate)
        elif candidate.address not in made.recovered:
            _rest(made, candidate)
    return made


def _rest(made: Settlement, candidate: Candidate) -> None:
    """Nobody is to have the address for a while, unless somebody has it who came later."""
    occupant = candidate.occupant
    if occupant is not None:
        if candidate.known_reservation == occupant.reservation and candidate.known_address == candidate.address:
            return  # its own: it rests, or somebody else of it has the address
        came_later = occupant.confirmed or not candidate.beyond or not _gives_way(occupant, candidate)
        if occupant.active and came_later:
            return
    made.recovered[candidate.address] = Recovered(
        candidate.address, candidate.cluster_name, resting=True, displaced=occupant
    )
    if occupant is not None and occupant.active:
        words = f"displaces a {occupant.kind} reservation, which was released in the lost past"
        made.findings.append(_finding(FindingKind.DISPLACED, candidate, occupant, words))
    words = "was removed meanwhile, and rests before it is free"
    made.findings.append(_finding(FindingKind.RESTING, candidate, None, words))


def _keep(made: Settlement, candidate: Candidate) -> bool:
    """Give the address to the candidate's identifier, unless somebody has it who came later."""
    own = made.recovered.get(candidate.address)
    occupant = candidate.occupant
    if own is not None:
        if own.resting:
            return False
        own.maps[candidate.identifier] = candidate.hostname
        made.findings.append(_finding(FindingKind.RECOVERED, candidate, None, "is reserved again"))
        return True
    if occupant is not None and occupant.active and occupant.generation is not None and occupant.confirmed:
        made.joined.append(Joined(occupant.reservation, candidate.address, candidate.identifier, candidate.hostname))
        made.findings.append(_finding(FindingKind.JOINED, candidate, occupant, "is one more client of its reservation"))
        return True
    if occupant is not None and not _gives_way(occupant, candidate):
        words = f"stays with the {occupant.kind} reservation that was made since: the cluster's client has to move"
        made.findings.append(_finding(FindingKind.CONFLICT, candidate, occupant, words))
        return False
    made.recovered[candidate.address] = Recovered(
        candidate.address,
        candidate.cluster_name,
        resting=False,
        maps={candidate.identifier: candidate.hostname},
        displaced=occupant,
    )
    if occupant is not None and occupant.active:
        words = f"displaces a {occupant.kind} reservation, whose address was handed on in the lost past"
        made.findings.append(_finding(FindingKind.DISPLACED, candidate, occupant, words))
    made.findings.append(_finding(FindingKind.RECOVERED, candidate, None, "is reserved again"))
    return True


def _gives_way(occupant: Occupant, candidate: Candidate) -> bool:
    if not occupant.active:
        return True
    seen = occupant.generation is None or occupant.generation <= candidate.accepted
    return seen and occupant.before_fork


def _note_move(made: Settlement, candidate: Candidate) -> None:
    if candidate.known_address is None or candidate.known_removed or candidate.known_reservation is None:
        return
    made.bereft.add(candidate.known_reservation)
    words = f"the region knew it at {candidate.known_address}, which rests unless it has other clients"
    made.findings.append(
        Finding(FindingKind.MOVED, candidate.address, candidate.known_reservation, f"{candidate.identifier}: {words}")
    )


def _finding(kind: FindingKind, candidate: Candidate, about: Occupant | None, words: str) -> Finding:
    detail = f"{candidate.address} for {candidate.identifier}, as {candidate.cluster_name} serves it, {words}"
    return Finding(kind, candidate.address, None if about is None else about.reservation, detail)


# ---- what is shown ----


@dataclass(frozen=True, slots=True)
class RecoveringCluster:
    """A holder of recovering subnets, and whether it was heard."""

    id: int
    name: str
    connected: bool
    unheard: bool
    last_heard: datetime | None
    software_version: str
    revoked: bool = False

    @property
    def advice(self) -> str | None:
        """What makes it heard, or ends the wait for it; None where nobody waits."""
        if not self.unheard:
            return None
        if self.connected:
            return (
                "it is asked again and again: see recovery.not-heard in the log of regiond; an older clusterd has to "
                "be upgraded"
            )
        off = f"if its DHCP server is off for good: regionctl clusters forget {self.name} --dhcp-is-off"
        if self.revoked:
            return f"it is revoked, and not let in before regionctl clusters enrol {self.name}; {off}"
        return f"start its clusterd, or clear its way to the region; {off}"


@dataclass(frozen=True, slots=True)
class RecoveringSubnet:
    """A subnet that waits for `waits_for`, clusters by name."""

    id: int
    cidr: str
    vrf: str
    since: datetime
    waits_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FindingView:
    """A finding as it is shown."""

    id: int
    at: datetime
    kind: str
    subnet: int | None
    cidr: str | None
    address: str | None
    reservation: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class RecoveryView:
    """The recovery that goes on, or how the latest ended. `counts` is of its findings by kind; `findings` are some."""

    history: str
    since: datetime | None
    reason: str | None
    clusters: tuple[RecoveringCluster, ...]
    subnets: tuple[RecoveringSubnet, ...]
    counts: Mapping[str, int]
    findings: tuple[FindingView, ...]
