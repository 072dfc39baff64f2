"""What a cluster accepts from its region: the guards before anything is stored. Pure.

# Note [Former origin]
An origin is a region, the name by which it knows this cluster, and a history of its database. Generations can be
compared within one origin only, so a subnet that was accepted from another one counts as holding nothing: any
snapshot, and any delta from generation 0, replaces it. Until then its host maps stay on disk and in the DHCP server.
It goes when

* the region of today sends the subnet, or another subnet with the same network (ids may have changed);
* the region says `ForgetSubnet`.

A subnet that the region of today never mentions is served for ever; each registration logs which ones these are.
"""

from dataclasses import dataclass

from clusterd.protocol.errors import GenerationMismatch, MalformedArgument, SnapshotOlder
from clusterd.protocol.values import HostMap, Identifier


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose generations these are; see Note [Former origin]."""

    region: str
    cluster: str
    history: str


@dataclass(frozen=True, slots=True)
class Announced:
    """What a change says it is. Without `from_generation` it is a snapshot; `digest` is of the set after it."""

    origin: Origin
    subnet: str
    cidr: str
    from_generation: int | None
    to_generation: int
    digest: int


@dataclass(frozen=True, slots=True)
class SubnetRecord:
    """What is durably accepted of one subnet. `forgetting`: its maps have still to leave the DHCP server."""

    subnet: str
    cidr: str
    origin: Origin
    accepted_generation: int
    applied_generation: int
    digest: int
    host_maps: int
    forgetting: bool = False


@dataclass(frozen=True, slots=True)
class MapChange:
    """One identifier's host map before and after a change; None is "there is none"."""

    identifier: Identifier
    before: HostMap | None
    after: HostMap | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change that is on disk.

    `complete`: the `changes` tell all that the DHCP server has to be told. Otherwise there were too many to list, or
    the subnet was not held before from this origin, and what the server has is unknown. `dropped` are the subnets of
    a former origin that this one superseded.
    """

    record: SubnetRecord
    changes: tuple[MapChange, ...]
    complete: bool
    dropped: tuple[str, ...] = ()


def is_base(record: SubnetRecord | None, announced: Announced) -> bool:
    """Whether the change builds on what is there; otherwise it builds on nothing."""
    return record is not None and record.origin == announced.origin and not record.forgetting


def check_generations(record: SubnetRecord | None, announced: Announced) -> None:
    """Refuse what does not continue the accepted generation.

    Raises GenerationMismatch, which carries where this cluster is, SnapshotOlder, or MalformedArgument.
    """
    accepted = record.accepted_generation if record is not None and is_base(record, announced) else 0
    if announced.from_generation is None:
        if announced.to_generation < accepted:
            raise SnapshotOlder(f"generation {accepted} is accepted, the snapshot has {announced.to_generation}")
        return
    if announced.from_generation != accepted:
        raise GenerationMismatch(accepted)
    if announced.to_generation < announced.from_generation:
        raise MalformedArgument("a change cannot lead to an earlier generation")


def record_after(record: SubnetRecord | None, announced: Announced, host_maps: int) -> SubnetRecord:
    """The subnet's record once the change is on disk.

    What is applied stays, except when the same generation now means another set: then it is not applied at all.
    """
    applied = 0
    if record is not None and is_base(record, announced):
        redefined = announced.to_generation <= record.applied_generation and announced.digest != record.digest
        applied = 0 if redefined else record.applied_generation
    return SubnetRecord(
        subnet=announced.subnet,
        cidr=announced.cidr,
        origin=announced.origin,
        accepted_generation=announced.to_generation,
        applied_generation=applied,
        digest=announced.digest,
        host_maps=host_maps,
    )
