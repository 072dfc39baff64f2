"""What every backend tells of leases and does about them; a test module says which client has one, and how it got it.

Each scenario starts with a client of CLIENT_MAC that has obtained an IPv4 address of its own, and with nothing else.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import pytest

from clusterd.dhcp.backend import Backend
from clusterd.dhcp.leases import LeasePage, LeaseQuestion
from clusterd.protocol.leases import ServerLease
from clusterd.protocol.values import Identifier

NET, EMPTY_NET = "192.0.2.0/24", "198.51.100.0/24"
CLIENT_MAC = "00:16:3e:aa:00:01"
CLIENT, STRANGER = Identifier.mac(CLIENT_MAC), Identifier.mac("00:16:3e:aa:00:99")


@dataclass(frozen=True, slots=True)
class Leasing:
    """A backend whose server has given the client `address`; `obtain` lets it ask again: what it is given now."""

    backend: Backend
    address: str
    obtain: Callable[[], Awaitable[str | None]]

    async def lease(self) -> ServerLease:
        (found,) = (await self.backend.leases(LeaseQuestion(NET, addresses=frozenset({self.address})))).leases
        return found


Scenario = Callable[[Leasing], Coroutine[Any, Any, None]]


async def says_who_has_the_address_and_until_when(server: Leasing) -> None:
    page = await server.backend.leases(LeaseQuestion(NET))
    (found,) = page.leases
    assert (found.address, page.more) == (server.address, False)
    assert found.is_of(CLIENT) and not found.is_of(STRANGER)
    assert found.expires is not None and time.time() < found.expires <= time.time() + 3600
    assert await server.lease() == found


async def keeps_to_the_question(server: Leasing) -> None:
    ask = server.backend.leases
    assert await ask(LeaseQuestion(EMPTY_NET)) == LeasePage()
    assert await ask(LeaseQuestion(NET, after=server.address)) == LeasePage()
    assert await ask(LeaseQuestion(NET, addresses=frozenset({"192.0.2.254"}))) == LeasePage()
    assert await ask(LeaseQuestion(NET, clients=frozenset({STRANGER}))) == LeasePage()
    both = LeaseQuestion(NET, addresses=frozenset({server.address, "192.0.2.254"}), clients=frozenset({CLIENT}))
    assert [lease.address for lease in (await ask(both)).leases] == [server.address]


async def ends_a_lease(server: Leasing) -> None:
    await server.backend.end_lease(await server.lease())
    assert await server.backend.leases(LeaseQuestion(NET)) == LeasePage()
    assert await server.obtain() is not None  # the client may ask again


async def does_not_end_anothers_lease(server: Leasing) -> None:
    found = await server.lease()
    await server.backend.end_lease(replace(found, identifiers=(STRANGER,)))
    await server.backend.end_lease(replace(found, address="192.0.2.254"))
    assert await server.lease() == found


async def what_is_gone_is_done(server: Leasing) -> None:
    found = await server.lease()
    await server.backend.end_lease(found)
    await server.backend.end_lease(found)


SCENARIOS: list[Scenario] = [
    says_who_has_the_address_and_until_when,
    keeps_to_the_question,
    ends_a_lease,
    does_not_end_anothers_lease,
    what_is_gone_is_done,
]

parametrized = pytest.mark.parametrize("scenario", SCENARIOS)
