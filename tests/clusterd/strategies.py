"""Hypothesis strategies for the values of the link."""

from hypothesis import strategies as st

from clusterd.protocol.addresses import pack_address, unpack_address
from clusterd.protocol.leases import MAX_EXPIRY, ServerLease
from clusterd.protocol.values import (
    AddressInUse,
    HeldSubnet,
    HostMap,
    Identifier,
    IdentifierKind,
    InterfaceReport,
    NicKind,
    RejectedMap,
    ServerEntry,
    ServerPool,
    format_mac,
)

V4_MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"

generations = st.integers(0, (1 << 63) - 1)
digests = st.integers(0, (1 << 64) - 1)
v4_addresses = st.binary(min_size=4, max_size=4).map(unpack_address)
v6_addresses = (
    st.binary(min_size=16, max_size=16).filter(lambda b: not b.startswith(V4_MAPPED_PREFIX)).map(unpack_address)
)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
hostnames = st.lists(labels, min_size=1, max_size=3).map(".".join)

mac_octets = st.binary(min_size=6, max_size=6).map(lambda b: bytes([b[0] & 0xFE]) + b[1:]).filter(any)
macs = mac_octets.map(lambda octets: Identifier(IdentifierKind.MAC, octets))
client_ids = st.binary(min_size=2, max_size=255).map(lambda octets: Identifier(IdentifierKind.CLIENT_ID, octets))
duids = st.binary(min_size=3, max_size=130).map(lambda octets: Identifier(IdentifierKind.DUID, octets))
identifiers = st.one_of(macs, client_ids, duids)

v4_maps = st.builds(HostMap, st.one_of(macs, client_ids), v4_addresses, st.none() | hostnames)
v6_maps = st.builds(HostMap, st.one_of(macs, duids), v6_addresses, st.none() | hostnames)
host_maps = st.one_of(v4_maps, v6_maps)

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
rejected_maps = st.builds(RejectedMap, identifiers, text)
ids = st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True)
held_subnets = st.builds(HeldSubnet, ids, generations, generations, digests)
networks = st.builds(
    lambda octets, length: (
        f"{unpack_address((int.from_bytes(octets) >> (32 - length) << (32 - length)).to_bytes(4))}/{length}"
    ),
    st.binary(min_size=4, max_size=4),
    st.integers(1, 32),
)
interfaces = st.builds(
    InterfaceReport,
    nic=st.from_regex(r"[a-z][a-z0-9.]{0,14}", fullmatch=True),
    cidr=networks,
    addresses=st.lists(v4_addresses, max_size=3).map(tuple),
    gateways=st.lists(v4_addresses, max_size=2).map(tuple),
    mac=st.none() | mac_octets.map(format_mac),
    kind=st.sampled_from(NicKind),
    vlan=st.none() | st.integers(1, 4094),
    up=st.booleans(),
    vrf=st.none() | st.sampled_from(["blue", "site-2"]),
    relayed=st.booleans(),
    serve=st.booleans(),
)
addresses_in_use = st.builds(AddressInUse, v4_addresses | v6_addresses, mac_octets.map(format_mac))
server_pools = st.one_of(st.tuples(v4_addresses, v4_addresses, text), st.tuples(v6_addresses, v6_addresses, text)).map(
    lambda ends: ServerPool(min(ends[:2], key=pack_address), max(ends[:2], key=pack_address), ends[2])
)
server_leases = st.builds(
    ServerLease,
    v4_addresses | v6_addresses,
    st.lists(identifiers, max_size=3).map(tuple),
    st.none() | text,
    st.none() | st.integers(0, MAX_EXPIRY),
)
server_entries = st.builds(
    ServerEntry,
    v4_addresses | v6_addresses,
    st.lists(identifiers, max_size=3).map(tuple),
    st.none() | hostnames,
    text,
)
