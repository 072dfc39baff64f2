"""Host maps as Kea's reservations (JSON objects of its configuration and its commands), both ways; pure.

    {"hw-address": "00:16:3e:00:00:01", "ip-address": "192.0.2.10", "hostname": "web1", "user-context": …}
    {"client-id": "01:00:16:3e:00:00:03", "ip-address": "192.0.2.12", …}
    {"duid": "00:03:00:01:00:16:3e:00:00:04", "ip-addresses": ["2001:db8::10"], …}

Identifiers are always hex. The user context says whose they are: Kea keeps it with the reservation, whatever it is kept
in, and has no use of its own for it.
"""

from collections.abc import Mapping
from typing import Any

from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, parse_hex

OWNER = {"managed-by": "hostmap"}
OWNER_TEXT = '{ "managed-by": "hostmap" }'  # as Kea itself would write it

IDENTIFIER_NAMES = {
    IdentifierKind.MAC: "hw-address",
    IdentifierKind.CLIENT_ID: "client-id",
    IdentifierKind.DUID: "duid",
}


def reservation(host_map: HostMap) -> dict[str, Any]:
    """The reservation for a host map, to stand in the subnet that its address is in."""
    identifier = host_map.identifier
    made: dict[str, Any] = {IDENTIFIER_NAMES[identifier.kind]: identifier.text}
    if host_map.family == 4:
        made["ip-address"] = host_map.address
    else:
        made["ip-addresses"] = [host_map.address]
    if host_map.hostname is not None:
        made["hostname"] = host_map.hostname
    made["user-context"] = OWNER
    return made


def is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether clusterd made this reservation."""
    context = entry.get("user-context")
    return isinstance(context, Mapping) and context.get("managed-by") == OWNER["managed-by"]


def host_map_of(entry: Mapping[str, Any]) -> HostMap | None:
    """The host map that a reservation of Kea's is; None for one that no host map can be."""
    kind = next((kind for kind, name in IDENTIFIER_NAMES.items() if name in entry), None)
    if kind is None:
        return None
    addresses = entry.get("ip-addresses", [entry.get("ip-address")])
    if not isinstance(addresses, list) or len(addresses) != 1:
        return None
    try:
        identifier = Identifier(kind, parse_hex(str(entry[IDENTIFIER_NAMES[kind]])))
        return HostMap(identifier, str(addresses[0]).removesuffix("/128"), str(entry.get("hostname") or "") or None)
    except ValueError:
        return None
