"""ARP and neighbour discovery as bytes: what is asked, what is understood, and that nothing else is."""

import struct
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from clusterd.probing import arp, neighbour_discovery
from clusterd.probing.neighbour_discovery import internet_checksum, pseudo_header

MAC = bytes.fromhex("00163e000001")
OTHER = bytes.fromhex("00163e000002")
V4 = IPv4Address("192.0.2.7").packed
V6 = IPv6Address("2001:db8::1:2:3").packed

macs = st.binary(min_size=6, max_size=6)
v4_addresses = st.binary(min_size=4, max_size=4).filter(any)
v6_addresses = st.binary(min_size=16, max_size=16).filter(lambda address: address[0] != 0xFF)


def arp_frame(operation: int, mac: bytes, sender: bytes, target: bytes = V4) -> bytes:
    """As RFC 826 lays it out, by hand, and padded to Ethernet's least length."""
    ethernet = b"\xff" * 6 + mac + b"\x08\x06"
    body = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2) + mac + sender + bytes(6) + target
    return (ethernet + body).ljust(60, b"\0")


def advertisement(
    target: bytes,
    mac: bytes,
    *,
    options: bytes | None = None,
    hops: int = 255,
    code: int = 0,
    kind: int = 136,
    flags: int = 0x20,
    destination: bytes = IPv6Address("ff02::1").packed,
    wrong: int = 0,
) -> bytes:
    """As RFC 4861, 4.4, lays it out, by hand. `wrong` is added to the checksum."""
    source = IPv6Address("fe80::1").packed
    told = b"\x02\x01" + mac if options is None else options
    head = bytes([kind, code])
    rest = bytes([flags, 0, 0, 0]) + target + told
    checksum = internet_checksum(pseudo_header(source, destination, 4 + len(rest)) + head + b"\0\0" + rest)
    message = head + ((checksum + wrong) & 0xFFFF).to_bytes(2) + rest
    ip = b"\x60\0\0\0" + struct.pack("!HBB", len(message), 58, hops) + source + destination
    return b"\x33\x33\0\0\0\1" + OTHER + b"\x86\xdd" + ip + message


@given(macs, v4_addresses)
def test_an_arp_probe_says_nothing_of_its_sender(mac: bytes, address: bytes) -> None:
    asked = arp.probe(mac, address)
    assert asked == arp_frame(1, mac, bytes(4), address)[: len(asked)]
    assert asked[28:32] == bytes(4), "the sender's address (RFC 5227, 2.1.1)"
    assert arp.claimed(asked) is None


@given(st.sampled_from([1, 2]), macs, v4_addresses, v4_addresses)
def test_whoever_speaks_arp_has_its_address(operation: int, mac: bytes, address: bytes, target: bytes) -> None:
    assert arp.claimed(arp_frame(operation, mac, address, target)) == (address, mac)


@given(st.binary(max_size=100))
def test_anything_else_is_no_arp(noise: bytes) -> None:
    for frame in (noise, arp_frame(2, MAC, V4)[:14] + noise, arp_frame(2, MAC, V4)[: len(noise) % 42]):
        said = arp.claimed(frame)
        assert said is None or (len(frame) >= 42 and said == (frame[28:32], frame[22:28]))


def test_arp_of_other_kinds() -> None:
    frame = arp_frame(2, MAC, V4)
    for offset, value in ((12, 0x86), (15, 6), (16, 0x86), (18, 8), (19, 16), (21, 8)):
        changed = bytearray(frame)
        changed[offset] = value
        assert arp.claimed(bytes(changed)) is None, offset


@given(macs, v6_addresses)
def test_a_solicitation_is_that_of_a_host_without_an_address(mac: bytes, address: bytes) -> None:
    asked = neighbour_discovery.solicitation(mac, address)
    ethernet, ip, message = asked[:14], asked[14:54], asked[54:]
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + address[13:]
    assert ethernet == b"\x33\x33" + group[12:] + mac + b"\x86\xdd"
    assert ip == b"\x60\0\0\0" + b"\0\x18\x3a\xff" + bytes(16) + group, "hop limit 255, from nobody"
    assert (message[:2], message[4:]) == (b"\x87\0", bytes(4) + address), (
        "no option: there is no source (RFC 4861, 4.3)"
    )
    assert internet_checksum(pseudo_header(bytes(16), group, 24) + message) == 0
    assert neighbour_discovery.advertised(asked) is None


@given(v6_addresses, macs)
def test_an_advertisement_tells_who_has_an_address(target: bytes, mac: bytes) -> None:
    assert neighbour_discovery.advertised(advertisement(target, mac)) == (target, mac)
    assert neighbour_discovery.advertised(advertisement(target, mac).ljust(120, b"\0")) == (target, mac)
    assert neighbour_discovery.advertised(advertisement(target, mac, options=b"")) == (target, OTHER)
    other_first = b"\x0e\x01" + bytes(6) + b"\x02\x01" + mac
    assert neighbour_discovery.advertised(advertisement(target, mac, options=other_first)) == (target, mac)


def test_what_has_to_be_dropped_is_dropped() -> None:
    good = advertisement(V6, MAC)
    assert neighbour_discovery.advertised(good) == (V6, MAC)
    dropped = [
        advertisement(V6, MAC, hops=254),
        advertisement(V6, MAC, code=1),
        advertisement(V6, MAC, kind=135),
        advertisement(V6, MAC, wrong=1),
        advertisement(V6, MAC, flags=0x60),  # solicited, and to everybody
        advertisement(IPv6Address("ff02::7").packed, MAC),
        advertisement(V6, MAC, options=b"\x02\x00" + MAC),
        advertisement(V6, MAC, options=b"\x02\x02" + MAC),
        good[:-1],
        good[:12] + b"\x08\x00" + good[14:],
        good[:14] + b"\x40" + good[15:],
        good[:20] + b"\x11" + good[21:],
    ]
    for number, frame in enumerate(dropped):
        assert neighbour_discovery.advertised(frame) is None, number
    to_us = IPv6Address("fe80::9").packed
    assert neighbour_discovery.advertised(advertisement(V6, MAC, flags=0x60, destination=to_us)) == (V6, MAC)


@given(st.binary(max_size=120), st.integers(0, 86))
def test_noise_is_no_advertisement(noise: bytes, kept: int) -> None:
    assert neighbour_discovery.advertised(noise) is None or len(noise) >= 78
    cut = advertisement(V6, MAC)[:kept] + noise
    assert neighbour_discovery.advertised(cut) in (None, (V6, MAC))


@given(st.binary(max_size=64).filter(lambda data: len(data) % 2 == 0))
def test_data_with_their_checksum_have_none(data: bytes) -> None:
    assert internet_checksum(data + internet_checksum(data).to_bytes(2)) == 0
