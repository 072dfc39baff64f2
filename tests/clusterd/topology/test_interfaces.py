"""From kernel facts to cluster interfaces."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.protocol.values import InterfaceReport, NicKind
from clusterd.topology.interfaces import Relay, TopologySettings, interface_reports, relays_without_nic
from clusterd.topology.netlink import (
    InterfaceAddress,
    KernelFacts,
    Link,
    parse_addresses,
    parse_gateways,
    parse_links,
)
from tests.clusterd.kernel_networks import DUMPS

ETH0 = Link(2, "eth0", mac=bytes.fromhex("00163e000002"))
DEFAULTS = TopologySettings()


def on(index: int, *cidrs: str) -> tuple[InterfaceAddress, ...]:
    """Addresses with prefix lengths on one device."""
    pairs = (cidr.split("/") for cidr in cidrs)
    return tuple(InterfaceAddress(index, address, int(length)) for address, length in pairs)


def reports_of(
    *addresses: InterfaceAddress,
    links: tuple[Link, ...] = (ETH0,),
    gateways: tuple[str, ...] = (),
    settings: TopologySettings = DEFAULTS,
) -> tuple[InterfaceReport, ...]:
    return interface_reports(KernelFacts(links, addresses, frozenset(gateways)), settings)


def test_two_ipv4_and_three_ipv6_networks_on_one_nic_are_five_interfaces() -> None:
    cidrs = ("198.51.100.2/25", "192.0.2.2/24", "2001:db8:3::2/64", "2001:db8:1::2/64", "2001:db8:2::2/56")
    reports = reports_of(*on(2, *cidrs))
    assert [report.cidr for report in reports] == [
        "192.0.2.0/24",
        "198.51.100.0/25",
        "2001:db8:1::/64",
        "2001:db8:2::/56",
        "2001:db8:3::/64",
    ]
    assert {report.nic for report in reports} == {"eth0"}
    assert {report.mac for report in reports} == {"00:16:3e:00:00:02"}


def test_two_addresses_in_one_network_are_one_interface() -> None:
    (report,) = reports_of(*on(2, "192.0.2.3/24", "192.0.2.2/24"))
    assert report == InterfaceReport("eth0", "192.0.2.0/24", ("192.0.2.2", "192.0.2.3"), mac="00:16:3e:00:00:02")


def test_addresses_without_a_network_of_their_own_are_named_where_they_lie() -> None:
    links = (ETH0, Link(1, "lo", loopback=True), Link(9, "docker0", "bridge"), Link(3, "eth1"))
    reports = reports_of(
        *on(2, "192.0.2.2/24", "192.0.2.9/32", "2001:db8::2/64", "2001:db8::9/128"),
        *on(1, "127.0.0.1/8", "192.0.2.250/32", "203.0.113.1/32"),
        *on(9, "192.0.2.129/25"),
        *on(3, "192.0.2.77/24"),
        links=links,
    )
    assert [(report.nic, report.addresses) for report in reports] == [
        ("eth0", ("192.0.2.129", "192.0.2.2", "192.0.2.250", "192.0.2.9")),
        ("eth0", ("2001:db8::2", "2001:db8::9")),
        ("eth1", ("192.0.2.129", "192.0.2.250", "192.0.2.77", "192.0.2.9")),
    ]


@pytest.mark.parametrize(
    "cidr",
    ["192.0.2.2/32", "2001:db8::2/128", "127.0.0.1/8", "::1/128", "169.254.3.4/16", "fe80::1/64", "192.0.2.2/0",
     "::ffff:192.0.2.2/24"],
)  # fmt: skip
def test_addresses_that_span_no_network_to_serve(cidr: str) -> None:
    assert reports_of(*on(2, cidr)) == ()


def test_temporary_unready_and_point_to_point_addresses_span_none() -> None:
    (address,) = on(2, "2001:db8::2/64")
    assert len(reports_of(address)) == 1
    assert reports_of(replace(address, temporary=True)) == ()
    assert reports_of(replace(address, usable=False)) == ()
    assert reports_of(replace(address, point_to_point=True)) == ()


def test_gateways_are_the_next_hops_inside_the_network() -> None:
    first, second = reports_of(
        *on(2, "192.0.2.2/24", "2001:db8::2/64"),
        gateways=("192.0.2.254", "192.0.2.1", "198.51.100.1", "fe80::1", "2001:db8::1", "2001:db8:1::1"),
    )
    assert first.gateways == ("192.0.2.1", "192.0.2.254")
    assert second.gateways == ("2001:db8::1",)


@pytest.mark.parametrize(
    ("link", "kind", "vlan"),
    [
        (Link(2, "eno1"), NicKind.PHYSICAL, None),
        (Link(2, "eno1.7", "vlan", vlan=7), NicKind.VLAN, 7),
        (Link(2, "priority", "vlan", vlan=0), NicKind.VLAN, None),
        (Link(2, "bond0", "bond"), NicKind.BOND, None),
        (Link(2, "br-lan", "bridge"), NicKind.BRIDGE, None),
        (Link(2, "dummy0", "dummy"), NicKind.OTHER, None),
    ],
)
def test_kinds(link: Link, kind: NicKind, vlan: int | None) -> None:
    (report,) = reports_of(*on(2, "192.0.2.2/24"), links=(link,))
    assert (report.kind, report.vlan) == (kind, vlan)


@pytest.mark.parametrize(
    "mac", [None, bytes(6), bytes.fromhex("010000000001"), b"four"], ids=["none", "zeros", "multicast", "short"]
)
def test_a_nic_without_a_mac_of_its_own_still_counts(mac: bytes | None) -> None:
    (report,) = reports_of(*on(2, "192.0.2.2/24"), links=(replace(ETH0, mac=mac, up=False),))
    assert report.mac is None
    assert not report.up


def test_a_slave_without_addresses_gives_nothing_and_its_bond_does() -> None:
    slave, bond = Link(2, "eth0", master=5), Link(5, "bond0", "bond")
    assert [report.nic for report in reports_of(*on(5, "192.0.2.2/24"), links=(slave, bond))] == ["bond0"]


@pytest.mark.parametrize(
    "link",
    [
        Link(2, "lo", loopback=True),
        Link(2, "veth1234"),
        Link(2, "uplink", "veth"),
        Link(2, "docker0", "bridge"),
        Link(2, "br-0123456789ab", "bridge"),
        Link(2, "virbr0", "bridge"),
        Link(2, "cni0", "bridge"),
        Link(2, "office", "wireguard"),
        Link(2, "tun0", "tun"),
        Link(2, "he-ipv6", "sit"),
    ],
    ids=lambda link: link.name,
)
def test_nics_ignored_by_default_and_watched_when_asked(link: Link) -> None:
    addresses = on(2, "192.0.2.2/24")
    assert reports_of(*addresses, links=(link,)) == ()
    watched = reports_of(*addresses, links=(link,), settings=TopologySettings(watched_nics=(link.name,)))
    assert len(watched) == (0 if link.loopback else 1)


def test_an_operators_bridge_is_not_dockers() -> None:
    assert len(reports_of(*on(2, "192.0.2.2/24"), links=(Link(2, "br-lan", "bridge"),))) == 1
    assert len(reports_of(*on(2, "192.0.2.2/24"), links=(Link(2, "br-provision1", "bridge"),))) == 1


def test_ignored_and_watched_patterns() -> None:
    settings = TopologySettings(ignored_nics=("eth*",), watched_nics=("eth0",))
    links = (ETH0, Link(3, "eth1"))
    reports = reports_of(*on(2, "192.0.2.2/24"), *on(3, "198.51.100.2/24"), links=links, settings=settings)
    assert [report.nic for report in reports] == ["eth0"]
    assert len(reports_of(*on(3, "198.51.100.2/24"), links=(Link(3, "ETH1"),), settings=settings)) == 1


def test_a_name_that_cannot_be_spoken_of_gives_nothing() -> None:
    for name in ("a,b", "e\u0001", "x" * 65):
        assert reports_of(*on(2, "192.0.2.2/24"), links=(Link(2, name),)) == ()


def test_an_address_whose_device_is_already_gone_is_passed_over() -> None:
    assert reports_of(*on(77, "192.0.2.2/24")) == ()


def test_a_recorded_host() -> None:
    facts = KernelFacts(
        parse_links((DUMPS / "links.bin").read_bytes()),
        parse_addresses((DUMPS / "addresses.bin").read_bytes()),
        parse_gateways((DUMPS / "routes.bin").read_bytes()),
    )
    assert interface_reports(facts, TopologySettings(watched_nics=("eth*",))) == (
        InterfaceReport(
            "br-lan",
            "203.0.113.128/25",
            ("203.0.113.129", "203.0.113.250"),
            ("203.0.113.130",),
            "00:16:3e:00:00:20",
            NicKind.BRIDGE,
        ),
        *(
            InterfaceReport("eth0", cidr, addresses, gateways, "00:16:3e:00:00:10", NicKind.OTHER)
            for cidr, addresses, gateways in (
                ("192.0.2.0/24", ("192.0.2.2", "192.0.2.3"), ("192.0.2.1", "192.0.2.254")),
                ("198.51.100.0/25", ("198.51.100.2",), ("198.51.100.1",)),
                ("2001:db8:1::/64", ("2001:db8:1::2", "2001:db8:1::beef"), ("2001:db8:1::1",)),
                ("2001:db8:2::/64", ("2001:db8:2::2",), ("2001:db8:2::1",)),
                ("2001:db8:3::/64", ("2001:db8:3::2",), ()),
            )
        ),
    )


# Few bits vary, so that addresses meet in networks.
v4_addresses = st.integers(0, 0x3FF).map(lambda low: str(ip_address(0xC0000200 + low)))
v6_addresses = st.integers(0, 0x3FF).map(lambda low: str(ip_address((0x20010DB8 << 96) + low)))
interface_addresses = st.one_of(
    st.builds(
        InterfaceAddress,
        st.integers(1, 4),
        v4_addresses,
        st.integers(0, 32),
        st.booleans(),
        point_to_point=st.booleans(),
    ),
    st.builds(
        InterfaceAddress,
        st.integers(1, 4),
        v6_addresses,
        st.integers(0, 128),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(InterfaceAddress, st.integers(1, 4), st.ip_addresses().map(str), st.integers(0, 32)),
)
link_sets = st.lists(
    st.builds(
        Link,
        index=st.integers(1, 4),
        name=st.sampled_from(["eth0", "bond0", "br-lan", "veth0", "lo", "a,b"]) | st.text(max_size=20),
        kind=st.sampled_from([None, "vlan", "bond", "bridge", "veth", "dummy"]),
        mac=st.none() | st.binary(min_size=6, max_size=6),
        loopback=st.booleans(),
        vlan=st.none() | st.integers(0, 4095),
    ),
    unique_by=(lambda link: link.index, lambda link: link.name),
).map(tuple)
facts_of_any_host = st.builds(
    KernelFacts,
    links=link_sets,
    addresses=st.lists(interface_addresses, max_size=12).map(tuple),
    gateways=st.frozensets(v4_addresses | v6_addresses | st.ip_addresses().map(str), max_size=6),
)


@given(facts_of_any_host, st.randoms(use_true_random=False))
def test_any_host_gives_each_network_of_each_nic_once_in_a_fixed_order(facts: KernelFacts, random: object) -> None:
    reports = interface_reports(facts, DEFAULTS)
    keys = [(report.nic, report.cidr) for report in reports]
    assert len(set(keys)) == len(keys)
    shuffled = KernelFacts(facts.links[::-1], facts.addresses[::-1], facts.gateways)
    assert interface_reports(shuffled, DEFAULTS) == reports
    by_nic = [(report.nic, ip_network(report.cidr).version, ip_network(report.cidr)) for report in reports]
    assert [key[:2] for key in by_nic] == sorted(key[:2] for key in by_nic)


@given(facts_of_any_host)
def test_every_report_is_about_its_network_and_complete(facts: KernelFacts) -> None:
    indices = {link.name: link.index for link in facts.links}
    for report in interface_reports(facts, DEFAULTS):
        network = ip_network(report.cidr)
        own = [address for address in facts.addresses if address.index == indices[report.nic]]
        assert any(str(ip_network(f"{one.address}/{one.prefix_length}", strict=False)) == report.cidr for one in own)
        assert all(ip_address(text) in network for text in report.addresses + report.gateways)
        for one in own:
            real = ip_address(one.address)
            special = real.is_loopback or real.is_link_local
            mapped = real.version == 6 and real.ipv4_mapped is not None
            if one.usable and not one.temporary and not special and not mapped and real in network:
                assert one.address in report.addresses
        for gateway in facts.gateways:
            assert (ip_address(gateway) in network) == (gateway in report.gateways)


@given(facts_of_any_host)
def test_every_network_of_a_watched_nic_is_reported(facts: KernelFacts) -> None:
    reported = {(report.nic, report.cidr) for report in interface_reports(facts, DEFAULTS)}
    names = {link.index: link.name for link in facts.links if link.name in ("eth0", "bond0") and not link.loopback}
    kinds = {link.index: link.kind for link in facts.links}
    for address in facts.addresses:
        plain = address.usable and not address.temporary and not address.point_to_point
        documentation = address.address.startswith(("192.0.", "2001:db8:"))
        full = 32 if address.family == 4 else 128
        if plain and documentation and 0 < address.prefix_length < full and address.index in names:
            cidr = str(ip_network(f"{address.address}/{address.prefix_length}", strict=False))
            assert ((names[address.index], cidr) in reported) == (kinds[address.index] != "veth")


# ---- what the configuration adds ----


def test_a_relayed_network_is_reported_on_the_nic_by_which_its_requests_come() -> None:
    vlan = Link(5, "eth0.7", "vlan", bytes.fromhex("00163e000002"), up=False, vlan=7, parent=2)
    relay = Relay("10.5.0.0/24", "eth0.7", ("10.5.0.1",))
    reports = reports_of(
        *on(2, "192.0.2.2/24", "10.5.0.7/32"),
        links=(ETH0, vlan),
        gateways=("192.0.2.1", "10.5.0.254"),
        settings=TopologySettings(relays=(relay,)),
    )
    assert [(each.nic, each.cidr, each.relayed) for each in reports] == [
        ("eth0", "192.0.2.0/24", False),
        ("eth0.7", "10.5.0.0/24", True),
    ]
    relayed = reports[1]
    assert (relayed.kind, relayed.vlan, relayed.mac, relayed.up) == (NicKind.VLAN, 7, "00:16:3e:00:00:02", False)
    assert (relayed.addresses, relayed.gateways) == (("10.5.0.7",), ("10.5.0.1", "10.5.0.254"))


def test_a_relay_whose_nic_is_missing_is_reported_as_down_and_one_by_an_ignored_nic_as_it_is() -> None:
    tunnel = Link(7, "wg0", "wireguard")
    relays = (Relay("10.5.0.0/24", "eth9"), Relay("10.6.0.0/24", "wg0"), Relay("2001:db8:5::/64", "wg0"))
    settings = TopologySettings(relays=relays)
    reports = reports_of(links=(tunnel,), settings=settings)
    assert [(each.nic, each.cidr, each.up) for each in reports] == [
        ("eth9", "10.5.0.0/24", False),
        ("wg0", "10.6.0.0/24", True),
        ("wg0", "2001:db8:5::/64", True),
    ]
    assert relays_without_nic(KernelFacts((tunnel,)), settings) == relays[:1]


def test_a_network_that_the_nic_is_on_is_not_relayed_there() -> None:
    settings = TopologySettings(relays=(Relay("192.0.2.0/24", "eth0", ("192.0.2.1",)),))
    (report,) = reports_of(*on(2, "192.0.2.2/24"), settings=settings)
    assert not report.relayed
    other = TopologySettings(relays=(Relay("192.0.2.0/24", "eth1"),))
    direct, relayed = reports_of(*on(2, "192.0.2.2/24"), settings=other)
    assert (direct.nic, relayed.nic, relayed.relayed) == ("eth0", "eth1", True)


def test_the_vrf_of_a_nic_and_of_a_relay() -> None:
    links = (ETH0, Link(3, "eth1"))
    settings = TopologySettings(
        vrfs=(("eth*", "blue"), ("eth1", "green")),
        relays=(Relay("10.5.0.0/24", "eth1"), Relay("10.6.0.0/24", "eth1", vrf="red")),
        serve=False,
    )
    reports = reports_of(*on(2, "192.0.2.2/24"), *on(3, "198.51.100.2/24"), links=links, settings=settings)
    assert {each.cidr: each.vrf for each in reports} == {
        "192.0.2.0/24": "blue",
        "198.51.100.0/24": "green",
        "10.5.0.0/24": "green",
        "10.6.0.0/24": "red",
    }
    assert not any(each.serve for each in reports)
