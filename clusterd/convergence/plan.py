"""What the DHCP server has to be told: pure, from accepted changes or from two whole sets.

The server is one set of host maps over all subnets. A host map is never given to it that it cannot serve (other
family, other identifier, an address outside the subnet, more than its limit): those are rejections, with a reason.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter

from clusterd.convergence.acceptance import SubnetRecord
from clusterd.dhcp.backend import Capabilities
from clusterd.protocol.addresses import BITS, Family, address_to_int
from clusterd.protocol.values import HostMap, Identifier

MAX_REQUEST_IDS = 16

Network = tuple[Family, int, int]
"""Family, first and last address."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What became of one identifier in one subnet since the server was last told; None is "no host map"."""

    before: HostMap | None
    after: HostMap | None
    generation: int
    request_ids: tuple[str, ...] = ()

    def then(self, later: "Transition") -> "Transition":
        """This one and a later one as one."""
        request_ids = tuple(dict.fromkeys(self.request_ids + later.request_ids))[-MAX_REQUEST_IDS:]
        return Transition(self.before, later.after, later.generation, request_ids)


Key = tuple[str, Identifier]
"""Subnet and identifier: what has at most one host map."""

Rejected = dict[str, dict[Identifier, tuple[HostMap, str]]]
"""Per subnet what the server does not serve, and why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to tell the server. `unservable` are rejections known beforehand, and `holders` whose maps are added."""

    removed: frozenset[HostMap]
    added: frozenset[HostMap]
    unservable: Rejected = field(default_factory=dict)
    holders: Mapping[HostMap, tuple[str, ...]] = field(default_factory=dict)
    kept: frozenset[HostMap] = frozenset()

    @property
    def is_large(self) -> bool:
        """More than a third of the sets differs: replacing all is cheaper, and no less safe, than many changes."""
        changes = len(self.removed) + len(self.added)
        return changes > 3 and 3 * changes > len(self.kept) + max(len(self.removed), len(self.added))


@lru_cache(maxsize=65_536)
def network_of(cidr: str) -> Network:
    """`"192.0.2.0/24"` → `(4, first, last)`. Raises ValueError for other text."""
    address, _, length = cidr.partition("/")
    family, value = address_to_int(address)
    host_bits = BITS[family] - int(length)
    first = value >> host_bits << host_bits
    return family, first, first + (1 << host_bits) - 1


def contains(network: Network, address: str) -> bool:
    """Whether the address lies in the network."""
    family, value = address_to_int(address)
    return family == network[0] and network[1] <= value <= network[2]


def overlapping(cidrs: Mapping[str, str]) -> set[str]:
    """The subnets, networks by subnet, that have an address in common with another one of them."""
    found: set[str] = set()
    widest: tuple[str, Network] | None = None  # of those so far, the one that reaches farthest
    for subnet, network in sorted(((subnet, network_of(cidr)) for subnet, cidr in cidrs.items()), key=itemgetter(1)):
        if widest is not None and widest[1][0] == network[0] and network[1] <= widest[1][2]:
            found |= {subnet, widest[0]}
            if network[2] <= widest[1][2]:
                continue
        widest = subnet, network
    return found


def why_unservable(host_map: HostMap, cidr: str, capabilities: Capabilities) -> str | None:
    """The reason for which the server cannot have this host map; None if it can."""
    if host_map.family not in capabilities.families:
        return f"this DHCP server does not serve IPv{host_map.family}"
    if host_map.identifier.kind not in capabilities.identifiers:
        return f"this DHCP server does not recognise a client by its {host_map.identifier.kind}"
    if not contains(network_of(cidr), host_map.address):
        return f"{host_map.address} is not in {cidr}"
    return None


def plan_changes(transitions: Mapping[Key, Transition], cidrs: Mapping[str, str], capabilities: Capabilities) -> Plan:
    """From what changed alone, without looking at the whole sets.

    Right only while no two subnets overlap and the server is below its limit; else compare the whole sets.
    """
    removed: set[HostMap] = set()
    added: set[HostMap] = set()
    unservable: Rejected = {}
    holders: dict[HostMap, tuple[str, ...]] = {}
    for (subnet, identifier), change in transitions.items():
        if change.before == change.after:
            continue
        if change.before is not None:
            removed.add(change.before)
        if change.after is None:
            continue
        reason = why_unservable(change.after, cidrs[subnet], capabilities)
        if reason is None:
            added.add(change.after)
            holders[change.after] = (*holders.get(change.after, ()), subnet)
        else:
            unservable.setdefault(subnet, {})[identifier] = (change.after, reason)
    return Plan(frozenset(removed - added), frozenset(added), unservable, holders)


def plan_whole(
    held: Iterable[tuple[SubnetRecord, Sequence[HostMap]]],
    actual: Set[HostMap],
    forgotten_networks: Iterable[str],
    capabilities: Capabilities,
) -> Plan:
    """From everything that is held and everything the server has.

    Only what lies in a network that is held, or is being forgotten, is ever removed: a store that was lost must
    not empty the DHCP server before the region has sent the sets again.
    """
    desired: dict[HostMap, tuple[str, ...]] = {}
    unservable: Rejected = {}
    known = [network_of(cidr) for cidr in forgotten_networks]
    for record, host_maps in held:
        known.append(network_of(record.cidr))
        for host_map in host_maps:
            reason = why_unservable(host_map, record.cidr, capabilities)
            if reason is None:
                desired[host_map] = (*desired.get(host_map, ()), record.subnet)
            else:
                unservable.setdefault(record.subnet, {})[host_map.identifier] = (host_map, reason)
    removed = frozenset(m for m in actual - desired.keys() if any(contains(network, m.address) for network in known))
    staying = actual - removed
    missing = desired.keys() - actual
    room = capabilities.max_host_maps - len(staying)
    if len(missing) > room:
        # What is served stays served: the limit hits what would come on top, always the same ones.
        ordered = sorted(missing)
        for host_map in ordered[max(room, 0) :]:
            reason = f"this DHCP server takes at most {capabilities.max_host_maps} host maps"
            for subnet in desired[host_map]:
                unservable.setdefault(subnet, {})[host_map.identifier] = (host_map, reason)
        missing = set(ordered[: max(room, 0)])
    return Plan(removed, frozenset(missing), unservable, {m: desired[m] for m in missing}, frozenset(staying))
