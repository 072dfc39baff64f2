"""Kea's leases, asked for over its control socket: page by page, or one by one.

`lease4-get-page` and `lease6-get-page` (hook lease_cmds) go through the leases of all subnets in the order of their
addresses, from above a given one. Only IPv6 leases in an SQL database are, up to Kea 2.2, in the order of their text:
of such a database all leases are gone through.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial
from typing import Any

from clusterd.dhcp.backend import NoLeases
from clusterd.dhcp.kea.control_socket import DONE, NOTHING_FOUND, KeaRefused
from clusterd.dhcp.kea.server import KeaServer
from clusterd.dhcp.leases import LeasePage, LeaseQuestion, choose
from clusterd.protocol.addresses import pack_address, unpack_address
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier, IdentifierKind, parse_hex

FEW = 16  # so many addresses are asked for one by one
PAGE = 500  # leases that Kea is asked for at once
_FOR_EVER = 0xFFFFFFFF
_ASSIGNED = 0  # of the states of a lease; others: declined, expired and reclaimed

_KINDS = {"hw-address": IdentifierKind.MAC, "client-id": IdentifierKind.CLIENT_ID, "duid": IdentifierKind.DUID}
_NO_HOOK = (
    "{server} cannot tell its leases: it has not loaded the hook libdhcp_lease_cmds.so. Add it to hooks-libraries."
)


async def page_of(server: KeaServer, question: LeaseQuestion, now: float) -> LeasePage:
    """See Backend.leases. Raises BackendError."""
    await _need(server, f"lease{server.family}-get-page")
    asked_for = question.asked_for
    if asked_for is not None and len(asked_for) <= FEW:
        single = [await _one(server, address) for address in asked_for]
        return _chosen([lease for lease in single if lease is not None], question, now)
    in_order = server.family == 4 or not await _has_lease_database(server)
    page = LeasePage()
    async for leases in _pages(server, question, in_order):
        both = (*page.leases, *leases)
        chosen = await server.run_in_thread(partial(_chosen, both, question, now))
        page = LeasePage(chosen.leases, page.more or chosen.more)
        if page.more and in_order:
            break
    return page


def _chosen(leases: Iterable[ServerLease], question: LeaseQuestion, now: float) -> LeasePage:
    return choose(((pack_address(lease.address), lease) for lease in leases), lambda lease: lease, question, now)


async def end(server: KeaServer, lease: ServerLease) -> None:
    """See Backend.end_lease. Raises BackendError."""
    command = f"lease{server.family}-del"
    await _need(server, command)
    held = await _one(server, lease.address)
    if held is None or held.identifiers != lease.identifiers:
        return
    done = await server.control.ask(command, {"ip-address": lease.address})
    if done.result not in (DONE, NOTHING_FOUND):
        raise KeaRefused(server.name, command, done.text)


async def _need(server: KeaServer, command: str) -> None:
    if command not in await server.commands():
        raise NoLeases(_NO_HOOK.format(server=server.name))


async def _one(server: KeaServer, address: str) -> ServerLease | None:
    command = f"lease{server.family}-get"
    reply = await server.control.ask(command, {"ip-address": address})
    if reply.result not in (DONE, NOTHING_FOUND):
        raise KeaRefused(server.name, command, reply.text)
    return lease_of(reply.arguments) if isinstance(reply.arguments, Mapping) else None


async def _pages(server: KeaServer, question: LeaseQuestion, in_order: bool) -> AsyncIterator[list[ServerLease]]:
    """All leases that can be on the page, and some that cannot."""
    command = f"lease{server.family}-get-page"
    low, high = question.bounds
    if low > high:
        return
    before = max(int.from_bytes(low) - 1, 0).to_bytes(len(low))
    at = unpack_address(before) if in_order and any(before) else "start"
    while True:
        reply = await server.control.ask(command, {"from": at, "limit": PAGE})
        if reply.result == NOTHING_FOUND:
            return
        if reply.result != DONE or not isinstance(reply.arguments, Mapping):
            raise KeaRefused(server.name, command, reply.text)
        entries = [entry for entry in reply.arguments.get("leases", ()) if isinstance(entry, Mapping)]
        yield await server.run_in_thread(partial(_leases_of, entries))
        if len(entries) < PAGE:
            return
        at = str(entries[-1].get("ip-address"))
        if in_order and pack_address(at) >= high:
            return


async def _has_lease_database(server: KeaServer) -> bool:
    content = (await server.running()).document.get(f"Dhcp{server.family}", {})
    return bool(content.get("lease-database", {}).get("type", "memfile") != "memfile")


def _leases_of(entries: Iterable[Mapping[str, Any]]) -> list[ServerLease]:
    return [lease for lease in map(lease_of, entries) if lease is not None]


def lease_of(found: Mapping[str, Any]) -> ServerLease | None:
    """A lease as Kea describes it; None for one that nobody has, and for a delegated prefix."""
    if found.get("state", _ASSIGNED) != _ASSIGNED or found.get("type", "IA_NA") == "IA_PD":
        return None
    identifiers = []
    for name, kind in _KINDS.items():
        try:
            identifiers.append(Identifier(kind, parse_hex(str(found.get(name, "")))))
        except ValueError:
            continue
    try:
        lifetime, since = int(found.get("valid-lft", 0)), int(found.get("cltt", 0))
        expires = None if lifetime == _FOR_EVER else since + lifetime
        name = str(found.get("hostname", "")).rstrip(".")
        return ServerLease(str(found.get("ip-address")), tuple(identifiers), name or None, expires)
    except (TypeError, ValueError):
        return None
