"""Selectors: the text with which a caller names the subnet to allocate from, and what it means.

    192.0.2.0/24   2001:db8::/64            a network
    rack-a:eth1    cl-4k2m9q8xvz:eth0.100   a NIC of a cluster, which is named by its name or id
    ci-4k2m9q8xvz                           a cluster interface by its id
    key:value                               one term; the keys are those of KEYS

Any of these may be joined by commas: all must hold, and nothing may be said twice. A piece is read as the first of
these that fits: `key:value` when what stands before its first colon is a key; a network when it has a slash (no name
of a cluster or NIC can have one); cluster and NIC when it has a colon; an id. So a cluster that is named like a key
has no short form: `cluster:vlan,nic:eth1`. A text of the form of a cluster id is always an id.

A selector means a subnet. Two cluster interfaces on one subnet are one answer. The terms cidr, ip, vrf, family and
subnet speak of subnets, and where there is no other term no cluster interface is needed at all. With cluster, nic or
vlan only the interfaces count that are there now; an id also finds one that is absent. An interface whose network is
in conflict with another subnet is on no subnet and never matches.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

from clusterd.protocol.addresses import Family, address_to_int, canonical_address
from clusterd.protocol.values import MAX_NIC_NAME_LENGTH, parse_name, parse_network
from regiond.domain.errors import AmbiguousSelector, BadSelector, Candidate, NoSuchClusterInterface
from regiond.domain.ids import Prefix, format_id, parse_id
from regiond.domain.networks import network
from regiond.domain.views import InterfaceView

MAX_SELECTOR_LENGTH: Final = 512
MAX_CANDIDATES: Final = 50
MAX_NAMES_IN_HINT: Final = 8

_NIC_NAME = re.compile(r"[^\s/:,\x00-\x20\x7f\ud800-\udfff]+")  # JSON can carry lone surrogates
_VLAN = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Selector:
    """All that is not None must hold. `cluster` is a name or the text of an id; `id` is a cluster interface's."""

    cluster: str | None = None
    nic: str | None = None
    cidr: str | None = None
    ip: str | None = None
    vlan: int | None = None
    vrf: str | None = None
    family: Family | None = None
    subnet: int | None = None
    id: int | None = None

    def __str__(self) -> str:
        """The selector with every term written out; `parse_selector` reads it back."""
        terms = []
        for key in KEYS:
            value = getattr(self, key)
            if key in _ID_PREFIXES and value is not None:
                value = format_id(_ID_PREFIXES[key], value)
            if value is not None:
                terms.append(f"{key}:{value}")
        return ",".join(terms)

    @property
    def needs_interface(self) -> bool:
        """Whether a term speaks of a cluster interface and not only of a subnet."""
        return not (self.cluster is None and self.nic is None and self.vlan is None and self.id is None)


KEYS: Final = tuple(field.name for field in fields(Selector))
_ID_PREFIXES: Final = {"subnet": Prefix.SUBNET, "id": Prefix.CLUSTER_INTERFACE}


class SubnetFacts(Protocol):
    """What a selector can ask of a subnet."""

    @property
    def id(self) -> int: ...
    @property
    def cidr(self) -> str: ...
    @property
    def vrf(self) -> str: ...


# ---- reading ----


def parse_selector(text: str) -> Selector:
    """Read a selector. Raises BadSelector, whose member `position` counts characters from 0."""
    if len(text) > MAX_SELECTOR_LENGTH:
        raise _bad(f"a selector has at most {MAX_SELECTOR_LENGTH} characters", MAX_SELECTOR_LENGTH)
    if not text.strip():
        raise _bad("the selector is empty; name a network, cluster:nic, an id or terms such as vlan:12", 0)
    terms: dict[str, Any] = {}
    start = 0
    for piece in text.split(","):
        for key, value, position in _terms_of(piece, start):
            if key in terms:
                raise _bad(f"{key} is said twice{_read_as(piece, key)}", position)
            terms[key] = value
        start += len(piece) + 1
    return Selector(**terms)


def _terms_of(piece: str, start: int) -> Iterable[tuple[str, Any, int]]:
    """The terms of one piece between commas, each with the position where it starts."""
    start += len(piece) - len(piece.lstrip())
    piece = piece.strip()
    if not piece:
        raise _bad("a term is missing here", start)
    head, colon, rest = piece.partition(":")
    key = head.strip().lower()
    if colon and key in _READERS:
        after = start + len(head) + 1 + len(rest) - len(rest.lstrip())
        return [(key, _read(key, rest.strip(), after), start)]
    if "/" in piece:
        return [("cidr", _read("cidr", piece, start), start)]
    if colon:
        after = start + len(head) + 1 + len(rest) - len(rest.lstrip())
        if _is_address(piece):
            raise _bad(f"for the subnet that an address is in, write ip:{piece}", start)
        return [("cluster", _read("cluster", head, start), start), ("nic", _read("nic", rest.strip(), after), after)]
    if parse_id(Prefix.CLUSTER_INTERFACE, piece) is not None:
        return [("id", _read("id", piece, start), start)]
    raise _bad(_unreadable(piece), start)


def _read_as(piece: str, key: str) -> str:
    """What tells somebody who misspelt a key that `word:word` was taken for a cluster and its NIC."""
    head, _, rest = (part.strip() for part in piece.partition(":"))
    if key != "cluster" or head.lower() in _READERS:
        return ""
    return f": {head[:64]!r} is no key ({', '.join(KEYS)}), so this was read as the NIC {rest[:64]!r} of that cluster"


def _unreadable(piece: str) -> str:
    shown = repr(piece[:64])
    if _is_address(piece):
        return f"for the subnet that an address is in, write ip:{piece}; for a network, add its prefix length"
    if parse_id(Prefix.SUBNET, piece) is not None:
        return f"{shown} is the id of a subnet: write subnet:{piece}"
    if piece.lower() in _READERS:
        return f"{shown} needs a value: {piece.lower()}:…"
    return f"{shown} is no network, cluster:nic, ci-… id or key:value with a key of {', '.join(KEYS)}"


def _is_address(text: str) -> bool:
    try:
        canonical_address(text)
    except ValueError:
        return False
    return True


def _read(key: str, text: str, position: int) -> Any:
    try:
        if not text:
            raise ValueError(f"{key} needs a value")
        return _READERS[key](text)
    except ValueError as error:
        raise _bad(str(error), position) from error


def _bad(detail: str, position: int) -> BadSelector:
    return BadSelector(f"{detail} (at position {position})", position=position)


def _nic(text: str) -> str:
    if len(text) > MAX_NIC_NAME_LENGTH or not _NIC_NAME.fullmatch(text):
        raise ValueError(f"not a NIC name: {text[:70]!r}")
    return text


def _vlan(text: str) -> int:
    if not _VLAN.fullmatch(text) or not 1 <= int(text) <= 4094:
        raise ValueError(f"not a VLAN id: {text[:64]!r} (1 to 4094)")
    return int(text)


def _family(text: str) -> Family:
    if text == "4":
        return 4
    if text == "6":
        return 6
    raise ValueError(f"not an address family: {text[:64]!r} (4 or 6)")


def _id_reader(prefix: Prefix) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = parse_id(prefix, text)
        if number is None:
            raise ValueError(f"not an id: {text[:64]!r} (expected {prefix.value}- and ten characters)")
        return number

    return read


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "cluster": parse_name,
    "nic": _nic,
    "cidr": parse_network,
    "ip": canonical_address,
    "vlan": _vlan,
    "vrf": parse_name,
    "family": _family,
    "subnet": _id_reader(Prefix.SUBNET),
    "id": _id_reader(Prefix.CLUSTER_INTERFACE),
}


# ---- meaning ----


def resolve(selector: Selector, interfaces: Sequence[InterfaceView], subnets: Sequence[SubnetFacts]) -> int:
    """The id of the one subnet that the selector means.

    `interfaces` and `subnets` are all there are, or all that can match. Raises NoSuchClusterInterface, and
    AmbiguousSelector with at most MAX_CANDIDATES candidates.
    """
    if selector.needs_interface:
        found = matching_interfaces(selector, interfaces)
        meant = {interface.subnet for interface in found if interface.subnet is not None}
        candidates = [_candidate(interface) for interface in found]
    else:
        matching = [subnet for subnet in subnets if _subnet_matches(selector, subnet)]
        meant = {subnet.id for subnet in matching}
        candidates = _candidates_on(matching, interfaces) if len(meant) > 1 else []
    if len(meant) == 1:
        return meant.pop()
    if not meant:
        raise NoSuchClusterInterface(_why_nothing(selector, interfaces, subnets), selector=str(selector))
    shown = "" if len(candidates) <= MAX_CANDIDATES else f"; the first {MAX_CANDIDATES} are listed"
    raise AmbiguousSelector(
        f"{selector} means {len(meant)} subnets: add a term that only one has, or use one of the ids{shown}",
        candidates[:MAX_CANDIDATES],
    )


def matching_interfaces(selector: Selector, interfaces: Sequence[InterfaceView]) -> list[InterfaceView]:
    """The cluster interfaces of which every term of the selector holds, in the order given."""
    return [
        interface
        for interface in interfaces
        if interface.subnet is not None
        and (interface.present or selector.id is not None)
        and _interface_matches(selector, interface)
    ]


def _interface_matches(selector: Selector, interface: InterfaceView) -> bool:
    return (
        selector.id in (None, interface.id)
        and selector.nic in (None, interface.nic)
        and selector.vlan in (None, interface.vlan)
        and (selector.cluster is None or _is_cluster(selector.cluster, interface))
        and selector.subnet in (None, interface.subnet)
        and _network_matches(selector, interface.cidr, interface.vrf)
    )


def _subnet_matches(selector: Selector, subnet: SubnetFacts) -> bool:
    return selector.subnet in (None, subnet.id) and _network_matches(selector, subnet.cidr, subnet.vrf)


def _network_matches(selector: Selector, cidr: str, vrf: str) -> bool:
    return (
        selector.cidr in (None, cidr)
        and selector.vrf in (None, vrf)
        and (selector.family is None or selector.family == network(cidr).family)
        and (selector.ip is None or _is_in(selector.ip, cidr))
    )


def _is_in(address: str, cidr: str) -> bool:
    family, number = address_to_int(address)
    return network(cidr).family == family and number in network(cidr)


def _is_cluster(name: str, interface: InterfaceView) -> bool:
    number = parse_id(Prefix.CLUSTER, name)
    return interface.cluster_name == name if number is None else interface.cluster == number


def _candidate(interface: InterfaceView) -> Candidate:
    return Candidate(
        format_id(Prefix.CLUSTER_INTERFACE, interface.id),
        interface.cluster_name,
        interface.nic,
        interface.cidr,
        interface.vrf,
    )


def _candidates_on(subnets: Sequence[SubnetFacts], interfaces: Sequence[InterfaceView]) -> list[Candidate]:
    """The cluster interfaces on these subnets; a subnet without any stands for itself."""
    on: dict[int, list[Candidate]] = {subnet.id: [] for subnet in subnets}
    for interface in interfaces:
        if interface.subnet in on and interface.present:
            on[interface.subnet].append(_candidate(interface))
    found: list[Candidate] = []
    for subnet in subnets:
        bare = Candidate(format_id(Prefix.SUBNET, subnet.id), None, None, subnet.cidr, subnet.vrf)
        found += on[subnet.id] or [bare]
    return found


def _why_nothing(selector: Selector, interfaces: Sequence[InterfaceView], subnets: Sequence[SubnetFacts]) -> str:
    """What comes closest, so that the caller can see what to change."""
    if not selector.needs_interface:
        known = f"{len(subnets)} subnets are known" if len(subnets) > MAX_NAMES_IN_HINT else _list_of(subnets)
        return f"no subnet is {selector}: {known}"
    close = [interface for interface in interfaces if _interface_matches(selector, interface)]
    for interface in close:
        where = f"{interface.cluster_name}:{interface.nic} ({interface.cidr})"
        if interface.subnet is None:
            why = interface.conflict or "its network overlaps another subnet"
            return f"{where} is in conflict and so on no subnet: {why}"
        return f"{where} is not there any more; by its network or id it can still be named"
    if selector.cluster is not None:
        of_cluster = [interface for interface in interfaces if _is_cluster(selector.cluster, interface)]
        if not of_cluster:
            names = _names(interface.cluster_name for interface in interfaces)
            return f"no cluster {selector.cluster} has reported an interface; there are: {names}"
        nics = _names(interface.nic for interface in of_cluster if interface.present)
        return f"no cluster interface is {selector}; the NICs of {selector.cluster} are: {nics}"
    return f"no cluster interface is {selector}"


def _list_of(subnets: Sequence[SubnetFacts]) -> str:
    return f"there are: {_names(f'{subnet.cidr} in {subnet.vrf}' for subnet in subnets)}"


def _names(names: Iterable[str]) -> str:
    unique = sorted(set(names))
    more = ", …" if len(unique) > MAX_NAMES_IN_HINT else ""
    return (", ".join(unique[:MAX_NAMES_IN_HINT]) + more) or "none"
