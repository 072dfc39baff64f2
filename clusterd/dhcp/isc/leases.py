"""What dhcpd's leases file says: our host objects, and the leases on their addresses; pure. See dhcpd.leases(5).

The file is a journal: the last record of a name counts, a record with `deleted;` ends it, and a record that is not
complete yet is not there. dhcpd writes names and brackets of records at the beginning of a line and never writes what
clients send otherwise than quoted, so that a line says what it seems to say.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from clusterd.dhcp.isc.hosts import PREFIX, HostObject
from clusterd.protocol.addresses import unpack_address
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind, parse_hex, parse_mac

_RECORD = re.compile(r"^(host|lease) (\S+) \{\n((?:[ \t].*\n)*)\}\n", re.MULTILINE)
_COMMON = re.compile(
    r"  dynamic;\n  hardware ethernet ([0-9a-f:]{17});\n  fixed-address ([0-9.]+);\n"
    r'(?:        supersede host-name =\s+"([a-z0-9.-]+)";\n)?'
)
_CLIENT = re.compile(r'  hardware ethernet (?P<mac>\S+);|  uid (?:"(?P<text>[^"]*)"|(?P<hex>[0-9a-f:]+));')
_ADDRESSES = re.compile(r"  fixed-address ([0-9.]+(?:, ?[0-9.]+)*);")
_ONE_NAME = re.compile(r'        supersede host-name =\s+"([a-z0-9.-]+)";')
_NAME_OF_ADDRESS = re.compile(
    r'(?:if|\} elsif) leased-address =\s+([0-9a-f:]+)\s+\{\s+supersede host-name =\s+"([a-z0-9.-]+)";\s+'
)
_STATE = re.compile(r"^  binding state (\w+);", re.MULTILINE)
_LEASE_CLIENT = re.compile(r"^  hardware ethernet (\S+);", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ActiveLease:
    """A lease that dhcpd gave from a pool and that has not ended; `mac` is None for what is no Ethernet client."""

    address: str
    mac: str | None


@dataclass(frozen=True, slots=True)
class LeasesFile:
    """`strays`: names of objects that are ours and say nothing that we would have said."""

    objects: dict[Identifier, HostObject] = field(default_factory=dict)
    strays: tuple[str, ...] = ()
    leased: tuple[ActiveLease, ...] = ()


def parse(text: str) -> LeasesFile:
    """Read a whole leases file, whatever is in it. 100,000 objects take about a second: not in the reactor's thread."""
    hosts: dict[str, str] = {}
    leases: dict[str, str] = {}
    for record in _RECORD.finditer(text):  # one by one: other threads get their turn
        kind, name, body = record.groups()
        if kind == "lease":
            leases[name] = body
        elif name.startswith(PREFIX):
            hosts.pop(name, None)  # so that the order is that of the last records
            hosts[name] = body
    objects: dict[Identifier, HostObject] = {}
    strays = []
    for name, body in hosts.items():
        if "\n  deleted;\n" in f"\n{body}":
            continue
        found = _object(body)
        if found is None or found.name != name:
            strays.append(name)
            continue
        former = objects.get(found.identifier)
        if former is not None:
            strays.append(former.name)
        objects[found.identifier] = found
    reserved = {host_map.address for found in objects.values() for host_map in found.host_maps}
    return LeasesFile(objects, tuple(strays), tuple(_active(leases, reserved)))


def _active(leases: dict[str, str], addresses: Iterable[str]) -> Iterable[ActiveLease]:
    for address in sorted(leases.keys() & addresses):
        state = _STATE.search(leases[address])
        if state is not None and state[1] == "active":
            client = _LEASE_CLIENT.search(leases[address])
            yield ActiveLease(address, client[1] if client is not None else None)


def _object(body: str) -> HostObject | None:
    """What a record says; None when it is not as we would have made it."""
    try:
        common = _COMMON.fullmatch(body)
        if common is not None:
            mac, address, hostname = common.groups()
            return HostObject((HostMap(Identifier(IdentifierKind.MAC, parse_mac(mac)), address, hostname),))
        return _any_object(body)
    except ValueError:
        return None


def _any_object(body: str) -> HostObject | None:
    client, addresses = _CLIENT.search(body), _ADDRESSES.search(body)
    if client is None or addresses is None:
        return None
    one_name = _ONE_NAME.search(body)
    names = {unpack_address(parse_hex(address)): name for address, name in _NAME_OF_ADDRESS.findall(body)}
    common_name = one_name[1] if one_name is not None and not names else None
    identifier = _identifier(client)
    return HostObject.of(
        HostMap(identifier, address, names.get(address, common_name)) for address in re.split(", ?", addresses[1])
    )


def _identifier(found: re.Match[str]) -> Identifier:
    if found["mac"] is not None:
        return Identifier(IdentifierKind.MAC, parse_mac(found["mac"]))
    octets = found["text"].encode("ascii") if found["text"] is not None else parse_hex(found["hex"])
    return Identifier(IdentifierKind.CLIENT_ID, octets)
