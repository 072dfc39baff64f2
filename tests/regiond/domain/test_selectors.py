"""Selectors: every form, every mistake with its position, and what they mean among real-looking interfaces."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.addresses import canonical_address
from clusterd.protocol.values import parse_network
from regiond.domain.errors import AmbiguousSelector, BadSelector, NoSuchClusterInterface
from regiond.domain.ids import Prefix, format_id
from regiond.domain.selectors import (
    KEYS,
    MAX_CANDIDATES,
    MAX_SELECTOR_LENGTH,
    Selector,
    matching_interfaces,
    parse_selector,
    resolve,
)
from regiond.domain.views import InterfaceView

INTERFACE_7 = format_id(Prefix.CLUSTER_INTERFACE, 7)
SUBNET_7 = format_id(Prefix.SUBNET, 7)
CLUSTER_7 = format_id(Prefix.CLUSTER, 7)


@dataclass(frozen=True)
class Subnet:
    id: int
    cidr: str
    vrf: str = "default"


def interface(number: int, cluster: str, nic: str, cidr: str, subnet: int | None, **more: object) -> InterfaceView:
    view = InterfaceView(
        id=number,
        cluster=1 + sum(cluster.encode()),
        cluster_name=cluster,
        nic=nic,
        cidr=cidr,
        vrf="default",
        subnet=subnet,
        addresses=(),
        gateways=(),
        mac=None,
        kind="physical",
        vlan=None,
        up=True,
        present=True,
        serving="serving",
    )
    return replace(view, **more)  # type: ignore[arg-type]


# ---- reading ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.0/24", Selector(cidr="192.0.2.0/24")),
        ("2001:DB8:0::/64", Selector(cidr="2001:db8::/64")),
        ("::/0", Selector(cidr="::/0")),
        ("fe80::/10", Selector(cidr="fe80::/10")),
        ("rack-a:eth1", Selector(cluster="rack-a", nic="eth1")),
        ("Rack-A:Eth1", Selector(cluster="rack-a", nic="Eth1")),
        ("rack-a:eth0.100", Selector(cluster="rack-a", nic="eth0.100")),
        ("2001:db8", Selector(cluster="2001", nic="db8")),
        (f"{CLUSTER_7}:eth1", Selector(cluster=CLUSTER_7, nic="eth1")),
        (INTERFACE_7, Selector(id=7)),
        (f" {INTERFACE_7.upper()} ", Selector(id=7)),
        ("cluster:rack-a,nic:eth1,family:6", Selector(cluster="rack-a", nic="eth1", family=6)),
        ("cluster:vlan,nic:vrf", Selector(cluster="vlan", nic="vrf")),
        ("ip:192.0.2.7", Selector(ip="192.0.2.7")),
        ("ip:2001:db8::0001", Selector(ip="2001:db8::1")),
        ("ip:::1", Selector(ip="::1")),
        ("vlan:12", Selector(vlan=12)),
        ("vrf:blue,cidr:10.0.0.0/24", Selector(vrf="blue", cidr="10.0.0.0/24")),
        ("cidr:2001:db8::/64", Selector(cidr="2001:db8::/64")),
        (f"subnet:{SUBNET_7}", Selector(subnet=7)),
        (f"id:{INTERFACE_7}", Selector(id=7)),
        ("10.0.0.0/24,vrf:blue", Selector(cidr="10.0.0.0/24", vrf="blue")),
        ("rack-a:eth1,2001:db8::/64", Selector(cluster="rack-a", nic="eth1", cidr="2001:db8::/64")),
        (" rack-a : eth1 , VLAN : 12 ", Selector(cluster="rack-a", nic="eth1", vlan=12)),
    ],
)
def test_forms(text: str, expected: Selector) -> None:
    assert parse_selector(text) == expected


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        (",", 0, "missing"),
        ("rack-a:eth1,", 12, "missing"),
        ("rack-a", 0, "no network"),
        ("rack-a:", 7, "nic needs a value"),
        (":eth1", 0, "cluster needs a value"),
        ("rack a:eth1", 0, "not a name"),
        ("rack-a:eth 1", 7, "not a NIC name"),
        ("rack-a:eth1:2", 7, "not a NIC name"),
        ("rack-a:eth\ud800", 7, "not a NIC name"),
        ("192.0.2.7", 0, "ip:192.0.2.7"),
        ("2001:db8::7", 0, "ip:2001:db8::7"),
        ("192.0.2.7/24", 0, "host bits"),
        ("192.0.2.0/33", 0, "CIDR"),
        ("vlan:12,192.0.2.0/", 8, "CIDR"),
        ("vlan", 0, "needs a value"),
        ("vlan:", 5, "needs a value"),
        ("vlan:0", 5, "1 to 4094"),
        ("vlan: 4095", 6, "1 to 4094"),
        ("vlan:١٢", 5, "1 to 4094"),
        ("family:5", 7, "4 or 6"),
        ("ip:300.1.1.1", 3, "not an IP address"),
        (f"subnet:{INTERFACE_7}", 7, "sn-"),
        (f"id:{SUBNET_7}", 3, "ci-"),
        (SUBNET_7, 0, "subnet:sn-"),
        ("vlan:1,vlan:1", 7, "twice"),
        ("rack-a:eth1,nic:eth2", 12, "twice"),
        ("10.0.0.0/24, 10.0.1.0/24", 13, "twice"),
        ("cluster:rack-a,nick:eth1", 15, r"'nick' is no key \(cluster, nic,"),
        ("x" * (MAX_SELECTOR_LENGTH + 1), MAX_SELECTOR_LENGTH, "at most"),
    ],
)
def test_mistakes_name_their_position(text: str, position: int, says: str) -> None:
    with pytest.raises(BadSelector, match=says) as caught:
        parse_selector(text)
    assert caught.value.members == {"position": position}
    assert f"at position {position}" in caught.value.detail


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)
NICS = st.text(st.characters(exclude_categories=("Z", "C"), exclude_characters="/:,"), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and not any(c.isspace() for c in text)
)
CIDRS = st.one_of(
    st.builds(
        lambda a, n: f"{IPv4Address(a >> (32 - n) << (32 - n) & 0xFFFFFFFF)}/{n}",
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda a, n: f"{IPv6Address(a >> (128 - n) << (128 - n))}/{n}",
        st.integers(2**112, 2**128 - 1),
        st.integers(0, 128),
    ),
).map(parse_network)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(lambda a: canonical_address(str(a)))
NUMBERS = st.integers(0, 2**50 - 1)


@st.composite
def selectors(draw: st.DrawFn) -> Selector:
    strategies = {
        "cluster": NAMES | NUMBERS.map(lambda n: format_id(Prefix.CLUSTER, n)) | st.sampled_from(KEYS),
        "nic": NICS | st.sampled_from(KEYS),
        "cidr": CIDRS,
        "ip": ADDRESSES,
        "vlan": st.integers(1, 4094),
        "vrf": NAMES,
        "family": st.sampled_from([4, 6]),
        "subnet": NUMBERS,
        "id": NUMBERS,
    }
    assert set(strategies) == set(KEYS)
    chosen = draw(st.sets(st.sampled_from(KEYS), min_size=1))
    return Selector(**{key: draw(strategies[key]) for key in chosen})  # type: ignore[arg-type]


@given(selectors())
def test_what_is_written_is_read_back(selector: Selector) -> None:
    assert parse_selector(str(selector)) == selector


def read_or_position(text: str) -> Selector | int:
    try:
        return parse_selector(text)
    except BadSelector as error:
        position: int = error.members["position"]
        return position


@given(
    st.text(st.characters(codec=None), max_size=40)
    | st.text(alphabet="abcdefinkprstuvw0123456789:/,.- ", max_size=60)
    | st.lists(st.sampled_from(KEYS) | NAMES | CIDRS | st.sampled_from([":", ",", "/", " "]), max_size=9).map("".join)
)
def test_any_text_is_read_or_refused_with_a_position_inside_it(text: str) -> None:
    read = read_or_position(text)
    if isinstance(read, int):
        assert 0 <= read <= len(text)
    else:
        assert parse_selector(str(read)) == read


# ---- meaning ----

SUBNETS = [
    Subnet(1, "192.0.2.0/24"),
    Subnet(2, "2001:db8::/64"),
    Subnet(3, "10.0.0.0/24"),
    Subnet(4, "10.0.0.0/24", "blue"),
    Subnet(5, "198.51.100.0/24"),
]
INTERFACES = [
    interface(11, "rack-a", "eth1", "192.0.2.0/24", 1),
    interface(12, "rack-a", "eth1", "2001:db8::/64", 2),
    interface(13, "rack-b", "eth1", "192.0.2.0/24", 1, serving="shared-subnet"),
    interface(14, "rack-a", "eth0.12", "10.0.0.0/24", 3, vlan=12),
    interface(15, "site-b", "eth0", "10.0.0.0/24", 4, vrf="blue", vlan=12),
    interface(16, "rack-a", "eth5", "192.0.2.0/25", None, serving="conflict"),
    interface(17, "rack-a", "eth9", "198.51.100.0/24", 5, present=False),
]


@pytest.mark.parametrize(
    ("text", "subnet"),
    [
        ("192.0.2.0/24", 1),
        ("2001:db8::/64", 2),
        ("198.51.100.0/24", 5),
        ("rack-b:eth1", 1),
        ("cluster:rack-a,nic:eth1,family:6", 2),
        ("rack-a:eth1,family:4", 1),
        ("rack-a:eth1,2001:db8::/64", 2),
        ("rack-a:eth1,ip:192.0.2.200", 1),
        ("nic:eth1,family:4", 1),
        ("ip:192.0.2.7", 1),
        ("ip:2001:db8::7", 2),
        ("vrf:blue", 4),
        ("vrf:blue,cidr:10.0.0.0/24", 4),
        ("vlan:12,vrf:default", 3),
        (f"subnet:{format_id(Prefix.SUBNET, 3)}", 3),
        (format_id(Prefix.CLUSTER_INTERFACE, 15), 4),
        (format_id(Prefix.CLUSTER_INTERFACE, 17), 5),
        (f"{format_id(Prefix.CLUSTER, INTERFACES[4].cluster)}:eth0", 4),
    ],
)
def test_one_subnet_is_meant(text: str, subnet: int) -> None:
    assert resolve(parse_selector(text), INTERFACES, SUBNETS) == subnet


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("203.0.113.0/24", "192.0.2.0/24 in default"),
        ("192.0.2.0/25", "no subnet is cidr:192.0.2.0/25"),
        ("192.0.2.0/24,family:6", "no subnet is"),
        ("ip:203.0.113.1", "no subnet is"),
        ("rack-z:eth1", "no cluster rack-z.*rack-a, rack-b, site-b"),
        ("rack-a:eth7", "NICs of rack-a are: eth0.12, eth1, eth5"),
        ("rack-a:eth5", "conflict"),
        (format_id(Prefix.CLUSTER_INTERFACE, 16), "conflict"),
        ("rack-a:eth9", "not there any more"),
        ("rack-a:eth9,198.51.100.0/24", "not there any more"),
        ("vlan:13", "no cluster interface is vlan:13"),
        (f"subnet:{format_id(Prefix.SUBNET, 99)}", "no subnet is"),
        (format_id(Prefix.CLUSTER_INTERFACE, 99), "no cluster interface is"),
    ],
)
def test_nothing_is_meant(text: str, says: str) -> None:
    with pytest.raises(NoSuchClusterInterface, match=says):
        resolve(parse_selector(text), INTERFACES, SUBNETS)


def test_the_networks_of_one_nic_are_candidates() -> None:
    with pytest.raises(AmbiguousSelector, match="2 subnets") as caught:
        resolve(parse_selector("rack-a:eth1"), INTERFACES, SUBNETS)
    candidates = caught.value.members["candidates"]
    assert [(c.id, c.cluster, c.nic, c.cidr, c.vrf) for c in candidates] == [
        (format_id(Prefix.CLUSTER_INTERFACE, 11), "rack-a", "eth1", "192.0.2.0/24", "default"),
        (format_id(Prefix.CLUSTER_INTERFACE, 12), "rack-a", "eth1", "2001:db8::/64", "default"),
    ]


def test_a_network_in_two_vrfs_is_ambiguous_and_a_subnet_without_a_cluster_stands_for_itself() -> None:
    with pytest.raises(AmbiguousSelector) as caught:
        resolve(parse_selector("10.0.0.0/24"), INTERFACES[:4], SUBNETS)
    candidates = caught.value.members["candidates"]
    assert [(c.id, c.cluster, c.vrf) for c in candidates] == [
        (format_id(Prefix.CLUSTER_INTERFACE, 14), "rack-a", "default"),
        (format_id(Prefix.SUBNET, 4), None, "blue"),
    ]


def test_candidates_are_bounded_and_each_is_a_selector() -> None:
    many = [Subnet(n, f"10.{n}.0.0/16") for n in range(1, 200)]
    with pytest.raises(AmbiguousSelector, match=f"199 subnets.*first {MAX_CANDIDATES}") as caught:
        resolve(parse_selector("family:4"), [], many)
    candidates = caught.value.members["candidates"]
    assert len(candidates) == MAX_CANDIDATES
    assert resolve(parse_selector(f"subnet:{candidates[3].id}"), [], many) == 4


def test_matching_interfaces_are_what_a_selector_would_mean() -> None:
    assert [i.id for i in matching_interfaces(parse_selector("192.0.2.0/24"), INTERFACES)] == [11, 13]
    assert matching_interfaces(parse_selector("rack-a:eth5"), INTERFACES) == []
    assert [i.id for i in matching_interfaces(parse_selector("vlan:12"), INTERFACES)] == [14, 15]
