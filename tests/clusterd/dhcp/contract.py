"""What every DHCP server backend does, whatever its server: each scenario starts with an empty server of ours."""

from collections.abc import Callable, Coroutine
from typing import Any

from clusterd.dhcp.backend import Backend
from clusterd.protocol.values import HostMap, Identifier, IdentifierKind

Scenario = Callable[[Backend], Coroutine[Any, Any, None]]

# Addresses lie in the networks of the laboratory's server (tests.lab.servers), where there is one.
PLAIN = HostMap(Identifier.mac("00:16:3e:00:00:01"), "192.0.2.11", "web1")
UNNAMED = HostMap(Identifier.mac("00:16:3e:00:00:02"), "192.0.2.12")
ALIAS = HostMap(Identifier(IdentifierKind.CLIENT_ID, bytes.fromhex("ff0a2c3b0a")), "192.0.2.13", "web1-alias")
BY_DUID = HostMap(Identifier(IdentifierKind.DUID, bytes.fromhex("0003000100163e000003")), "2001:db8:0:1::13", "web3")
BY_MAC_V6 = HostMap(Identifier.mac("00:16:3e:00:00:01"), "2001:db8:0:1::11", "web1")
SECOND_SUBNET = HostMap(Identifier.mac("00:16:3e:00:00:01"), "198.51.100.11", "web1")
ALL_KINDS = frozenset({PLAIN, UNNAMED, ALIAS, BY_DUID, BY_MAC_V6, SECOND_SUBNET})


def numbered(count: int) -> frozenset[HostMap]:
    """As many host maps in 10.64.0.0/10, each with a MAC address and a name of its own."""
    return frozenset(
        HostMap(
            Identifier(IdentifierKind.MAC, bytes.fromhex("00163e") + number.to_bytes(3)),
            f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}",
            f"node-{number}",
        )
        for number in range(1, count + 1)
    )


async def starts_empty(backend: Backend) -> None:
    assert await backend.read() == frozenset()


async def is_ready(backend: Backend) -> None:
    assert await backend.check() == []


async def reads_back_what_was_added(backend: Backend) -> None:
    assert await backend.apply((), ALL_KINDS) == ()
    assert await backend.read() == ALL_KINDS


async def adding_again_is_done(backend: Backend) -> None:
    await backend.apply((), {PLAIN, UNNAMED})
    assert await backend.apply((), {PLAIN}) == ()
    assert await backend.read() == {PLAIN, UNNAMED}


async def removing_what_is_gone_is_done(backend: Backend) -> None:
    await backend.apply((), {PLAIN})
    assert await backend.apply({UNNAMED, ALIAS, BY_DUID}, ()) == ()
    assert await backend.read() == {PLAIN}


async def removes(backend: Backend) -> None:
    await backend.apply((), ALL_KINDS)
    assert await backend.apply({PLAIN, BY_DUID}, ()) == ()
    assert await backend.read() == ALL_KINDS - {PLAIN, BY_DUID}


async def removes_before_it_adds(backend: Backend) -> None:
    """An address moves to another client and a client to another address, each in one call."""
    await backend.apply((), {PLAIN, UNNAMED})
    taken_over = HostMap(Identifier.mac("00:16:3e:00:00:09"), PLAIN.address, "web9")
    moved = HostMap(UNNAMED.identifier, "192.0.2.77")
    assert await backend.apply({PLAIN, UNNAMED}, {taken_over, moved}) == ()
    assert await backend.read() == {taken_over, moved}


async def what_is_removed_and_added_is_there(backend: Backend) -> None:
    await backend.apply((), {PLAIN})
    assert await backend.apply({PLAIN}, {PLAIN}) == ()
    assert await backend.read() == {PLAIN}


async def a_changed_host_name_is_a_changed_map(backend: Backend) -> None:
    await backend.apply((), {PLAIN})
    renamed = HostMap(PLAIN.identifier, PLAIN.address, "renamed.example.org")
    assert await backend.apply({PLAIN}, {renamed}) == ()
    assert await backend.read() == {renamed}


async def one_address_may_have_several_macs(backend: Backend) -> None:
    dock = HostMap(Identifier.mac("00:16:3e:00:00:0d"), PLAIN.address, PLAIN.hostname)
    assert await backend.apply((), {PLAIN}) == ()
    assert await backend.apply((), {dock}) == ()
    assert await backend.read() == {PLAIN, dock}
    assert await backend.apply({PLAIN}, ()) == ()
    assert await backend.read() == {dock}


async def replace_is_exact(backend: Backend) -> None:
    await backend.apply((), {PLAIN, UNNAMED, BY_DUID})
    assert await backend.replace({UNNAMED, ALIAS}) == ()
    assert await backend.read() == {UNNAMED, ALIAS}
    assert await backend.replace(()) == ()
    assert await backend.read() == frozenset()


async def verifies_what_is_asked_for(backend: Backend) -> None:
    await backend.apply((), {PLAIN, UNNAMED, BY_DUID})
    renamed = HostMap(PLAIN.identifier, PLAIN.address, "renamed")
    assert await backend.verify({PLAIN, BY_DUID, ALIAS, renamed}) == {PLAIN, BY_DUID}
    await backend.apply({PLAIN}, {ALIAS})
    assert await backend.verify({PLAIN, ALIAS}) == {ALIAS}
    assert await backend.verify(()) == frozenset()


async def releasing_what_nobody_leased_is_done(backend: Backend) -> None:
    await backend.apply((), ALL_KINDS)
    await backend.apply({PLAIN, BY_DUID, ALIAS}, ())
    await backend.release({PLAIN, BY_DUID, ALIAS})
    await backend.release({PLAIN, BY_DUID, ALIAS})
    await backend.release(())
    assert await backend.read() == ALL_KINDS - {PLAIN, BY_DUID, ALIAS}


async def holds_a_thousand(backend: Backend) -> None:
    thousand = numbered(1000)
    assert await backend.replace(thousand) == ()
    assert await backend.apply(numbered(10), {PLAIN}) == ()
    assert await backend.read() == (thousand - numbered(10)) | {PLAIN}


SCENARIOS: list[Scenario] = [
    starts_empty,
    is_ready,
    reads_back_what_was_added,
    adding_again_is_done,
    removing_what_is_gone_is_done,
    removes,
    removes_before_it_adds,
    what_is_removed_and_added_is_there,
    a_changed_host_name_is_a_changed_map,
    one_address_may_have_several_macs,
    replace_is_exact,
    verifies_what_is_asked_for,
    releasing_what_nobody_leased_is_done,
    holds_a_thousand,
]
