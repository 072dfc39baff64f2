"""IPv6 host maps as host declarations of dhcpd.conf(5), rendered and parsed; pure.

    host hostmap-id-0003000100163e000003-20010db8000000010000000000000013 { host-identifier option dhcp6.client-id
        00:03:00:01:00:16:3e:00:00:03; fixed-address6 2001:db8:0:1::13; } # web3

One line for each host map. By MAC address dhcpd recognises a client whose DUID was made from that address (RFC 8415,
11.2 and 11.4). DHCPv6 has no option for a host name of the server's choosing: it is written down as a comment.
"""

import re
from collections.abc import Iterable

from clusterd.dhcp.isc.hosts import PREFIX
from clusterd.protocol.addresses import pack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, parse_hex, parse_mac

OWNER_MARK = "# Host maps written by clusterd."
HEADER = (
    f"{OWNER_MARK} This file is rewritten whenever an IPv6 host map changes.\n"
    "# Changes made here by hand are undone: claim and release addresses at the region instead.\n"
)

_LINE = re.compile(
    r"host \S+ \{ "
    r"(?:hardware ethernet (?P<mac>[0-9a-f:]+)|host-identifier option dhcp6\.client-id (?P<duid>[0-9a-f:]+));"
    r" fixed-address6 (?P<address>[0-9a-f:.]+); \}(?: # (?P<name>[a-z0-9.-]+))?"
)


def render(host_maps: Iterable[HostMap]) -> str:
    """The whole file; the same set gives the same text."""
    lines = sorted(_line(host_map) for host_map in host_maps)
    return HEADER + "".join(f"{line}\n" for line in lines)


def parse(text: str) -> frozenset[HostMap] | None:
    """The host maps in a file as `render` writes it; lines that are none are passed over.

    None when the file was not written by clusterd. An empty one is what somebody made for us to fill.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and not lines[0].startswith(OWNER_MARK):
        return None
    return frozenset(host_map for line in lines if (host_map := _parse_line(line)) is not None)


def _line(host_map: HostMap) -> str:
    identifier = host_map.identifier
    address = pack_address(host_map.address).hex()
    if identifier.kind is IdentifierKind.MAC:
        name, client = identifier.value.hex("-"), f"hardware ethernet {identifier.text}"
    else:
        name, client = f"id-{identifier.value.hex()}", f"host-identifier option dhcp6.client-id {identifier.text}"
    comment = f" # {host_map.hostname}" if host_map.hostname is not None else ""
    return f"host {PREFIX}{name}-{address} {{ {client}; fixed-address6 {host_map.address}; }}{comment}"


def _parse_line(line: str) -> HostMap | None:
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    try:
        if found["mac"] is not None:
            identifier = Identifier(IdentifierKind.MAC, parse_mac(found["mac"]))
        else:
            identifier = Identifier(IdentifierKind.DUID, parse_hex(found["duid"]))
        return HostMap(identifier, found["address"], found["name"])
    except ValueError:
        return None
