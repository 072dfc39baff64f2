"""What can be wrong with a request, in the region's own words. HTTP statuses are decided elsewhere, once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class DomainError(Exception):
    """A request that is refused. `slug` is stable; `members` are facts that a program can use."""

    slug: ClassVar[str]

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class BadSelector(DomainError):
    """The selector's text cannot be read. `position` counts from 0."""

    slug = "bad-selector"


class NoSuchClusterInterface(DomainError):
    """The selector names nothing."""

    slug = "no-such-cluster-interface"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cluster interface (or bare subnet) that an ambiguous selector may mean."""

    id: str
    cluster: str | None
    nic: str | None
    cidr: str
    vrf: str


class AmbiguousSelector(DomainError):
    """The selector names several subnets."""

    slug = "ambiguous-selector"

    def __init__(self, detail: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(detail, candidates=list(candidates))


class InvalidRequest(DomainError):
    """A value that is not what its field allows. `errors` names each: `pointer` (RFC 6901) and `detail`."""

    slug = "invalid-request"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(detail, errors=[{"pointer": pointer, "detail": detail}])


class NotFound(DomainError):
    """Nothing has this id, or nothing that the asker may see."""

    slug = "not-found"


class NotPermitted(DomainError):
    """The account's role does not allow it."""

    slug = "not-permitted"


class AddressTaken(DomainError):
    """The requested address is somebody's. `holder` says whose, as far as the asker may know."""

    slug = "address-taken"


class IdentifierTaken(DomainError):
    """The MAC address, client-id or DUID already has another reservation on this subnet."""

    slug = "identifier-taken"


class AddressOutsideSubnet(DomainError):
    slug = "address-outside-subnet"


class AddressNotUsable(DomainError):
    """A network, broadcast or subnet-router anycast address."""

    slug = "address-not-usable"


class AddressInDynamicRange(DomainError):
    """The DHCP server leases this address on its own."""

    slug = "address-in-dynamic-range"


class AddressInReservedRange(DomainError):
    slug = "address-in-reserved-range"


class AddressOfInfrastructure(DomainError):
    """The gateway's or a cluster controller's own address."""

    slug = "address-of-infrastructure"


class AddressOfStaticEntry(DomainError):
    """A static entry of a site's DHCP server, not of ours, has this address."""

    slug = "address-of-static-entry"


class LeasedToAnother(DomainError):
    """Another client has a live lease on the requested address. `leases` tell who, as far as the asker may know."""

    slug = "leased-to-another"


class AddressInUse(DomainError):
    """Somebody on the wire uses the address without a reservation."""

    slug = "address-in-use"


class NotProbed(DomainError):
    """No address could be found out to be nobody's. `reasons` say why each cluster that serves the subnet cannot."""

    slug = "not-probed"


class Unvetted(DomainError):
    """The claim wants an address that was probed, and none that was is free (any more). Never an answer.

    `candidates` are free now, the lowest first.
    """

    slug = "unvetted"

    def __init__(self, candidates: Sequence[str]) -> None:
        super().__init__("no address of these was probed")
        self.candidates = tuple(candidates)


class SubnetNotReady(DomainError):
    """A cluster that serves the subnet has not reported yet what its DHCP server has of its own."""

    slug = "subnet-not-ready"


class RangeReported(DomainError):
    """The range is a pool of a site's DHCP server: it changes when that does."""

    slug = "range-reported"


class SubnetExhausted(DomainError):
    """No claimable address is left. Trying again helps only after somebody released one."""

    slug = "subnet-exhausted"


class WrongFamily(DomainError):
    """A client-id on an IPv6 subnet or a DUID on an IPv4 one."""

    slug = "wrong-address-family"


class IdempotencyKeyReused(DomainError):
    """The same Idempotency-Key came with another request."""

    slug = "idempotency-key-reused"


class HeldByOwner(DomainError):
    """The reservation belongs to a device or node and is deleted there."""

    slug = "delete-under-owner"


class ChangedUnderOwner(DomainError):
    """The reservation belongs to a device and is changed there."""

    slug = "change-under-owner"


class BeingReleased(DomainError):
    """A releasing reservation cannot be changed any more."""

    slug = "being-released"


class StaleVersion(DomainError):
    """The thing is not (any more) in a version that the request was made for. `etag` is that of now."""

    slug = "stale-version"


class ChangedMeanwhile(DomainError):
    """What a mutation was built on is not so any more: its maker has to look again. Never an answer."""

    slug = "changed-meanwhile"


class SubnetRecovering(DomainError):
    """The region does not know yet which addresses its clusters serve. `clusters` are the names of the unheard ones."""

    slug = "subnet-recovering"


class NotRecovering(DomainError):
    """There is no recovery to end."""

    slug = "not-recovering"


class AlreadyRecovering(DomainError):
    """A recovery goes on already."""

    slug = "already-recovering"


class NotAllHeard(DomainError):
    """The recovery waits for clusters, and it was not said that it is to end without them. `clusters`: their names."""

    slug = "clusters-not-heard"


class NameTaken(DomainError):
    slug = "name-taken"


class RangeOverlap(DomainError):
    """Another range has some of these addresses. `range` is that one."""

    slug = "range-overlap"


class RangeOverReservations(DomainError):
    """A dynamic range over addresses that somebody has. `reservations` are the first of them, `count` all."""

    slug = "range-over-reservations"


class QuotaExceeded(DomainError):
    """The account may not have so many user reservations.

    `scope` is `account` or `subnet`; `limit`, `used` and `wanted` are numbers of reservations.
    """

    slug = "quota-exceeded"


class NotOnSubnet(DomainError):
    """The cluster has nothing to do with the subnet now."""

    slug = "cluster-not-on-subnet"


class LastServing(DomainError):
    """Without this cluster nobody would serve the subnet."""

    slug = "last-serving-cluster"


class NodeFull(DomainError):
    """The node has as many extra addresses as a node may have."""

    slug = "node-full"


class BatchRefused(DomainError):
    """Members of a batch are refused, and with them the whole. `refused`: each by its position, from 0."""

    slug = "batch-refused"

    def __init__(self, refused: Sequence[tuple[int, DomainError]]) -> None:
        (first, error), *others = refused
        more = f", and {len(others)} more {'is' if len(others) == 1 else 'are'} refused" if others else ""
        super().__init__(f"nothing was changed: member {first}: {error.detail}{more}")
        self.refused = tuple(refused)


class VrfInUse(DomainError):
    """Subnets are in the VRF, or clusters have it as their own."""

    slug = "vrf-in-use"


class SubnetsLeftBehind(DomainError):
    """The cluster would stop serving subnets that cannot go with it."""

    slug = "subnets-left-behind"


class SubnetInUse(DomainError):
    """Reservations or interfaces are on the subnet."""

    slug = "subnet-in-use"


class SubnetOverlap(DomainError):
    """Another subnet of the VRF has some of these addresses."""

    slug = "subnet-overlap"


class TooManyImports(DomainError):
    """The account has as many unfinished imports as it may."""

    slug = "too-many-imports"


class EventsGone(DomainError):
    """What followed the event that was named is not known any more."""

    slug = "events-gone"


class TooManyFollowers(DomainError):
    """As many follow what happens as this regiond, or the account, may have."""

    slug = "too-many-followers"


class LinkRefused(Exception):
    """What is refused on the link and never over HTTP. `detail` is told to the other side."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class EnrolmentRefused(LinkRefused):
    """No certificate for whoever asked."""


class ClusterRefused(LinkRefused):
    """The cluster may not speak for itself now: revoked, forgotten, replaced."""


class NoClusterListener(DomainError):
    """This regiond listens for clusters on no TCP address, so none could connect after enrolling."""

    slug = "no-cluster-listener"


class ClusterHoldsHostMaps(DomainError):
    """The cluster may still serve host maps; `subnets` says of which networks."""

    slug = "cluster-holds-host-maps"
