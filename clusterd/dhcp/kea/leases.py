"""Ending the leases of former host maps with the hook lease_cmds: a stale one keeps an address from its next owner."""

from collections.abc import Collection, Mapping
from typing import Any

from clusterd.dhcp.kea.control_socket import DONE, NOTHING_FOUND, ControlSocket, KeaRefused
from clusterd.protocol.addresses import Family
from clusterd.protocol.values import HostMap, IdentifierKind, parse_hex

MISSING_HOOK = (
    "{server} has not loaded the hook libdhcp_lease_cmds.so: after a removal or a move the former client's lease "
    "stays, and the address is not given to another client before it ends. Add the hook to hooks-libraries."
)


def lease_commands(family: Family) -> frozenset[str]:
    """What the server has to take for leases to be ended."""
    return frozenset({f"lease{family}-get", f"lease{family}-del"})


async def end_leases(control: ControlSocket, family: Family, removed: Collection[HostMap]) -> int:
    """Delete the leases that the clients of these former host maps have on their addresses; how many there were.

    Raises BackendError.
    """
    ended = 0
    for host_map in removed:
        where = {"ip-address": host_map.address}
        lease = await control.ask(f"lease{family}-get", where)
        if lease.result == NOTHING_FOUND or not isinstance(lease.arguments, Mapping):
            if lease.result not in (DONE, NOTHING_FOUND):
                raise KeaRefused(control.server, f"lease{family}-get", lease.text)
            continue
        if not belongs_to(lease.arguments, host_map):
            continue
        done = await control.ask(f"lease{family}-del", where)
        if done.result not in (DONE, NOTHING_FOUND):
            raise KeaRefused(control.server, f"lease{family}-del", done.text)
        ended += done.result == DONE
    return ended


def belongs_to(lease: Mapping[str, Any], host_map: HostMap) -> bool:
    """Whether a lease (as lease4-get and lease6-get describe it) is held by the client of a host map."""
    identifier = host_map.identifier
    if identifier.kind is IdentifierKind.MAC:
        duid = _octets(lease, "duid")
        return _octets(lease, "hw-address") == identifier.value or (
            duid[:2] in (b"\x00\x01", b"\x00\x03") and duid.endswith(identifier.value)  # DUID-LLT, DUID-LL
        )
    return _octets(lease, "client-id" if identifier.kind is IdentifierKind.CLIENT_ID else "duid") == identifier.value


def _octets(lease: Mapping[str, Any], name: str) -> bytes:
    try:
        return parse_hex(str(lease.get(name, "")))
    except ValueError:
        return b""
