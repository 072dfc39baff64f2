"""The text of the files that Kea's configuration includes: one JSON list of reservations per subnet; pure."""

import json
from collections.abc import Collection

from clusterd.dhcp.kea.findings import plain_json
from clusterd.dhcp.kea.reservations import reservation
from clusterd.protocol.addresses import Family, pack_address
from clusterd.protocol.values import HostMap

OWNER_MARK = "// Host maps written by clusterd."
HEADER = (
    f"{OWNER_MARK} This file is rewritten whenever a host map changes.\n"
    "// Changes made here by hand are undone: claim and release addresses at the region instead.\n"
)
EMPTY = f"{HEADER}[\n]\n"


def file_name(family: Family, cidr: str) -> str:
    """The name of a subnet's file, such as `dhcp4-192.0.2.0-24.json`."""
    return f"dhcp{family}-{cidr.replace('/', '-')}.json"


def render(host_maps: Collection[HostMap]) -> str:
    """The whole text, a reservation a line, in the order of the addresses."""
    ordered = sorted(host_maps, key=lambda host_map: (pack_address(host_map.address), host_map.identifier))
    lines = (json.dumps(reservation(host_map)) for host_map in ordered)
    return f"{HEADER}[\n" + ",\n".join(lines) + ("\n" if ordered else "") + "]\n"


def is_empty(text: str) -> bool:
    """Whether a file with this text holds nothing of anybody's: what the operator makes so that Kea can start."""
    return "".join(plain_json(text, str).split()) in ("", "[]")
