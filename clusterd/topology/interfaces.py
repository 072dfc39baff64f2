"""Pure: what the kernel knows of this host → the cluster interfaces that the region is told of.

A cluster interface is a NIC on one network, so a NIC with two IPv4 and three IPv6 networks gives five reports. To what
the kernel shows the cluster's configuration adds networks whose clients are relayed to this host, and VRFs.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from clusterd.protocol.addresses import BITS, Family, address_to_int, int_to_address
from clusterd.protocol.values import InterfaceReport, NicKind, format_mac, is_nic_name, parse_mac
from clusterd.topology.netlink import InterfaceAddress, KernelFacts, Link

# What container runtimes, hypervisors and VPNs make by themselves. An operator's own bridge may be called br-lan:
# only the names that Docker makes up (br- and twelve hexadecimal digits) are ignored.
DEFAULT_IGNORED_NICS = (
    "veth*", "docker*", "br-" + "[0-9a-f]" * 12, "podman*", "cni*", "cali*", "flannel*", "cilium*", "lxc*", "lxd*",
    "kube-*", "nerdctl*", "virbr*", "vnet*", "tap*", "tun*", "wg*", "tailscale*", "zt*", "ppp*",
)  # fmt: skip

# Kernel kinds of tunnels and of devices that lead to no wire, whatever they are called.
IGNORED_KINDS = frozenset(
    {
        "veth", "tun", "wireguard", "gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan", "ipip", "ip6tnl",
        "sit", "vti", "vti6", "xfrm", "geneve", "vxlan", "gtp", "ppp", "amt", "bareudp", "ifb", "nlmon", "vcan",
        "vxcan", "netkit",
    }
)  # fmt: skip

_KINDS = {None: NicKind.PHYSICAL, "vlan": NicKind.VLAN, "bond": NicKind.BOND, "bridge": NicKind.BRIDGE}
_MAX_VLAN = 4094

# Prefix and its length: loopback and link-local (RFC 1122, RFC 3927; RFC 4291).
_NEVER_SERVED: dict[Family, tuple[tuple[int, int], ...]] = {4: ((127, 8), (0xA9FE, 16)), 6: ((1, 128), (0x3FA, 10))}


@dataclass(frozen=True, slots=True)
class Relay:
    """A network that is not on any NIC of this host: its clients' requests are relayed to it and come in by `via`.

    `gateways` are addresses of the network that are the relay's and its routers': no route of this host tells them.
    Without a `vrf` the network is in that of the NIC.
    """

    cidr: str
    via: str
    gateways: tuple[str, ...] = ()
    vrf: str | None = None


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """Shell patterns of NIC names are case-sensitive.

    `ignored_nics` adds to DEFAULT_IGNORED_NICS and IGNORED_KINDS; `watched_nics` wins over all of them. The
    loopback device is never watched. `vrfs` are patterns with the VRF of the NICs that they fit: a name without
    wildcards wins over patterns, and an earlier pattern over a later one. With `serve` the region may decide alone
    that this cluster serves a network.
    """

    ignored_nics: tuple[str, ...] = ()
    watched_nics: tuple[str, ...] = ()
    vrfs: tuple[tuple[str, str], ...] = ()
    relays: tuple[Relay, ...] = ()
    serve: bool = True

    def vrf_of(self, nic: str) -> str | None:
        """The VRF of a NIC's networks; None: the cluster's own."""
        exact = (vrf for pattern, vrf in self.vrfs if pattern == nic)
        fitting = (vrf for pattern, vrf in self.vrfs if fnmatchcase(nic, pattern))
        return next(exact, next(fitting, None))


def is_never_served(cidr: str) -> bool:
    """Whether the network lies in what is loopback, link-local or multicast."""
    network = _network_in(cidr)
    multicast = network.value >> (28 if network.family == 4 else 120) == (0xE if network.family == 4 else 0xFF)
    return multicast or any(
        network.length >= length and network.value >> (BITS[network.family] - length) == prefix
        for prefix, length in _NEVER_SERVED[network.family]
    )


def relays_without_nic(facts: KernelFacts, settings: TopologySettings) -> tuple[Relay, ...]:
    """The relays whose NIC this host does not have, now."""
    names = {link.name for link in facts.links}
    return tuple(relay for relay in settings.relays if relay.via not in names)


def interface_reports(facts: KernelFacts, settings: TopologySettings) -> tuple[InterfaceReport, ...]:
    """The cluster interfaces of this host, sorted by NIC, family and network.

    * A network is what an address of a watched NIC with its prefix length spans. An address of full length (/32,
      /128) or of none (/0) and the near end of a point-to-point link span none; nor do loopback and link-local
      addresses, temporary IPv6 addresses (RFC 8981) and those that are not, or not yet, known to be unique.
    * `addresses` are the NIC's own in the network, whatever their prefix length, and those that the host has
      elsewhere without reporting a network for them: a virtual address on the loopback device must not be
      handed out either.
    * `gateways` are the next hops of any route that lie in the network.
    * A NIC whose name cannot be reported (it has a comma in it or no text) gives nothing.
    * A relayed network is reported whatever its NIC is, down where there is none, unless that NIC is on it anyway.
      Whatever address this host has in it is one of its own.
    """
    links = {link.index: link for link in facts.links}
    watched = {link.index for link in facts.links if _is_watched(link, settings)}
    own = [_located(address) for address in facts.addresses if address.index in links and _is_real(address)]
    reported: dict[_Network, set[int]] = defaultdict(set)
    for address in own:
        if address.network is not None and address.link in watched:
            reported[address.network].add(address.link)
    relayed = {network: relay for relay in settings.relays for network in [_network_in(relay.cidr)]}

    lengths = {(network.family, network.length) for network in (*reported, *relayed)}
    own_in: dict[tuple[int, _Network], set[int]] = defaultdict(set)
    own_relayed: dict[_Network, set[int]] = defaultdict(set)
    for address in own:
        elsewhere = address.network is None or address.link not in watched
        for network in _networks_around(address.family, address.value, lengths):
            if network in relayed:
                own_relayed[network].add(address.value)
            for index in reported.get(network, ()):
                if index == address.link or elsewhere:
                    own_in[index, network].add(address.value)
    gateways_in: dict[_Network, set[int]] = defaultdict(set)
    for family, value in map(address_to_int, facts.gateways):
        for network in _networks_around(family, value, lengths):
            gateways_in[network].add(value)

    found = {
        (links[index].name, network): _report(
            links[index], network, own_in[index, network], gateways_in[network], settings
        )
        for network, on in reported.items()
        for index in on
    }
    by_name = {link.name: link for link in facts.links}
    for network, relay in relayed.items():
        gateways = {*gateways_in[network], *(address_to_int(gateway)[1] for gateway in relay.gateways)}
        link = by_name.get(relay.via) or Link(0, relay.via, kind="none", up=False)
        report = _report(link, network, own_relayed[network], gateways, settings)
        vrf = relay.vrf if relay.vrf is not None else report.vrf
        found.setdefault((relay.via, network), replace(report, vrf=vrf, relayed=True))
    return tuple(report for _, report in sorted(found.items()))


class _Network(NamedTuple):
    """A network as numbers: `value` is its first address."""

    family: Family
    value: int
    length: int


class _OwnAddress(NamedTuple):
    """An address of this host on the NIC with this index, and the network that it spans, if any."""

    link: int
    family: Family
    value: int
    network: _Network | None


def _located(address: InterfaceAddress) -> _OwnAddress:
    family, value = address_to_int(address.address)
    spans_none = address.prefix_length in (0, BITS[family]) or address.point_to_point
    network = None if spans_none else _network_of(family, value, address.prefix_length)
    return _OwnAddress(address.index, family, value, network)


def _network_of(family: Family, value: int, length: int) -> _Network:
    host_bits = BITS[family] - length
    return _Network(family, value >> host_bits << host_bits, length)


def _network_in(cidr: str) -> _Network:
    address, _, length = cidr.partition("/")
    return _Network(*address_to_int(address), int(length))


def _networks_around(family: Family, value: int, lengths: Iterable[tuple[Family, int]]) -> Iterator[_Network]:
    """The networks of these lengths that the address lies in: few candidates, however many NICs there are."""
    return (_network_of(family, value, length) for of_family, length in lengths if of_family == family)


def _is_real(address: InterfaceAddress) -> bool:
    family, value = address_to_int(address.address)
    if family != address.family:
        return False  # an IPv4-mapped IPv6 address: no network uses it on a wire
    special = any(value >> (BITS[family] - length) == prefix for prefix, length in _NEVER_SERVED[family])
    return address.usable and not address.temporary and not special


def _is_watched(link: Link, settings: TopologySettings) -> bool:
    if link.loopback or not is_nic_name(link.name):
        return False
    if _matches(link.name, settings.watched_nics):
        return True
    return link.kind not in IGNORED_KINDS and not _matches(link.name, DEFAULT_IGNORED_NICS + settings.ignored_nics)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _report(
    link: Link, network: _Network, addresses: Iterable[int], gateways: Iterable[int], settings: TopologySettings
) -> InterfaceReport:
    family = network.family
    return InterfaceReport(
        nic=link.name,
        cidr=f"{int_to_address(family, network.value)}/{network.length}",
        addresses=tuple(int_to_address(family, value) for value in addresses),
        gateways=tuple(int_to_address(family, value) for value in gateways),
        mac=_machine_mac(link.mac),
        kind=_KINDS.get(link.kind, NicKind.OTHER),
        vlan=link.vlan if link.vlan is not None and 1 <= link.vlan <= _MAX_VLAN else None,
        up=link.up,
        vrf=settings.vrf_of(link.name),
        serve=settings.serve,
    )


def _machine_mac(mac: bytes | None) -> str | None:
    """None where the device has none that a single machine can have (an IP tunnel's, all zeros)."""
    try:
        return None if mac is None else format_mac(parse_mac(mac.hex()))
    except ValueError:
        return None
