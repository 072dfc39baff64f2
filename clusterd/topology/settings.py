"""`[topology]` and `[[relay]]` of clusterd's configuration: which NICs the region hears of, and what no kernel knows.

[topology]
ignore = ["ib*"]              # NICs not to report, as shell patterns, beside those that are never reported: the ones
                              # that container runtimes, hypervisors and VPNs make (veth*, docker*, tun*, wg*, …)
watch = ["br-lan"]            # NICs to report whatever else says otherwise
serve = "auto"                # or "confirm": an admin has to say so before this cluster serves a new network

[topology.vrf]                # the VRF of a NIC's networks, by name or pattern, where it is not the cluster's own
"eth1" = "blue"
"eth2.*" = "green"            # of several patterns the first one counts

[[relay]]                     # a network that no NIC of this host is on: its clients are relayed to this DHCP server
cidr = "10.5.0.0/24"
via = "eth0"                  # the NIC by which the relayed requests come
gateways = ["10.5.0.1"]       # the relay's own addresses in the network, and its routers': nobody may claim them
vrf = "blue"                  # default: that of the NIC
"""

from itertools import combinations
from typing import Annotated, Final, Literal, Self

from netaddr import IPNetwork
from pydantic import AfterValidator, Field, model_validator

from clusterd.daemon.config_file import Strict
from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import is_nic_name, parse_name, parse_network
from clusterd.topology.interfaces import Relay, TopologySettings, is_never_served

MAX_PATTERNS: Final = 256
MAX_RELAYS: Final = 256
MAX_GATEWAYS: Final = 32

NicPattern = Annotated[str, Field(min_length=1, max_length=64)]
Address = Annotated[str, AfterValidator(canonical_address)]
VrfName = Annotated[str, AfterValidator(parse_name)]


def _nic(text: str) -> str:
    try:
        canonical_address(text)
    except ValueError:
        pass
    else:
        raise ValueError("expected the name of the NIC by which the relayed requests come, not an address")
    if not is_nic_name(text):
        raise ValueError("not a NIC name")
    return text


def _relayed_network(text: str) -> str:
    cidr = parse_network(text)
    if is_never_served(cidr):
        raise ValueError("no DHCP server serves loopback, link-local or multicast addresses")
    if IPNetwork(cidr).size == 1 or cidr.endswith("/0"):
        raise ValueError("a network of clients has more than one address, and not all there are")
    return cidr


class RelayTable(Strict):
    """One `[[relay]]`."""

    cidr: Annotated[str, AfterValidator(_relayed_network)]
    via: Annotated[str, AfterValidator(_nic)]
    gateways: Annotated[tuple[Address, ...], Field(max_length=MAX_GATEWAYS)] = ()
    vrf: VrfName | None = None

    @model_validator(mode="after")
    def _gateways_in_the_network(self) -> Self:
        for gateway in self.gateways:
            if gateway not in IPNetwork(self.cidr):
                raise ValueError(f"the gateway {gateway} is not in {self.cidr}")
        return self


def no_two_overlap(relays: tuple[RelayTable, ...]) -> tuple[RelayTable, ...]:
    """The relays as they are. Raises ValueError for two networks that cannot be told apart."""
    for one, other in combinations(relays, 2):
        mine, its = IPNetwork(one.cidr), IPNetwork(other.cidr)
        if mine == its:
            raise ValueError(f"{one.cidr} is relayed twice")
        if one.vrf == other.vrf and (mine in its or its in mine):
            raise ValueError(f"{one.cidr} and {other.cidr} overlap")
    return relays


class TopologyTable(Strict):
    """`[topology]`."""

    ignore: Annotated[tuple[NicPattern, ...], Field(max_length=MAX_PATTERNS)] = ()
    watch: Annotated[tuple[NicPattern, ...], Field(max_length=MAX_PATTERNS)] = ()
    serve: Literal["auto", "confirm"] = "auto"
    vrf: Annotated[dict[NicPattern, VrfName], Field(max_length=MAX_PATTERNS)] = Field(default_factory=dict)

    def settings(self, relays: tuple[RelayTable, ...]) -> TopologySettings:
        """Both tables as what they mean."""
        return TopologySettings(
            ignored_nics=self.ignore,
            watched_nics=self.watch,
            vrfs=tuple(self.vrf.items()),
            relays=tuple(Relay(each.cidr, each.via, each.gateways, each.vrf) for each in relays),
            serve=self.serve == "auto",
        )
